"""Names, UCUM units and ranges of what trisense senses: one vocabulary for drivers, stores and page.

Outside ``fail`` a reading keeps its value with quality 4, outside ``suspect`` with quality 3; ``step`` is
the largest believable change within a minute. Limits are physical or network-wide gross limits (WMO
guidance for automatic stations, ZAMG, MesoWest, instrument ranges), not those of one instrument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trisense.core.model import Field, FieldType, Quality

__all__ = ["PROPERTIES", "VERSION", "Property", "field", "judge", "limits_of"]

VERSION: Final = 1
"""Rises when a unit changes or a name goes; a bundle names it and may then leave units out."""

Range = tuple[float | None, float | None]
ANY: Final[Range] = (None, None)


@dataclass(frozen=True, slots=True)
class Property:
    """One observed property."""

    name: str
    unit: str
    fail: Range = ANY
    suspect: Range = ANY
    step: float | None = None
    type: FieldType = FieldType.FLOAT


def _numbers() -> list[Property]:
    return [
        # Weather
        Property("air_temperature", "Cel", (-80, 60), (-50, 50), 3),
        Property("relative_humidity", "%", (0, 104), (2, 100), 15),
        Property("dew_point", "Cel", (-80, 35), step=4),
        Property("barometric_pressure", "hPa", (500, 1100), (630, 1060), 2),
        Property("sea_level_pressure", "hPa", (850, 1100)),
        Property("wind_speed", "m/s", (0, 75), (0, 50), 20),
        Property("wind_speed_min", "m/s", (0, 75), (0, 50)),
        Property("wind_speed_max", "m/s", (0, 150), (0, 75)),
        Property("wind_gust", "m/s", (0, 150), (0, 75)),
        Property("wind_direction", "deg", (0, 360)),
        Property("wind_direction_min", "deg", (0, 360)),
        Property("wind_direction_max", "deg", (0, 360)),
        Property("rain_amount", "mm", (0, None)),
        Property("rain_amount_event", "mm", (0, None)),
        Property("rain_amount_total", "mm", (0, None)),
        Property("rain_rate", "mm/h", (0, 2400), (0, 200)),
        Property("illuminance", "lx", (0, 300_000), (0, 150_000)),
        Property("uv_index", "1", (0, 30), (0, 16)),
        Property("solar_irradiance", "W/m2", (-10, 2000), (-5, 1500), 1000),
        # Air quality
        *(Property(name, "ug/m3", (0, 2000), (0, 1000)) for name in ("pm1", "pm2_5", "pm4", "pm10")),
        Property("pm100", "ug/m3", (0, 20_000)),
        *(Property(f"{name}_cf1", "ug/m3", (0, 2000), (0, 1000)) for name in ("pm1", "pm2_5", "pm10")),
        *(
            Property(f"pnc_gt_{size}um", "/cm3", (0, None))
            for size in ("0_3", "0_5", "1_0", "2_5", "5_0", "10")
        ),
        *(Property(f"pnc_lt_{size}um", "/cm3", (0, None)) for size in ("0_5", "1_0", "2_5", "4_0", "10")),
        Property("typical_particle_size", "um", (0, 100)),
        Property("co2", "[ppm]", (300, 10_000), (390, 5000)),
        Property("co", "[ppb]", (0, 1_000_000), (0, 50_000)),
        Property("no2", "[ppb]", (-20, 20_000), (0, 1000)),
        Property("so2", "[ppb]", (-20, 20_000), (0, 2000)),
        Property("o3", "[ppb]", (-20, 20_000), (0, 500)),
        Property("hcho", "[ppb]", (0, 5000)),
        Property("hcho_mass", "ug/m3", (0, 6200)),
        # Noise, soil, water
        Property("sound_pressure_level_a", "dB[SPL]", (20, 140), (30, 130)),
        Property("laeq", "dB[SPL]", (20, 140), (30, 120)),
        Property("soil_moisture", "%", (0, 100), (0, 60)),
        Property("soil_temperature", "Cel", (-80, 80), (-50, 50), 10),
        Property("soil_ec", "uS/cm", (0, 20_000)),
        Property("soil_ph", "[pH]", (0, 14), (3, 9)),
        Property("water_level", "m"),
        Property("distance", "m", (0, None)),
        Property("water_temperature", "Cel", (-5, 50), (-2, 40), 2),
        # Traffic and housekeeping
        Property("vehicle_speed", "km/h", (0, 300), (0, 200)),
        Property("vehicle_count", "{vehicle}", (0, None), type=FieldType.INT),
        Property("occupancy", "%", (0, 100)),
        Property("supply_voltage", "V"),
        # Position of what moves
        Property("latitude", "deg", (-90, 90)),
        Property("longitude", "deg", (-180, 180)),
    ]


PROPERTIES: Final[Mapping[str, Property]] = MappingProxyType({p.name: p for p in _numbers()})


def field(name: str, *, resolution: float | None = None, valid: Range | None = None) -> Field:
    """The field for a property of the vocabulary.

    Raises:
        KeyError: no such property; a driver's own quantity is made with ``Field`` and its unit.
    """
    known = PROPERTIES[name]
    return Field(name, known.unit, known.type, resolution, valid)


def limits_of(field: Field) -> tuple[Range, Range]:
    """Where a value fails and where it is suspect: the field's own range first, then the vocabulary's."""
    known = PROPERTIES.get(field.name)
    fail = field.valid or (known.fail if known else ANY)
    return fail, known.suspect if known is not None and known.unit == field.unit else ANY


def judge(field: Field, value: float) -> Quality:
    """Gross range check of one number against ``limits_of`` its field."""
    fail, suspect = limits_of(field)
    if not _within(value, fail):
        return Quality.FAIL
    return Quality.GOOD if _within(value, suspect) else Quality.SUSPECT


def _within(value: float, limits: Range) -> bool:
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)
