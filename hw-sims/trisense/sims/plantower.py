"""A Plantower PMS dust sensor, written from the protocol sheet: frames, commands, warm-up, its own pace."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together

__all__ = ["Plantower"]

PAYLOAD_WORDS: Final = {"pmsx003": 13, "pms5003t": 13, "pms3003": 9}
FAN_START_S: Final = 8.0
"""After power-up or waking the sensor tells zeros until its fan has drawn the first air."""
STEADY_S: Final = 2.3
CHANGING_S: Final = 0.8
"""In active mode a frame comes more often while the dust changes."""
VERSION: Final = 0x97
SIZES: Final = ("0_3", "0_5", "1_0", "2_5", "5_0", "10")
GRAINS: Final = 120
"""Grains above 0.3 um in 0.1 litre for each ug/m3; a captured street frame has about as many."""
SHARES: Final = (1.0, 0.29, 0.052, 0.0047, 0.0012, 0.0004)
"""How many of them are larger than each size."""


class Plantower(Simulator):
    """PMSx003, PMS5003T or PMS3003 at 9600 8N1; ``period_s=0`` keeps the sensor's own pace."""

    kind = "plantower"

    def __init__(
        self, *, model: str = "pmsx003", fan_start_s: float = FAN_START_S, period_s: float = 0.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if model not in PAYLOAD_WORDS:
            raise ValueError(f"model {model!r}: one of {', '.join(PAYLOAD_WORDS)}")
        self.model = model
        self.fan_start_s = fan_start_s
        self.period_s = period_s
        self.active = True
        self.asleep = False
        self._fan_began = time.monotonic()
        self._last_pm: int | None = None

    async def talk(self, end: End) -> None:
        await together(self._tell(end), self._obey(end))

    async def _tell(self, end: End) -> None:
        while True:
            changed = await self._report(end) if self.active and not self.asleep else False
            await asyncio.sleep(self.period_s or (CHANGING_S if changed else STEADY_S))

    async def _report(self, end: End) -> bool:
        """Send one data frame; true where the dust changed since the last one."""
        words, told = self._words()
        changed = self._last_pm is not None and words[4] != self._last_pm
        self._last_pm = words[4]
        body = b"\x42\x4d" + struct.pack(f">H{len(words)}H", 2 * len(words) + 2, *words)
        await end.send(body + struct.pack(">H", sum(body) % 0x10000), Told("air_quality", told))
        return changed

    def _words(self) -> tuple[list[int], dict[str, float]]:
        """The payload words, and what they tell."""
        masses, counts, climate = self._sense()
        told: dict[str, float] = {}
        for index, size in enumerate(("pm1", "pm2_5", "pm10")):
            told[size] = told[f"{size}_cf1"] = masses[index]
        if self.model == "pms3003":
            return [*masses, *masses, 0, 0, 0x51], told
        words = [*masses, *masses]
        if self.model == "pms5003t":
            counts = counts[:4]
            words += [*counts, *(word % 0x10000 for word in climate)]
            told |= {"air_temperature": climate[0] / 10, "relative_humidity": climate[1] / 10}
        else:
            words += counts
        told |= {f"pnc_gt_{size}um": count / 100 for size, count in zip(SIZES, counts, strict=False)}
        told["error_code"] = 0
        return [*words, VERSION << 8], told

    def _sense(self) -> tuple[list[int], list[int], list[int]]:
        """Masses in ug/m3, counts in 0.1 litre, climate in tenths."""
        if time.monotonic() - self._fan_began < self.fan_start_s:
            return [0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0]
        now = self.now_ns()
        air, weather = self.world.air_quality(now), self.world.weather(now)
        masses = [round(air.pm1), round(air.pm2_5), round(air.pm10)]
        counts = [int(air.pm2_5 * GRAINS * share) for share in SHARES]
        climate = [round(weather.air_temperature * 10), round(weather.relative_humidity * 10)]
        return masses, counts, climate

    async def _obey(self, end: End) -> None:
        """Carry out the commands of the host."""
        heard = b""
        while True:
            heard = (heard + await end.read())[-64:]
            while (at := heard.find(b"\x42\x4d")) >= 0 and len(heard) - at >= 7:
                command, heard = heard[at : at + 7], heard[at + 7 :]
                if sum(command[:5]) % 0x10000 == int.from_bytes(command[5:], "big"):
                    await self._do(end, command[2], command[4])

    async def _do(self, end: End, code: int, value: int) -> None:
        if self.model == "pms3003":  # knows no commands
            return
        if code == 0xE2:
            if not self.active and not self.asleep:
                await self._report(end)
            return
        if code == 0xE1:
            self.active = bool(value)
        elif code == 0xE4:
            if self.asleep and value:
                self._fan_began = time.monotonic()
            self.asleep = not value
        else:
            return
        reply = b"\x42\x4d\x00\x04" + bytes((code, value))
        await end.send(reply + struct.pack(">H", sum(reply)))
