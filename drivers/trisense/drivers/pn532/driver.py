"""The PN532 driver: wakes the module, bounds its search, and asks which cards are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Final

from pydantic import Field as Constrained
from trisense.core.errors import DeviceError
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.epc import SIGHTING
from trisense.drivers.framing import FramedConfig
from trisense.drivers.pn532.codec import (
    LIST_PASSIVE,
    MAX_TARGETS,
    Pn532Codec,
    Pn532Decoder,
    command,
)
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.tagwindow import TagWindow, WindowConfig, passage_stream

__all__ = ["Pn532", "Pn532Config"]

WAKE: Final = b"\x55\x55" + bytes(14)
"""Ends its power-down; the zeros give it time."""
SAM: Final = (0x14, b"\x01")
"""Normal mode: no security module between host and card."""
FIRMWARE: Final = 0x02
PN532: Final = 0x32
RF_CONFIGURATION: Final = 0x32
MAX_RETRIES: Final = 0x05
ISO_14443A: Final = 0
FIELDS: Final = (
    Field("uid", "", FieldType.STR),
    Field("uid_kind", "", FieldType.STR),
    Field("tag_type", "", FieldType.STR),
    Field("sel_res", "1", FieldType.INT),
)


class Pn532Config(FramedConfig):
    """A PN532 module in HSU mode."""

    retries: Annotated[int, Constrained(ge=0, le=254)] = 2
    """Further tries to find a card within one read; without a bound the module would stay silent."""
    window: WindowConfig | None = None
    """Tell arrivals and departures of tags besides each sighting: ``depart_s``, ``min_reads``,
    ``strong_dbm``. Unset: sightings alone."""


class Pn532(AskedDriver[Pn532Config]):
    name = "pn532"
    family = "rfid"
    summary = "PN532 NFC modules on a UART (HSU): cards of ISO 14443 type A"
    config_model = Pn532Config
    codecs: ClassVar[Mapping[str, Codec]] = {"pn532-hsu": Pn532Codec()}

    def __init__(self, config: Pn532Config) -> None:
        super().__init__(config)
        self._codec = Pn532Codec()
        self._window = TagWindow(config.window) if config.window else None

    def streams(self) -> tuple[Stream, ...]:
        site = self.config.site or ""
        sightings = Stream(self.config.name, SIGHTING, self.layer, FIELDS, site)
        return (sightings, passage_stream(self.config.name, site)) if self._window else (sightings,)

    def decoder(self) -> Pn532Decoder:
        return Pn532Decoder()

    async def begin(self, device: Dialogue) -> None:
        await self._ask(device, *SAM, wake=True)
        firmware = await self._ask(device, FIRMWARE)
        if firmware.get("ic") != PN532:
            raise DeviceError(self.config.name, f"is no PN532: firmware {firmware['data']}")
        # Retries of ATR_REQ and PSL_REQ as they are after power-up; those of activation bounded.
        await self._ask(device, RF_CONFIGURATION, bytes((MAX_RETRIES, 0xFF, 0x01, self.config.retries)))

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        found = await self._ask(device, LIST_PASSIVE, bytes((MAX_TARGETS, ISO_14443A)))
        rows = self._codec.observed(found)
        if self._window is None:
            return rows
        now_s = time.monotonic()
        events = [event for row in rows for event in self._window.observed(row, now_s)]
        return [*rows, *events, *self._window.departed(now_s)]

    async def _ask(self, device: Dialogue, code: int, data: bytes = b"", *, wake: bool = False) -> Frame:
        question = (WAKE if wake else b"") + command(code, data)
        answer = await device.ask(question, _answers(code))
        if answer.get("frame") == "ERROR":
            raise DeviceError(self.config.name, f"command {code:02X}: syntax error")
        return answer


def _answers(code: int) -> Callable[[Frame], bool]:
    wanted = f"{code + 1:02x}"
    return lambda frame: (
        frame.get("frame") == "ERROR" or (frame.get("tfi"), frame.get("code")) == ("d5", wanted)
    )
