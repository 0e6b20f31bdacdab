"""The SS125 driver: asks for the latest interval and tells each lane of it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.errors import DeviceRefused
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.ss125.codec import CLASSES, MEASUREMENT, Ss125Codec, Ss125Decoder, query_interval

__all__ = ["Ss125", "Ss125Config"]

KMH: Final = {"mph": 1.609344, "km/h": 1.0}


class Ss125Config(FramedConfig):
    """A Wavetronix SmartSensor HD."""

    sensor: Annotated[int, Constrained(ge=0, le=65_535)] = 0
    """Its id, where several share a line; 0 is heard by any."""
    unit: Literal["mph", "km/h"] = "mph"
    """The unit of speed that it is set to; it does not tell."""


class Ss125(AskedDriver[Ss125Config]):
    name = "ss125"
    family = "radar"
    summary = "Wavetronix SmartSensor HD (SS125): traffic of each lane by interval"
    config_model = Ss125Config
    codecs: ClassVar[Mapping[str, Codec]] = {"wavetronix-ss125": Ss125Codec()}

    def __init__(self, config: Ss125Config) -> None:
        super().__init__(config)
        self._codec = Ss125Codec(KMH[config.unit])
        self._last: tuple[int, str | None] | None = None

    def streams(self) -> tuple[Stream, ...]:
        fields = (
            Field("lane", "1", FieldType.INT),
            Field("interval", "1", FieldType.INT),
            vocabulary.field("vehicle_count"),
            vocabulary.field("occupancy", resolution=0.1),
            Field("mean_speed", "km/h", valid=(0.0, 300.0)),
            Field("speed_85th", "km/h", valid=(0.0, 300.0)),
            Field("headway", "s"),
            Field("gap", "s"),
            *(Field(f"class_{n}_count", "{vehicle}", FieldType.INT) for n in range(1, CLASSES + 1)),
        )
        return (Stream(self.config.name, MEASUREMENT, self.layer, fields),)

    def decoder(self) -> Ss125Decoder:
        return Ss125Decoder()

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        lanes: dict[int, Frame] = {}

        def is_last(frame: Frame) -> bool:
            if self.config.sensor not in (0, frame["source"]):
                return False
            if "result" in frame:
                return True
            if "volume" in frame:
                lanes[frame["seq"]] = frame
            # Answers are numbered from 1: the lanes, then the approaches.
            return "volume" in frame and frame["seq"] == frame["lanes"] + frame["approaches"]

        last = await device.ask(query_interval(self.config.sensor), is_last)
        if "result" in last:
            raise DeviceRefused(self.config.name, "no interval", code=last["result"])
        interval = (last["interval"], last["time"])
        whole = all(n in lanes and lanes[n]["interval"] == interval[0] for n in range(1, last["lanes"] + 1))
        if (
            interval == self._last or not whole
        ):  # an interval that ended between two packets comes again whole
            return ()
        self._last = interval
        return [
            replace(row, values={"lane": lane, **row.values})
            for lane in range(1, last["lanes"] + 1)
            for row in self._codec.observed(lanes[lane])
        ]
