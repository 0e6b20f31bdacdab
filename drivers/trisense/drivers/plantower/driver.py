"""The Plantower driver: a sensor that sends by itself, and must warm up before its word counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.model import Field, FieldType, Quality, Stream
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.lines import Line
from trisense.drivers.plantower.codec import (
    MASSES,
    MEASUREMENT,
    MODELS,
    PlantowerCodec,
    PlantowerDecoder,
    command,
)
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Plantower", "PlantowerConfig"]

RESOLUTION = {
    "air_temperature": 0.1,
    "relative_humidity": 0.1,
    **dict.fromkeys(MASSES, 1.0),
    "hcho_mass": 1.0,
}
COUNT_RESOLUTION = 0.01


class PlantowerConfig(FramedConfig):
    """A Plantower PMS dust sensor."""

    model: Literal["pmsx003", "pms5003t", "pms5003s", "pms5003st", "pms3003"] = "pmsx003"
    """Which one: ``pmsx003`` stands for PMS1003, PMS5003, PMS7003 and PMSA003. Their frames look alike."""
    wake: bool = True
    """Send "wake" and "active mode" after opening the line; harmless where the sensor's RX is not wired."""
    warm_up_s: Annotated[float, Constrained(ge=0, le=600)] = 30.0
    """Seconds after opening the line in which readings carry code 2, and all-zero ones are no value."""


class Plantower(FramedDriver[PlantowerConfig]):
    name = "plantower"
    family = "environment"
    summary = "Plantower PMSx003, PMS5003T/S/ST, PMS3003 dust sensors on a UART"
    config_model = PlantowerConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        f"plantower.{name}": PlantowerCodec(model) for name, model in MODELS.items()
    }

    def __init__(self, config: PlantowerConfig) -> None:
        super().__init__(config)
        self._model = MODELS[config.model]
        self._codec = PlantowerCodec(self._model)
        self._warm_at = 0.0

    def streams(self) -> tuple[Stream, ...]:
        fields = [
            vocabulary.field(name, resolution=RESOLUTION.get(name, COUNT_RESOLUTION))
            for name in self._model.fields
        ]
        if self._model.tells_errors:
            fields.append(Field("error_code", "1", FieldType.INT))
        return (Stream(self.config.name, MEASUREMENT, self.layer, tuple(fields)),)

    def decoder(self) -> PlantowerDecoder:
        return PlantowerDecoder(self._model)

    async def begin(self, line: Line) -> None:
        if self.config.wake and self.config.model != "pms3003":  # which knows no commands
            await line.write(command("wake"))
            await line.write(command("active mode"))
        self._warm_at = time.monotonic() + self.config.warm_up_s

    def rows(self, frame: Frame) -> Sequence[Observed]:
        rows = self._codec.observed(frame)
        if time.monotonic() >= self._warm_at:
            return rows
        return [_warming(row) for row in rows]


def _warming(row: Observed) -> Observed:
    """A fan that just started tells zeros as if the air were clean: no value; other values with doubt."""
    if not any(row.values.get(name) for name in MASSES):
        return replace(row, values={}, quality={})
    return replace(row, quality={**dict.fromkeys(row.values, Quality.NOT_EVALUATED), **row.quality})
