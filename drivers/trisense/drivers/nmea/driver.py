"""The NMEA weather driver: takes the sentences that a station sends by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator
from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.nmea.codec import MEASUREMENTS, NmeaCodec, NmeaDecoder
from trisense.drivers.nmea.transducers import CUSTOM, Transducers, of_wxt, quantity_of
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["NmeaWeather", "NmeaWeatherConfig"]

FIELDS: Final[Mapping[str, Sequence[Field]]] = {
    "MWV": (
        vocabulary.field("wind_speed"),
        Field("wind_angle", "deg", valid=(0, 360)),
        Field("reference", "", FieldType.STR),
    ),
    "MWD": (
        vocabulary.field("wind_speed"),
        vocabulary.field("wind_direction"),
        Field("wind_direction_magnetic", "deg", valid=(0, 360)),
    ),
    "MDA": (
        *(
            vocabulary.field(name)
            for name in (
                "barometric_pressure",
                "air_temperature",
                "water_temperature",
                "relative_humidity",
                "dew_point",
                "wind_speed",
                "wind_direction",
            )
        ),
        Field("absolute_humidity", "g/m3"),
        Field("wind_direction_magnetic", "deg", valid=(0, 360)),
    ),
    "MTW": (vocabulary.field("water_temperature"),),
}


def _known(transducers: dict[str, str]) -> dict[str, str]:
    """Each key a type and an id, each name a property in the unit that the type is converted to."""
    for key, name in transducers.items():
        quantity = quantity_of(key.partition(":")[0])
        if quantity is None or ":" not in key:
            raise ValueError(f'a key of type and id such as "C:AIR", not {key!r}')
        if name not in vocabulary.PROPERTIES or vocabulary.PROPERTIES[name].unit != quantity[1]:
            raise ValueError(f"{key}: a property of the vocabulary in {quantity[1]}, not {name!r}")
    if len(set(transducers.values())) < len(transducers):
        raise ValueError("each property once")
    return transducers


class NmeaWeatherConfig(FramedConfig):
    """A weather station or wind head that sends NMEA 0183."""

    aligned_to_north: bool = False
    """The head's zero points to true north: the angle of an MWV sentence is then also ``wind_direction``."""
    transducers: Annotated[dict[str, str], AfterValidator(_known)] = Constrained(default_factory=dict)
    """What the transducers of XDR sentences measure: property by ``TYPE:ID``."""
    wxt_address: Annotated[str, Constrained(pattern="^[0-9A-Za-z]?$")] = ""
    """Address of a Vaisala WXT530, whose transducers then need no names; empty where it is none."""


class NmeaWeather(FramedDriver[NmeaWeatherConfig]):
    name = "nmea-weather"
    family = "environment"
    summary = "Weather stations and wind heads that send NMEA 0183 (MWV, MWD, MDA, MTW, XDR)"
    config_model = NmeaWeatherConfig
    codecs: ClassVar[Mapping[str, Codec]] = {"nmea0183.weather": NmeaCodec()}

    def __init__(self, config: NmeaWeatherConfig) -> None:
        super().__init__(config)
        self._codec = NmeaCodec()
        named = {
            (key.partition(":")[0], key.partition(":")[2]): name for key, name in config.transducers.items()
        }
        self._transducers = [Transducers(named, dict.fromkeys(named.values(), CUSTOM))]
        if config.wxt_address:
            self._transducers.append(of_wxt(config.wxt_address))

    def streams(self) -> tuple[Stream, ...]:
        fields = {MEASUREMENTS[sentence]: [*known] for sentence, known in FIELDS.items()}
        if self.config.aligned_to_north:
            fields[MEASUREMENTS["MWV"]].append(vocabulary.field("wind_direction"))
        for transducers in self._transducers:
            fields |= {stream: [*known] for stream, known in transducers.fields().items()}
        return tuple(
            Stream(self.config.name, measurement, self.layer, tuple(known))
            for measurement, known in fields.items()
        )

    def decoder(self) -> NmeaDecoder:
        return NmeaDecoder()

    def rows(self, frame: Frame) -> Sequence[Observed]:
        if "transducers" in frame:
            return [row for known in self._transducers for row in known.rows(frame["transducers"])]
        rows = self._codec.observed(frame)
        if frame["sentence"] == "MWV" and self.config.aligned_to_north:
            return [_turned(row) for row in rows]
        return rows


def _turned(row: Observed) -> Observed:
    """The head's angle as the direction that it is."""
    if "wind_angle" not in row.values:
        return row
    return replace(row, values={**row.values, "wind_direction": row.values["wind_angle"]})
