"""Questions to InfluxDB 1.x in InfluxQL."""
# ruff: noqa: S608  # names and texts inside the statements are escaped by _name and _text

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx
from trisense.core.config import read_secret
from trisense.core.errors import StoreUnavailable
from trisense.core.model import Value
from trisense.gateway.config import InfluxConfig
from trisense.gateway.ledger import Ledger
from trisense.gateway.stores.base import (
    Circle,
    DeepCount,
    Found,
    Function,
    NotSupported,
    Span,
    StreamRef,
    Table,
    distance_m,
)
from trisense.gateway.stores.lineprotocol import EMPTY

__all__ = ["InfluxQL"]

CHUNK_ROWS: Final = 5_000
ROWS_AGGREGATED_HERE: Final = 1_000_000
TAGS: Final = ("box", "device", "layer", "site")
SKIPPED: Final = (4, 9)


class InfluxQL:
    """Asks; each answer is read in chunks, so that a large one is never whole in memory twice."""

    def __init__(self, config: InfluxConfig, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        password = read_secret(config.password_file) if config.password_file else ""
        auth = (config.username, password) if config.username is not None else None
        self._client = httpx.Client(timeout=config.timeout_s, auth=auth)

    def close(self) -> None:
        self._client.close()

    def latest(self, box: str | None, device: str | None) -> list[Found]:
        where = " AND ".join(
            f"{name} = {_text(value)}"
            for name, value in (("box", box), ("device", device))
            if value is not None
        )
        found = []
        for measurement in self._measurements():
            statement = (
                f"SELECT * FROM {_name(measurement)}{f' WHERE {where}' if where else ''}"
                f" GROUP BY {', '.join(TAGS)} ORDER BY time DESC LIMIT 1"
            )
            found += [
                self._found(measurement, tags, columns, rows, distance=0.0, limit=1)
                for tags, columns, rows in self._gathered(statement)
            ]
        return found

    def range(self, stream: StreamRef, fields: Sequence[str], span: Span, limit: int) -> Table:
        names = [_name(column) for name in fields for column in (name, f"{name}_q")]
        chosen = ", ".join([*names, "n"]) if fields else "*"
        statement = (
            f"SELECT {chosen} FROM {_name(stream.measurement)} WHERE box = {_text(stream.box)}"
            f" AND device = {_text(stream.device)} AND {_within(span)} ORDER BY time LIMIT {limit + 1:d}"
        )
        columns: tuple[str, ...] = ("time_ns", "n")
        rows: list[tuple[Value, ...]] = []
        for _, told, some in self._series(statement):
            columns, ready = _arranged(told, some)
            rows += ready
        rows.sort(key=lambda row: (row[0], row[1]))
        return Table(columns, rows[:limit], truncated=len(rows) > limit)

    def aggregate(
        self, stream: StreamRef, field: str, span: Span, *, buckets: int, functions: Sequence[Function]
    ) -> Table:
        """Bucket the rows here: InfluxQL cannot say "where the quality code is absent"."""
        width = max(1, -(-(span.t1_ns - span.t0_ns) // buckets))
        table = self.range(stream, [field], span, ROWS_AGGREGATED_HERE)
        if table.truncated:
            raise NotSupported(f"more than {ROWS_AGGREGATED_HERE} rows: choose a shorter time")
        groups: dict[int, list[float]] = {}
        if field in table.columns:
            value_at = table.columns.index(field)
            code_at = table.columns.index(f"{field}_q") if f"{field}_q" in table.columns else None
            for row in table.rows:
                value, time_ns = row[value_at], row[0]
                code = row[code_at] if code_at is not None else None
                if isinstance(value, int | float) and isinstance(time_ns, int) and code not in SKIPPED:
                    start = span.t0_ns + (time_ns - span.t0_ns) // width * width
                    groups.setdefault(start, []).append(value)
        return Table(
            ("time_ns", *functions),
            [(start, *(_reduce(f, values) for f in functions)) for start, values in sorted(groups.items())],
        )

    def near(self, circle: Circle, span: Span, limit: int) -> list[Found]:
        places = {
            (p.box, p.device): distance_m(circle.latitude, circle.longitude, p.latitude, p.longitude)
            for p in list(self._ledger.places.values())
        }
        found = []
        for measurement in self._measurements():
            statement = (
                f"SELECT * FROM {_name(measurement)} WHERE {_within(span)} GROUP BY {', '.join(TAGS)}"
                f" ORDER BY time LIMIT {limit + 1:d}"
            )
            for tags, columns, rows in self._gathered(statement):
                near, distance = rows, places.get((tags["box"], tags["device"]), float("inf"))
                if {"latitude", "longitude"} <= set(columns):
                    near, distance = _moving(columns, rows, circle)
                if near and distance <= circle.radius_m:
                    found.append(
                        self._found(measurement, tags, columns, near, distance=distance, limit=limit)
                    )
        return sorted(found, key=lambda f: f.distance_m)

    def count(self, box: str) -> DeepCount:
        rows = 0
        for measurement in self._measurements():
            statement = f"SELECT * FROM {_name(measurement)} WHERE box = {_text(box)}"
            rows += sum(len(some) for _, _, some in self._series(statement))
        # The server overwrites equal keys, so nothing lies there twice; pictures are files beside it.
        return DeepCount(rows, retired=0, twice=0, broken_media=0)

    def _measurements(self) -> list[str]:
        return [row[0] for _, _, rows in self._series("SHOW MEASUREMENTS") for row in rows]

    def _series(self, statement: str) -> Iterator[tuple[dict[str, str], list[str], list[list[Any]]]]:
        """(tags, columns, rows) of an answer; one series may come in several pieces."""
        parameters = {
            "db": self._config.database,
            "epoch": "ns",
            "chunked": "true",
            "chunk_size": str(CHUNK_ROWS),
            "q": statement,
        }
        try:
            with self._client.stream(
                "GET", f"{self._config.url.rstrip('/')}/query", params=parameters
            ) as answer:
                if answer.status_code != 200:
                    raise StoreUnavailable(f"query answered {answer.status_code}: {answer.read()[:300]!r}")
                for line in answer.iter_lines():
                    if line:
                        yield from _parsed(line)
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"{self._config.url}: {type(error).__name__} {error}") from error

    def _gathered(self, statement: str) -> list[tuple[dict[str, str], list[str], list[list[Any]]]]:
        """The same with the pieces of each series put together."""
        whole: dict[tuple[str, ...], tuple[dict[str, str], list[str], list[list[Any]]]] = {}
        for tags, columns, rows in self._series(statement):
            whole.setdefault(tuple(tags.values()), (tags, columns, []))[2].extend(rows)
        return list(whole.values())

    def _found(
        self,
        measurement: str,
        tags: dict[str, str],
        columns: list[str],
        rows: list[list[Any]],
        *,
        distance: float,
        limit: int,
    ) -> Found:
        ref = StreamRef(tags["box"], tags["device"], measurement)
        shown, ready = _arranged(columns, rows)
        units = {
            name: unit
            for name in shown
            if (unit := self._ledger.units.get((ref.box, ref.device, measurement, name))) is not None
        }
        table = Table(shown, ready[:limit], truncated=len(ready) > limit)
        return Found(ref, tags["layer"], tags.get("site", ""), distance, units, table)


def _parsed(line: str) -> Iterator[tuple[dict[str, str], list[str], list[list[Any]]]]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise StoreUnavailable(f"query answered no JSON: {line[:100]!r}") from error
    for result in [answer, *answer.get("results", [])]:
        if "error" in result:
            raise StoreUnavailable(f"query: {str(result['error'])[:300]}")
        for series in result.get("series", []):
            yield series.get("tags", {}), series["columns"], series.get("values", [])


def _moving(columns: list[str], rows: list[list[Any]], circle: Circle) -> tuple[list[list[Any]], float]:
    """Rows within the circle by their own position, and how far the nearest is."""
    at = (columns.index("latitude"), columns.index("longitude"))
    away = [
        (distance_m(circle.latitude, circle.longitude, row[at[0]], row[at[1]]), row)
        for row in rows
        if row[at[0]] is not None and row[at[1]] is not None
    ]
    nearest = min((distance for distance, _ in away), default=float("inf"))
    return [row for distance, row in away if distance <= circle.radius_m], nearest


def _arranged(columns: list[str], rows: list[list[Any]]) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
    """Our order: time, ordinal, fields; tags and the filler of empty samples left out."""
    fields = [name for name in columns if name not in ("time", "n", EMPTY, *TAGS)]
    take = [columns.index(name) for name in fields]
    n_at = columns.index("n") if "n" in columns else None
    ready = [
        (row[0], int(row[n_at] or 0) if n_at is not None else 0, *(row[i] for i in take)) for row in rows
    ]
    return ("time_ns", "n", *fields), ready


def _reduce(function: Function, values: Sequence[float]) -> float:
    if function == "mean":
        return sum(values) / len(values)
    if function == "min":
        return min(values)
    if function == "max":
        return max(values)
    if function == "count":
        return len(values)
    return values[0] if function == "first" else values[-1]


def _within(span: Span) -> str:
    # InfluxQL knows times to the year 2262.
    return f"time >= {span.t0_ns:d} AND time < {min(span.t1_ns, 2**63 - 1_000_000_000):d}"


def _name(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
