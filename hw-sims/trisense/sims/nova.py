"""A Nova SDS dust sensor, written from the protocol sheet: reports, replies, sleep and working period."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together

__all__ = ["Nova"]

REPORT_S: Final = 1.0
WORKING_S: Final = 30.0
"""With a period set it works so long, then tells one reading and sleeps for the rest."""
COMMAND_BYTES: Final = 19
ID: Final = b"\xa1\x60"
WAKE_NOISE: Final = bytes.fromhex("00ff00fefc")
"""Five bytes of noise precede the first reply after waking (lewapek issue 6)."""


class Nova(Simulator):
    """SDS011 or SDS198 at 9600 8N1; ``asleep=true`` begins asleep, ``fan_start_s`` is told as zeros."""

    kind = "nova"

    def __init__(
        self,
        *,
        model: str = "sds011",
        report_s: float = REPORT_S,
        fan_start_s: float = 3.0,
        period_min: int = 0,
        asleep: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if model not in ("sds011", "sds198"):
            raise ValueError(f"model {model!r}: sds011 or sds198")
        self.model = model
        self.report_s = report_s
        self.fan_start_s = fan_start_s
        self.period_min = period_min
        self.asleep = asleep
        self.active = True
        self._woke = time.monotonic()

    async def talk(self, end: End) -> None:
        await together(self._tell(end), self._obey(end))

    async def _tell(self, end: End) -> None:
        while True:
            await asyncio.sleep(WORKING_S if self.period_min else self.report_s)
            if self.active and not self.asleep:
                await self._report(end)
            if self.period_min:
                await asyncio.sleep(60 * self.period_min - WORKING_S)

    async def _report(self, end: End) -> None:
        air = self.world.air_quality(self.now_ns())
        begun = time.monotonic() - self._woke >= self.fan_start_s
        if self.model == "sds198":
            words = [14, round(air.pm10 * 1.4) if begun else 0]
            told: dict[str, float] = {"pm100": words[1]}
        else:
            words = [round(air.pm2_5 * 10), round(air.pm10 * 10)] if begun else [0, 0]
            told = {"pm2_5": words[0] / 10, "pm10": words[1] / 10}
        payload = b"".join(word.to_bytes(2, "little") for word in words) + ID
        rows = (Told("air_quality", told),) if begun else ()
        await end.send(self._frame(0xCF if self.model == "sds198" else 0xC0, payload), *rows, check=8)

    @staticmethod
    def _frame(kind: int, payload: bytes) -> bytes:
        return bytes((0xAA, kind)) + payload + bytes((sum(payload) % 256, 0xAB))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-200:]
            while (at := heard.find(b"\xaa\xb4")) >= 0 and len(heard) - at >= COMMAND_BYTES:
                command, heard = heard[at : at + COMMAND_BYTES], heard[at + COMMAND_BYTES :]
                good = command[18] == 0xAB and sum(command[2:17]) % 256 == command[17]
                if good and command[15:17] in (b"\xff\xff", ID):
                    await self._do(end, command[2], command[3], command[4])

    async def _do(self, end: End, code: int, setting: int, value: int) -> None:
        if self.asleep:
            if (code, setting, value) != (6, 1, 1):  # asleep it hears nothing but "work"
                return
            await end.write(WAKE_NOISE)
        if code == 4:
            await self._report(end)
            return
        if code == 2 and setting:
            self.active = value == 0
        elif code == 6 and setting:
            if self.asleep and value:
                self._woke = time.monotonic()
            self.asleep = value == 0
        elif code == 8 and setting:
            self.period_min = value
        reply = {2: int(not self.active), 6: int(not self.asleep), 8: self.period_min}
        if code == 7:
            await end.send(self._frame(0xC5, bytes((7, 15, 7, 10)) + ID), check=8)
        elif code in reply:
            await end.send(self._frame(0xC5, bytes((code, setting, reply[code], 0)) + ID), check=8)
