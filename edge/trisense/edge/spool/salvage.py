"""What can still be had from a damaged spool file, and what must be declared lost.

The damaged file was put aside; what is whole in it is carried into the new one in small parts, first what
waits for a receipt, then what is kept to refill a restored store. The box works meanwhile. While the file
put aside is there the salvage is not done: after a crash it begins again, and finds what it had carried.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgpack
import structlog
from trisense.edge.sensing.ordinals import NEVER
from trisense.edge.spool.books import unused_numbers
from trisense.edge.spool.file import (
    MARK_LOST,
    PAGE_BYTES,
    BatchRow,
    EpochRow,
    StreamRow,
    last_id,
    our_schema,
    read_batches,
    read_epochs,
    read_streams,
    read_unmarked,
    schema_of,
    write_unmarked,
)
from trisense.edge.spool.model import REFUSED, STORED, WAITING, Loss, epoch_number

__all__ = ["Salvage"]

log = structlog.get_logger(__name__)

Row = TypeVar("Row", EpochRow, StreamRow)

PART: Final = 200
"""Batches of one transaction: a commit may wait behind it."""
PART_BYTES: Final = 256 * 1024
"""And bytes, but for the last of them: on a full disk a transaction has only the room of the ballast."""
ID_UNKNOWN: Final = 1 << 40
"""Where the old file does not tell how far its ids went, new ones begin here."""

HEADER: Final = {
    0: b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + bytes([2, 2, 0, 64, 32, 32]),
    44: (4).to_bytes(4, "big"),
    56: (1).to_bytes(4, "big"),
}
"""What SQLite writes there into each file in WAL mode: https://www.sqlite.org/fileformat2.html#the_database_header"""


class Salvage:
    """The way from a damaged file into the new one; each batch keeps its identity and its id."""

    def __init__(self, aside: Path) -> None:
        self.settled = WAITING
        """Of the batches that are carried now; with the stored ones go the refused."""
        self.counts = {WAITING: 0, STORED: 0}
        self.part: list[BatchRow] = []
        """To be carried next."""
        self.epochs: dict[int, EpochRow] = {}
        _mend_start(aside)
        self._old = sqlite3.connect(aside, isolation_level=None)
        self._old.text_factory = lambda text: text.decode("utf-8", "replace")
        self._streams: set[int] | None = None
        """Streams that can be told, None where these are all."""
        self._seen: dict[int, _Seqs] = {}
        self._last_id = ID_UNKNOWN
        self._rows = read_batches(self._old)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._old.close()

    def begin(self, db: sqlite3.Connection, now_ns: int) -> None:
        """Carry the books over, in a transaction of its own, before the new file is used for anything.

        ``now_ns`` is the newest time a sample may have, where the file does not tell of a newer one.

        Raises:
            sqlite3.Error: the new file has no room even for these.
        """
        rows = _all(lambda: read_epochs(self._old, damaged_ok=True))
        epochs = {number: row for row in rows if (number := epoch_number(row.epoch)) >= 0}
        streams = _all(lambda: read_streams(self._old, damaged_ok=True))
        times_ns = [*(row.line_ns for row in epochs.values()), *(row.last_ns for row in streams)]
        mark = (max(now_ns, *times_ns, NEVER), unused_numbers())
        streams = [
            StreamRow(row.id, row.description, *mark) if row.max_n == MARK_LOST else row for row in streams
        ]
        unmarked = mark if len(streams) != _streams_in(self._old) else _unmarked_in(self._old, mark)
        self._last_id = last_id(self._old) or ID_UNKNOWN
        db.execute("BEGIN IMMEDIATE")
        try:
            for stream in streams:
                stream.write(db)
            if unmarked is not None:
                write_unmarked(db, *unmarked)
            for epoch in epochs.values():
                db.execute("INSERT OR IGNORE INTO epoch VALUES (?,?,?,?,?,?,?,?)", epoch.cells())
            if db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'batch'").fetchone() is None:
                # New batches come behind the old ones, which are older.
                db.execute("INSERT INTO sqlite_sequence VALUES ('batch', ?)", (self._last_id,))
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self.epochs = epochs
        known = {row.id: row.description for row in read_streams(db)}
        told = {row.id for row in streams if known.get(row.id) == row.description}
        self._streams = None if len(told) == _streams_in(self._old) else told

    def next_part(self) -> bool:
        """Read on, unless ``part`` is still to be carried; False at the end of what is carried now."""
        while not self.part:
            whole = self._read_some()
            if whole is None:
                return False
            if self.settled == WAITING:
                for row in whole:
                    self._seen.setdefault(epoch_number(row.epoch), _Seqs()).add(row.seq)
            carried = (WAITING,) if self.settled == WAITING else (STORED, REFUSED)
            self.part = [self._placed(row) for row in whole if row.settled in carried]
        return True

    def _read_some(self) -> list[BatchRow] | None:
        """What is whole of the next rows; None where there are no more."""
        whole: list[BatchRow] | None = None
        size_bytes = 0
        for row in islice(self._rows, PART):
            whole = [] if whole is None else whole
            if row.whole() and self._can_be_told(row):
                whole.append(row)
                size_bytes += row.size_bytes
            if size_bytes >= PART_BYTES:
                break
        return whole

    def carried(self) -> None:
        """``part`` is durable in the new file."""
        self.counts[self.settled] += len(self.part)
        self.part = []

    def go_on_with_kept(self) -> None:
        """What waits is there; begin with what is kept."""
        self.settled, self._rows = STORED, read_batches(self._old)

    def losses(self, noted: Iterable[int]) -> list[Loss]:
        """Everything that may be gone, ``noted`` being the epochs known from outside the file.

        Below ``low_seq`` everything had its receipt or was declared before. Above it a range may cover what
        the gateway has: stored goes before declared lost.
        """
        found = []
        for epoch in sorted({*noted, *self.epochs, *self._seen}):
            row = self.epochs.get(epoch)
            seen = self._seen.get(epoch, _Seqs())
            exact = row is not None and bool(row.exact)
            low_seq, next_seq = (0, 0) if row is None else (row.low_seq, row.next_seq)
            next_seq = max(next_seq, seen.end)
            found += [Loss("corrupt", epoch, a, b) for a, b in seen.gaps(low_seq, next_seq)]
            if not exact:
                found.append(Loss("corrupt", epoch, next_seq, None))
        return found

    def _can_be_told(self, row: BatchRow) -> bool:
        """Whether the descriptions of its streams are there."""
        if self._streams is None:
            return True
        return {group[0] for group in msgpack.unpackb(zlib.decompress(row.rows))} <= self._streams

    def _placed(self, row: BatchRow) -> BatchRow:
        """With its old id, or none where damage may have changed that."""
        return row if 0 < row.id <= self._last_id else row.without_id()


