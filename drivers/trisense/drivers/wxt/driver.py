"""The WXT driver: asks for each message, and counts rain by the station's counter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core.errors import DeviceError
from trisense.core.model import Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.wxt.codec import POLLS, WxtCodec, WxtDecoder, poll, rows
from trisense.drivers.wxt.fields import GROUPS, field_of, measurement_of

__all__ = ["Wxt", "WxtConfig"]

Message = Literal["wind", "ptu", "rain", "supervisor", "composite"]
RAIN: Final = "rain_amount"
TOTAL: Final = "rain_amount_total"


class WxtConfig(FramedConfig):
    """A Vaisala WXT520 or WXT530 that speaks the ASCII protocol."""

    address: Annotated[str, Constrained(pattern="^[0-9A-Za-z]$")] = "0"
    """Its address; it leaves the factory with 0."""
    messages: Annotated[tuple[Message, ...], Constrained(min_length=1)] = (
        "wind",
        "ptu",
        "rain",
        "supervisor",
    )
    """What to ask for in each read. What ``composite`` holds is set in the station."""
    crc: bool = True
    """Ask for lines with a CRC. Without it a damaged digit cannot be told from a good one."""
    rain_counter: Literal["running", "cleared"] = "running"
    """``running``: the counter goes on (Z=M), rain is its rise. ``cleared``: the station clears it with each
    message (Z=A), so that an answer that is lost takes its rain with it."""


class Wxt(AskedDriver[WxtConfig]):
    name = "wxt"
    family = "environment"
    summary = "Vaisala WXT520 and WXT530 weather transmitters, ASCII protocol"
    config_model = WxtConfig
    codecs: ClassVar[Mapping[str, Codec]] = {"vaisala.wxt_ascii": WxtCodec()}

    def __init__(self, config: WxtConfig) -> None:
        super().__init__(config)
        self._total_mm: float | None = None

    def streams(self) -> tuple[Stream, ...]:
        names = [name for group in self._groups() for name in GROUPS[group]]
        if RAIN in names and self.config.rain_counter == "running":
            names.append(TOTAL)
        if "supervisor" in self._groups():
            names += ["heating_state", "info"]
        made = []
        for measurement in ("weather", "supervisor"):
            fields = tuple(field_of(name) for name in names if measurement_of(name) == measurement)
            if fields:
                made.append(Stream(self.config.name, measurement, self.layer, fields))
        return tuple(made)

    def _groups(self) -> Sequence[str]:
        """Groups of what it asks for, each once."""
        asked = self.config.messages
        return [group for group in GROUPS if group in asked or "composite" in asked]

    def decoder(self) -> WxtDecoder:
        return WxtDecoder()

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        frames = [await self._ask(device, message) for message in dict.fromkeys(self.config.messages)]
        return [self._counted(row) if RAIN in row.values else row for row in rows(frames)]

    async def _ask(self, device: Dialogue, message: Message) -> Frame:
        """Ask for one message; a complaint of the station in its place is an error."""

        def answers(frame: Frame) -> bool:
            ours = frame["address"] == self.config.address and frame.get("crc_ok", False) == self.config.crc
            return ours and (frame["message"] == f"R{POLLS[message]}" or _complains(frame))

        question = poll(self.config.address, message, with_crc=self.config.crc)
        frame = await device.ask(question, answers)
        if "text" in frame:
            raise DeviceError(self.config.name, f"asked for {message}, it says {frame['text']!r}")
        return frame

    def _counted(self, row: Observed) -> Observed:
        """The row with the rain since the row before; the first one has none."""
        if self.config.rain_counter == "cleared":
            return row
        values = dict(row.values)
        total_mm = float(values.pop(RAIN) or 0)
        before, self._total_mm = self._total_mm, total_mm
        values[TOTAL] = total_mm
        if before is not None:
            # A counter that fell was cleared, or began again after a loss of power.
            values[RAIN] = round(total_mm - before if total_mm >= before else total_mm, 4)
        return replace(row, values=values)


def _complains(frame: Frame) -> bool:
    """Whether it is an error, and not a notice such as ``Start-up``."""
    text = str(frame.get("text", ""))
    return text.endswith("error") or text.startswith("Use chksum")
