"""Damage anywhere in the files: the spool opens, no value changes, and what is gone is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass
from trisense.edge.spool import Cut, Spool, reading
from trisense.edge.spool.file import AGE_NEVER_NS

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]
Identity = tuple[int, int]
SEEDS = 90
"""Places of each kind of damage in each file: with three kinds and two files 540."""
PARTS = ("spool.db", "spool.db-wal", "spool.db-shm", "spool.db.epochs")


@dataclass(frozen=True)
class Holding:
    """Everything in a spool, by identity."""

    waiting: dict[Identity, Batch]
    again: set[Identity]
    """Of these, what waits a second time."""
    opened: dict[Identity, Batch]
    kept: dict[Identity, Batch]
    declared: list[tuple[str, int, int | None]]
    """(epoch, first, last)."""


def holding(spool: Spool) -> Holding:
    """What the spool would send, what is open, and what it would replay."""
    _sendable(spool)  # what is damaged is found, and declared, when it is to be sent
    waiting = _sendable(spool)
    again = {
        (int(epoch, 16), seq)
        for epoch, seq in spool._db.execute(
            "SELECT epoch, seq FROM batch WHERE settled = 0 AND age_ns > ?", (AGE_NEVER_NS,)
        )
    }
    rows = [
        reading.row(spool._db, i) for (i,) in spool._db.execute("SELECT id FROM batch WHERE state = 'open'")
    ]
    opened = [spool._shelf.batch(row) for row in rows if row is not None]
    spool.replay(0, 1 << 62)
    kept = {key: batch for key, batch in _sendable(spool).items() if key not in waiting}
    losses = [
        (str(s.values[0]), s.values[1], s.values[2])
        for batch in waiting.values()
        for s in batch.samples
        if s.stream == LOSS
    ]
    return Holding(waiting, again, {(b.epoch, b.seq): b for b in opened if b is not None}, kept, losses)  # type: ignore[arg-type]  # the fields of LOSS


def _sendable(spool: Spool) -> dict[Identity, Batch]:
    heads = [head for of in BatchClass for head in spool.heads(of, limit=10_000)]
    heads += spool.heads(BatchClass.DATA, limit=10_000, preview=True)
    return {(b.epoch, b.seq): b for _, b in spool.load([h.id for h in heads])}


@pytest.fixture
def crashed(
    make_spool: MakeSpool, cut: MakeCut, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """Files as a crash leaves them: two epochs, every kind of batch, half of them still in the WAL."""
    epochs = count(1)
    monkeypatch.setattr("trisense.edge.spool.holder.secrets.randbits", lambda _: next(epochs))

    def fill(spool: Spool, numbers: range) -> None:
        for number in numbers:
            kinds = [cut(number, rows=6), replace(cut(number, rows=6), preview=True)]
            kinds += [cut(number, rows=2, batch_class=BatchClass.ALARM), replace(cut(number), offset_ns=7)]
            kinds += [cut(number, rows=1, batch_class=BatchClass.MEDIA, blob=bytes([number]) * 3000)]
            spool.commit([kinds[min(number % 8, 4)]])
        spool.settle([EpochReceipt(spool.epoch, stored=((4, 20),))])

    with make_spool() as spool:
        fill(spool, range(30))
    with make_spool() as spool:
        spool._db.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        fill(spool, range(30, 65))
        spool.replay(0, spool._clock.now_ns())
        spool.settle([EpochReceipt(spool.epoch, stored=((4, 18),))])
        spool.commit([cut(65)])
        return {name: spool_path.with_name(name).read_bytes() for name in PARTS if not name.endswith("-shm")}


def damaged(image: bytes, kind: str, seed: int) -> bytes:
    at = (seed * 1_000_003 + 13) % len(image)
    if kind == "flip":
        return image[:at] + bytes([image[at] ^ (1 << seed % 8)]) + image[at + 1 :]
    if kind == "zero":
        page = at - at % 4096
        return image[:page] + bytes(min(4096, len(image) - page)) + image[page + 4096 :]
    return image[:at]


@pytest.mark.parametrize("kind", ["flip", "zero", "cut"])
@pytest.mark.parametrize("part", ["spool.db", "spool.db-wal"])
def test_damage_anywhere_never_stops_the_spool_nor_changes_a_value(
    crashed: dict[str, bytes], make_spool: MakeSpool, cut: MakeCut, kind: str, part: str
) -> None:
    spool_path = make_spool().path
    lay_down(spool_path, crashed)
    with make_spool() as spool:
        whole = holding(spool)
    assert min(len(whole.waiting), len(whole.opened), len(whole.kept)) > 5, "there is something of each"
    old = {**whole.waiting, **whole.opened, **whole.kept}
    never = {key: old[key] for key in (whole.waiting.keys() | whole.opened.keys()) - whole.again}
    left = 0

    for seed in range(SEEDS):
        lay_down(spool_path, crashed | {part: damaged(crashed[part], kind, seed)})
        with make_spool() as spool:
            spool.commit([cut(999)])
            found = holding(spool)

        everything = {**found.kept, **found.opened, **found.waiting}
        assert all(everything[key] == old[key] for key in everything.keys() & old.keys()), seed
        fresh = {epoch for epoch, _ in everything.keys() - old.keys()}
        assert len(fresh) == 1, "new batches are in an epoch of their own: no seq is used twice"
        assert not fresh & {epoch for epoch, _ in old}
        assert not found.kept.keys() & never.keys(), "what waited has no receipt now"
        assert not found.waiting.keys() & whole.opened.keys(), "a provisional time is not sent"
        here = (found.waiting.keys() | found.opened.keys()) & never.keys()
        left += len(here)
        for epoch, seq in never.keys() - here:
            # The marks of the last commits may go with the end of the WAL: nothing is left to tell of them.
            told = says(found, epoch, seq) or (
                part == "spool.db-wal" and kind != "flip" and (epoch, seq) > max(here)
            )
            assert told, (seed, epoch, seq)
    share = left / len(never) / SEEDS
    print(part, kind, f"{share:.1%}")
    assert share > 0.3


def says(found: Holding, epoch: int, seq: int) -> bool:
    """Whether a declared loss covers a batch."""
    return any(
        name == f"{epoch:016x}" and first <= seq and (last is None or seq <= last)
        for name, first, last in found.declared
    )


def lay_down(path: Path, files: dict[str, bytes]) -> None:
    for old in path.parent.glob("spool.db*"):
        old.unlink()
    for name, image in files.items():
        path.with_name(name).write_bytes(image)
