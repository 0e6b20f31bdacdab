"""The LD2451 driver: vehicles that come or go, up to 100 m away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from trisense.core import vocabulary
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.hilink import LEAVE_CONFIGURATION, command, configured
from trisense.drivers.ld2451.codec import Ld2451Codec, Ld2451Decoder
from trisense.drivers.lines import Line
from trisense.drivers.quiet import QuietDriver
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Ld2451", "Ld2451Config"]

QUIET_S: Final = 1.5
"""Some units say nothing when they see nothing; so long none of them pauses while it sees something."""


class Ld2451Config(FramedConfig):
    """A Hi-Link LD2451 radar; the line's baud rate is 115200."""


class Ld2451(QuietDriver[Ld2451Config]):
    name = "ld2451"
    family = "radar"
    summary = "Hi-Link LD2451 24 GHz vehicle radar: distance, angle and speed up to 100 m"
    config_model = Ld2451Config
    codecs: ClassVar[Mapping[str, Codec]] = {"ld2451": Ld2451Codec()}

    def __init__(self, config: Ld2451Config) -> None:
        super().__init__(config)
        self._codec = Ld2451Codec()

    def streams(self) -> tuple[Stream, ...]:
        counts = (
            Field("target_count", "{target}", FieldType.INT, valid=(0, 12)),
            Field("alarm", "1", FieldType.INT, valid=(0, 1)),
        )
        vehicle = (
            Field("angle", "deg", resolution=1.0, valid=(-90.0, 90.0)),
            vocabulary.field("distance", resolution=1.0),
            Field("approaching", "1", FieldType.INT, valid=(0, 1)),
            vocabulary.field("vehicle_speed", resolution=1.0),
            Field("signal_to_noise", "1", FieldType.INT),
        )
        return (
            Stream(self.config.name, "radar_presence", self.layer, counts),
            Stream(self.config.name, "radar_vehicle", self.layer, vehicle),
        )

    def decoder(self) -> Ld2451Decoder:
        return Ld2451Decoder()

    async def begin(self, line: Line) -> None:
        # A host that died while configuring leaves a radar that reports nothing.
        await line.write(command(LEAVE_CONFIGURATION))

    def rows(self, frame: Frame) -> Sequence[Observed]:
        return self._codec.observed(frame)

    def silence_s(self) -> float:
        return QUIET_S

    async def ask_for_life(self, device: Dialogue) -> None:
        await configured(device, self.config.name)

    def nothing(self) -> Observed:
        return Observed("radar_presence", {"target_count": 0, "alarm": 0})
