"""The spool's file: how it is opened, locked, laid out, checked, and read when it is damaged.

``queue.py`` is the queue; this module knows SQLite's files. The layout is documented for other
readers in the edge's README, section "The spool file".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import structlog
from trisense.core.errors import SpoolError, SpoolLocked
from trisense.edge.sensing.ordinals import NEVER
from trisense.edge.spool.rows import checksum
from trisense.edge.spool.wal import PAGE_BYTES, marked_commits

__all__ = [
    "AGE_NEVER_NS",
    "CORRUPT_CODES",
    "ID_MAX",
    "MARK_LOST",
    "PAGE_BYTES",
    "UNUSABLE_CODES",
    "BatchRow",
    "EpochRow",
    "StreamRow",
    "connect",
    "damaged",
    "last_id",
    "lock",
    "look_over",
    "mark_cells",
    "our_schema",
    "read_batches",
    "read_epochs",
    "read_streams",
    "read_unmarked",
    "readable_errors",
    "schema_of",
    "toggle",
    "write_unmarked",
]

log = structlog.get_logger(__name__)

APPLICATION_ID: Final = 0x74726973
VERSION: Final = 2
ID_MAX: Final = 2**63 - 1
AGE_NEVER_NS: Final = 1 << 56
"""Age at its receipt of a batch without one. Every age is above it and takes eight bytes like it, so that
a receipt changes a few bytes in place and no picture is written again."""
SETTLED_MARKS: Final = (0, 0x5A5A, 0xA5A5, 0x3C3C)
"""What a row's checksum is XORed with, by ``settled``: a flipped bit makes no receipt."""
CHECKPOINT_PAGES: Final = 256
"""The WAL is folded into the file every MiB: what a full disk must still have room for."""
CHECKED_BYTES: Final = 64 * 1024 * 1024
"""Largest file that is read whole at the start, indexes and all; an SD card gives about 30 MB a second."""
ID_PLAUSIBLE: Final = 1 << 48
"""Larger ids come of damage."""
MARK_LOST: Final = -2
"""In place of a stream's largest number where damage took it."""
PROBES_MAX: Final = 2_000_000
"""Most ids between two damaged pages that are tried one by one."""
CORRUPT_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
UNUSABLE_CODES: Final = CORRUPT_CODES | {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY}
"""What a file is called at its opening, too, that has a bit wrong in its header."""

# Marks change with each commit, descriptions never: apart, a hundred streams cost a page of log, not ten.
# The indexes repeat the cells that their conditions name: queries then believe them, not the row, and a
# bit that flips in the row cannot hide it.
SCHEMA: Final = f"""
CREATE TABLE epoch (
    epoch TEXT PRIMARY KEY, opened_ns INTEGER, next_seq INTEGER, low_seq INTEGER,
    samples_committed INTEGER, exact INTEGER, line_ns INTEGER, crc INTEGER);
CREATE TABLE stream (
    id INTEGER PRIMARY KEY, description BLOB, crc INTEGER);
CREATE TABLE mark (
    stream INTEGER PRIMARY KEY, last_ns INTEGER, max_n INTEGER, crc INTEGER);
CREATE TABLE batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
    class TEXT NOT NULL, preview INTEGER NOT NULL, state TEXT NOT NULL, settled INTEGER NOT NULL,
    settled_ns INTEGER, age_ns INTEGER, committed_ns INTEGER, boot_id TEXT, mono_ns INTEGER,
    offset_ns INTEGER, synced INTEGER, error_ms INTEGER, samples INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, hash BLOB, rows BLOB, blob BLOB, crc INTEGER);
CREATE UNIQUE INDEX identity ON batch (epoch, seq);
CREATE INDEX waiting ON batch (class, preview, id, size_bytes, settled, state)
    WHERE settled = 0 AND state = 'final';
CREATE INDEX unfinished ON batch (class, preview, id, size_bytes, state) WHERE state = 'open';
CREATE INDEX kept ON batch (age_ns, settled, settled_ns, committed_ns, size_bytes) WHERE settled > 0;
CREATE INDEX replayed ON batch (id, epoch, seq) WHERE settled = 0 AND age_ns > {AGE_NEVER_NS};
"""


