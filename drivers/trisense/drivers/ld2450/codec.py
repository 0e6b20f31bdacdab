"""Frames of the LD2450: reports of three targets, and the commands it shares with its kin.

The radar knows three sign conventions. Targets use sign and magnitude with an inverted sense: bit 15 set
means positive. Reports carry no check at all, so head, tail and plausible values decide together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers import hilink
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["Ld2450Codec", "Ld2450Decoder"]

REPORT_HEAD: Final = b"\xaa\xff\x03\x00"
REPORT_TAIL: Final = b"\x55\xcc"
REPORT_BYTES: Final = 30
SLOT: Final = struct.Struct("<HHHH")
SLOTS: Final = 3
FAR_MM: Final = 12_000
"""Twice the range of the data sheet: beyond it nothing is a target."""
FAST_CM_S: Final = 3_000


class Ld2450Decoder(Decoder):
    max_frame = hilink.ENVELOPE_BYTES + hilink.REPLY_MAX

    def cut(self, data: bytes, start: int) -> Cut | None:
        head = data[start : start + 4]
        if REPORT_HEAD.startswith(head):
            return _report(data, start)
        if hilink.REPLY_HEAD.startswith(head):
            return hilink.reply(data, start)
        return Cut(1)


def _report(data: bytes, start: int) -> Cut | None:
    frame = data[start : start + REPORT_BYTES]
    if len(frame) < REPORT_BYTES:
        return None
    if not frame.endswith(REPORT_TAIL):
        return Cut(1, damage="tail")
    targets = [_target(frame, 4 + slot * SLOT.size) for slot in range(SLOTS)]
    if not all(target is None or _plausible(target) for target in targets):
        return Cut(1, damage="implausible")
    return Cut(REPORT_BYTES, {"targets": targets})


def _target(frame: bytes, at: int) -> dict[str, int] | None:
    if not any(frame[at : at + SLOT.size]):
        return None
    x, y, speed, resolution = SLOT.unpack_from(frame, at)
    return {
        "x_mm": _signed(x),
        "y_mm": _signed(y),
        "speed_cm_s": _signed(speed),
        "resolution_mm": resolution,
    }


def _signed(word: int) -> int:
    return word & 0x7FFF if word & 0x8000 else -word


def _plausible(target: Mapping[str, int]) -> bool:
    return (
        abs(target["x_mm"]) <= FAR_MM
        and 0 <= target["y_mm"] <= FAR_MM
        and abs(target["speed_cm_s"]) <= FAST_CM_S
    )


class Ld2450Codec(FramedCodec):
    decoder = Ld2450Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "targets" not in frame:
            return ()
        targets = [target for target in frame["targets"] if target is not None]
        return [
            Observed("radar_presence", {"target_count": len(targets)}),
            *(Observed("radar_target", _row(target)) for target in targets),
        ]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return hilink.encoded(expected)


def _row(target: Mapping[str, int]) -> dict[str, float | int | str | None]:
    return {
        "x": target["x_mm"] / 1000,
        "y": target["y_mm"] / 1000,
        "radial_speed": target["speed_cm_s"] / 100,
        "distance_resolution": target["resolution_mm"] / 1000,
    }
