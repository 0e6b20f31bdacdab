"""A Hi-Link LD2450 radar, written from the protocol sheet: ten reports a second of up to three people."""

from __future__ import annotations

import struct
from typing import Final

from trisense.sims.base import End, Told
from trisense.sims.hilink import HiLink
from trisense.sims.world import Walker

__all__ = ["Ld2450"]

SLOTS: Final = 3
RESOLUTION_MM: Final = 320
RANGE_M: Final = 6.0
NO_CHECK_AT: Final = 28
"""Reports have no check; their tail is what a flipped bit is noticed by."""


class Ld2450(HiLink):
    """LD2450 at 256000 8N1."""

    kind = "ld2450"
    baud = 256_000

    async def report(self, end: End) -> None:
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
