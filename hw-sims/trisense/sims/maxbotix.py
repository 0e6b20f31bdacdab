"""A MaxBotix HRXL over snow, written from the protocol sheet: text with stray bytes in it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told

__all__ = ["Maxbotix"]

BLIND_MM: Final = 300


class Maxbotix(Simulator):
    """HRXL-MaxSonar-WR at 9600 8N1, ``height_m`` above what it sees; ``stray`` is the chance of a 0xFF."""

    kind = "maxbotix"

    def __init__(
        self, *, height_m: float = 2.2, period_s: float = 0.15, stray: float = 0.05, **base: Any
    ) -> None:
        super().__init__(**base)
        self.height_m = height_m
        self.period_s = period_s
        self.stray = stray

    async def talk(self, end: End) -> None:
        while True:
            await asyncio.sleep(self.period_s)
            weather = self.world.weather(self.now_ns())
            snow_m = 0.3 if weather.air_temperature < 0 else 0.0
            jitter_mm = self.random.randint(-2, 2)
            mm = min(5000, max(BLIND_MM, round(1000 * (self.height_m - snow_m)) + jitter_mm))
            text = b"R%04d\r" % mm
            if self.random.random() < self.stray:
                at = self.random.randrange(len(text))
                text = text[:at] + b"\xff" + text[at:]
            told = Told("distance", {"distance": mm / 1000 if mm < 5000 else None})
            await end.send(text, told, check=-1)
