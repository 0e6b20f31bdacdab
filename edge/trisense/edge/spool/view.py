"""A look into a spool file from outside, beside a running box: read-only, and in short transactions.

A snapshot that stays open keeps the log from being folded, which on a full disk would cost readings:
so rows are read a page at a time, each page for itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trisense.core.errors import SpoolError
from trisense.edge.clocks.clock import PLAUSIBLE_NS
from trisense.edge.spool.file import (
    APPLICATION_ID,
    VERSION,
    BatchRow,
    EpochRow,
    read_epochs,
    readable_errors,
)
from trisense.edge.spool.shelf import HORIZON

__all__ = ["Contents", "Group", "Progress", "contents", "look_into", "pages"]

PAGE_ROWS: Final = 200
COUNTED_ROWS: Final = 5000
"""Rows that one query of ``contents`` goes over."""
STATES: Final = ("waiting", "stored", "refused", "damaged")

Progress = Callable[[int, int], None]
"""Told how far it is: rows behind it, and the number of the last row."""


@dataclass(slots=True)
class Group:
    """Batches of one epoch, kind and state."""

    epoch: str
    kind: str
    """``alarm``, ``data``, ``preview`` or ``media``."""
    state: str
    """``waiting``, ``open`` (its times are provisional), ``stored``, ``refused`` or ``damaged``."""
    batches: int = 0
    samples: int = 0
    size_bytes: int = 0
    oldest_ns: int | None = None
    newest_ns: int | None = None
    """Wall times of the first and the last commit, as the clock then said."""


@dataclass(frozen=True, slots=True)
class Contents:
    groups: list[Group]
    epochs: list[EpochRow]
    file_bytes: int
    log_bytes: int
    ballast_bytes: int
    aside_bytes: int
    """Of a damaged file that is kept for a look, or is to be salvaged."""
    horizon_ns: int | None
    """Wall time of the oldest receipt whose batch is still here."""


@contextmanager
def look_into(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a spool file read-only.

    Raises:
        SpoolError: missing, unreadable, no spool, or of another layout.
    """
    if not path.is_file():
        raise SpoolError(f"{path}: no such file")
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with readable_errors(), closing(sqlite3.connect(uri, uri=True, timeout=5)) as db:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise SpoolError(f"{path}: expected a spool file, got application id {application:#x}")
            if version != VERSION:
                raise SpoolError(f"{path}: expected layout {VERSION}, got {version}")
            yield db
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from error


def pages(db: sqlite3.Connection, progress: Progress | None = None) -> Iterator[list[BatchRow]]:
    """Every batch, oldest first, a page at a time.

    Raises:
        sqlite3.DatabaseError: the file is damaged here.
    """
    query = f"SELECT {BatchRow.COLUMNS} FROM batch WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  # a constant
    last = _last_row(db)
    after = -1
    while page := [BatchRow(*cells) for cells in db.execute(query, (after, PAGE_ROWS)).fetchall()]:
        after = page[-1].id
        if progress is not None:
            progress(after, last)
        yield page


def contents(path: Path, progress: Progress | None = None) -> Contents:
    """What a spool holds, by epoch, kind and state.

    Raises:
        SpoolError: it cannot be read.
    """
    with look_into(path) as db:
        groups = _groups(db, progress)
        row = db.execute(HORIZON, (PLAUSIBLE_NS,)).fetchone()
        epochs = read_epochs(db, damaged_ok=True)
    aside = [*path.parent.glob(f"{path.name}.damaged*"), *path.parent.glob(f"{path.name}.salvage*")]
    return Contents(
        groups=groups,
        epochs=epochs,
        file_bytes=path.stat().st_size,
        log_bytes=_size(path.with_name(path.name + "-wal")),
        ballast_bytes=_size(path.with_name(path.name + ".ballast")),
        aside_bytes=sum(map(_size, aside)),
        horizon_ns=None if row is None else int(row[0]),
    )


def _groups(db: sqlite3.Connection, progress: Progress | None) -> list[Group]:
    some = (
        "SELECT id, epoch, class, preview, state, settled, samples, size_bytes, committed_ns FROM batch"
        " WHERE id > ? ORDER BY id LIMIT ?"
    )
    query = (
        "SELECT epoch, class, preview, state, settled, count(*), sum(samples), sum(size_bytes),"  # noqa: S608  # a constant
        f" min(committed_ns), max(committed_ns), max(id) FROM ({some})"
        " GROUP BY epoch, class, preview, state, settled"
    )
    found: dict[tuple[str, str, str], Group] = {}
    last = _last_row(db)
    after = -1
    while part := db.execute(query, (after, COUNTED_ROWS)).fetchall():
        for epoch, kind, preview, state, settled, batches, samples, size, oldest, newest, highest in part:
            name = "preview" if preview else kind
            told = "open" if state == "open" else STATES[settled] if settled in range(4) else "damaged"
            group = found.setdefault((epoch, name, told), Group(epoch, name, told))
            group.batches += batches
            group.samples += samples
            group.size_bytes += size
            group.oldest_ns = oldest if group.oldest_ns is None else min(group.oldest_ns, oldest)
            group.newest_ns = newest if group.newest_ns is None else max(group.newest_ns, newest)
            after = max(after, highest)
        if progress is not None:
            progress(after, last)
    return list(found.values())


def _last_row(db: sqlite3.Connection) -> int:
    (last,) = db.execute("SELECT max(id) FROM batch").fetchone()
    return int(last or 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
