"""Register maps of simulated Modbus stations, from the protocol sheet (environment.md A4.2, A4.3).

No public capture of a full reply of these stations was found: the answers are built from the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Final

from trisense.core.model import Value
from trisense.sims.world import World

__all__ = ["MAPS", "Quantity", "RegisterMap"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One value of a station and the registers it lies in, high word first."""

    name: str
    address: int
    step: str
    """Value of one raw unit, in decimal."""
    words: int = 1
    zero: str = "0"
    """Value at raw 0."""
    signed: bool = False
    invalid: int | None = None
    """Raw pattern that says that there is no value."""

    def raw(self, value: float) -> int:
        """The number in the registers for this value, kept within what they can hold."""
        units = (Decimal(repr(value)) - Decimal(self.zero)) / Decimal(self.step)
        number = int(units.to_integral_value(rounding=ROUND_HALF_EVEN))
        bits = 16 * self.words
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)
        if not self.signed and self.invalid == high:
            high -= 1
        return min(high, max(low, number))

    def meaning(self, raw: int) -> float:
        """The value that a host should read out of ``raw``."""
        return float(raw * Decimal(self.step) + Decimal(self.zero))

    def registers(self, raw: int) -> list[int]:
        data = (raw & (1 << 16 * self.words) - 1).to_bytes(2 * self.words, "big")
        return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]


@dataclass(frozen=True, slots=True)
class RegisterMap:
    """One model of station."""

    model: str
    unit: int
    """Address that it is delivered with."""
    function: int
    max_registers: int
    quantities: tuple[Quantity, ...]
    sense: Callable[[World, int], Mapping[str, float]]
    """Values at a place and UTC time in nanoseconds, by name."""
    measurement: str = "weather"

    def snapshot(
        self, world: World, now_ns: int, broken: frozenset[str]
    ) -> tuple[dict[int, int], dict[int, tuple[Quantity, Value]]]:
        """Registers by address, and what lies at the first address of each quantity."""
        sensed = self.sense(world, now_ns)
        registers: dict[int, int] = {}
        told: dict[int, tuple[Quantity, Value]] = {}
        for quantity in self.quantities:
            if quantity.name in broken and quantity.invalid is not None:
                raw, value = quantity.invalid, None
            else:
                raw = quantity.raw(sensed[quantity.name])
                value = quantity.meaning(raw)
            told[quantity.address] = (quantity, value)
            registers.update(enumerate(quantity.registers(raw), quantity.address))
        return registers, told


def _ws90(world: World, now_ns: int) -> dict[str, float]:
    weather = world.weather(now_ns)
    total = weather.rain_amount_total
    return {
        "illuminance": weather.illuminance,
        "uv_index": weather.uv_index,
        "air_temperature": weather.air_temperature,
        "relative_humidity": weather.relative_humidity,
        "wind_speed": weather.wind_speed,
        "wind_gust": weather.wind_gust,
        "wind_direction": weather.wind_direction,
        "rain_amount": total,
        "barometric_pressure": weather.barometric_pressure,
        "rain_amount_total": total % 655.36,  # the register wraps
    }


def _sensecap(world: World, now_ns: int) -> dict[str, float]:
    weather, air = world.weather(now_ns), world.air_quality(now_ns)
    return {
        "air_temperature": weather.air_temperature,
        "relative_humidity": weather.relative_humidity,
        "barometric_pressure": weather.barometric_pressure,
        "illuminance": weather.illuminance,
        "wind_direction_min": max(0.0, weather.wind_direction - 9),
        "wind_direction_max": min(359.0, weather.wind_direction + 11),
        "wind_direction": weather.wind_direction,
        "wind_speed_min": weather.wind_speed * 0.7,
        "wind_speed_max": weather.wind_gust,
        "wind_speed": weather.wind_speed,
        "rain_amount_total": weather.rain_amount_total,
        "pm2_5": air.pm2_5,
        "pm10": air.pm10,
        "co2": air.co2,
    }


def _thousandths(name: str, address: int, step: str = "0.001") -> Quantity:
    return Quantity(name, address, step, words=2, signed=True)


MAPS: Final[Mapping[str, RegisterMap]] = MappingProxyType(
    {
        "ecowitt-ws90": RegisterMap(
            model="ecowitt-ws90",
            unit=0x90,
            function=3,
            max_registers=32,
            quantities=(
                Quantity("illuminance", 0x0165, "10", invalid=0xFFFF),
                Quantity("uv_index", 0x0166, "0.1", invalid=0xFFFF),
                Quantity("air_temperature", 0x0167, "0.1", zero="-40", invalid=0xFFFF),
                Quantity("relative_humidity", 0x0168, "1", invalid=0xFFFF),
                Quantity("wind_speed", 0x0169, "0.1", invalid=0xFFFF),
                Quantity("wind_gust", 0x016A, "0.1", invalid=0xFFFF),
                Quantity("wind_direction", 0x016B, "1", invalid=0xFFFF),
                Quantity("rain_amount", 0x016C, "0.1"),
                Quantity("barometric_pressure", 0x016D, "0.1", invalid=0xFFFF),
                Quantity("rain_amount_total", 0x016E, "0.01"),
            ),
            sense=_ws90,
        ),
        "sensecap-one": RegisterMap(
            model="sensecap-one",
            unit=1,
            function=4,
            max_registers=64,
            quantities=(
                _thousandths("air_temperature", 0x0000),
                _thousandths("relative_humidity", 0x0002),
                _thousandths("barometric_pressure", 0x0004, "0.00001"),  # Pa x 1000, told in hPa
                _thousandths("illuminance", 0x0006),
                _thousandths("wind_direction_min", 0x0008),
                _thousandths("wind_direction_max", 0x000A),
                _thousandths("wind_direction", 0x000C),
                _thousandths("wind_speed_min", 0x000E),
                _thousandths("wind_speed_max", 0x0010),
                _thousandths("wind_speed", 0x0012),
                _thousandths("rain_amount_total", 0x0014),
                _thousandths("pm2_5", 0x0030),
                _thousandths("pm10", 0x0032),
                _thousandths("co2", 0x0040),
            ),
            sense=_sensecap,
        ),
    }
)
