"""A Vaisala WXT530 in its ASCII protocol, written from the protocol sheet: polls, CRC, its own counters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told

__all__ = ["Wxt", "letters"]

POLL: Final = re.compile(rb"([0-9A-Za-z])([Rr])([0-5]?)(.{3})?", re.DOTALL)
HEATING_V: Final = 24.1
SUPPLY_V: Final = 24.4
REFERENCE_V: Final = 3.51


def letters(text: bytes) -> bytes:
    """The three letters that check ``text``: its CRC-16 in pieces of 4, 6 and 6 bits."""
    remainder = 0
    for bit in (byte >> place & 1 for byte in text for place in range(8)):
        remainder = remainder >> 1 ^ (0xA001 if (remainder ^ bit) & 1 else 0)
    return bytes(0x40 + (remainder >> shift) % 64 for shift in (12, 6, 0))


class Wxt(Simulator):
    """WXT530 at 19200 8N1; ``drizzle_mm`` falls at each rain message besides the world's rain."""

    kind = "wxt"
    baud = 19_200

    def __init__(
        self,
        *,
        address: str = "0",
        fahrenheit: bool = False,
        drizzle_mm: float = 0.0,
        blocked: bool = False,
        heater: str = "N",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.address = address
        self.fahrenheit = fahrenheit
        self.drizzle_mm = drizzle_mm
        self.blocked = blocked
        """Birds or ice: wind cannot be measured."""
        self.heater = heater
        self.answers_as = ""
        """An address that it gives in place of its own: its neighbour talks in between."""
        self._last_mm: float | None = None
        self._messages: dict[str, Callable[[], tuple[str, list[Told]]]] = {
            "1": self._wind,
            "2": self._ptu,
            "3": self._rain,
            "5": self._supervisor,
        }
        self.power_up()

    def power_up(self) -> None:
        """Its counters begin anew."""
        self.rain_mm = 0.0

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-200:]
            while b"\n" in heard:
                line, heard = heard.split(b"\n", 1)
                await self._answer(end, line.rstrip(b"\r"))

    async def _answer(self, end: End, line: bytes) -> None:
        if line == b"?":
            await end.write(self.address.encode() + b"\r\n")
            return
        asked = POLL.fullmatch(line)
        if asked is None or asked[1].decode() != self.address:
            return
        with_crc = asked[2] == b"r"
        if with_crc and asked[4] != letters(line[:-3]):
            await self._say(end, f"{self.address}tX,Use chksum {letters(line[:-3]).decode()}", with_crc=True)
            return
        numbers = {"": ("1", "2", "3", "5"), "0": ("0",)}.get(asked[3].decode(), (asked[3].decode(),))
        for number in numbers:
            await self._tell(end, number, with_crc=with_crc)

    async def _tell(self, end: End, number: str, *, with_crc: bool) -> None:
        parts = self._messages.values() if number == "0" else [self._messages.get(number)]
        told = [part() for part in parts if part is not None]
        if not told:
            await self._say(
                end, f"{self.address}{'t' if with_crc else 'T'}X,Unknown cmd error", with_crc=with_crc
            )
            return
        address = self.answers_as or self.address
        text = ",".join([f"{address}{'r' if with_crc else 'R'}{number}", *(part for part, _ in told)])
        await self._say(end, text, *(row for _, rows in told for row in rows), with_crc=with_crc)

    async def _say(self, end: End, text: str, *told: Told, with_crc: bool) -> None:
        body = text.encode()
        check = letters(body) if with_crc else b""
        await end.send(body + check + b"\r\n", *told, check=-3)

    def _wind(self) -> tuple[str, list[Told]]:
        weather = self.world.weather(self.now_ns())
        mean = round(weather.wind_speed, 1)
        speeds = [round(mean * 0.7, 1), mean, max(mean, round(weather.wind_gust, 1))]
        direction = round(weather.wind_direction) % 360
        directions = [(direction - 15) % 360, direction, (direction + 15) % 360]
        letter = "#" if self.blocked else None
        parts = [f"D{k}={v:03d}{letter or 'D'}" for k, v in zip("nmx", directions, strict=True)]
        parts += [f"S{k}={v:.1f}{letter or 'M'}" for k, v in zip("nmx", speeds, strict=True)]
        if self.blocked:
            return ",".join(parts), []
        values = {
            f"wind_{quantity}{suffix}": value
            for quantity, readings in (("direction", directions), ("speed", speeds))
            for suffix, value in zip(("_min", "", "_max"), readings, strict=True)
        }
        return ",".join(parts), [Told("weather", values)]

    def _ptu(self) -> tuple[str, list[Told]]:
        weather = self.world.weather(self.now_ns())
        air = round(weather.air_temperature, 1)
        shown, unit = (round(air * 1.8 + 32, 1), "F") if self.fahrenheit else (air, "C")
        humidity, pressure = round(weather.relative_humidity, 1), round(weather.barometric_pressure, 1)
        values = {
            "air_temperature": (shown - 32) / 1.8 if self.fahrenheit else air,
            "relative_humidity": humidity,
            "barometric_pressure": pressure,
        }
        return f"Ta={shown:.1f}{unit},Ua={humidity:.1f}P,Pa={pressure:.1f}H", [Told("weather", values)]

    def _rain(self) -> tuple[str, list[Told]]:
        weather = self.world.weather(self.now_ns())
        fell_mm = self.drizzle_mm
        if self._last_mm is not None and weather.rain_amount_total > self._last_mm:
            fell_mm += weather.rain_amount_total - self._last_mm
        self._last_mm = weather.rain_amount_total
        self.rain_mm += fell_mm
        total, rate = round(self.rain_mm, 2), round(weather.rain_rate, 1)
        text = f"Rc={total:.2f}M,Rd=0s,Ri={rate:.1f}M,Hc=0.0M,Hd=0s,Hi=0.0M,Rp={rate:.1f}M,Hp=0.0M"
        return text, [Told("weather", {"rain_amount_total": total, "rain_rate": rate, "hail_amount": 0.0})]

    def _supervisor(self) -> tuple[str, list[Told]]:
        warm = round(self.world.weather(self.now_ns()).air_temperature + 1, 1)
        heating = 0.0 if self.heater in "N#" else HEATING_V
        text = (
            f"Th={warm:.1f}C,Vh={heating:.1f}{self.heater},Vs={SUPPLY_V:.1f}V,Vr={REFERENCE_V:.3f}V,Id=street"
        )
        values = {"heating_temperature": warm, "heating_voltage": heating, "supply_voltage": SUPPLY_V}
        return text, [Told("supervisor", {**values, "reference_voltage": REFERENCE_V, "info": "street"})]
