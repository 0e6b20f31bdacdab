"""How batches are read out of the spool's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from trisense.core.model import Batch, BatchClass, ClockState, Stream
from trisense.edge.spool.file import BatchRow
from trisense.edge.spool.model import Head, epoch_number
from trisense.edge.spool.rows import unpack_rows

__all__ = [
    "CLASSES",
    "HEAD",
    "batch",
    "committed_ns",
    "head",
    "heads",
    "heads_of",
    "identity_in_index",
    "row",
]

HEAD: Final = "SELECT id, epoch, seq, class, samples, size_bytes, preview FROM batch"
"""Begins every query for heads."""
CLASSES: Final = {of.value: of for of in BatchClass}


def heads(db: sqlite3.Connection, query: str, up_to_bytes: int | None, *arguments: object) -> list[Head]:
    """Heads of a query that begins with ``HEAD``, until their sizes pass ``up_to_bytes``."""
    found = []
    total_bytes = 0
    for cells in db.execute(query, arguments):
        found.append(head(cells))
        total_bytes += found[-1].size_bytes
        if up_to_bytes is not None and total_bytes >= up_to_bytes:
            break
    return found


def head(cells: Sequence[object]) -> Head:
    """Damage may have put anything into a cell: what cannot be is zero here, and found out at loading."""
    identity, name, seq, kind, samples, size, preview = cells
    return Head(
        _int(identity),
        epoch_number(name),
        _int(seq),
        CLASSES.get(str(kind), BatchClass.DATA),
        _int(samples),
        _int(size),
        preview == 1,
    )


def _int(cell: object) -> int:
    return cell if isinstance(cell, int) else 0


def heads_of(db: sqlite3.Connection, ids: Iterable[int]) -> list[Head]:
    """Heads of those of ``ids`` that still wait."""
    query = f"{HEAD} WHERE id = ? AND settled = 0"
    return [head for identity in ids for head in heads(db, query, None, identity)]


def row(db: sqlite3.Connection, identity: int) -> BatchRow | None:
    query = f"SELECT {BatchRow.COLUMNS} FROM batch WHERE id = ?"  # noqa: S608  # a constant
    cells = db.execute(query, (identity,)).fetchone()
    return None if cells is None else BatchRow(*cells)


def committed_ns(db: sqlite3.Connection, identity: int) -> int:
    (value,) = db.execute("SELECT committed_ns FROM batch WHERE id = ?", (identity,)).fetchone()
    return int(value)


def identity_in_index(db: sqlite3.Connection, identity: int) -> tuple[int, int] | None:
    """(epoch, seq) of a row by the index's own copy, for a row whose cells cannot be believed.

    Reads the whole index: for the rare case only.
    """
    query = "SELECT epoch, seq FROM batch INDEXED BY identity WHERE +id = ?"
    found = db.execute(query, (identity,)).fetchone()
    return None if found is None else (epoch_number(found[0]), int(found[1]))


def batch(of: BatchRow, stream: Callable[[int], Stream]) -> Batch | None:
    """The batch in a row, or None where the row is damaged."""
    if not of.whole():
        return None
    try:
        samples = unpack_rows(of.rows, stream)
    except KeyError:
        return None  # the description of its stream is gone
    return Batch(
        epoch=int(of.epoch, 16),
        seq=of.seq,
        batch_class=BatchClass(of.batch_class),
        clock=ClockState(bool(of.synced), of.error_ms),
        samples=samples,
        hash=of.hash,
        blob=of.blob,
    )
