"""The R200 driver: starts the module's multiple polling, keeps it going, and stops it at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core.errors import DeviceError, DeviceRefused
from trisense.core.model import Field, Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.epc import SIGHTING, TAG_FIELDS
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.lines import Line
from trisense.drivers.r200.codec import ERROR, NO_TAG, RESPONSE, R200Codec, R200Decoder, command
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.tagwindow import TagWindow, WindowConfig, passage_stream, with_passages

__all__ = ["R200", "R200Config"]

MODULE_INFO: Final = 0x03
SET_REGION: Final = 0x07
MULTI_POLL: Final = 0x27
STOP: Final = 0x28
SET_POWER: Final = 0xB6
POLL_ROUNDS: Final = b"\x22\xff\xff"
RENEW_S: Final = 60.0
"""Multiple polling ends by itself after 65,535 rounds of some milliseconds each: it is begun anew before."""
CLOSE_S: Final = 1.0
REGIONS: Final = {"china-900": 1, "us": 2, "eu": 3, "china-800": 4, "korea": 6}
FIELDS: Final = (*TAG_FIELDS, Field("rssi", "dB{mW}", resolution=1.0, valid=(-120.0, 20.0)))


class R200Config(FramedConfig):
    """An R200, YRM100 or M100 module."""

    dialect: Literal["aa", "bb"] = "bb"
    """Head of its frames: ``bb`` for most boards, ``aa`` as the printed manual has it."""
    power_dbm: Annotated[float, Constrained(ge=0, le=33)] | None = None
    """Transmit power. Unset: left as it is."""
    region: Literal["china-900", "us", "eu", "china-800", "korea"] | None = None
    """Frequency band to set; mind what is allowed where it stands. Unset: left as it is."""
    window: WindowConfig | None = None
    """Tell arrivals and departures of tags besides each sighting: ``depart_s``, ``min_reads``,
    ``strong_dbm``. Unset: sightings alone."""


class R200(FramedDriver[R200Config]):
    name = "r200"
    family = "rfid"
    summary = "R200, YRM100 and M100 UHF RFID modules on a UART"
    config_model = R200Config
    codecs: ClassVar[Mapping[str, Codec]] = {"r200": R200Codec()}

    def __init__(self, config: R200Config) -> None:
        super().__init__(config)
        self._codec = R200Codec()
        self._window = TagWindow(config.window) if config.window else None

    def streams(self) -> tuple[Stream, ...]:
        site = self.config.site or ""
        sightings = Stream(self.config.name, SIGHTING, self.layer, FIELDS, site)
        return (sightings, passage_stream(self.config.name, site)) if self._window else (sightings,)

    def decoder(self) -> R200Decoder:
        return R200Decoder()

    def rows(self, frame: Frame) -> Sequence[Observed]:
        return self._codec.observed(frame)

    async def begin(self, line: Line) -> None:
        """Stop what an earlier host began, see that a module answers, set it, and let it poll."""
        await line.write(self._command(STOP))  # while it polls it obeys nothing else
        device = Dialogue(line, self.decoder, device=self.config.name, timeout_s=self.config.timeout_s)
        await self._ask(device, MODULE_INFO, b"\x00")
        if self.config.region is not None:
            await self._ask(device, SET_REGION, bytes((REGIONS[self.config.region],)))
        if self.config.power_dbm is not None:
            await self._ask(device, SET_POWER, round(self.config.power_dbm * 100).to_bytes(2, "big"))
        await line.write(self._command(MULTI_POLL, POLL_ROUNDS))

    async def observe(self) -> AsyncIterator[Observed]:
        async with (
            contextlib.aclosing(self._sightings()) as sightings,
            contextlib.aclosing(with_passages(sightings, self._window)) as rows,
        ):
            async for row in rows:
                yield row

    async def _sightings(self) -> AsyncGenerator[Observed]:
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + RENEW_S
        async with contextlib.aclosing(self.good_frames()) as frames:
            async for frame in frames:
                if loop.time() >= renew_at and self._line is not None:
                    await self._line.write(self._command(STOP) + self._command(MULTI_POLL, POLL_ROUNDS))
                    renew_at = loop.time() + RENEW_S
                for row in self.rows(frame):
                    yield row

    async def close(self) -> None:
        try:
            if self._line is not None:
                with contextlib.suppress(DeviceError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._line.write(self._command(STOP))
        finally:
            await super().close()

    async def _ask(self, device: Dialogue, code: int, parameter: bytes) -> None:
        reply = await device.ask(self._command(code, parameter), _answers(code))
        # A setting is answered with 00; so is the kind of information that was asked for.
        told = reply.get("error", int(reply["param"][:2] or "0", 16))
        if told:
            raise DeviceRefused(self.config.name, f"refuses command {code:02X}", code=told)

    def _command(self, code: int, parameter: bytes = b"") -> bytes:
        return command(self.config.dialect, code, parameter)


def _answers(code: int) -> Callable[[Frame], bool]:
    def is_answer(frame: Frame) -> bool:
        if frame["frame_type"] != RESPONSE or frame.get("error") == NO_TAG:  # of a round that ended late
            return False
        return frame["command"] in (code, ERROR)

    return is_answer
