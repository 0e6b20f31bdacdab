"""What every store can do, and what a console may ask of one."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from trisense.core.errors import StoreError, StoreUnavailable
from trisense.core.model import Value
from trisense.gateway.ledger import Ledger, Place, Record
from trisense.gateway.stores.columns import Portion

__all__ = [
    "FUNCTIONS",
    "Circle",
    "DeepCount",
    "Found",
    "Function",
    "History",
    "Media",
    "NotSupported",
    "OnRefused",
    "Span",
    "Store",
    "StoreFull",
    "StreamRef",
    "Table",
    "distance_m",
    "require_free",
]

Function = Literal["mean", "min", "max", "count", "first", "last"]
FUNCTIONS: Final[tuple[Function, ...]] = ("mean", "min", "max", "count", "first", "last")
EARTH_RADIUS_M: Final = 6_371_008.8


class NotSupported(StoreError):
    """A question that a store of its kind cannot answer; the text says which can."""


class StoreFull(StoreUnavailable):
    """Less free disk than the configured floor."""


class Span(NamedTuple):
    """Times t0 <= t < t1, nanoseconds since 1970 UTC."""

    t0_ns: int
    t1_ns: int


class Circle(NamedTuple):
    """A place on the ground, WGS 84 degrees, and how far around it."""

    latitude: float
    longitude: float
    radius_m: float


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


@dataclass(frozen=True, slots=True)
class DeepCount:
    """What really lies in the store of one box."""

    rows: int
    retired: int
    """Rows that retention deleted."""
    twice: int
    """Rows beyond the first of one (device, measurement, time, n)."""
    broken_media: int
    """Pictures whose bytes are not those of their id."""


class History(Protocol):
    """What was: questions to the store. Each may raise ``NotSupported`` or ``StoreUnavailable``."""

    async def latest(self, box: str | None = None, device: str | None = None) -> list[Found]:
        """The newest row of each stream, in ``Found.table`` (distance 0)."""
        ...

    async def range(
        self, stream: StreamRef, fields: Sequence[str], span: Span, *, limit: int = 10_000
    ) -> Table:
        """Rows by time and ordinal: ``time_ns, n``, then each field and ``<field>_q`` (null when good).

        No fields: all of them. Every row is given, bad quality too.
        """
        ...

    async def aggregate(
        self,
        stream: StreamRef,
        field: str,
        span: Span,
        *,
        buckets: int = 600,
        functions: Sequence[Function] = ("mean", "min", "max"),
    ) -> Table:
        """One row per non-empty bucket (``time_ns`` = its start): quality 4 and 9 are left out."""
        ...

    async def near(self, circle: Circle, span: Span, *, limit: int = 1_000) -> list[Found]:
        """What was sensed around a point at a time, in all layers, at most ``limit`` rows a stream.

        Fixed devices by the position in their box's birth, moving things by their rows' own latitude
        and longitude.
        """
        ...

    async def media(self, media_id: str) -> Media | None: ...


OnRefused: TypeAlias = Callable[[Mapping[tuple[int, int], str]], None]


class Store(ABC):
    """A place where samples end, with the ledger that belongs to it.

    ``open``, ``commit``, ``note_places``, ``tend`` and ``close`` are called from one thread, the questions
    from one other.
    """

    kind: str
    """As in the configuration."""
    ledger: Ledger

    @abstractmethod
    def open(self) -> None:
        """Connect, make what is missing, load the ledger.

        Raises:
            StoreUnavailable: try again later.
        """

    @abstractmethod
    def commit(
        self, portions: Sequence[Portion], record: Record, on_refused: OnRefused
    ) -> Mapping[tuple[int, int], str]:
        """Write batches and the ledger's record of them, durably.

        Batches (epoch, seq) in the result can never be stored: they are in the ledger as refused with
        that reason; all others of the call are stored. ``on_refused`` gets the same before anything is
        decided about them.

        Raises:
            StoreUnavailable: nothing is decided, call again with the same.
        """

    @abstractmethod
    def note_places(self, box: str, places: Iterable[Place]) -> None:
        """Remember where the devices of a box are."""

    @abstractmethod
    def tend(self) -> None:
        """Retention and folding of the ledger: called every minute or so."""

    @abstractmethod
    def close(self) -> None: ...

    # Questions, as in ``History``

    @abstractmethod
    def latest(self, box: str | None, device: str | None) -> list[Found]: ...

    @abstractmethod
    def range(self, stream: StreamRef, fields: Sequence[str], span: Span, limit: int) -> Table: ...

    @abstractmethod
    def aggregate(
        self, stream: StreamRef, field: str, span: Span, *, buckets: int, functions: Sequence[Function]
    ) -> Table: ...

    @abstractmethod
    def near(self, circle: Circle, span: Span, limit: int) -> list[Found]: ...

    @abstractmethod
    def media(self, media_id: str) -> Media | None: ...

    @abstractmethod
    def count(self, box: str) -> DeepCount:
        """Count what is really there, for ``audit --deep``."""


def require_free(path: Path, floor_bytes: int) -> None:
    """Check the disk that holds ``path``.

    Raises:
        StoreFull: less than ``floor_bytes`` is free.
    """
    free = shutil.disk_usage(path).free
    if free < floor_bytes:
        raise StoreFull(f"{free} bytes free at {path}, floor is {floor_bytes}")


def distance_m(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Great-circle distance in metres on a sphere: within 0.6 % of the ellipsoid."""
    a, b = math.radians(latitude), math.radians(to_latitude)
    half = (
        math.sin((b - a) / 2) ** 2
        + math.cos(a) * math.cos(b) * math.sin(math.radians(to_longitude - longitude) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, half)))
