"""The SPS30 driver: wakes the sensor, starts it, and starts it again when it has stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, FrameError
from trisense.core.model import Quality, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.sps30.codec import (
    FIELDS,
    MEASUREMENT,
    READ,
    START,
    STOP,
    WAKE,
    ShdlcDecoder,
    Sps30Codec,
    request,
)
from trisense.drivers.warmup import WarmUp

__all__ = ["Sps30", "Sps30Config"]

OUTPUT_FLOAT: Final = b"\x01\x03"
WAKE_REPLY_S: Final = 0.1
"""A sensor with old firmware, or one that is awake, may leave the wake-up call unanswered."""
WAKES_THE_UART: Final = b"\xff"
CODE: Final = 0x7F
OK: Final = 0x00
NOT_IN_THIS_STATE: Final = 0x43
LOOK_S: Final = 0.2
SAME_READINGS: Final = 10
"""So many equal readings one after the other mean that the measurement stands (paulvha/sps30 issue 3)."""


class Sps30Config(FramedConfig):
    """A Sensirion SPS30 with its SEL pin floating."""

    address: Annotated[int, Constrained(ge=0, le=254)] = 0
    """SHDLC address; the sensor leaves the factory with 0."""
    warm_up_s: Annotated[float, Constrained(ge=0, le=600)] = 30.0
    """Seconds after the measurement was started in which readings carry code 2."""


class Sps30(AskedDriver[Sps30Config]):
    name = "sps30"
    family = "environment"
    summary = "Sensirion SPS30 particulate matter sensor over SHDLC on a UART"
    config_model = Sps30Config
    codecs: ClassVar[Mapping[str, Codec]] = {"sensirion.sps30": Sps30Codec(), "sensirion.shdlc": Sps30Codec()}

    def __init__(self, config: Sps30Config) -> None:
        super().__init__(config)
        self._codec = Sps30Codec()
        self._warm_up = WarmUp(config.warm_up_s)
        self._last = ""
        self._repeats = 0
        self._news_s = 0.0

    def streams(self) -> tuple[Stream, ...]:
        fields = tuple(vocabulary.field(name) for name in FIELDS)
        return (Stream(self.config.name, MEASUREMENT, self.layer, fields),)

    def decoder(self) -> ShdlcDecoder:
        return ShdlcDecoder()

    async def begin(self, device: Dialogue) -> None:
        await device.tell(WAKES_THE_UART)
        with contextlib.suppress(DeviceTimeout, FrameError):  # whether it is awake the next answer shows
            await device.ask(self._request(WAKE), self._answers(WAKE), timeout_s=WAKE_REPLY_S)
        code = await self._command(device, START, OUTPUT_FLOAT)
        if code not in (OK, NOT_IN_THIS_STATE):
            raise DeviceRefused(self.config.name, "does not start measuring", code=code)
        if code == OK:
            self._warm_up.begin()
        self._last, self._repeats, self._news_s = "", 0, time.monotonic()

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        reply = await device.ask(self._request(READ), self._answers(READ))
        code = reply["state"] & CODE
        if code != OK:  # after a loss of power it measures nothing: the next read begins with a start
            raise DeviceRefused(self.config.name, "no reading", code=code)
        if "values" in reply:
            return self._warm_up.mark(await self._believed(device, reply))
        if reply["data_length"]:
            await self._command(device, STOP)  # so that it can be started with another output
            raise DeviceError(self.config.name, f"{reply['data_length']} bytes: not the output of ten floats")
        silent_s = time.monotonic() - self._news_s
        if silent_s > self.config.timeout_s:
            await self._command(device, STOP)
            raise DeviceTimeout(self.config.name, "no new reading", timeout_s=round(silent_s, 1))
        return ()  # nothing new since the last read

    async def peek(self) -> Sequence[Observed]:
        # The first reading comes a second after the start.
        while not (rows := await self.read()):  # noqa: ASYNC110  # it tells only who asks
            await asyncio.sleep(LOOK_S)
        return rows

    async def _believed(self, device: Dialogue, reply: Frame) -> Sequence[Observed]:
        """The rows of a reading; with doubt where it is the last one again, not at all where it stands."""
        same = reply["data"] == self._last and any(reply["values"].values())
        self._repeats = self._repeats + 1 if same else 0
        self._last, self._news_s = reply["data"], time.monotonic()
        if self._repeats >= SAME_READINGS:
            await self._command(device, STOP)
            raise DeviceError(self.config.name, f"{self._repeats} times the same reading")
        rows = self._codec.observed(reply)
        if not same:
            return rows
        return [replace(row, quality=dict.fromkeys(row.values, Quality.SUSPECT)) for row in rows]

    async def _command(self, device: Dialogue, command: int, data: bytes = b"") -> int:
        """Have a command carried out; gives the state's code."""
        reply = await device.ask(self._request(command, data), self._answers(command))
        return int(reply["state"] & CODE)

    def _request(self, command: int, data: bytes = b"") -> bytes:
        return request(self.config.address, command, data)

    def _answers(self, command: int) -> Callable[[Frame], bool]:
        return lambda frame: frame["command"] == command and frame["address"] == self.config.address
