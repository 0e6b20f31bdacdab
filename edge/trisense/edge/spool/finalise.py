"""How open batches become final: their times move by what the provisional offset was wrong, for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from trisense.core.model import ClockState, Sample, batch_hash
from trisense.edge.spool import reading
from trisense.edge.spool.file import BatchRow
from trisense.edge.spool.rows import pack_rows
from trisense.edge.spool.shelf import Shelf

__all__ = ["Unfinished", "finalise", "unfinished"]

FIRST: Final = 8
"""Batches of a boot that are looked into for its first sample: those of one commit, as a rule."""
PART_BYTES: Final = 1 << 20
"""Most that one transaction rewrites: a commit may wait behind it."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Open batches of one boot."""

    boot_id: str
    first_boot_ns: int
    """Boot time of the first sample; that of a preview is the minute it tells of, and does not count."""
    last_boot_ns: int
    """Boot time of the last commit."""
    offset_ns: int
    """Provisional offset of the last batch."""


def unfinished(shelf: Shelf) -> list[Unfinished]:
    """Boots with open batches, in the order of their first."""
    found: dict[str, Unfinished] = {}
    looked: dict[str, int] = {}
    for identity in _open(shelf.db):
        boot_id, mono_ns, offset_ns, preview = shelf.db.execute(
            "SELECT boot_id, mono_ns, offset_ns, preview FROM batch WHERE id = ?", (identity,)
        ).fetchone()
        known = found.get(boot_id)
        first_ns = mono_ns if known is None else known.first_boot_ns
        looked[boot_id] = looked.get(boot_id, 0) + (not preview)
        if not preview and looked[boot_id] <= FIRST:
            first_ns = min([first_ns, *_boot_times(shelf, identity)])
        found[boot_id] = Unfinished(boot_id, first_ns, mono_ns, offset_ns)
    return list(found.values())


def _open(db: sqlite3.Connection) -> list[int]:
    query = "SELECT id FROM batch INDEXED BY unfinished WHERE state = 'open' AND settled = 0 ORDER BY id"
    return [identity for (identity,) in db.execute(query)]


def _boot_times(shelf: Shelf, identity: int) -> Iterable[int]:
    row = reading.row(shelf.db, identity)
    batch = None if row is None else shelf.batch(row)
    if row is None or batch is None or row.offset_ns is None:
        return ()
    offset_ns = row.offset_ns
    return [sample.time_ns - offset_ns for sample in batch.samples]


def finalise(
    shelf: Shelf, boot_id: str, offset_ns: int, clock: ClockState, limit: int | None
) -> tuple[int, list[int]]:
    """Make open batches of a boot final, the oldest first, in the caller's transaction.

    Their times become boot time plus ``offset_ns``. Gives how many are done, and the ids of damaged
    ones, which are left as they are.
    """
    done, part_bytes, bad = 0, 0, []
    for identity in _open(shelf.db):
        if limit is not None and (done == limit or part_bytes > PART_BYTES):
            break
        row = reading.row(shelf.db, identity)
        if row is None or (row.boot_id != boot_id and row.whole()):
            continue
        batch = shelf.batch(row)
        if batch is None or row.offset_ns is None:
            bad.append(identity)
            continue
        samples = shelf.books.move(batch.samples, row.epoch, row.offset_ns, offset_ns)
        _write(shelf, row, samples, clock, offset_ns - row.offset_ns)
        part_bytes += row.size_bytes
        done += 1
    return done, bad


def _write(shelf: Shelf, row: BatchRow, samples: Sequence[Sample], clock: ClockState, shift_ns: int) -> None:
    """Write a batch anew with its final ``samples``, which have moved by ``shift_ns``."""
    books = shelf.books
    new = replace(
        row,
        state="final",
        settled_ns=row.settled_ns + shift_ns,
        committed_ns=row.committed_ns + shift_ns,
        offset_ns=None,
        synced=int(clock.synced),
        error_ms=clock.error_ms,
        hash=batch_hash(samples),
        rows=pack_rows(samples, books.stream_id),
    )
    books.mark(samples)
    if not row.preview:
        books.epochs[shelf.epoch].line_ns = max(sample.time_ns for sample in samples)
        books.save(shelf.epoch)
    shelf.rewrite(new, row.size_bytes)
