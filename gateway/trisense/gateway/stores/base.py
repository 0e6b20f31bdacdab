"""What every store can do, and what a console may ask of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from trisense.core.model import Value

__all__ = ["FUNCTIONS", "Found", "Function", "History", "Media", "NotSupported", "StreamRef", "Table"]

Function = Literal["mean", "min", "max", "count", "first", "last"]
FUNCTIONS: Final[tuple[Function, ...]] = ("mean", "min", "max", "count", "first", "last")


class NotSupported(Exception):
    """A question that a store of its kind cannot answer; the text says which can."""


@dataclass(frozen=True, slots=True)
class StreamRef:
    """One stream of one box."""

    box: str
    device: str
    measurement: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with named columns; the first is always ``time_ns`` (UTC, nanoseconds since 1970)."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    truncated: bool = False
    """There was more than the limit."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one stream sensed near a place."""

    stream: StreamRef
    layer: str
    site: str
    distance_m: float
    """Of the device, or the nearest of its moving rows."""
    units: dict[str, str]
    table: Table


@dataclass(frozen=True, slots=True)
class Media:
    """A stored picture."""

    id: str
    """SHA-256 of ``blob``, hex."""
    box: str
    device: str
    time_ns: int
    blob: bytes = field(repr=False)


class History(Protocol):
    """What was: questions to the store. Each may raise ``NotSupported`` or ``StoreUnavailable``."""

    async def latest(self, box: str | None = None, device: str | None = None) -> list[Found]:
        """The newest row of each stream, in ``Found.table`` (distance 0)."""
        ...

    async def range(
        self, stream: StreamRef, fields: Sequence[str], t0_ns: int, t1_ns: int, *, limit: int = 10_000
    ) -> Table:
        """Rows with t0 <= time < t1 by time and ordinal: ``time_ns, n``, then each field and ``<field>_q``.

        No fields: all of them. Every row is given, bad quality too.
        """
        ...

    async def aggregate(
        self,
        stream: StreamRef,
        field: str,
        t0_ns: int,
        t1_ns: int,
        *,
        buckets: int = 600,
        functions: Sequence[Function] = ("mean", "min", "max"),
    ) -> Table:
        """One row per non-empty bucket (``time_ns`` = its start): quality 4 and 9 are left out."""
        ...

    async def near(
        self,
        latitude: float,
        longitude: float,
        radius_m: float,
        t0_ns: int,
        t1_ns: int,
        *,
        limit: int = 1_000,
    ) -> list[Found]:
        """What was sensed around this point at this time, in all layers: fixed devices by the position
        in their box's birth, moving things by their rows' own latitude and longitude.
        """
        ...

    async def media(self, media_id: str) -> Media | None: ...
