"""Aircraft by ADS-B: a Beast feed of dump1090, readsb or a Mode-S Beast (TCP 30005)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Annotated, ClassVar, Final

from pydantic import Field, field_validator
from trisense.core import vocabulary
from trisense.core.model import Field as Column
from trisense.core.model import FieldType, Layer, Stream
from trisense.drivers.adsb.codec import CODECS, MEASUREMENT
from trisense.drivers.adsb.feeds import BeastDecoder
from trisense.drivers.adsb.tracker import Tracker
from trisense.drivers.framing import Decoder, FramedConfig, FramedDriver
from trisense.drivers.lines import Line
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Adsb", "Config"]

FIELDS: Final = (
    Column("icao", "", FieldType.STR),
    Column("callsign", "", FieldType.STR),
    Column("category", "", FieldType.STR),
    Column("squawk", "", FieldType.STR),
    vocabulary.field("latitude"),
    vocabulary.field("longitude"),
    Column("pressure_altitude", "m", resolution=7.62, valid=(-500.0, 40_000.0)),
    Column("gnss_altitude", "m", resolution=7.62, valid=(-500.0, 40_000.0)),
    Column("ground_speed", "m/s", valid=(0.0, 700.0)),
    Column("track", "deg", valid=(0.0, 360.0)),
    Column("vertical_rate", "m/s", valid=(-200.0, 200.0)),
    Column("on_ground", "1", FieldType.INT),
    Column("rssi", "dB{FS}", valid=(-60.0, 0.0)),
    Column("messages", "1", FieldType.INT),
)


class Config(FramedConfig):
    """One Beast feed."""

    timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """Longest silence before the feed is opened anew; an empty sky is silent."""
    max_aircraft: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Aircraft remembered at once; the one silent longest gives way."""
    blocked: frozenset[Annotated[str, Field(pattern="^[0-9A-Fa-f]{6}$")]] = frozenset()
    """ICAO addresses that are never told, as 6 hex digits."""

    @field_validator("blocked")
    @classmethod
    def _upper(cls, blocked: frozenset[str]) -> frozenset[str]:
        return frozenset(address.upper() for address in blocked)


class Adsb(FramedDriver[Config]):
    """Follows every aircraft of a feed and tells each at most once per ``interval_s``."""

    name = "adsb"
    family = "air"
    layer = Layer.AIR
    summary = "aircraft by ADS-B and Mode S from a Beast TCP feed (dump1090, readsb)"
    config_model = Config
    codecs: ClassVar[Mapping[str, Codec]] = CODECS

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tracker = self._fresh_tracker()

    def _fresh_tracker(self) -> Tracker:
        position = self.config.position
        return Tracker(
            interval_s=self.config.interval_s,
            max_aircraft=self.config.max_aircraft,
            receiver=(position.latitude, position.longitude) if position else None,
        )

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, MEASUREMENT, self.layer, FIELDS, self.config.site or ""),)

    def decoder(self) -> Decoder:
        return BeastDecoder()

    async def begin(self, line: Line) -> None:  # noqa: ARG002  # a feed is not asked
        self._tracker = self._fresh_tracker()

    def rows(self, frame: Frame) -> Sequence[Observed]:
        if frame.get("icao") in self.config.blocked:
            return []
        values = self._tracker.take(frame, monotonic())
        return [Observed(MEASUREMENT, values)] if values else []