class _Seqs:
    """Numbers seen, as ranges: few where they come in order, up or down."""

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []

    def add(self, seq: int) -> None:
        last = self._ranges[-1] if self._ranges else None
        if last is not None and seq == last[1] + 1:
            last[1] = seq
        elif last is not None and seq == last[0] - 1:
            last[0] = seq
        else:
            self._ranges.append([seq, seq])

    @property
    def end(self) -> int:
        return max((last for _, last in self._ranges), default=-1) + 1

    def gaps(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Inclusive ranges of [begin, end) that were not seen."""
        gaps = []
        expected = begin
        for first, last in [*sorted(self._ranges), [end, end]]:
            if first > expected:
                gaps.append((expected, first - 1))
            expected = max(expected, last + 1)
        return gaps


def _unmarked_in(old: sqlite3.Connection, mark: tuple[int, int]) -> tuple[int, int] | None:
    try:
        return read_unmarked(old)
    except sqlite3.Error:
        return mark


def _streams_in(old: sqlite3.Connection) -> int:
    """How many streams there were; -1 where nobody can say."""
    try:
        (count,) = old.execute("SELECT count(*) FROM stream").fetchone()
    except sqlite3.Error:
        return -1
    return int(count)


def _all(read: Callable[[], list[Row]]) -> list[Row]:
    try:
        return read()
    except sqlite3.DatabaseError:
        return []


def _mend_start(path: Path) -> None:
    """Write what every spool begins with over that of a damaged file: without it no row can be had.

    These are its header, where it is the same for all, and the schema.
    """
    with contextlib.suppress(OSError), path.open("r+b") as file:
        for at, content in HEADER.items():
            file.seek(at)
            if file.read(len(content)) != content:
                file.seek(at)
                file.write(content)
    wrong = contextlib.suppress(sqlite3.Error, UnicodeDecodeError)
    with wrong, closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.text_factory = lambda text: text.decode("utf-8", "replace")
        db.execute("PRAGMA writable_schema = ON")  # else a schema that makes no sense cannot even be read
        if schema_of(db) != our_schema():
            db.executemany(
                "UPDATE sqlite_schema SET type = ?, name = ?, tbl_name = ?, rootpage = ?, sql = ?"
                " WHERE rowid = ?",
                our_schema(),
            )
