"""The SDI-12 driver: one measurement of one sensor; several share the bus, one command at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field as Constrained
from pydantic import model_validator
from trisense.core import vocabulary
from trisense.core.config import ConfigModel
from trisense.core.errors import DeviceError, DeviceTimeout, LineError
from trisense.core.model import Field, Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.lines import Line, Lines
from trisense.drivers.sdi12.codec import Sdi12Codec, Sdi12Decoder, WxtSdi12Codec
from trisense.drivers.sdk import Codec, Frame, Observed, PolledDriver

__all__ = ["Sdi12", "Sdi12Config", "Sdi12Value"]

PAGES: Final = 10
"""D0 to D9."""
UNUSED: Final = "-"
NAME: Final = r"^([a-z][a-z0-9_]{0,63}|-)$"


class Sdi12Value(ConfigModel):
    """One value of a reply, in the sensor's order."""

    name: Annotated[str, Constrained(pattern=NAME)]
    """Property that it is, or ``-`` for a value that nobody needs."""
    unit: str | None = None
    """UCUM unit after scaling; left out: the vocabulary's."""
    scale: float = 1.0
    """Factor of what the sensor says."""
    offset: float = 0.0
    """Added after scaling."""
    missing: tuple[float, ...] = ()
    """Numbers by which the sensor says that it has no value, such as -9999."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.unit is None and self.name != UNUSED and self.name not in vocabulary.PROPERTIES:
            raise ValueError(f"a unit for {self.name}: it is not in the vocabulary")
        return self

    def field(self) -> Field:
        """The field that it fills."""
        return vocabulary.field(self.name) if self.unit is None else Field(self.name, self.unit)


class Sdi12Config(FramedConfig):
    """One measurement of an SDI-12 sensor, over an adapter that makes the break."""

    address: Annotated[str, Constrained(pattern="^[0-9A-Za-z]$")] = "0"
    """Address of the sensor."""
    command: Annotated[str, Constrained(pattern="^([MC][1-9]?|R[0-9])$")] = "M"
    """``M``, ``M1`` to ``M9``, ``C`` to ``C9`` (others may be read while it measures), ``R0`` to ``R9``."""
    crc: bool = True
    """Ask for data with a CRC, which sensors have from SDI-12 1.3 on."""
    measuring_max_s: Annotated[float, Constrained(gt=0, le=999)] = 60.0
    """Longest measuring time that is believed: it comes without a check."""
    measurement: Annotated[str, Constrained(pattern="^[a-z][a-z0-9_]{0,63}$")] = "environment"
    """Name of the stream."""
    values: Annotated[tuple[Sdi12Value, ...], Constrained(min_length=1, max_length=99)]
    """What the values of the reply are, all of them, in the sensor's order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [value.name for value in self.values if value.name != UNUSED]
        if not names or len(set(names)) < len(names):
            raise ValueError("values with names, each name once")
        return self


class Wire:
    """The bus: its line, and whose turn it is."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._line: Line | None = None

    async def open(self, lines: Lines, url: str, *, timeout_s: float) -> None:
        """Open the line unless it is open."""
        async with self.turn:
            if self._line is None:
                self._line = await lines.open(url, timeout_s=timeout_s)

    @asynccontextmanager
    async def line(self, url: str) -> AsyncIterator[Line]:
        """The line, for one conversation. A line that failed is closed for all that share it."""
        async with self.turn:
            if self._line is None:
                raise LineError(url, "is not open")
            try:
                yield self._line
            except LineError:
                await self.close()
                raise

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()


class Sdi12(PolledDriver[Sdi12Config]):
    name = "sdi12"
    family = "environment"
    summary = "SDI-12 sensors over an adapter that makes the break"
    config_model = Sdi12Config
    codecs: ClassVar[Mapping[str, Codec]] = {
        "sdi12.generic": Sdi12Codec(),
        "vaisala.wmt700_sdi12": Sdi12Codec(),
        "vaisala.wxt_sdi12": WxtSdi12Codec(),
    }

    def __init__(self, config: Sdi12Config) -> None:
        super().__init__(config)
        self._lines: Lines | None = None
        self._wire: Wire | None = None

    def streams(self) -> tuple[Stream, ...]:
        fields = tuple(value.field() for value in self.config.values if value.name != UNUSED)
        return (Stream(self.config.name, self.config.measurement, self.layer, fields),)

    @property
    def _key(self) -> str:
        return f"sdi12 {self.config.line}"

    async def connect(self, lines: Lines) -> None:
        if self._wire is None:
            self._lines, self._wire = lines, lines.share(self._key, Wire)
        await self._wire.open(lines, self.config.line, timeout_s=self.config.timeout_s)

    async def close(self) -> None:
        lines, self._lines, self._wire = self._lines, None, None
        if lines is not None:
            await lines.release(self._key)

    async def read(self) -> Sequence[Observed]:
        config = self.config
        check = "C" if config.crc else ""
        command, number = config.command[0], config.command[1:]
        if command == "R":
            async with self._talk() as device:
                frame = await self._ask(device, f"R{check}{number}", self._is_data)
            return [self._row(frame.get("data", []))]
        start = f"{command}{check}{number}"
        async with self._talk() as device:
            announced = await self._ask(device, start, lambda frame: "count" in frame)
            if announced["ready_s"] > config.measuring_max_s:
                raise DeviceError(config.name, f"wants {announced['ready_s']} s to measure")
            if command == "M":
                await self._wait(device, announced["ready_s"])
                return [self._row(await self._fetch(device, announced["count"]))]
        await asyncio.sleep(announced["ready_s"])
        async with self._talk() as device:
            return [self._row(await self._fetch(device, announced["count"]))]

    @asynccontextmanager
    async def _talk(self) -> AsyncIterator[Dialogue]:
        if self._wire is None:
            raise LineError(self.config.line, "is not open")
        async with self._wire.line(self.config.line) as line:
            yield Dialogue(line, Sdi12Decoder, device=self.config.name, timeout_s=self.config.timeout_s)

    async def _ask(self, device: Dialogue, command: str, is_answer: Callable[[Frame], bool]) -> Frame:
        address = self.config.address
        question = f"{address}{command}!".encode()
        return await device.ask(question, lambda frame: frame["address"] == address and is_answer(frame))

    def _is_data(self, frame: Frame) -> bool:
        """Data as they were asked for, or the bare address of a sensor that has none."""
        return frame.keys() == {"address"} or (
            "data" in frame and frame.get("crc_ok", False) == self.config.crc
        )

    async def _wait(self, device: Dialogue, ready_s: int) -> None:
        """Until the sensor says that it is ready, or it must be: its word may be lost."""
        if ready_s:
            with contextlib.suppress(DeviceTimeout):
                await device.hear(lambda frame: frame == {"address": self.config.address}, timeout_s=ready_s)

    async def _fetch(self, device: Dialogue, count: int) -> list[float]:
        data: list[float] = []
        for page in range(PAGES):
            frame = await self._ask(device, f"D{page}", self._is_data)
            if not frame.get("data"):
                break
            data += frame["data"]
            if len(data) >= count:
                break
        if len(data) != count:
            raise DeviceError(self.config.name, f"{count} values announced, {len(data)} came")
        return data

    def _row(self, data: Sequence[float]) -> Observed:
        known = self.config.values
        if len(data) != len(known):
            raise DeviceError(self.config.name, f"{len(data)} values, the configuration names {len(known)}")
        told = {
            value.name: round(number * value.scale + value.offset, 9)
            for value, number in zip(known, data, strict=True)
            if value.name != UNUSED and number not in value.missing
        }
        return Observed(self.config.measurement, told)
