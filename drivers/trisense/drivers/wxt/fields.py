"""What a Vaisala WXT520 or WXT530 measures: names, units and the letters that stand for units.

The same quantities come over its ASCII protocol, over NMEA 0183 and over SDI-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trisense.core import vocabulary
from trisense.core.model import Field, FieldType

__all__ = [
    "GROUPS",
    "HEATER_STATES",
    "HEATING",
    "SUPERVISOR",
    "UNITS",
    "converted",
    "field_of",
    "measurement_of",
]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "wind": (
        "wind_direction_min",
        "wind_direction",
        "wind_direction_max",
        "wind_speed_min",
        "wind_speed",
        "wind_speed_max",
    ),
    "ptu": ("air_temperature", "internal_temperature", "relative_humidity", "barometric_pressure"),
    "rain": (
        "rain_amount",
        "rain_duration",
        "rain_rate",
        "hail_amount",
        "hail_duration",
        "hail_rate",
        "rain_rate_peak",
        "hail_rate_peak",
    ),
    "supervisor": ("heating_temperature", "heating_voltage", "supply_voltage", "reference_voltage"),
}
"""By group, in the order in which the station tells them."""
SUPERVISOR: Final = frozenset(GROUPS["supervisor"]) | {"heating_state", "info"}
HEATING: Final = "heating_voltage"

OWN_UNITS: Final[Mapping[str, str]] = {
    "internal_temperature": "Cel",
    "rain_duration": "s",
    "rain_rate_peak": "mm/h",
    "hail_amount": "/cm2",
    "hail_duration": "s",
    "hail_rate": "/cm2/h",
    "hail_rate_peak": "/cm2/h",
    "heating_temperature": "Cel",
    "heating_voltage": "V",
    "reference_voltage": "V",
}
TEXTS: Final = frozenset({"heating_state", "info"})

UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "direction": {"D": 1},
    "speed": {"M": 1, "K": 1 / 3.6, "S": 0.44704, "N": 0.514444},
    "temperature": {"C": 1, "F": 5 / 9},
    "humidity": {"P": 1},
    "pressure": {"H": 1, "P": 0.01, "B": 1000, "M": 1.333224, "I": 33.86389},
    "rain": {"M": 1, "I": 25.4},
    "hail": {"M": 1, "I": 1 / 6.4516},
    "time": {"s": 1},
    "voltage": {"V": 1},
}
"""Factor of each unit letter by quantity: one letter means different things for different ones."""
HEATER_STATES: Final[Mapping[str, str]] = {
    "#": "not_fitted",
    "N": "off",
    "V": "half_power",
    "W": "full_power",
    "F": "half_power_cold",
}
"""The unit letter of the heating voltage is the state of the heater."""


FAHRENHEIT: Final = "F"


def converted(value: float, letter: str, quantity: str) -> float:
    """``value`` in the unit of its field; ``letter`` is one of those in ``UNITS[quantity]``."""
    if quantity == "temperature" and letter == FAHRENHEIT:
        value -= 32
    factor = UNITS[quantity][letter]
    return value if factor == 1 else round(value * factor, 4)


def field_of(name: str) -> Field:
    """The field of a quantity in ``GROUPS``, or of a text beside them."""
    if name in TEXTS:
        return Field(name, "", FieldType.STR)
    return Field(name, OWN_UNITS[name]) if name in OWN_UNITS else vocabulary.field(name)


def measurement_of(name: str) -> str:
    """The stream that a quantity belongs to: ``weather``, or ``supervisor`` for housekeeping."""
    return "supervisor" if name in SUPERVISOR else "weather"
