"""The RTMS G4 driver: asks for the latest interval and tells each lane of it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.errors import DeviceRefused, FrameError
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.rtms.codec import (
    CLASSES,
    FOOTER,
    HEADER,
    MEASUREMENT,
    REFUSED,
    STATUS,
    RtmsG4Codec,
    RtmsG4Decoder,
    interval,
    poll,
)
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["RtmsG4", "RtmsG4Config"]


class RtmsG4Config(FramedConfig):
    """An EIS RTMS G4."""

    sensor: Annotated[int, Constrained(ge=0, le=65_535)] = 1
    """Its id."""


class RtmsG4(AskedDriver[RtmsG4Config]):
    name = "rtms-g4"
    family = "radar"
    summary = "EIS RTMS G4: traffic of each lane by interval"
    config_model = RtmsG4Config
    codecs: ClassVar[Mapping[str, Codec]] = {"rtms-g4": RtmsG4Codec()}

    def __init__(self, config: RtmsG4Config) -> None:
        super().__init__(config)
        self._codec = RtmsG4Codec()
        self._last: tuple[int, str | None] | None = None

    def streams(self) -> tuple[Stream, ...]:
        fields = (
            Field("lane", "1", FieldType.INT),
            Field("interval", "1", FieldType.INT),
            Field("duration", "s"),
            vocabulary.field("vehicle_count"),
            vocabulary.field("occupancy", resolution=0.1),
            Field("mean_speed", "km/h", valid=(0.0, 350.0)),
            Field("speed_85th", "km/h", valid=(0.0, 350.0)),
            Field("headway", "s", resolution=0.1),
            Field("gap", "s", resolution=0.1),
            *(Field(f"class_{n}_count", "{vehicle}", FieldType.INT) for n in range(1, CLASSES + 1)),
        )
        supply = (vocabulary.field("supply_voltage", resolution=0.1),)
        return (
            Stream(self.config.name, MEASUREMENT, self.layer, fields),
            Stream(self.config.name, STATUS, self.layer, supply),
        )

    def decoder(self) -> RtmsG4Decoder:
        return RtmsG4Decoder()

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        answer: list[Frame] = []

        def is_last(frame: Frame) -> bool:
            if frame["sensor"] != self.config.sensor:
                return False
            if frame["qual"] == HEADER:
                answer.clear()
            answer.append(frame)
            return frame["qual"] in (FOOTER, REFUSED)

        last = await device.ask(poll(self.config.sensor), is_last)
        if last["qual"] == REFUSED:
            raise DeviceRefused(self.config.name, "no statistics", code=REFUSED)
        whole = interval(answer)
        if whole is None:
            raise FrameError(self.config.name, "interval not whole", bytes.fromhex(last["data"]))
        if (whole["number"], whole["time"]) == self._last:
            return ()
        self._last = (whole["number"], whole["time"])
        return self._codec.observed(whole)
