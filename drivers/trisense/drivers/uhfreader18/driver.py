"""The UHFReader18 driver: asks for inventories, or listens to a reader in scan or trigger mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core.errors import DeviceRefused, DeviceTimeout, LineError
from trisense.core.model import Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.epc import SIGHTING, TAG_FIELDS
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.lines import Line
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.tagwindow import TagWindow, WindowConfig, passage_stream, with_passages
from trisense.drivers.uhfreader18.codec import (
    INFO,
    INVENTORY,
    MORE_FOLLOWS,
    PUSHED,
    UhfDecoder,
    UhfReader18Codec,
    request,
)

__all__ = ["UhfReader18", "UhfReader18Config"]

NO_TAG: Final = 0xFB
MAX_FRAMES: Final = 64
"""Frames of one inventory; a reader that announces still more is not one."""


class UhfReader18Config(FramedConfig):
    """A reader of the UHFReader18 family."""

    mode: Literal["inventory", "push"] = "inventory"
    """``inventory``: it answers, and is asked each ``interval_s``. ``push``: it was set to scan or
    trigger mode, in which it sends tags by itself and answers nothing."""
    address: Annotated[int, Constrained(ge=0, le=0xFF)] = 0
    """Address of the reader; 255 takes whichever reader is there."""
    window: WindowConfig | None = None
    """Tell arrivals and departures of tags besides each sighting: ``depart_s``, ``min_reads``,
    ``strong_dbm``. Unset: sightings alone."""


class UhfReader18(FramedDriver[UhfReader18Config]):
    name = "uhfreader18"
    family = "rfid"
    summary = "UHF RFID readers with the UHFReader18 protocol (Chafon and others)"
    config_model = UhfReader18Config
    codecs: ClassVar[Mapping[str, Codec]] = {"uhfreader18": UhfReader18Codec()}

    def __init__(self, config: UhfReader18Config) -> None:
        super().__init__(config)
        self._codec = UhfReader18Codec()
        self._window = TagWindow(config.window) if config.window else None
        self._scan_s = 0.0

    def streams(self) -> tuple[Stream, ...]:
        site = self.config.site or ""
        sightings = Stream(self.config.name, SIGHTING, self.layer, TAG_FIELDS, site)
        return (sightings, passage_stream(self.config.name, site)) if self._window else (sightings,)

    def decoder(self) -> UhfDecoder:
        return UhfDecoder(self.config.address)

    async def begin(self, line: Line) -> None:
        """See that a reader answers, and how long it takes for an inventory."""
        if self.config.mode == "push":
            return
        reply = await self._dialogue(line).ask(request(self.config.address, INFO), _answers(INFO))
        if "info" not in reply:
            raise DeviceRefused(self.config.name, "tells nothing of itself", code=reply["status"])
        self._scan_s = reply["info"]["scan_time_s"]

    async def observe(self) -> AsyncIterator[Observed]:
        async with (
            aclosing(self._sightings()) as sightings,
            aclosing(with_passages(sightings, self._window)) as rows,
        ):
            async for row in rows:
                yield row

    async def _sightings(self) -> AsyncGenerator[Observed]:
        if self.config.mode == "push":
            async with aclosing(self.good_frames()) as frames:
                async for frame in frames:
                    for row in self.rows(frame):
                        yield row
            return
        while True:
            for frame in await self._inventory():
                for row in self.rows(frame):
                    yield row
            await asyncio.sleep(self.config.interval_s)

    def rows(self, frame: Frame) -> Sequence[Observed]:
        wanted = PUSHED if self.config.mode == "push" else INVENTORY
        return self._codec.observed(frame) if frame.get("cmd") == wanted else ()

    async def _inventory(self) -> Sequence[Frame]:
        """All frames of one inventory.

        Raises:
            DeviceRefused: the reader's status is an error.
            DeviceTimeout, FrameError, LineError: as ``Dialogue.ask``.
        """
        if self._line is None:
            raise LineError(self.config.line, "is not open")
        found: list[Frame] = []

        def is_last(frame: Frame) -> bool:
            if not _answers(INVENTORY)(frame):
                return False
            found.append(frame)
            return frame["status"] != MORE_FOLLOWS or len(found) == MAX_FRAMES

        timeout_s = self.config.timeout_s + self._scan_s
        question = request(self.config.address, INVENTORY)
        last = await self._dialogue(self._line).ask(question, is_last, timeout_s=timeout_s)
        if len(found) == MAX_FRAMES:
            raise DeviceTimeout(self.config.name, "an inventory does not end", timeout_s=timeout_s)
        if "tags" not in last and last["status"] != NO_TAG:
            raise DeviceRefused(
                self.config.name, last.get("contradiction", "no inventory"), code=last["status"]
            )
        return found

    def _dialogue(self, line: Line) -> Dialogue:
        return Dialogue(line, self.decoder, device=self.config.name, timeout_s=self.config.timeout_s)


def _answers(command: int) -> Callable[[Frame], bool]:
    return lambda frame: frame.get("cmd") == command and "status" in frame
