"""The DR500 driver: asks for the unit once and for the average speed at each read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from trisense.core import vocabulary
from trisense.core.errors import DeviceRefused
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.dr500.codec import AVERAGE, UNITS, Dr500Codec, Dr500Decoder, message, query_variable
from trisense.drivers.framing import FramedConfig
from trisense.drivers.sdk import Codec, Observed

__all__ = ["Dr500", "Dr500Config"]


class Dr500Config(FramedConfig):
    """A Houston Radar DR500."""


class Dr500(AskedDriver[Dr500Config]):
    name = "dr500"
    family = "radar"
    summary = "Houston Radar DR500 speed radar: average speed of what passes"
    config_model = Dr500Config
    codecs: ClassVar[Mapping[str, Codec]] = {"houston-dr500": Dr500Codec()}

    def __init__(self, config: Dr500Config) -> None:
        super().__init__(config)
        self._codec = Dr500Codec()

    def streams(self) -> tuple[Stream, ...]:
        fields = (Field("presence", "1", FieldType.INT, valid=(0, 1)), vocabulary.field("vehicle_speed"))
        return (Stream(self.config.name, "radar_speed", self.layer, fields),)

    def decoder(self) -> Dr500Decoder:
        return Dr500Decoder()

    async def begin(self, device: Dialogue) -> None:
        # Whoever set the radar up may have chosen another unit: never assume it.
        reply = await device.ask(query_variable("UN"), lambda frame: frame.get("variable") == "UN")
        if reply["value"] >= len(UNITS):
            raise DeviceRefused(self.config.name, "a unit that nobody knows", code=reply["value"])
        self._codec = Dr500Codec(reply["value"])

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        return self._codec.observed(
            await device.ask(message(bytes((AVERAGE,))), lambda frame: "avg_speed" in frame)
        )
