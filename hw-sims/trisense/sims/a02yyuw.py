"""An A02YYUW over a stream of water, written from the protocol sheet: four bytes several times a second."""

from __future__ import annotations

import asyncio
from typing import Any

from trisense.sims.base import End, Simulator, Told

__all__ = ["A02yyuw"]


class A02yyuw(Simulator):
    """A02YYUW at 9600 8N1, ``height_m`` above a stream that rises with the rain."""

    kind = "a02yyuw"

    def __init__(
        self, *, height_m: float = 2.5, period_s: float = 0.3, sum_of: str = "frame", **base: Any
    ) -> None:
        super().__init__(**base)
        if sum_of not in ("frame", "distance"):
            raise ValueError(f"sum_of {sum_of!r}: frame or distance")
        self.height_m = height_m
        self.period_s = period_s
        self.sum_of = sum_of

    async def talk(self, end: End) -> None:
        while True:
            await asyncio.sleep(self.period_s)
            rise_m = min(1.5, self.world.weather(self.now_ns()).rain_rate / 20)
            waves_m = self.random.uniform(-0.004, 0.004)
            mm = max(0, round(1000 * (self.height_m - rise_m + waves_m)))
            body = b"\xff" + mm.to_bytes(2, "big")
            summed = body if self.sum_of == "frame" else body[1:]
            told = Told("distance", {"distance": mm / 1000 if mm > 30 else None})
            await end.send(body + bytes((sum(summed) % 256,)), told)
