"""A Hi-Link LD2450 radar, written from the protocol sheet: ten reports a second of up to three people."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together
from trisense.sims.world import Walker

__all__ = ["Ld2450"]

PERIOD_S: Final = 0.1
SLOTS: Final = 3
RESOLUTION_MM: Final = 320
RANGE_M: Final = 6.0
NO_CHECK_AT: Final = 28
"""Reports have no check; their tail is what a flipped bit is noticed by."""
COMMAND_HEAD: Final = b"\xfd\xfc\xfb\xfa"
COMMAND_TAIL: Final = b"\x04\x03\x02\x01"


class Ld2450(Simulator):
    """LD2450 at 256000 8N1."""

    kind = "ld2450"
    baud = 256_000

    def __init__(self, *, period_s: float = PERIOD_S, **base: Any) -> None:
        super().__init__(**base)
        self.period_s = period_s
        self.configuring = False

    async def talk(self, end: End) -> None:
        await together(self._tell(end), self._obey(end))

    async def _tell(self, end: End) -> None:
        while True:
            if not self.configuring:
                await self._report(end)
            await asyncio.sleep(self.period_s)

    async def _report(self, end: End) -> None:
        walkers = [w for w in self.world.walkers(self.now_ns()) if w.x_m**2 + w.y_m**2 <= RANGE_M**2]
        # Slots follow the distance, so they are given anew when somebody overtakes: no identity.
        walkers.sort(key=lambda w: w.x_m**2 + w.y_m**2)
        frame, told = b"\xaa\xff\x03\x00", []
        for walker in walkers[:SLOTS]:
            slot, row = _slot(walker)
            frame += slot
            told.append(Told("radar_target", row))
        frame += bytes(8 * (SLOTS - len(told))) + b"\x55\xcc"
        await end.send(frame, Told("radar_presence", {"target_count": len(told)}), *told, check=NO_CHECK_AT)

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-256:]
            while (at := heard.find(COMMAND_HEAD)) >= 0 and (stop := heard.find(COMMAND_TAIL, at)) >= 0:
                payload, heard = heard[at + 6 : stop], heard[stop + 4 :]
                await self._do(end, payload)

    async def _do(self, end: End, payload: bytes) -> None:
        (word,) = struct.unpack_from("<H", payload)
        if word == 0xFF:
            self.configuring = True
            answer = b"\x00\x00\x01\x00\x40\x00"
        elif not self.configuring:
            answer = b"\x01\x00"  # refused: outside of configuration mode
        else:
            self.configuring = word != 0xFE
            answer = b"\x00\x00"
        body = struct.pack("<H", word | 0x0100) + answer
        await end.send(COMMAND_HEAD + struct.pack("<H", len(body)) + body + COMMAND_TAIL)


def _slot(walker: Walker) -> tuple[bytes, dict[str, float]]:
    """The eight bytes of a target and what they tell."""
    x_mm, y_mm = round(walker.x_m * 1000), round(walker.y_m * 1000)
    distance = max(0.1, (walker.x_m**2 + walker.y_m**2) ** 0.5)
    approach_cm_s = round(-(walker.x_m * walker.vx_mps + walker.y_m * walker.vy_mps) / distance * 100)
    told = {
        "x": x_mm / 1000,
        "y": y_mm / 1000,
        "radial_speed": approach_cm_s / 100,
        "distance_resolution": RESOLUTION_MM / 1000,
    }
    words = (_sign_and_magnitude(x_mm), _sign_and_magnitude(y_mm), _sign_and_magnitude(approach_cm_s))
    return struct.pack("<HHHH", *words, RESOLUTION_MM), told


def _sign_and_magnitude(value: int) -> int:
    """Bit 15 set stands for positive, as no other device has it."""
    return value | 0x8000 if value > 0 else -value
