"""The RG-15 driver: asks for amounts, and counts rain by the total, so that a lost answer loses no rain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Literal

from trisense.core import vocabulary
from trisense.core.errors import DeviceError
from trisense.core.model import Field, FieldType, Quality, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.rg15.codec import MEASUREMENT, READ, Rg15Codec, Rg15Decoder, command
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Rg15", "Rg15Config"]

AGREE_MM: Final = 0.06
"""Largest difference by rounding between what was counted since the last read and what the total rose by."""


class Rg15Config(FramedConfig):
    """A Hydreon RG-15."""

    resolution: Literal["leave", "high", "low"] = "leave"
    """``high`` counts 0.01 mm, ``low`` 0.2 mm; ``leave`` what its switches say."""


class Rg15(AskedDriver[Rg15Config]):
    name = "rg15"
    family = "environment"
    summary = "Hydreon RG-15 optical rain gauge on a UART"
    config_model = Rg15Config
    codecs: ClassVar[Mapping[str, Codec]] = {"hydreon.rg15": Rg15Codec()}

    def __init__(self, config: Rg15Config) -> None:
        super().__init__(config)
        self._codec = Rg15Codec()
        self._total_mm: float | None = None
        self._in_step = False
        """Whether the last read was answered, so that the gauge and we count from the same moment."""

    def streams(self) -> tuple[Stream, ...]:
        names = ("rain_amount", "rain_amount_event", "rain_amount_total", "rain_rate")
        fields = [vocabulary.field(name, resolution=0.01) for name in names]
        fields.append(Field("flags", "", FieldType.STR))
        return (Stream(self.config.name, MEASUREMENT, self.layer, tuple(fields)),)

    def decoder(self) -> Rg15Decoder:
        return Rg15Decoder()

    async def begin(self, device: Dialogue) -> None:
        await _set(device, "P")
        if self.config.resolution != "leave":
            await _set(device, "H" if self.config.resolution == "high" else "L")

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        try:
            frame = await device.ask(READ, lambda frame: "values" in frame)
        except DeviceError:
            self._in_step = False
            raise
        (row,) = self._codec.observed(frame)
        return [self._counted(row, frame)]

    def _counted(self, row: Observed, frame: Frame) -> Observed:
        """The row with the rain since the row before, by the total; the first one has none.

        The gauge's own count since the last read is lost with an answer, but where it is there it must
        agree: the lines have no check, and one digit that was hit in the total would be a cloudburst.
        """
        told: Mapping[str, float] = frame["values"]
        before, self._total_mm = self._total_mm, told["rain_amount_total"]
        in_step, self._in_step = self._in_step, True
        values = dict(row.values)
        if before is None:
            del values["rain_amount"]
            return replace(row, values=values, quality=_without(row.quality, "rain_amount"))
        # A total that fell was cleared, or began again after a loss of power.
        rise = self._total_mm - before if self._total_mm >= before else self._total_mm
        values["rain_amount"] = round(rise, 3)
        if in_step and abs(rise - told["rain_amount"]) > AGREE_MM:
            doubted = dict.fromkeys(("rain_amount", "rain_amount_total"), Quality.SUSPECT)
            return replace(row, values=values, quality={**row.quality, **doubted})
        return replace(row, values=values)


async def _set(device: Dialogue, letter: str) -> None:
    """Set a mode; the gauge acknowledges with the letter in lower case."""
    await device.ask(command(letter), lambda frame: frame.get("reply") == letter.lower())


def _without(quality: Mapping[str, Quality], name: str) -> Mapping[str, Quality]:
    return {key: code for key, code in quality.items() if key != name}
