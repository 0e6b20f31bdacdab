"""Power cuts and kills while a damaged spool is carried over: they cost nothing that was still there."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass
from trisense.edge.spool import Cut, Spool, reading

from tests.edge.power import Disk, Recorder, lay_down

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]
Identity = tuple[int, int]
CUTS = 60
"""For each way of damage; as many kills."""
PAGE_BYTES = 4096
MARK = struct.Struct("=QQ")

WRITER = """
import os, struct, sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from trisense.core.model import BatchClass, Field, Layer, Sample, Stream
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Cut, Spool, SpoolOptions, holder, queue, salvage

salvage.PART = 5
queue.SALVAGE_S = 2
holder.time = SimpleNamespace(monotonic=count().__next__)
folder = Path(sys.argv[1])
stream = Stream("mast", "wind", Layer.GROUND, (Field("x"),))
marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT)
spool = Spool(folder / "spool.db", SystemClock(), SpoolOptions(ballast_bytes=1 << 18, salvage_s=2))
spool.open()
for number in range(40):
    (head,) = spool.commit([Cut(BatchClass.DATA, (Sample(stream, number * 1_000_000, (float(number),)),))])
    os.pwrite(marks, struct.pack("=QQ", head.epoch, head.seq), 16 * number)
    spool.tidy()
    if number == 8:
        spool.close()
        spool.open()
