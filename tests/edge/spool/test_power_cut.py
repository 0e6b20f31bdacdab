"""The power goes at any moment: what was committed is there, whatever the disk did with unsynced writes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from trisense.core.model import BatchClass
from trisense.edge.spool import Spool
from trisense.edge.spool.view import pages

from tests.edge.power import Disk, Recorder, lay_down

CUTS = 220
MARK = struct.Struct("=QQQ")

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


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return Recorder(tmp_path_factory.mktemp("power"))


def test_no_power_cut_takes_a_committed_batch(
    recorder: Recorder, tmp_path: Path, spool_path: Path, make_spool: Callable[..., Spool]
) -> None:
    (folder := tmp_path / "disk").mkdir()
    operations = recorder.run(WRITER, folder)
    assert sum(o.kind == b"s" and o.name == "spool.db-wal" for o in operations) >= 120
    assert any(o.kind == b"s" and o.name == "spool.db" for o in operations), "no checkpoint was made"
    chance = random.Random(20_261_123)
    cuts = set(chance.sample(range(len(operations)), CUTS))
    disk = Disk()
    told: dict[tuple[int, int], int] = {}
    for at, operation in enumerate(operations):
        if at in cuts:
            lay_down(spool_path, disk.cut(chance))
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
    # (A commit that was cut in two looks like damage to the end of the log, and is declared.)
    heads = [*spool.heads(BatchClass.DATA), *spool.heads(BatchClass.DATA, preview=True)]
    heads += spool.heads(BatchClass.ALARM)
    assert spool.waiting() == len(heads) + sum(row.state == "open" for row in rows), where
