"""The power goes at any moment: what was committed is there, whatever the disk did with unsynced writes."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from trisense.core.model import BatchClass
from trisense.edge.spool import Spool
from trisense.edge.spool.view import pages

CUTS = 220
SECTOR_BYTES = 512
HEAD = struct.Struct("=cxHIq")
MARK = struct.Struct("=QQQ")
SHIM = Path(__file__).parents[1] / "power_cut.c"

WRITER = """
import os, struct, sys
from pathlib import Path
from trisense.core.messages import EpochReceipt
from trisense.core.model import BatchClass, ClockState, Field, Layer, Sample, Stream
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Cut, Spool, SpoolOptions

folder = Path(sys.argv[1])
stream = Stream("mast", "weather", Layer.GROUND, (Field("x"),))
marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT)
spool = Spool(folder / "spool.db", SystemClock(), SpoolOptions(ballast_bytes=1 << 18))
spool.open()
for number in range(120):
    samples = tuple(Sample(stream, number * 1_000_000, (float(number),), n) for n in range(3))
    how = {"preview": number % 7 == 3, "offset_ns": 5 if number % 7 == 5 else None}
    (head,) = spool.commit([Cut(BatchClass.DATA, samples, os.urandom(8_000), **how)])
    os.pwrite(marks, struct.pack("=QQQ", head.epoch, head.seq, number), 24 * number)
    if number % 10 == 9:
        spool.settle([EpochReceipt(spool.epoch, stored=((head.seq - 5, head.seq - 4),))])
    if number % 30 == 29:
        spool.replay(0, 1 << 62)
    if number % 40 == 39:
        assert spool.finalise(SystemClock().boot_id, 7_000_000, ClockState(True, 1)) >= 5
    if number % 50 == 49:
        spool.tidy()
    if number == 60:
        spool.close()
        spool.open()
os._exit(0)  # no orderly end
"""


@dataclass
class Operation:
    kind: bytes
    name: str
    offset: int
    data: bytes


@dataclass
class Disk:
    """Files as they surely are, and what was written to each since its last sync."""

    sure: dict[str, bytearray] = field(default_factory=dict)
    loose: dict[str, list[Operation]] = field(default_factory=dict)

    def take(self, operation: Operation) -> None:
        if operation.kind == b"u":
            self.sure.pop(operation.name, None)
            self.loose.pop(operation.name, None)
        elif operation.kind == b"s":
            for earlier in self.loose.pop(operation.name, []):
                apply(self.sure, earlier)
        else:
            self.loose.setdefault(operation.name, []).append(operation)

    def cut(self, chance: random.Random) -> dict[str, bytearray]:
        """One thing the disk may hold now: any sectors of any unsynced write, in any mixture."""
        files = {name: bytearray(content) for name, content in self.sure.items()}
        for operations in self.loose.values():
            for operation in operations:
                for part in sectors(operation):
                    if chance.random() < 0.5:
                        apply(files, part)
        return files


def sectors(operation: Operation) -> Iterator[Operation]:
    if operation.kind != b"w":
        yield operation
        return
    for at in range(0, len(operation.data), SECTOR_BYTES):
        part = operation.data[at : at + SECTOR_BYTES]
        yield Operation(b"w", operation.name, operation.offset + at, part)


def apply(files: dict[str, bytearray], operation: Operation) -> None:
    content = files.setdefault(operation.name, bytearray())
    if operation.kind == b"t":
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
    else:
        end = operation.offset + len(operation.data)
        content.extend(bytes(max(0, end - len(content))))
        content[operation.offset : end] = operation.data


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """What a writer did to its disk, in order."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    work = tmp_path_factory.mktemp("power")
    shim, log, folder = work / "power_cut.so", work / "log", work / "disk"
    folder.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "POWER_CUT_FOLDER": str(folder),
        "POWER_CUT_LOG": str(log),
    }
    subprocess.run([sys.executable, "-c", WRITER, str(folder)], env=environment, check=True)
    return list(read_log(log.read_bytes()))


def read_log(log: bytes) -> Iterator[Operation]:
    at = 0
    while at < len(log):
        kind, path_bytes, size, offset = HEAD.unpack_from(log, at)
        at += HEAD.size
        name = Path(log[at : at + path_bytes].decode()).name
        at += path_bytes
        yield Operation(kind, name, offset, log[at : at + size])
        at += size


def test_no_power_cut_takes_a_committed_batch(
    operations: list[Operation], spool_path: Path, make_spool: Callable[..., Spool]
) -> None:
    assert sum(o.kind == b"s" and o.name == "spool.db-wal" for o in operations) >= 120
    assert any(o.kind == b"s" and o.name == "spool.db" for o in operations), "no checkpoint was made"
    chance = random.Random(20_261_123)
    cuts = set(chance.sample(range(len(operations)), CUTS))
    disk = Disk()
    told: dict[tuple[int, int], int] = {}
    for at, operation in enumerate(operations):
        if at in cuts:
            for old in spool_path.parent.glob("spool.db*"):
                old.unlink()
            for name, content in disk.cut(chance).items():
                spool_path.with_name(name).write_bytes(content)
            with make_spool() as spool:
                look(spool, told, f"cut at operation {at}")
        if operation.name == "marks":
            epoch, seq, number = MARK.unpack(operation.data)
            told[epoch, seq] = number
        else:
            disk.take(operation)


def look(spool: Spool, told: dict[tuple[int, int], int], where: str) -> None:
    """Whatever was committed is there, and its number will not be given again."""
    rows = [row for page in pages(spool._db) for row in page]
    batches = [spool._shelf.batch(row) for row in rows]
    found = {(b.epoch, b.seq): b for b in batches if b is not None}
    assert len(found) == len(batches), where
    counters = {c.epoch: c for c in spool.all_counters()}
    assert spool.epoch not in {epoch for epoch, _ in told}, where
    for identity, number in told.items():
        batch = found.get(identity)
        assert batch is not None, where
        assert [sample.values for sample in batch.samples] == [(float(number),)] * 3, where
        assert counters[identity[0]].next_seq > identity[1], where
    # Receipts and replays may be undone by a cut, but nothing waits unseen.
    heads = [*spool.heads(BatchClass.DATA), *spool.heads(BatchClass.DATA, preview=True)]
    assert spool.waiting() == len(heads) + sum(row.state == "open" for row in rows), where