assert not (folder / "spool.db.salvage").exists()
os._exit(0)  # no orderly end
"""


@dataclass(frozen=True)
class Holding:
    """Everything in a spool, by identity."""

    waiting: dict[Identity, Batch]
    opened: dict[Identity, Batch]
    kept: dict[Identity, Batch]
    declared: set[tuple[str, int, int | None]]
    """(epoch, first, last)."""


def holding(spool: Spool) -> Holding:
    waiting = _sendable(spool)
    rows = spool._db.execute("SELECT id FROM batch WHERE state = 'open'").fetchall()
    opened = [spool._shelf.batch(row) for (i,) in rows if (row := reading.row(spool._db, i)) is not None]
    spool.replay(0, 1 << 62)
    kept = {key: batch for key, batch in _sendable(spool).items() if key not in waiting}
    rows_of = [s.values for batch in waiting.values() for s in batch.samples if s.stream == LOSS]
    declared = {(str(x[0]), int(str(x[1])), None if x[2] is None else int(str(x[2]))) for x in rows_of}
    return Holding(waiting, {(b.epoch, b.seq): b for b in opened if b is not None}, kept, declared)


def _sendable(spool: Spool) -> dict[Identity, Batch]:
    heads = [head for of in BatchClass for head in spool.heads(of, limit=10_000)]
    heads += spool.heads(BatchClass.DATA, limit=10_000, preview=True)
    return {(b.epoch, b.seq): b for _, b in spool.load([h.id for h in heads])}


@pytest.fixture
def image(make_spool: MakeSpool, cut: MakeCut, spool_path: Path) -> dict[str, bytes]:
    """Files as a crash leaves them: three epochs, every kind of batch, the last in the log only."""

    def fill(spool: Spool, numbers: range) -> None:
        for number in numbers:
            samples = cut(number, rows=3).samples
            kinds = [Cut(BatchClass.DATA, samples, os.urandom(1500)), replace(cut(number), preview=True)]
            kinds += [cut(number, batch_class=BatchClass.ALARM), replace(cut(number), offset_ns=7)]
            spool.commit([kinds[min(number % 6, 3)]])

    for numbers in (range(30), range(30, 55)):
        with make_spool() as spool:
            fill(spool, numbers)
            spool.settle([EpochReceipt(spool.epoch, stored=((4, 12),))])
    with make_spool() as spool:
        spool._db.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        fill(spool, range(55, 75))
        names = ("spool.db", "spool.db-wal", "spool.db.epochs")
        return {name: spool_path.with_name(name).read_bytes() for name in names}


def index_smashed(files: dict[str, bytes], make_spool: MakeSpool) -> dict[str, bytes]:
    """Damage that costs no row: found by the check at the start."""
    lay_down(make_spool().path, files)
    with make_spool() as spool:
        (page,) = spool._db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'kept'").fetchone()
    at = (page - 1) * PAGE_BYTES
    main = files["spool.db"]
    return files | {"spool.db": main[:at] + bytes(PAGE_BYTES) + main[at + PAGE_BYTES :]}


def leaf_smashed(files: dict[str, bytes], _: MakeSpool) -> dict[str, bytes]:
    """Damage that costs some rows."""
    main = files["spool.db"]
    leaves = [at for at in range(0, len(main), PAGE_BYTES) if b"final" in main[at : at + PAGE_BYTES]]
    at = leaves[len(leaves) // 2]
    return files | {"spool.db": main[:at] + bytes(PAGE_BYTES) + main[at + PAGE_BYTES :]}


def log_cut(files: dict[str, bytes], _: MakeSpool) -> dict[str, bytes]:
    """Damage to the log that takes the last commits with it."""
    log = files["spool.db-wal"]
    at = len(log) * 3 // 4
    return files | {"spool.db-wal": log[:at] + bytes([log[at] ^ 4]) + log[at + 1 :]}


@pytest.mark.parametrize("smashed", [index_smashed, leaf_smashed, log_cut])
def test_no_cut_within_a_salvage_costs_anything_that_was_still_there(
    image: dict[str, bytes],
    make_spool: MakeSpool,
    tmp_path: Path,
    smashed: Callable[[dict[str, bytes], MakeSpool], dict[str, bytes]],
) -> None:
    spool_path = make_spool().path
    files = smashed(image, make_spool)
    lay_down(spool_path, files)
    with make_spool() as spool:
        whole = holding(spool)
    assert whole.declared or spool_path.with_name("spool.db.damaged").exists(), "the damage was found"
    assert min(len(whole.waiting), len(whole.opened), len(whole.kept)) > 5, "there is something of each"

    (folder := tmp_path / "disk").mkdir()
    lay_down(folder / "spool.db", files)
    disk = Disk().hold(folder)
    (tmp_path / "work").mkdir()
    operations = Recorder(tmp_path / "work").run(WRITER, folder)
    told: set[Identity] = set()
    chance = random.Random(20_261_123)
    renamings = [at for at, o in enumerate(operations) if o.kind in b"ru"]
    places = {*chance.sample(range(len(operations)), CUTS), *renamings, *(at + 1 for at in renamings)}
    for at, operation in enumerate(operations):
        if at in places:
            for how, left in (("cut", disk.cut(chance)), ("kill", disk.killed())):
                lay_down(spool_path, left)
                where = f"{how} at {at}, {operation.kind.decode()} {operation.name}: {sorted(left)}"
                with make_spool() as spool:
                    look(holding(spool), whole, told, where)
        if operation.name == "marks":
            told.add(MARK.unpack(operation.data))
        else:
            disk.take(operation)


def look(found: Holding, whole: Holding, told: set[Identity], where: str) -> None:
    """Whatever could be read before is there, as it was; so is what was committed since."""
    for name in ("waiting", "opened", "kept"):
        before, now = getattr(whole, name), getattr(found, name)
        missing = {key for key, batch in before.items() if now.get(key) != batch}
        missing = {key for key in missing if not is_loss(before[key])}
        assert not missing, f"{where}: {name} {sorted(missing)}"
    assert told <= found.waiting.keys(), where
    for loss in whole.declared:
        assert any(covers(other, loss) for other in found.declared), f"{where}: {loss} was not declared"


def is_loss(batch: Batch) -> bool:
    return all(sample.stream == LOSS for sample in batch.samples)


def covers(loss: tuple[str, int, int | None], other: tuple[str, int, int | None]) -> bool:
    ends = loss[2] is None or (other[2] is not None and loss[2] >= other[2])
    return loss[0] == other[0] and loss[1] <= other[1] and ends
