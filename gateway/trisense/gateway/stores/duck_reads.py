"""Questions to the embedded store: SQL over the tables that ``duck`` fills."""
# ruff: noqa: S608  # names inside the SQL are quoted identifiers and integers; values are parameters

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import duckdb
from trisense.core.errors import StoreUnavailable
from trisense.gateway.stores.base import (
    FUNCTIONS,
    Circle,
    DeepCount,
    Found,
    Function,
    Media,
    Span,
    Store,
    StreamRef,
    Table,
    distance_m,
)

__all__ = ["DuckReads", "quoted"]

TAGS: Final = ("site", "box", "device", "layer", "time", "n")
SQL_FUNCTION: Final[dict[Function, str]] = {
    "mean": "avg({f})",
    "min": "min({f})",
    "max": "max({f})",
    "count": "count({f})",
    "first": "arg_min({f}, time)",
    "last": "arg_max({f}, time)",
}
METRES_PER_DEGREE: Final = 111_195.0
"""Along a meridian of the sphere of ``distance_m``."""


def quoted(name: str) -> str:
    """A name from outside as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Shape(NamedTuple):
    """A table and the columns asked for."""

    measurement: str
    fields: list[str]

    @property
    def table(self) -> str:
        return f"data.{quoted(self.measurement)}"


class DuckReads(Store):
    """Reads; each question has a connection of its own, so it sees one state and disturbs no writer."""

    @abstractmethod
    def reader(self) -> duckdb.DuckDBPyConnection: ...

    @staticmethod
    def measurements(connection: duckdb.DuckDBPyConnection) -> list[str]:
        found = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'data' ORDER BY table_name"
        )
        return [name for (name,) in found.fetchall()]

    @staticmethod
    def columns_of(connection: duckdb.DuckDBPyConnection, measurement: str) -> list[str]:
        """Its columns in order, none where it does not exist."""
        found = connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE schema_name = 'data' AND table_name = ?"
            " ORDER BY column_index",
            (measurement,),
        )
        return [name for (name,) in found.fetchall()]

    def latest(self, box: str | None, device: str | None) -> list[Found]:
        found = []
        where, parameters = _where({"box": box, "device": device})
        with self._asking() as ask:
            for measurement in self.measurements(ask):
                shape = Shape(measurement, self._fields(ask, measurement, ()))
                rows = ask.execute(
                    f"SELECT box, device, site, layer, {_listed(shape.fields)} FROM {shape.table}"
                    # First two columns' worth of scan, then the few rows that are the newest.
                    " WHERE (box, device, time) IN"
                    f" (SELECT (box, device, max(time)) FROM {shape.table} {where} GROUP BY box, device)"
                    " QUALIFY row_number() OVER (PARTITION BY box, device ORDER BY time DESC, n DESC) = 1",
                    parameters,
                ).fetchall()
                found += [self._found(shape, row[:4], [row[4:]], distance=0.0, limit=1) for row in rows]
        return found

    def range(self, stream: StreamRef, fields: Sequence[str], span: Span, limit: int) -> Table:
        with self._asking() as ask:
            if not self.columns_of(ask, stream.measurement):
                return Table(("time_ns", "n"), [])
            names = self._fields(ask, stream.measurement, fields)
            rows = ask.execute(
                f"SELECT {_listed(names)} FROM data.{quoted(stream.measurement)} WHERE box = ? AND device = ?"
                " AND time >= make_timestamp_ns(?) AND time < make_timestamp_ns(?) ORDER BY time, n LIMIT ?",
                (stream.box, stream.device, *span, limit + 1),
            ).fetchall()
        return Table(("time_ns", "n", *names), rows[:limit], truncated=len(rows) > limit)

    def aggregate(
        self, stream: StreamRef, field: str, span: Span, *, buckets: int, functions: Sequence[Function]
    ) -> Table:
        start, width = span.t0_ns, max(1, -(-(span.t1_ns - span.t0_ns) // buckets))
        columns = ("time_ns", *functions)
        with self._asking() as ask:
            names = self.columns_of(ask, stream.measurement)
            if field not in names or field in TAGS:
                return Table(columns, [])
            value, quality = quoted(field), quoted(f"{field}_q")
            listed = ", ".join(SQL_FUNCTION[f].format(f=value) for f in functions if f in FUNCTIONS)
            rows = ask.execute(
                f"SELECT {start:d} + (epoch_ns(time) - {start:d}) // {width:d} * {width:d} AS bucket,"
                f" {listed}"
                f" FROM data.{quoted(stream.measurement)} WHERE box = ? AND device = ?"
                " AND time >= make_timestamp_ns(?) AND time < make_timestamp_ns(?)"
                f" AND {value} IS NOT NULL AND coalesce({quality}, 1) NOT IN (4, 9)"
                " GROUP BY bucket ORDER BY bucket",
                (stream.box, stream.device, *span),
            ).fetchall()
        return Table(columns, rows)

    def near(self, circle: Circle, span: Span, limit: int) -> list[Found]:
        places = {
            (p.box, p.device): distance_m(circle.latitude, circle.longitude, p.latitude, p.longitude)
            for p in list(self.ledger.places.values())
        }
        close = {key: distance for key, distance in places.items() if distance <= circle.radius_m}
        found = []
        with self._asking() as ask:
            for measurement in self.measurements(ask):
                shape = Shape(measurement, self._fields(ask, measurement, ()))
                if {"latitude", "longitude"} <= set(shape.fields):
                    found += self._moving(ask, shape, circle, span, limit=limit)
                else:
                    found += self._fixed(ask, shape, close, span, limit=limit)
        return sorted(found, key=lambda f: f.distance_m)

    def media(self, media_id: str) -> Media | None:
        with self._asking() as ask:
            row = ask.execute(
                "SELECT id, box, device, epoch_ns(time), blob FROM media WHERE id = ? LIMIT 1", (media_id,)
            ).fetchone()
        return None if row is None else Media(*row)

    def count(self, box: str) -> DeepCount:
        rows = twice = 0
        with self._asking() as ask:
            for measurement in self.measurements(ask):
                all_rows, distinct = self._one(
                    ask,
                    "SELECT count(*), count(DISTINCT (device, time, n))"
                    f" FROM data.{quoted(measurement)} WHERE box = ?",
                    box,
                )
                rows, twice = rows + all_rows, twice + all_rows - distinct
            (retired,) = self._one(
                ask, "SELECT coalesce(sum(rows), 0)::BIGINT FROM retired WHERE box = ?", box
            )
            (broken,) = self._one(ask, "SELECT count(*) FROM media WHERE box = ? AND sha256(blob) <> id", box)
        return DeepCount(rows, retired, twice, broken)

    def _moving(
        self, ask: duckdb.DuckDBPyConnection, shape: Shape, circle: Circle, span: Span, *, limit: int
    ) -> list[Found]:
        """Rows that carry their own position: a band of latitude by SQL, the circle here."""
        reach = circle.radius_m / METRES_PER_DEGREE
        rows = ask.execute(
            f"SELECT box, device, site, layer, {_listed(shape.fields)} FROM {shape.table}"
            " WHERE time >= make_timestamp_ns(?) AND time < make_timestamp_ns(?)"
            " AND latitude BETWEEN ? AND ? AND longitude IS NOT NULL ORDER BY time, n",
            (*span, circle.latitude - reach, circle.latitude + reach),
        )
        first = 4 + 2  # after box, device, site, layer, time and n
        at = (first + shape.fields.index("latitude"), first + shape.fields.index("longitude"))
        groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        nearest: dict[tuple[Any, ...], float] = {}
        while chunk := rows.fetchmany(10_000):
            for row in chunk:
                away = distance_m(circle.latitude, circle.longitude, row[at[0]], row[at[1]])
                if away <= circle.radius_m:
                    of = groups.setdefault(row[:4], [])
                    nearest[row[:4]] = min(away, nearest.get(row[:4], away))
                    if len(of) <= limit:
                        of.append(row[4:])
        return [
            self._found(shape, series, of, distance=nearest[series], limit=limit)
            for series, of in groups.items()
        ]

    def _fixed(
        self,
        ask: duckdb.DuckDBPyConnection,
        shape: Shape,
        close: dict[tuple[str, str], float],
        span: Span,
        *,
        limit: int,
    ) -> list[Found]:
        present = ask.execute(
            f"SELECT DISTINCT box, device, site, layer FROM {shape.table}"
            " WHERE time >= make_timestamp_ns(?) AND time < make_timestamp_ns(?)",
            span,
        ).fetchall()
        found = []
        for series in present:
            if series[:2] not in close:
                continue
            rows = ask.execute(
                f"SELECT {_listed(shape.fields)} FROM {shape.table} WHERE box = ? AND device = ?"
                " AND site = ? AND layer = ? AND time >= make_timestamp_ns(?) AND time < make_timestamp_ns(?)"
                " ORDER BY time, n LIMIT ?",
                (*series, *span, limit + 1),
            ).fetchall()
            found.append(self._found(shape, series, rows, distance=close[series[:2]], limit=limit))
        return found

    def _found(
        self,
        shape: Shape,
        series: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        *,
        distance: float,
        limit: int,
    ) -> Found:
        box, device, site, layer = series
        ref = StreamRef(box, device, shape.measurement)
        units = {
            name: unit
            for name in shape.fields
            if (unit := self.ledger.units.get((box, device, shape.measurement, name))) is not None
        }
        table = Table(("time_ns", "n", *shape.fields), list(rows[:limit]), truncated=len(rows) > limit)
        return Found(ref, layer, site, distance, units, table)

    def _fields(self, ask: duckdb.DuckDBPyConnection, measurement: str, wanted: Iterable[str]) -> list[str]:
        """Columns to select: value and quality of each wanted field, all when none is named."""
        names = [name for name in self.columns_of(ask, measurement) if name not in TAGS]
        chosen = {column for name in wanted for column in (name, f"{name}_q")}
        return [name for name in names if name in chosen] if chosen else names

    @staticmethod
    def _one(ask: duckdb.DuckDBPyConnection, sql: str, *parameters: object) -> tuple[Any, ...]:
        row = ask.execute(sql, parameters).fetchone()
        if row is None:
            raise StoreUnavailable(f"no answer to {sql[:60]}")
        return row

    @contextlib.contextmanager
    def _asking(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with self.reader() as connection:
                yield connection
        except duckdb.Error as error:
            raise StoreUnavailable(f"duckdb: {str(error).splitlines()[0][:300]}") from error


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(["epoch_ns(time)", "n", *(quoted(name) for name in fields)])


def _where(equal: dict[str, str | None]) -> tuple[str, list[str]]:
    given = {name: value for name, value in equal.items() if value is not None}
    if not given:
        return "", []
    return "WHERE " + " AND ".join(f"{name} = ?" for name in given), list(given.values())