@dataclass(frozen=True, slots=True)
class EpochRow:
    epoch: str
    opened_ns: int
    next_seq: int
    low_seq: int
    """At or below the first batch that waits: where to begin looking for it."""
    samples_committed: int
    exact: int
    line_ns: int
    """Newest final time of the box's own line of time; -1 where there is none."""

    def cells(self) -> tuple[object, ...]:
        """Every cell, the checksum last."""
        bare = (
            self.epoch,
            self.opened_ns,
            self.next_seq,
            self.low_seq,
            self.samples_committed,
            self.exact,
            self.line_ns,
        )
        return (*bare, checksum(bare))


@dataclass(frozen=True, slots=True)
class StreamRow:
    id: int
    description: bytes
    last_ns: int
    max_n: int

    def write(self, db: sqlite3.Connection) -> None:
        """Add it, unless one of that number is there."""
        bare = (self.id, self.description)
        db.execute("INSERT OR IGNORE INTO stream VALUES (?,?,?)", (*bare, checksum(bare)))
        db.execute(
            "INSERT OR IGNORE INTO mark VALUES (?,?,?,?)", mark_cells(self.id, self.last_ns, self.max_n)
        )


def mark_cells(stream: int, last_ns: int, max_n: int) -> tuple[int, ...]:
    """How far the ordinals of a stream have gone, the checksum last."""
    bare = (stream, last_ns, max_n)
    return (*bare, checksum(bare))


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch as it lies in the file."""

    COLUMNS = (
        "id, epoch, seq, class, preview, state, settled, settled_ns, age_ns, committed_ns, boot_id, mono_ns,"
        " offset_ns, synced, error_ms, samples, hash, rows, blob, crc"
    )

    id: int
    epoch: str
    seq: int
    batch_class: str
    preview: int
    state: str
    """``final``, or ``open`` while its times are provisional."""
    settled: int
    settled_ns: int
    """Wall time of the receipt; of the commit while there is none."""
    age_ns: int
    """How long the spool had run at the receipt (``Shelf.age_ns``), or ``AGE_NEVER_NS``."""
    committed_ns: int
    boot_id: str
    mono_ns: int
    """Boot time of the commit."""
    offset_ns: int | None
    """What was added to boot time to make the times of an open batch; None for a final one."""
    synced: int
    error_ms: int | None
    samples: int
    hash: bytes
    rows: bytes
    blob: bytes | None
    crc: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.rows) + len(self.blob or b"")

    def checksum(self) -> int:
        """CRC-32 over every cell but ``id``, ``settled_ns``, ``age_ns`` and what follows from others."""
        cells = (
            self.epoch,
            self.seq,
            self.batch_class,
            self.preview,
            self.state,
            self.committed_ns,
            self.boot_id,
            self.mono_ns,
            self.offset_ns,
            self.synced,
            self.error_ms,
            self.samples,
            self.hash,
            self.rows,
            self.blob,
        )
        return checksum(cells) ^ SETTLED_MARKS[self.settled]

    def whole(self) -> bool:
        try:
            return self.crc == self.checksum()
        except (TypeError, ValueError, OverflowError, IndexError):
            return False  # a damaged cell may have any type

    def without_id(self) -> BatchRow:
        """The same, to be written under a new id."""
        return replace(self, id=0)

    def insert(self, db: sqlite3.Connection) -> int:
        """Write it as a new row, under a new id where its own is 0; gives the id."""
        cells = (
            self.id or None,
            self.epoch,
            self.seq,
            self.batch_class,
            self.preview,
            self.state,
            self.settled,
            self.settled_ns,
            self.age_ns,
            self.committed_ns,
            self.boot_id,
            self.mono_ns,
            self.offset_ns,
            self.synced,
            self.error_ms,
            self.samples,
            self.size_bytes,
            self.hash,
            self.rows,
            self.blob,
            self.checksum(),
        )
        cursor = db.execute(
            "INSERT INTO batch (id, epoch, seq, class, preview, state, settled, settled_ns, age_ns,"
            " committed_ns, boot_id, mono_ns, offset_ns, synced, error_ms, samples, size_bytes, hash, rows,"
            " blob, crc)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            cells,
        )
        return int(cursor.lastrowid or 0)


def toggle(mark: int) -> str:
    """SQL that brings a checksum along when ``settled`` goes from 0 to ``mark``, or back."""
    bits = SETTLED_MARKS[mark]
    return f"crc = (crc | {bits}) - (crc & {bits})"  # SQLite has no XOR


def lock(path: Path) -> int:
    """Take the spool for this process until the file descriptor is closed.

    Raises:
        SpoolLocked: another process has it.
        SpoolError: its folder cannot be written.
    """
    name = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolError(f"{name}: cannot open the lock: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SpoolLocked(f"{path}: another process has this spool open") from error
    return descriptor


def connect(path: Path, *, max_bytes: int) -> tuple[sqlite3.Connection, bool]:
    """Open the file and its log; ``look_over`` comes next.

    The second value tells whether commits at the end of the WAL were lost to damage.

    Raises:
        sqlite3.DatabaseError: with a code of ``CORRUPT_CODES`` where it is damaged.
    """
    committed = marked_commits(path.with_name(path.name + "-wal"))
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.text_factory = lambda text: text.decode("utf-8", "replace")  # a checksum finds damage, no codec
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}")
        db.execute(f"PRAGMA max_page_count = {max_bytes // PAGE_BYTES}")
        # Memory is scarcer than reads on a box: the spool is written once and read once.
        db.execute("PRAGMA cache_size = -1024")
        (_, recovered, _) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if recovered == committed:
            # A log that is folded in but still there, with a bit wrong, would bring old pages back over new.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except BaseException:
        db.close()
        raise
    return db, recovered < committed


def look_over(db: sqlite3.Connection, path: Path) -> None:
    """Lay the file out when it is new, and look whether it is whole.

    Raises:
        sqlite3.DatabaseError: as ``connect``.
        SpoolError: it belongs to another program or a newer version.
    """
    _lay_out(db, path)
    # One bit of the header makes a file one to be read only, which nothing but a write tells.
    db.execute("BEGIN IMMEDIATE")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("ROLLBACK")
    if path.stat().st_size <= CHECKED_BYTES:
        (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise damaged(str(answer))


def _lay_out(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        db.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {VERSION}; COMMIT;"
        )
    elif application != APPLICATION_ID:
        raise damaged(f"application id {application:#x}")
    elif schema_of(db) == our_schema():
        if version != VERSION:
            raise damaged(f"layout {version} with our schema")
    elif version != VERSION:
        raise SpoolError(
            f"{path}: made by another version of trisense (layout {version}, ours {VERSION}):"
            " let that version drain it, or move it away"
        )
    else:
        raise damaged("the schema")


@cache
def our_schema() -> tuple[tuple[object, ...], ...]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(SCHEMA)
        return schema_of(db)


def schema_of(db: sqlite3.Connection) -> tuple[tuple[object, ...], ...]:
    """(type, name, table, root page, SQL, row) in the order of their making, as SQLite keeps them."""
    query = "SELECT type, name, tbl_name, rootpage, sql, rowid FROM sqlite_schema ORDER BY rowid"
    return tuple(db.execute(query).fetchall())


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """SQLite's word on a schema that makes no sense repeats it, and the binding takes that for UTF-8.

    Raises:
        sqlite3.DatabaseError: in place of the decoder's error.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise damaged(f"the schema: {error}") from error


def damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def read_epochs(db: sqlite3.Connection, *, damaged_ok: bool = False) -> list[EpochRow]:
    """Epochs, oldest first. A damaged row raises ``DatabaseError`` unless ``damaged_ok``."""
    found = []
    for *cells, crc in db.execute(
        "SELECT epoch, opened_ns, next_seq, low_seq, samples_committed, exact, line_ns, crc FROM epoch"
        " ORDER BY rowid"
    ):
        if checksum(cells) == crc:
            found.append(EpochRow(*cells))
        elif not damaged_ok:
            raise damaged("an epoch's checksum")
    return found


def read_streams(db: sqlite3.Connection, *, damaged_ok: bool = False) -> list[StreamRow]:
    """Streams by id. A damaged row raises ``DatabaseError`` unless ``damaged_ok``.

    A stream whose mark is damaged has the largest number ``MARK_LOST``.
    """
    found = []
    query = (
        "SELECT id, description, stream.crc, last_ns, max_n, mark.crc FROM stream"
        " LEFT JOIN mark ON mark.stream = id ORDER BY id"
    )
    for identity, description, crc, last_ns, max_n, mark_crc in db.execute(query):
        described = checksum((identity, description)) == crc
        marked = checksum((identity, last_ns, max_n)) == mark_crc
        if described and marked:
            found.append(StreamRow(identity, description, last_ns, max_n))
        elif not damaged_ok:
            raise damaged("a stream's checksum")
        elif described:
            found.append(StreamRow(identity, description, NEVER, MARK_LOST))
    return found


