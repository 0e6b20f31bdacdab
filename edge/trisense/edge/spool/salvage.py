"""What can still be had from a damaged spool file, and what must be declared lost."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import structlog
from trisense.core.model import Stream
from trisense.edge.spool.file import (
    BatchRow,
    EpochRow,
    StreamRow,
    read_batches,
    read_epochs,
    read_streams,
)
from trisense.edge.spool.model import STORED, WAITING, Loss, epoch_name, epoch_number
from trisense.edge.spool.rows import unpack_rows, unpack_stream

__all__ = ["Salvage"]

log = structlog.get_logger(__name__)

Row = TypeVar("Row", EpochRow, StreamRow)

SLICE: Final = 200
"""Batches of one transaction: what fits is kept when the disk is full before the end."""


class Salvage:
    """Carries what is whole from a damaged file into a new one; each batch keeps its identity.

    What waits for a receipt comes first, then, where time and room allow, what is kept to refill a
    restored store.
    """

    def __init__(self, damaged: Path, *, limit_s: float) -> None:
        self._damaged = damaged
        self._limit_s = limit_s
        self.waiting = 0
        """Batches carried over that wait for a receipt."""
        self.kept = 0
        """Batches carried over that have one."""
        self._epochs: dict[int, EpochRow] = {}
        self._streams: dict[int, Stream] = {}
        self._present: dict[int, set[int]] = {}

    def run(self, db: sqlite3.Connection) -> None:
        """Fill ``db`` in transactions of its own. Reads what it can; no damage and no full disk stops it."""
        until = time.monotonic() + self._limit_s
        try:
            with contextlib.closing(sqlite3.connect(self._damaged, isolation_level=None)) as old:
                old.text_factory = lambda text: text.decode("utf-8", "replace")
                self._books(db, old)
                self._carry(db, read_batches(old, until=until), WAITING)
                self._carry(db, read_batches(old, until=until), STORED)
        except sqlite3.Error as error:
            log.error("spool_salvage_stopped", why=str(error))

    def _books(self, db: sqlite3.Connection, old: sqlite3.Connection) -> None:
        epochs = {epoch_number(row.epoch): row for row in _all(lambda: read_epochs(old, damaged_ok=True))}
        epochs.pop(-1, None)
        streams = _all(lambda: read_streams(old, damaged_ok=True))
        with _transaction(db):
            db.executemany("INSERT INTO stream VALUES (?,?,?,?,?)", [row.cells() for row in streams])
            db.executemany(
                "INSERT INTO epoch VALUES (?,?,?,?,?,?,?,?)", [row.cells() for row in epochs.values()]
            )
        self._epochs = epochs
        self._streams = {row.id: unpack_stream(row.description) for row in streams}

    def _carry(self, db: sqlite3.Connection, rows: Iterator[BatchRow], settled: int) -> None:
        """Copy the whole ones of that mark, a slice at a time.

        Raises:
            sqlite3.Error: no room for the slice; those before it are there.
        """
        readable = (row for row in rows if self._readable(row))
        while part := list(islice(readable, SLICE)):
            chosen = [row for row in part if row.settled == settled]
            with _transaction(db):
                for row in chosen:
                    with contextlib.suppress(sqlite3.IntegrityError):  # a damaged tree may give a row twice
                        row.insert(db)
                unknown = self._learn(part)
                db.executemany("INSERT OR REPLACE INTO epoch VALUES (?,?,?,?,?,?,?,?)", unknown)
            for row in part:
                if row.settled != WAITING or settled == WAITING:
                    self._present.setdefault(epoch_number(row.epoch), set()).add(row.seq)
            if settled == WAITING:
                self.waiting += len(chosen)
            else:
                self.kept += len(chosen)

    def _readable(self, row: BatchRow) -> bool:
        try:
            unpack_rows(row.rows, self._streams.__getitem__)
        except KeyError:
            return False  # the description of its stream is gone
        return True

    def _learn(self, rows: Iterable[BatchRow]) -> list[tuple[object, ...]]:
        """Epochs whose own rows are gone, by their batches: cells to write."""
        fresh: dict[int, EpochRow] = {}
        for row in rows:
            epoch = epoch_number(row.epoch)
            known = self._epochs.get(epoch)
            if known is None or (not known.exact and known.next_seq <= row.seq):
                fresh[epoch] = self._epochs[epoch] = _unknown_epoch(epoch, row)
        return [row.cells() for row in fresh.values()]

    def losses(self, noted: Iterable[int]) -> list[Loss]:
        """Everything that may be gone, ``noted`` being the epochs known from outside the file.

        Below ``low_seq`` everything had its receipt or was declared before. Above it a range may cover what
        the gateway has: stored goes before declared lost.
        """
        found = []
        for epoch in sorted({*noted, *self._epochs}):
            row = self._epochs.get(epoch)
            present = self._present.get(epoch, set())
            known_end = row is not None and row.exact
            low_seq, next_seq = (0, 0) if row is None else (row.low_seq, row.next_seq)
            found += [Loss("corrupt", epoch, a, b) for a, b in _gaps(present, low_seq, next_seq)]
            if not known_end:
                found.append(Loss("corrupt", epoch, next_seq, None))
        return found


def _unknown_epoch(epoch: int, row: BatchRow) -> EpochRow:
    return EpochRow(
        epoch_name(epoch), 0, row.seq + 1, low_seq=0, samples_committed=0, exact=0, line_ns=row.committed_ns
    )


def _gaps(present: set[int], begin: int, end: int) -> list[tuple[int, int]]:
    """Inclusive ranges of [begin, end) that are not in ``present``."""
    gaps = []
    expected = begin
    for seq in [*sorted(present), end]:
        if seq > expected:
            gaps.append((expected, seq - 1))
        expected = max(expected, seq + 1)
    return gaps


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _all(read: Callable[[], list[Row]]) -> list[Row]:
    try:
        return read()
    except sqlite3.DatabaseError:
        return []
