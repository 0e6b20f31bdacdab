"""What a driver is: a typed config, the streams it produces, and a way to read them.

Two shapes. A **polled** driver answers ``read()``; the runtime owns the schedule. A **streaming**
driver yields what the device sends by itself. Neither retries, backs off, stamps times, counts or
logs: the runtime does. Byte protocols live in a ``Codec`` without I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import Field as Constrained
from trisense.core.config import ConfigModel
from trisense.core.messages import Position
from trisense.core.model import BatchClass, Layer, Quality, Stream, Value
from trisense.drivers.lines import Lines

__all__ = [
    "Codec",
    "DeviceConfig",
    "Driver",
    "Frame",
    "GivenCodec",
    "Observed",
    "Part",
    "Picturing",
    "PolledDriver",
    "StreamingDriver",
]

Frame = dict[str, Any]
"""One decoded frame under the names of its protocol sheet."""

DeviceName = Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class DeviceConfig(ConfigModel):
    """What every device on a box has. A driver's own ``Config`` adds its options."""

    name: DeviceName
    """Name of the device, unique on the box; ``box`` is taken."""
    driver: str
    """Driver that reads it, see ``trisense driver list``; a Modbus profile is ``modbus:NAME``."""
    site: DeviceName | None = None
    """Place it senses, where that is not the box's own site."""
    position: Position | None = None
    """Where it stands, where that is not where the box stands."""
    interval_s: Annotated[float, Constrained(gt=0, le=86_400)] = 1.0
    """Seconds between two reads of a polled device; a streaming device keeps its own pace."""
    timeout_s: Annotated[float, Constrained(gt=0, le=3_600)] = 5.0
    """Longest wait for one answer; for a streaming device, longest silence before it is restarted."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One row as a driver saw it; the runtime adds the time, the ordinal and the quality checks."""

    measurement: str
    values: Mapping[str, Value]
    """By field name; a field left out is null with code 9."""
    quality: Mapping[str, Quality] = field(default_factory=dict)
    """Codes the device itself gives (a sentinel is null with MISSING)."""
    sensed_at_ns: int | None = None
    """UTC time from the source itself (a scene, a recording). None: the runtime stamps it now."""
    batch_class: BatchClass = BatchClass.DATA
    blob: bytes | None = None
    """The picture that belongs to this row; its class is then MEDIA."""


@dataclass(frozen=True, slots=True)
class Part:
    """One input of a vector or of ``driver decode``."""

    data: bytes
    """The bytes that were captured; for a file its content."""
    name: str = ""
    """Name of the file they came from, where the protocol needs it (the time of a scene)."""


class Codec(Protocol):
    """A byte protocol without I/O, for ``driver decode``, the vectors and the fuzzers.

    Bytes of a wire go to ``frames``. A protocol whose one reading needs several inputs (two pictures,
    two positions) or a question beside them (where to sample) is a ``GivenCodec`` too.
    """

    def frames(self, data: bytes) -> Sequence[Frame]:
        """The good frames in ``data``, in order; damaged ones and noise are skipped."""
        ...

    def damaged(self, data: bytes) -> Sequence[str]:
        """One line for each damaged frame or run of noise that ``frames`` skips in ``data``."""
        ...

    def observed(self, frame: Frame) -> Sequence[Observed]:
        """The rows that one good frame makes; empty for a frame without readings."""
        ...

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        """Bytes of a host-to-device frame from the sheet's names, or None where it has no such frame."""
        ...


@runtime_checkable
class GivenCodec(Codec, Protocol):
    """A codec that needs more than one run of bytes. Where it is there, vectors go to it alone."""

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:
        """The good frames that ``parts`` make together.

        ``given`` holds the question beside them under the sheet's names, such as ``reference`` or the
        ``lon`` and ``lat`` of ``points``; answers that may stand there too are never looked at.
        """
        ...


Config = TypeVar("Config", bound=DeviceConfig)


class Driver(ABC, Generic[Config]):
    """Base of both shapes. The constructor connects nothing and raises nothing but ConfigError."""

    name: ClassVar[str]
    """What ``driver =`` says in a configuration."""
    family: ClassVar[str]
    """camera, rfid, environment, radar, air or sky."""
    kind: ClassVar[str]
    """``polled`` or ``streaming``."""
    layer: ClassVar[Layer] = Layer.GROUND
    summary: ClassVar[str]
    """One line for ``driver list``."""
    config_model: ClassVar[type[DeviceConfig]]
    codecs: ClassVar[Mapping[str, Codec]] = {}
    """By the device name of the protocol sheet's vectors; a trailing ``.*`` matches a family."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def streams(self) -> tuple[Stream, ...]:
        """The streams it will produce, known before anything is connected."""

    @abstractmethod
    async def connect(self, lines: Lines) -> None:
        """Open the line and bring the device into a known state.

        Raises:
            DeviceError: not now; the runtime tries again later.
        """

    async def close(self) -> None:
        """Let go of the line; safe after a failed ``connect`` and twice."""


class PolledDriver(Driver[Config]):
    kind = "polled"

    @abstractmethod
    async def read(self) -> Sequence[Observed]:
        """Read the device once.

        Raises:
            DeviceError: this read failed; after LineError the runtime closes and connects again.
        """

    async def peek(self) -> Sequence[Observed]:
        """Show what the device says, for ``edge check --read``; takes nothing away from ``read``.

        A driver whose source gives each thing only once has its own.

        Raises:
            DeviceError: as ``read``.
        """
        return await self.read()


@runtime_checkable
class Picturing(Protocol):
    """A polled driver whose reads may bring a picture."""

    def picture_next(self) -> None:
        """Let the next good read bring one, however young the last one is."""
        ...


class StreamingDriver(Driver[Config]):
    kind = "streaming"

    damaged_count: int = 0
    """Damaged frames skipped since ``connect``."""

    def silence_s(self) -> float:
        """How long it may say nothing at all, keep-alives included, before ``observe`` raises."""
        timeout_s: float = self.config.timeout_s
        return timeout_s

    @abstractmethod
    def observe(self) -> AsyncIterator[Observed]:
        """Yield rows as the device sends them, until the line is lost.

        Raises:
            DeviceError: the device or its line failed; the runtime connects again.
        """