def write_unmarked(db: sqlite3.Connection, last_ns: int, max_n: int) -> None:
    """Keep how far the ordinals of streams may have gone that damage took: as the mark of no stream."""
    db.execute("INSERT OR REPLACE INTO mark VALUES (?,?,?,?)", mark_cells(0, last_ns, max_n))


def read_unmarked(db: sqlite3.Connection) -> tuple[int, int] | None:
    """What ``write_unmarked`` wrote. A damaged row raises ``DatabaseError``."""
    cells = db.execute("SELECT stream, last_ns, max_n, crc FROM mark WHERE stream = 0").fetchone()
    if cells is not None and mark_cells(*cells[:3]) != cells:
        raise damaged("a mark's checksum")
    return None if cells is None else (cells[1], cells[2])


def read_batches(db: sqlite3.Connection) -> Iterator[BatchRow]:
    """Every batch that a damaged file still gives, whole or not, at most once.

    From both ends towards the damage; between the first and the last damaged page one by one.
    """
    columns = f"SELECT {BatchRow.COLUMNS} FROM batch"  # noqa: S608  # a constant
    low, high = 0, None
    try:
        for cells in db.execute(f"{columns} WHERE id > 0 ORDER BY id"):
            yield (row := BatchRow(*cells))
            low = row.id
        return
    except (sqlite3.DatabaseError, OverflowError) as error:
        log.debug("spool_salvage_stopped", why=str(error), after=low)
    try:
        for cells in db.execute(f"{columns} WHERE id > ? ORDER BY id DESC", (low,)):
            yield (row := BatchRow(*cells))
            high = row.id
    except (sqlite3.DatabaseError, OverflowError) as error:
        log.debug("spool_salvage_stopped", why=str(error), before=high)
    end = last_id(db) + 1 if high is None else high
    for identity in range(low + 1, min(end, low + PROBES_MAX)):
        try:
            found = db.execute(f"{columns} WHERE id = ?", (identity,)).fetchone()
        except (sqlite3.DatabaseError, OverflowError):
            continue
        if found is not None:
            yield BatchRow(*found)


def last_id(db: sqlite3.Connection) -> int:
    """Largest id of a batch that a damaged file tells of; 0 where it tells none that can be."""
    for query in ("SELECT max(id) FROM batch", "SELECT max(seq) FROM sqlite_sequence"):
        try:
            (found,) = db.execute(query).fetchone()
        except sqlite3.DatabaseError:
            continue
        if isinstance(found, int) and 0 < found <= ID_PLAUSIBLE:
            return found
    return 0
