"""Embedded store: one DuckDB file, rows and ledger in one transaction.

One table per measurement in the schema ``data``: site, box, device, layer, time, n, then for each field
its value and ``<field>_q`` (null when good). Tables and columns appear with the streams. Names come from
outside, so every one is quoted. Reads are in ``duck_reads``.
"""
# ruff: noqa: S608  # names inside the SQL are quoted identifiers and integers; values are parameters

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Final

import duckdb
import numpy as np
import structlog
from trisense.core.errors import StoreUnavailable
from trisense.core.model import FieldType
from trisense.gateway.config import DuckDbConfig
from trisense.gateway.ledger import Ledger, Outcome, Place, Record
from trisense.gateway.stores import columns
from trisense.gateway.stores.base import OnRefused, require_free
from trisense.gateway.stores.columns import Picture, Portion
from trisense.gateway.stores.duck_reads import DuckReads, quoted

__all__ = ["DuckStore"]

log = structlog.get_logger()

SQL_TYPE: Final = {FieldType.FLOAT: "DOUBLE", FieldType.INT: "BIGINT", FieldType.STR: "VARCHAR"}
NEVER: Final = (duckdb.DataError, duckdb.NotSupportedError, duckdb.IntegrityError)
"""Errors that the same rows will meet again; all others are taken for the database's own trouble."""
HOUSE: Final = (
    "CREATE SCHEMA IF NOT EXISTS data",
    """CREATE TABLE IF NOT EXISTS media (id VARCHAR NOT NULL, box VARCHAR NOT NULL, device VARCHAR NOT NULL,
       time TIMESTAMP_NS NOT NULL, blob BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS retired (box VARCHAR NOT NULL, rows BIGINT NOT NULL)",
)


class DuckLedger(Ledger):
    """The ledger's tables inside the store's own database."""

    def __init__(self, store: DuckStore) -> None:
        super().__init__()
        self._store = store
        self._kinds: dict[str, list[str]] = {}

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._store.connection.execute(sql, parameters or None).fetchall()

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._store.insert(table, self._arrays(table, rows))

    def _replace(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            old = f"DELETE FROM {table} WHERE (box, epoch) IN (SELECT c0, c1 FROM arriving)"
            self._store.insert(table, self._arrays(table, rows), first=old)

    def _arrays(self, table: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Columns as numpy arrays: 1,000 rows take 3 ms, as a multi-row VALUES 80, by executemany 700."""
        kinds = self._kinds.get(table)
        if kinds is None:
            described = self._execute(f"SELECT column_type FROM (DESCRIBE {quoted(table)})")
            kinds = self._kinds[table] = [kind for (kind,) in described]
        return {
            f"c{i}": _array([row[i] for row in rows], integers=kind == "BIGINT")
            for i, kind in enumerate(kinds)
        }


class DuckStore(DuckReads):
    """One file, one process."""

    def __init__(self, config: DuckDbConfig) -> None:
        self.kind = config.kind
        self._config = config
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._opening = Lock()
        self._shapes: dict[str, set[str]] = {}
        """Measurement -> its columns, as far as this connection has asked."""
        self._in_doubt = False
        """The last commit did not say how it ended."""
        self.ledger = DuckLedger(self)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The writer's connection; only the writer's thread uses it.

        Raises:
            StoreUnavailable: closed, or lost to an earlier error.
        """
        if self._connection is None:
            raise StoreUnavailable("the database is not open")
        return self._connection

    def reader(self) -> duckdb.DuckDBPyConnection:
        with self._opening:
            return self.connection.cursor()

    def open(self) -> None:
        path = self._config.path
        settings: dict[str, Any] = {
            "memory_limit": self._config.memory_limit,
            "threads": 2,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": True,
        }
        with self._opening, self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = duckdb.connect(str(path), config=settings)
            for statement in HOUSE:
                self._connection.execute(statement)
            self._connection.execute("SET enable_external_access = false")
            self._shapes.clear()
            self.ledger.load()

    def close(self) -> None:
        with self._opening:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def commit(
        self, portions: Sequence[Portion], record: Record, on_refused: OnRefused
    ) -> Mapping[tuple[int, int], str]:
        self._reopened()
        require_free(self._config.path.parent, self._config.free_floor_bytes)
        if self._in_doubt and self._held(record):
            self._in_doubt = False
            return self._refused_before(record)
        self._in_doubt = True
        with self._translated():
            try:
                self._commit(portions, record)
                refused: dict[tuple[int, int], str] = {}
            except NEVER as error:
                # Names and types were checked before, so this is a value that nobody thought of.
                log.error("store_refused", error=str(error)[:300])
                refused = columns.culprits(portions, self._rehearse)
                on_refused(refused)
                record = record.refusing(refused)
                self._commit(columns.without(portions, refused), record)
        self.ledger.applied(record)
        self._in_doubt = False
        return refused

    def _held(self, record: Record) -> bool:
        """A commit that reported an error may have held all the same; it is all or nothing."""
        if not record.entries:
            return False
        first = record.entries[0]
        known = self.ledger.find(first.box, first.epoch, first.seq)
        return known is not None and known.hash == first.hash

    def _refused_before(self, record: Record) -> dict[tuple[int, int], str]:
        known = {(e.epoch, e.seq): self.ledger.find(e.box, e.epoch, e.seq) for e in record.entries}
        return {key: k.reason for key, k in known.items() if k is not None and k.outcome is Outcome.REFUSED}

    def _commit(self, portions: Sequence[Portion], record: Record) -> None:
        tables = columns.merge(portions)
        for table in tables:
            self._make_room_for(table)
        with self._transaction():
            self._write(tables, portions)
            self.ledger.write(record)

    def _rehearse(self, portions: list[Portion]) -> str | None:
        """Write and take it back: the reason why it cannot be written."""
        self.connection.execute("BEGIN")
        try:
            self._write(columns.merge(portions), portions)
        except NEVER:
            return "store"
        else:
            return None
        finally:
            self.connection.execute("ROLLBACK")

    def _write(self, tables: Iterable[columns.Table], portions: Iterable[Portion]) -> None:
        for table in tables:
            self._write_table(table)
        self._write_media([p for portion in portions for p in columns.pictures(portion)])

    def note_places(self, box: str, places: Iterable[Place]) -> None:
        self._reopened()
        with self._translated(), self._transaction():
            self.ledger.write_places(box, places)

    def tend(self) -> None:
        self._reopened()
        with self._translated():
            for (box, epoch), runs in self.ledger.foldable().items():
                with self._transaction():
                    self.ledger.write_fold(box, epoch, runs)
                self.ledger.applied_fold(box, epoch, runs)
            if self._config.retention_days is not None:
                self._retire(time.time_ns() - round(self._config.retention_days * 86_400e9))

    def insert(
        self,
        table: str,
        arrays: Mapping[str, Any],
        *,
        select: str = "SELECT * FROM arriving",
        first: str | None = None,
    ) -> None:
        """Insert columns into a table given by its SQL name, after a statement that may read them too."""
        self.connection.register("arriving", dict(arrays))
        try:
            if first is not None:
                self.connection.execute(first)
            self.connection.execute(f"INSERT INTO {table} {select}")
        finally:
            self._unregister("arriving")

    def _make_room_for(self, table: columns.Table) -> None:
        """Create the table and its missing columns; kept even when the rows then fail, which harms nobody."""
        name = f"data.{quoted(table.measurement)}"
        have = self._shapes.get(table.measurement)
        if have is None:
            self.connection.execute(
                f"CREATE TABLE IF NOT EXISTS {name} (site VARCHAR NOT NULL, box VARCHAR NOT NULL,"
                " device VARCHAR NOT NULL, layer VARCHAR NOT NULL, time TIMESTAMP_NS NOT NULL,"
                " n BIGINT NOT NULL)"
            )
            have = set(self.columns_of(self.connection, table.measurement))
            self._shapes[table.measurement] = have
        for field, filled in table.columns.items():
            # Each by itself: a crash may have come between the two.
            for column, kind in ((field, SQL_TYPE[filled.type]), (f"{field}_q", "TINYINT")):
                if column not in have:
                    self.connection.execute(f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {kind}")
                    have.add(column)

    def _write_table(self, table: columns.Table) -> None:
        arrays: dict[str, Any] = {
            part: np.array([getattr(s, part) for s in table.series], object)[table.of_series]
            for part in ("site", "box", "device", "layer")
        }
        arrays |= {"time": table.times_ns, "n": table.ordinals}
        targets = ["site", "box", "device", "layer", "time", "n"]
        chosen = ["site", "box", "device", "layer", "make_timestamp_ns(time)", "n"]
        for i, (field, filled) in enumerate(table.columns.items()):
            text = filled.type is FieldType.STR
            arrays[f"v{i}"] = filled.values if text else np.ma.MaskedArray(filled.values, filled.null)
            targets += [quoted(field)]
            chosen += [f"v{i}"]
            if filled.quality.any():
                arrays[f"q{i}"] = np.ma.MaskedArray(filled.quality, filled.quality == 0)
                targets += [quoted(f"{field}_q")]
                chosen += [f"q{i}"]
        self.insert(
            f"data.{quoted(table.measurement)} ({', '.join(targets)})",
            arrays,
            select=f"SELECT {', '.join(chosen)} FROM arriving",
        )

    def _unregister(self, name: str) -> None:
        # In a transaction that failed it is forgotten with the rest.
        with contextlib.suppress(duckdb.Error):
            self.connection.unregister(name)

    def _write_media(self, pictures: Sequence[Picture]) -> None:
        for picture in pictures:
            self.connection.execute(
                "INSERT INTO media VALUES (?, ?, ?, make_timestamp_ns(?), ?)",
                (picture.id, picture.box, picture.device, picture.time_ns, picture.blob),
            )

    def _retire(self, before_ns: int) -> None:
        for measurement in self.measurements(self.connection):
            old = f"FROM data.{quoted(measurement)} WHERE time < make_timestamp_ns({before_ns:d})"
            with self._transaction():
                self.connection.execute(f"INSERT INTO retired SELECT box, count(*) {old} GROUP BY box")
                self.connection.execute(f"DELETE {old}")
        with self._transaction():
            self.connection.execute("DELETE FROM media WHERE time < make_timestamp_ns(?)", (before_ns,))
            totals = self.connection.execute(
                "SELECT box, sum(rows)::BIGINT FROM retired GROUP BY box"
            ).fetchall()
            self.connection.execute("DELETE FROM retired")
            for row in totals:
                self.connection.execute("INSERT INTO retired VALUES (?, ?)", row)

    def _reopened(self) -> None:
        if self._connection is None:
            self.open()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # After a fatal error there is nothing left to roll back.
            with contextlib.suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Any error of the database or its disk: open it anew the next time, ledger included."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            if self._connection is not None:
                with contextlib.suppress(duckdb.Error):
                    self._connection.close()
                self._connection = None
            raise StoreUnavailable(f"duckdb: {str(error).splitlines()[0][:300]}") from error


def _array(values: list[Any], *, integers: bool) -> Any:
    if integers:
        null = np.array([value is None for value in values])
        return np.ma.MaskedArray(np.array([value or 0 for value in values], np.int64), null)
    return np.array([str(v) if isinstance(v, str) else v for v in values], object)
