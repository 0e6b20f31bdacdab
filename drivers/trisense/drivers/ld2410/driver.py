"""The LD2410 driver: whether somebody is there, moving or still."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final

from pydantic import Field as Constrained
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.hilink import LEAVE_CONFIGURATION, command, configured
from trisense.drivers.ld2410.codec import GATES, Ld2410Codec, Ld2410Decoder
from trisense.drivers.lines import Line
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Ld2410", "Ld2410Config"]

ENGINEERING_ON: Final = 0x62


class Ld2410Config(FramedConfig):
    """A Hi-Link LD2410 radar; the line's baud rate is 256000."""

    engineering: bool = False
    """Switch engineering reports on: the energy in each gate, and the light."""
    min_period_s: Annotated[float, Constrained(ge=0, le=60)] = 0.0
    """Pass on at most one report per this time; 0 passes on all (about 10 a second)."""


class Ld2410(FramedDriver[Ld2410Config]):
    name = "ld2410"
    family = "radar"
    summary = "Hi-Link LD2410 24 GHz radar: presence, moving or still, and how far"
    config_model = Ld2410Config
    codecs: ClassVar[Mapping[str, Codec]] = {"ld2410": Ld2410Codec()}

    def __init__(self, config: Ld2410Config) -> None:
        super().__init__(config)
        self._codec = Ld2410Codec()
        self._next_at = 0.0

    def streams(self) -> tuple[Stream, ...]:
        flags = [
            Field(name, "1", FieldType.INT, valid=(0, 1)) for name in ("presence", "moving", "stationary")
        ]
        distances = [
            Field(f"{what}_distance", "m", resolution=0.01, valid=(0.0, 7.0))
            for what in ("moving", "stationary")
        ]
        energies = ["moving_energy", "stationary_energy"]
        if self.config.engineering:
            energies += [f"{energy}_{gate}" for energy in tuple(energies) for gate in range(GATES)]
        fields = [*flags, *distances, *(Field(name, "%", FieldType.INT, valid=(0, 100)) for name in energies)]
        if self.config.engineering:
            fields += [
                Field("light", "1", FieldType.INT, valid=(0, 255)),
                Field("out_pin", "1", FieldType.INT),
            ]
        return (Stream(self.config.name, "radar_presence", self.layer, tuple(fields)),)

    def decoder(self) -> Ld2410Decoder:
        return Ld2410Decoder()

    async def begin(self, line: Line) -> None:
        # A host that died while configuring leaves a radar that reports nothing.
        await line.write(command(LEAVE_CONFIGURATION))
        if self.config.engineering:  # forgotten at each loss of power
            name, timeout_s = self.config.name, self.config.timeout_s
            radar = Dialogue(line, self.decoder, device=name, timeout_s=timeout_s)
            await configured(radar, name, [command(ENGINEERING_ON)])

    def rows(self, frame: Frame) -> Sequence[Observed]:
        now = time.monotonic()
        if "target_state" not in frame or now < self._next_at:
            return ()
        self._next_at = now + self.config.min_period_s
        rows = self._codec.observed(frame)
        if self.config.engineering:
            return rows
        known = {field.name for field in self.streams()[0].fields}
        return [
            Observed(row.measurement, {k: v for k, v in row.values.items() if k in known}, row.quality)
            for row in rows
        ]
