"""What can still be had from a damaged spool file, and what must be declared lost."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from trisense.edge.spool.file import EpochRow, StreamRow, read_batches, read_epochs, read_streams
from trisense.edge.spool.model import Loss, epoch_name, epoch_number
from trisense.edge.spool.rows import unpack_rows, unpack_stream

__all__ = ["Salvage"]

Row = TypeVar("Row", EpochRow, StreamRow)

BUDGET_S: Final = 10.0
"""Longest time spent on it: a box must go on sensing."""


class Salvage:
    """Carries what is whole from a damaged file into a new one; each batch keeps its identity."""

    def __init__(self, damaged: Path) -> None:
        self._damaged = damaged
        self.count = 0
        """Batches carried over."""
        self._epochs: dict[int, EpochRow] = {}
        self._present: dict[int, set[int]] = {}

    def run(self, db: sqlite3.Connection) -> None:
        """Fill ``db``, within the caller's transaction. Reads what it can, never raises for damage."""
        try:
            old = sqlite3.connect(self._damaged, isolation_level=None)
        except sqlite3.Error:
            return
        old.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._epochs = {
                number: row
                for row in _all(lambda: read_epochs(old, damaged_ok=True))
                if (number := epoch_number(row.epoch)) >= 0
            }
            streams = _all(lambda: read_streams(old, damaged_ok=True))
            self._copy(db, old, streams)
        finally:
            with contextlib.suppress(sqlite3.Error):
                old.close()

    def _copy(self, db: sqlite3.Connection, old: sqlite3.Connection, streams: list[StreamRow]) -> None:
        known = {row.id: unpack_stream(row.description) for row in streams}
        for row in streams:
            db.execute("INSERT INTO stream VALUES (?,?,?,?,?)", row.cells())
        for batch in read_batches(old, until=time.monotonic() + BUDGET_S):
            epoch = epoch_number(batch.epoch)
            self._present.setdefault(epoch, set()).add(batch.seq)
            if batch.settled != 0:
                continue
            try:
                unpack_rows(batch.rows, known.__getitem__)
            except KeyError:
                self._present[epoch].discard(batch.seq)
                continue
            batch.insert(db)
            self.count += 1
        for epoch, seqs in self._present.items():
            if epoch not in self._epochs:
                self._epochs[epoch] = EpochRow(epoch_name(epoch), 0, max(seqs, default=-1) + 1, 0, 0, 0)
        for number in sorted(self._epochs, key=lambda e: self._epochs[e].opened_ns):
            db.execute("INSERT INTO epoch VALUES (?,?,?,?,?,?,?)", self._epochs[number].cells())

    def nothing_kept(self) -> None:
        """What ``run`` wrote was rolled back: all of it must be declared lost."""
        self.count = 0
        self._present = {}

    def losses(self, noted: Iterable[int]) -> list[Loss]:
        """Everything that may be gone, ``noted`` being the epochs known from outside the file.

        A range may cover what the gateway has: stored goes before declared lost.
        """
        found = []
        for epoch in sorted({*noted, *self._epochs}):
            row = self._epochs.get(epoch)
            present = self._present.get(epoch, set())
            known_end = row is not None and row.exact
            next_seq = row.next_seq if row is not None else 0
            found += [Loss("corrupt", epoch, a, b) for a, b in _gaps(present, next_seq)]
            if not known_end:
                found.append(Loss("corrupt", epoch, next_seq, None))
        return found


def _gaps(present: set[int], end: int) -> list[tuple[int, int]]:
    """Inclusive ranges of [0, end) that are not in ``present``."""
    gaps = []
    expected = 0
    for seq in [*sorted(present), end]:
        if seq > expected:
            gaps.append((expected, seq - 1))
        expected = max(expected, seq + 1)
    return gaps


def _all(read: Callable[[], list[Row]]) -> list[Row]:
    try:
        return read()
    except sqlite3.DatabaseError:
        return []
