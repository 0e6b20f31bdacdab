"""A Davis Vantage console, written from the protocol sheet: it sleeps, wakes, and sends LOOP packets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together

__all__ = ["Vantage"]

SLEEPS_AFTER_S: Final = 120.0


def crc16(data: bytes | bytearray) -> int:
    """CRC-CCITT: polynomial 0x1021, begin 0, most significant bit first."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021) & 0xFFFF if value & 0x8000 else value << 1
    return value


class Vantage(Simulator):
    """Vantage Pro2 at 19200 8N1 with a 0.2 mm collector; it knows no LPS with ``old_firmware=true``."""

    kind = "davis"
    baud = 19_200

    def __init__(
        self, *, packet_s: float = 2.5, old_firmware: bool = False, most_packets: int = 1000, **base: Any
    ) -> None:
        super().__init__(**base)
        self.packet_s = packet_s
        self.old_firmware = old_firmware
        self.most_packets = most_packets
        """A batch ends after so many, whatever the host asked for."""
        self.batches = self.wakes = 0
        self._awake_until = 0.0
        self._left = 0
        self._kind = 0
        self._begin = asyncio.Event()

    async def talk(self, end: End) -> None:
        self._left = 0
        await together(self._obey(end), self._send_packets(end))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-100:]
            self._left = 0  # whatever the host sends ends a batch
            while b"\n" in heard:
                line, heard = heard.split(b"\n", 1)
                asleep = time.monotonic() > self._awake_until
                self._awake_until = time.monotonic() + SLEEPS_AFTER_S
                if not line:
                    self.wakes += 1
                    await end.write(b"\n\r")
                elif not asleep:
                    await self._do(end, line.decode("ascii", "replace").split())

    async def _do(self, end: End, words: list[str]) -> None:
        match words:
            case ["LOOP", count]:
                kind = 0
            case ["LPS", "2", count] if not self.old_firmware:
                kind = 1
            case _:
                await end.write(b"\x15")
                return
        await end.write(b"\x06")
        self._kind, self._left = kind, min(int(count), self.most_packets)
        self.batches += 1
        self._begin.set()

    async def _send_packets(self, end: End) -> None:
        while True:
            self._begin.clear()
            if not self._left:
                await self._begin.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.packet_s):
                    await asyncio.Event().wait()
            if self._left:
                self._left -= 1
                await self._packet(end)

    async def _packet(self, end: End) -> None:
        weather = self.world.weather(self.now_ns())
        packet = bytearray(b"\xff" * 99)
        packet[0:3], packet[3], packet[4] = b"LOO", 20, self._kind

        def put(at: int, value: float, size: int = 2) -> int:
            packet[at : at + size] = round(value).to_bytes(size, "little", signed=value < 0)
            return round(value)

        told: dict[str, float] = {}
        told["sea_level_pressure"] = put(7, (weather.barometric_pressure + 4) / 33.86389 * 1000) * 0.03386389
        put(9, 711)
        put(11, 41, 1)
        told["air_temperature"] = (put(12, weather.air_temperature * 18 + 320) - 320) / 18
        told["wind_speed"] = put(14, weather.wind_speed / 0.44704, 1) * 0.44704
        told["wind_direction"] = put(16, weather.wind_direction % 360 or 360) % 360
        told["relative_humidity"] = put(33, weather.relative_humidity, 1)
        told["rain_rate"] = put(41, weather.rain_rate / 0.2) * 0.2
        told["uv_index"] = put(43, weather.uv_index * 10, 1) / 10
        told["solar_irradiance"] = put(44, weather.solar_irradiance)
        told["rain_amount_day"] = put(50, weather.rain_amount_total % 20 / 0.2) * 0.2
        if self._kind == 0:
            told["wind_speed_10min"] = put(15, weather.wind_speed / 0.44704, 1) * 0.44704
            told["rain_amount_total"] = put(54, weather.rain_amount_total / 0.2) * 0.2
            put(86, 0, 1)
            put(87, 807)
        else:
            told["wind_speed_10min"] = put(18, weather.wind_speed / 0.044704) * 0.044704
            told["wind_gust"] = put(22, weather.wind_gust / 0.44704) * 0.44704
            told["dew_point"] = (put(30, weather.dew_point * 1.8 + 32) - 32) / 1.8
            told["barometric_pressure"] = put(67, weather.barometric_pressure / 0.03386389) * 0.03386389
            put(58, 0)
        packet[95:97] = b"\n\r"
        packet[97:99] = crc16(packet[:97]).to_bytes(2, "big")
        shown = {name: round(value, 3) for name, value in told.items()}
        await end.send(bytes(packet), Told("weather", shown))
