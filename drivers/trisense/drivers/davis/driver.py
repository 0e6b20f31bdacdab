"""The Vantage driver: wakes the console, asks for packets in batches, and asks again when they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import ClassVar, Final, Literal

from trisense.core import vocabulary
from trisense.core.errors import DeviceRefused, DeviceTimeout
from trisense.core.model import Field, FieldType, Stream, Value
from trisense.drivers.davis.codec import (
    LOOP,
    LOOP2,
    MEASUREMENT,
    ArchiveCodec,
    LoopCodec,
    LoopDecoder,
    TimeCodec,
    values_of,
)
from trisense.drivers.framing import Damage, FramedConfig, read_frames
from trisense.drivers.lines import Line, Lines
from trisense.drivers.sdk import Codec, Frame, Observed, StreamingDriver

__all__ = ["Vantage", "VantageConfig"]

WAKE: Final = b"\n"
AWAKE: Final = b"\n\r"
WAKE_S: Final = 1.2
SETTLE_S: Final = 0.5
"""A console that still sends packets ends them so soon after three line feeds."""
ACK: Final = b"\x06"
NAKS: Final = (b"\x21", b"\x15", b"\x18")
"""0x21 stands in the manual, 0x15 comes in practice, 0x18 is a bad CRC."""
BATCH: Final = 200
"""Packets asked for at once; with very large numbers consoles end early."""
HEARD_BYTES: Final = 4096

CLICK_MM: Final[Mapping[str, float]] = {"0.01in": 0.254, "0.2mm": 0.2, "0.1mm": 0.1}
PACKETS: Final[Mapping[str, tuple[int, bytes]]] = {
    "loop": (LOOP, b"LOOP %d\n"),
    "loop2": (LOOP2, b"LPS 2 %d\n"),
}
SHARED: Final = (
    *("sea_level_pressure", "air_temperature", "relative_humidity", "indoor_temperature", "indoor_humidity"),
    *("wind_speed", "wind_speed_10min", "wind_direction", "uv_index", "solar_irradiance"),
    *("rain_rate", "rain_amount_day"),
)
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "loop": (*SHARED, "rain_amount_total", "supply_voltage", "transmitter_battery"),
    "loop2": (*SHARED, "barometric_pressure", "dew_point", "wind_gust", "rain_amount_24h"),
}
OWN: Final[Mapping[str, Field]] = {
    "indoor_temperature": Field("indoor_temperature", "Cel"),
    "indoor_humidity": Field("indoor_humidity", "%"),
    "wind_speed_10min": Field("wind_speed_10min", "m/s"),
    "rain_amount_day": Field("rain_amount_day", "mm"),
    "rain_amount_24h": Field("rain_amount_24h", "mm"),
    "transmitter_battery": Field("transmitter_battery", "1", FieldType.INT),
}


class VantageConfig(FramedConfig):
    """A Davis Vantage Pro, Pro2 or Vue console."""

    rain_collector: Literal["0.01in", "0.2mm", "0.1mm"]
    """Rain of one click of the collector: its packets tell clicks and do not say how much one is."""
    packet: Literal["loop", "loop2"] = "loop"
    """``loop2`` has dew point, gust and station pressure, and needs firmware 1.90 or later."""


class Vantage(StreamingDriver[VantageConfig]):
    name = "davis"
    family = "environment"
    summary = "Davis Vantage Pro, Pro2 and Vue weather stations (LOOP and LOOP2 packets)"
    config_model = VantageConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        "davis.vantage_loop": LoopCodec(),
        "davis.vantage_time": TimeCodec(),
        "davis.vantage_dmpaft": ArchiveCodec(),
    }

    def __init__(self, config: VantageConfig) -> None:
        super().__init__(config)
        self._line: Line | None = None

    def streams(self) -> tuple[Stream, ...]:
        names = FIELDS[self.config.packet]
        fields = tuple(OWN[name] if name in OWN else vocabulary.field(name) for name in names)
        return (Stream(self.config.name, MEASUREMENT, self.layer, fields),)

    async def connect(self, lines: Lines) -> None:
        self.damaged_count = 0
        self._line = await lines.open(self.config.line, timeout_s=self.config.timeout_s)
        await self._wake(self._line)

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def observe(self) -> AsyncIterator[Observed]:
        """Packets without an end: the console's batches one behind the other.

        A batch may end early (a packet was damaged, the console was restarted): after silence it is woken
        and asked again, and only silence without any good packet before it is an error.
        """
        assert self._line is not None, "connect comes first"  # noqa: S101  # the runtime's own contract
        kind, _ = PACKETS[self.config.packet]
        while True:
            rest = await self._ask_for_packets(self._line)
            good = 0
            async with aclosing(self._packets(self._line, rest)) as packets:
                async for packet in packets:
                    good += 1
                    if packet["native"]["packet_type"] == kind:
                        yield Observed(MEASUREMENT, self._values(packet))
            if not good:
                raise DeviceTimeout(self.config.name, "no packet", timeout_s=self.config.timeout_s)
            await self._wake(self._line)

    async def _packets(self, line: Line, rest: bytes) -> AsyncGenerator[Frame]:
        """Packets until there is silence; behind the last one of a batch the next batch is asked for."""
        wait_s, good = self.config.timeout_s, 0
        pieces = read_frames(line, LoopDecoder(), device=self.config.name, timeout_s=wait_s, first=rest)
        async with aclosing(pieces):
            while True:
                try:
                    piece = await anext(pieces)
                except DeviceTimeout:
                    return
                if isinstance(piece, Damage):
                    self.damaged_count += piece.start != ACK
                    continue
                good += 1
                yield piece
                if good % BATCH == 0:
                    await line.write(self._asking)

    def _values(self, packet: Frame) -> Mapping[str, Value]:
        values = values_of(packet["native"], CLICK_MM[self.config.rain_collector])
        return {name: values[name] for name in FIELDS[self.config.packet]}

    @property
    def _asking(self) -> bytes:
        _, asking = PACKETS[self.config.packet]
        return asking % BATCH

    async def _wake(self, line: Line) -> None:
        """Wake the console, which sleeps after two minutes."""
        for last_try in (False, False, True):
            await line.flush_input()
            await line.write(WAKE)
            try:
                await self._heard(line, AWAKE, min(WAKE_S, self.config.timeout_s))
            except DeviceTimeout:
                if last_try:
                    raise
            else:
                return
            await line.write(WAKE * 3)
            await asyncio.sleep(SETTLE_S)

    async def _ask_for_packets(self, line: Line) -> bytes:
        """Begin a batch; gives what came with the acknowledgement."""
        await line.flush_input()
        await line.write(self._asking)
        return await self._heard(line, ACK, self.config.timeout_s)

    async def _heard(self, line: Line, wanted: bytes, timeout_s: float) -> bytes:
        """Wait for ``wanted``; gives what came with it, line ends in front left out.

        Raises:
            DeviceTimeout: it did not come.
            DeviceRefused: the console said no instead.
        """
        heard = b""
        try:
            async with asyncio.timeout(timeout_s):
                while wanted not in heard:
                    heard = (heard + await line.read())[-HEARD_BYTES:]
                    if wanted == ACK and (no := heard.lstrip(AWAKE)[:1]) in NAKS:
                        raise DeviceRefused(self.config.name, "does not send packets", code=no[0])
        except TimeoutError as error:
            raise DeviceTimeout(
                self.config.name, "the console does not answer", timeout_s=timeout_s
            ) from error
        return heard.lstrip(AWAKE)
