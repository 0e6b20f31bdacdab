"""A weather station that sends NMEA 0183, written from the protocol sheet: MWV, MDA and XDR by turns."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told

__all__ = ["NmeaStation"]

MPS_PER_KNOT: Final = 0.514444
HPA_PER_INHG: Final = 33.86389


class NmeaStation(Simulator):
    """Station at 4800 8N1; ``speed_unit`` is the letter of its MWV sentences, ``wxt`` adds a WXT530's XDR."""

    kind = "nmea-weather"
    baud = 4800

    def __init__(
        self,
        *,
        talker: str = "WI",
        speed_unit: str = "N",
        wxt: bool = False,
        iced: bool = False,
        period_s: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if speed_unit not in "KMN":
            raise ValueError(f"speed_unit {speed_unit!r}: K, M or N")
        self.talker = talker
        self.speed_unit = speed_unit
        self.wxt = wxt
        self.iced = iced
        """The head cannot measure: status V."""
        self.period_s = period_s

    async def talk(self, end: End) -> None:
        while True:
            await self._mwv(end)
            await self._mda(end)
            await self._xdr(end)
            await asyncio.sleep(self.period_s)

    async def _say(self, end: End, text: str, *told: Told) -> None:
        body = f"{self.talker}{text}"
        check = 0
        for letter in body:
            check ^= ord(letter)
        await end.send(f"${body}*{check:02X}\r\n".encode(), *told, check=-3)

    async def _mwv(self, end: End) -> None:
        if self.iced:
            await self._say(end, f"MWV,,R,,{self.speed_unit},V")
            return
        weather = self.world.weather(self.now_ns())
        mps = {"K": 1 / 3.6, "M": 1.0, "N": MPS_PER_KNOT}[self.speed_unit]
        angle, shown = round(weather.wind_direction, 1) % 360, round(weather.wind_speed / mps, 1)
        values: dict[str, Value] = {"wind_angle": angle, "wind_speed": shown * mps, "reference": "relative"}
        await self._say(end, f"MWV,{angle:.1f},R,{shown:.1f},{self.speed_unit},A", Told("wind", values))

    async def _mda(self, end: End) -> None:
        weather = self.world.weather(self.now_ns())
        bar = round(weather.barometric_pressure / 1000, 4)
        air, humidity, dew = (
            round(value, 1)
            for value in (weather.air_temperature, weather.relative_humidity, weather.dew_point)
        )
        inches = bar * 1000 / HPA_PER_INHG
        values = {
            "barometric_pressure": bar * 1000,
            "air_temperature": air,
            "relative_humidity": humidity,
            "dew_point": dew,
        }
        text = f"MDA,{inches:.4f},I,{bar:.4f},B,{air:.1f},C,,,{humidity:.1f},,{dew:.1f},C,,,,,,,,"
        await self._say(end, text, Told("weather", values))

    async def _xdr(self, end: End) -> None:
        weather = self.world.weather(self.now_ns())
        air = round(weather.air_temperature, 1)
        if not self.wxt:
            await self._say(end, f"XDR,C,{air:.1f},C,AIR", Told("xdr", {"air_temperature": air}))
            return
        total, rate = round(weather.rain_amount_total, 2), round(weather.rain_rate, 1)
        hail = "V,0.0,M,1,Z,0,s,1,R,0.0,M,1"
        text = f"XDR,V,{total:.2f},M,0,Z,30,s,0,R,{rate:.1f},M,0,{hail},R,{rate:.1f},M,2,R,0.0,M,3"
        values = {"rain_amount_total": total, "rain_rate": rate, "hail_amount": 0.0, "rain_duration": 30.0}
        await self._say(end, text, Told("xdr_rain", values))
