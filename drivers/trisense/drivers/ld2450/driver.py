"""The LD2450 driver: who is in front of the wall, ten times a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Constrained
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.hilink import LEAVE_CONFIGURATION, command
from trisense.drivers.ld2450.codec import Ld2450Codec, Ld2450Decoder
from trisense.drivers.lines import Line
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Ld2450", "Ld2450Config"]


class Ld2450Config(FramedConfig):
    """A Hi-Link LD2450 radar; the line's baud rate is 256000."""

    mirrored: bool = False
    """Turn the x axis round, where the radar hangs upside down or is seen from behind."""
    positive_speed: Literal["approaching", "leaving"] = "approaching"
    """What the radar's positive speed means: makers' drivers disagree, so walk towards it once and see."""
    min_period_s: Annotated[float, Constrained(ge=0, le=60)] = 0.0
    """Pass on at most one report per this time; 0 passes on all (about 10 a second)."""


class Ld2450(FramedDriver[Ld2450Config]):
    name = "ld2450"
    family = "radar"
    summary = "Hi-Link LD2450 24 GHz radar: up to three people, position and speed"
    config_model = Ld2450Config
    codecs: ClassVar[Mapping[str, Codec]] = {"ld2450": Ld2450Codec()}

    def __init__(self, config: Ld2450Config) -> None:
        super().__init__(config)
        self._codec = Ld2450Codec()
        self._next_at = 0.0

    def streams(self) -> tuple[Stream, ...]:
        target = (
            Field("x", "m", resolution=0.001, valid=(-6.0, 6.0)),
            Field("y", "m", resolution=0.001, valid=(0.0, 6.5)),
            Field("radial_speed", "m/s", resolution=0.01, valid=(-20.0, 20.0)),
            Field("distance_resolution", "m", resolution=0.001),
        )
        count = (Field("target_count", "{target}", FieldType.INT, valid=(0, 3)),)
        return (
            Stream(self.config.name, "radar_presence", self.layer, count),
            Stream(self.config.name, "radar_target", self.layer, target),
        )

    def decoder(self) -> Ld2450Decoder:
        return Ld2450Decoder()

    async def begin(self, line: Line) -> None:
        # A host that died while configuring leaves a radar that reports nothing.
        await line.write(command(LEAVE_CONFIGURATION))

    def rows(self, frame: Frame) -> Sequence[Observed]:
        now = time.monotonic()
        if now < self._next_at:
            return ()
        rows = [self._turned(row) for row in self._codec.observed(frame)]
        if rows:
            self._next_at = now + self.config.min_period_s
        return rows

    def _turned(self, row: Observed) -> Observed:
        """The row as this one is mounted; a positive speed of ours always means approaching."""
        x, speed = row.values.get("x"), row.values.get("radial_speed")
        if not isinstance(x, float) or not isinstance(speed, float):
            return row
        turned = dict(row.values)
        if self.config.mirrored:
            turned["x"] = 0.0 - x
        if self.config.positive_speed == "leaving":
            turned["radial_speed"] = 0.0 - speed
        return replace(row, values=turned)
