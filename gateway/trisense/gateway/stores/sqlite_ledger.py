"""``ledger.db``: the ledger beside a store that has no transactions, and the pictures it cannot hold."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trisense.core.errors import StoreUnavailable
from trisense.gateway.ledger import Ledger
from trisense.gateway.stores.base import Media
from trisense.gateway.stores.columns import Picture

__all__ = ["SqliteLedger"]

EXTRA = (
    "CREATE UNIQUE INDEX IF NOT EXISTS batch_identity ON batches (box, epoch, seq)",
    """CREATE TABLE IF NOT EXISTS media (id TEXT PRIMARY KEY, box TEXT NOT NULL, device TEXT NOT NULL,
       time_ns INTEGER NOT NULL) WITHOUT ROWID""",
)


class SqliteLedger(Ledger):
    """A folder: ``ledger.db`` (WAL, FULL) and ``media/``. Losing it costs re-sends, never data."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make it.

        Raises:
            StoreUnavailable: the disk or the file is not usable now.
        """
        with self._translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            # The writer's thread opens and uses it; the last close comes from the same thread.
            self._connection = sqlite3.connect(
                self._folder / "ledger.db", isolation_level=None, timeout=5, check_same_thread=False
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
                self._execute(f"PRAGMA {pragma}")
            self.load()
            for statement in EXTRA:
                self._execute(statement)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable at its end.

        Raises:
            StoreUnavailable: nothing of it holds.
        """
        with self._translated():
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error, StoreUnavailable):
                    self._execute("ROLLBACK")
                raise

    def write_picture(self, picture: Picture) -> None:
        """Keep a picture: first its file, durably, then its row (in the caller's transaction)."""
        path = self._path(picture.id)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                file.write(picture.blob)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        self._execute(
            "INSERT OR IGNORE INTO media VALUES (?, ?, ?, ?)",
            (picture.id, picture.box, picture.device, picture.time_ns),
        )

    def retire_pictures(self, before_ns: int) -> None:
        old = self._execute("SELECT id FROM media WHERE time_ns < ? LIMIT 10000", (before_ns,))
        with self.transaction():
            for (media_id,) in old:
                self._execute("DELETE FROM media WHERE id = ?", (media_id,))
        for (media_id,) in old:
            self._path(media_id).unlink(missing_ok=True)

    def read_picture(self, media_id: str) -> Media | None:
        """Read one, from any thread: by a connection of its own."""
        path = self._path(media_id)
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{self._folder / 'ledger.db'}?mode=ro", uri=True)
            ) as reader:
                row = reader.execute(
                    "SELECT box, device, time_ns FROM media WHERE id = ?", (media_id,)
                ).fetchone()
            return None if row is None else Media(media_id, row[0], row[1], row[2], path.read_bytes())
        except FileNotFoundError:
            return None
        except sqlite3.Error as error:
            raise StoreUnavailable(f"ledger.db: {error}") from error

    def _path(self, media_id: str) -> Path:
        return self._folder / "media" / media_id[:2] / media_id

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._connection is None:
            raise StoreUnavailable("ledger.db is not open")
        return self._connection.execute(sql, parameters).fetchall()

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows and self._connection is not None:
            marks = ", ".join("?" * len(rows[0]))
            # The table's name is one of ours. OR REPLACE: a commit of unknown outcome is written again.
            self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)  # noqa: S608

    def _replace(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows and self._connection is not None:
            # As above.
            self._connection.executemany(
                f"DELETE FROM {table} WHERE box = ? AND epoch = ?",  # noqa: S608
                [row[:2] for row in rows],
            )
            self._insert(table, rows)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"ledger.db: {error}") from error
