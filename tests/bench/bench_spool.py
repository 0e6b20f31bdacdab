"""What the spool costs: a commit, below and at the cap; a drain; a replay; a salvage; a week of an outage.

Prints figures, one a line. The disk is that of the folder given; fsyncs and bytes are counted by the shim
of the power-cut test. Ends with 1 where a figure misses what must hold on any disk.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog
from trisense.core.messages import EpochReceipt
from trisense.core.model import BatchClass, Field, Layer, Sample, Stream
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Cut, Spool, SpoolOptions

T = TypeVar("T")

SHIM = Path(__file__).parents[1] / "edge" / "power_cut.c"
ENTRY = struct.Struct("=cxHIq")
"""Head of an entry of its log: kind, length of the path, of the data, offset."""
ROWS, FIELDS = 100, 6
"""Samples of a batch and readings of a sample: a box of 600 readings a second."""
FSYNCS_MAX = 1.25
LOG_BYTES_MAX = 2 << 20
COMMITS = 1000
STREAM = Stream("mast", "weather", Layer.GROUND, tuple(Field(f"f{i}") for i in range(FIELDS)))
CHANCE = random.Random(8)


def cut(number: int) -> Cut:
    """A second of readings."""
    t0_ns = number * 1_000_000_000
    rows = [tuple(round(CHANCE.gauss(20, 1), 2) for _ in range(FIELDS)) for _ in range(ROWS)]
    return Cut(BatchClass.DATA, tuple(Sample(STREAM, t0_ns + i * 1_000_000, v) for i, v in enumerate(rows)))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


def write_and_leave(folder: Path) -> None:
    """What the child under the shim does: commits, each with its receipt."""
    with Spool(folder / "spool.db", SystemClock(), SpoolOptions(ballast_bytes=1 << 18)) as spool:
        for number in range(COMMITS):
            (head,) = spool.commit([cut(number)])
            spool.settle([EpochReceipt(spool.epoch, stored=((head.seq, head.seq),))])


def count_writes(work: Path) -> tuple[float, float]:
    """Fsyncs and bytes written of a commit with its receipt."""
    shim, log, folder = work / "shim.so", work / "log", work / "counted"
    folder.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM)], check=True)
    environment = {"LD_PRELOAD": str(shim), "POWER_CUT_FOLDER": str(folder), "POWER_CUT_LOG": str(log)}
    command = [sys.executable, __file__, "--child", str(folder)]
    subprocess.run(command, env=os.environ | environment, check=True)
    entries, at = log.read_bytes(), 0
    fsyncs = written_bytes = 0
    while at < len(entries):
        kind, path_bytes, size, _ = ENTRY.unpack_from(entries, at)
        at += ENTRY.size + path_bytes + size
        fsyncs += kind == b"s"
        written_bytes += size if kind == b"w" else 0
    return fsyncs / COMMITS, written_bytes / COMMITS


def fill(spool: Spool, cap_bytes: int) -> int:
    """Commit up to the cap, several batches at a time; gives how many."""
    count = 0
    cuts = [cut(n) for n in range(200)]
    while spool.path.stat().st_size < cap_bytes * 0.98:
        spool.commit(cuts)
        count += len(cuts)
    return count


def at_the_cap(spool: Spool) -> tuple[list[float], int]:
    """Seconds of single commits in rising order, and the largest size of the log."""
    took_s, log_bytes = [], 0
    log = spool.path.with_name("spool.db-wal")
    for number in range(COMMITS):
        one = cut(number)
        took_s.append(timed(lambda one=one: spool.commit([one]))[0])  # type: ignore[misc]
        log_bytes = max(log_bytes, log.stat().st_size)
    return sorted(took_s), log_bytes


def measure(work: Path, cap_mb: int) -> int:
    fsyncs, written_bytes = count_writes(work)
    print(f"commit and receipt: {fsyncs:.2f} fsyncs, {written_bytes / 1000:.0f} kB written")
    cap_bytes = cap_mb << 20
    options = SpoolOptions(max_bytes=cap_bytes, ballast_bytes=1 << 18, salvage_s=3600)
    path = work / "spool.db"
    with Spool(path, SystemClock(), options) as spool:
        before_bytes = resident_bytes()
        fill_s, count = timed(lambda: fill(spool, cap_bytes))
        print(
            f"{count} batches of {ROWS} samples fill {cap_mb} MiB: {count / fill_s:.0f} batches/s in groups"
        )
        took_s, log_bytes = at_the_cap(spool)
        p50_ms, p99_ms, worst_ms = (took_s[len(took_s) * part // 1000] * 1000 for part in (500, 990, 999))
        full = path.stat().st_size / cap_bytes
        print(f"commit at the cap: p50 {p50_ms:.2f} ms, p99 {p99_ms:.1f} ms, worst {worst_ms:.0f} ms")
        print(f"file at the cap: {full:.3f} of it, log at most {log_bytes / 1e6:.2f} MB")
        growth = resident_bytes() / before_bytes
        print(f"memory after filling, at the cap: ratio {growth:.2f}")
        heads = spool.heads(BatchClass.DATA, limit=5000)
        settle_s, _ = timed(
            lambda: [spool.settle([EpochReceipt(h.epoch, stored=((h.seq, h.seq),))]) for h in heads]
        )
        print(f"receipts one by one: {settle_s / len(heads) * 1e6:.0f} us a batch")
        replay_s, replayed = timed(lambda: spool.replay(0, 1 << 62))
        print(f"replay: {replayed / replay_s:.0f} batches/s")
        file_bytes = path.stat().st_size
        salvage_s, _ = timed(lambda: spool.rebuild("measured"))
        print(f"salvage: {file_bytes / salvage_s / 1e6:.0f} MB/s")
    open_s, spool = timed(lambda: opened(path, options))
    print(f"open: {open_s:.2f} s")
    spool.close()
    return int(fsyncs > FSYNCS_MAX or log_bytes > LOG_BYTES_MAX or path.stat().st_size > cap_bytes)


def opened(path: Path, options: SpoolOptions) -> Spool:
    spool = Spool(path, SystemClock(), options)
    spool.open()
    return spool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap-mb", type=int, default=128)
    parser.add_argument(
        "--folder", type=Path, help="where the disk to be measured is; default: a temporary one"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if arguments.child:
        write_and_leave(arguments.child)
        return 0
    work = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        return measure(work, arguments.cap_mb)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
