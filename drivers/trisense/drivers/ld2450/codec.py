"""Frames of the LD2450: reports of three targets, and the command framing it shares with the LD2410.

The radar knows three sign conventions. Targets use sign and magnitude with an inverted sense: bit 15 set
means positive. Reports carry no check at all, so head, tail and plausible values decide together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["LEAVE_CONFIGURATION", "MULTI_TARGET", "Ld2450Codec", "Ld2450Decoder", "command"]

REPORT_HEAD: Final = b"\xaa\xff\x03\x00"
REPORT_TAIL: Final = b"\x55\xcc"
REPORT_BYTES: Final = 30
SLOT: Final = struct.Struct("<HHHH")
SLOTS: Final = 3
FAR_MM: Final = 12_000
"""Twice the range of the data sheet: beyond it nothing is a target."""
FAST_CM_S: Final = 3_000

REPLY_HEAD: Final = b"\xfd\xfc\xfb\xfa"
REPLY_TAIL: Final = b"\x04\x03\x02\x01"
REPLY_MAX: Final = 64
"""Longest payload of a reply, in bytes."""
ACK: Final = 0x0100

LEAVE_CONFIGURATION: Final = 0xFE
MULTI_TARGET: Final = 0x90


def command(word: int, data: bytes = b"") -> bytes:
    """A command to the radar."""
    payload = struct.pack("<H", word) + data
    return REPLY_HEAD + struct.pack("<H", len(payload)) + payload + REPLY_TAIL


class Ld2450Decoder(Decoder):
    max_frame = len(REPLY_HEAD) + 2 + REPLY_MAX + len(REPLY_TAIL)

    def cut(self, data: bytes, start: int) -> Cut | None:
        head = data[start : start + 4]
        if REPORT_HEAD.startswith(head):
            return _report(data, start)
        if REPLY_HEAD.startswith(head):
            return _reply(data, start)
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


def _reply(data: bytes, start: int) -> Cut | None:
    if len(data) - start < 6:
        return None
    (length,) = struct.unpack_from("<H", data, start + 4)
    if not 2 <= length <= REPLY_MAX:
        return Cut(1, damage=f"length {length}")
    end = start + 6 + length + len(REPLY_TAIL)
    if len(data) < end:
        return None
    if not data.startswith(REPLY_TAIL, end - len(REPLY_TAIL)):
        return Cut(1, damage="tail")
    (word,) = struct.unpack_from("<H", data, start + 6)
    rest = data[start + 8 : end - len(REPLY_TAIL)]
    frame: Frame = {"command": word & ~ACK, "ack": bool(word & ACK)}
    if frame["ack"] and len(rest) >= 2:
        frame["status"] = int.from_bytes(rest[:2], "little")
        rest = rest[2:]
    frame["data"] = rest.hex()
    return Cut(end - start, frame)


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
        if "command" not in expected or expected.get("ack"):
            return None
        return command(int(expected["command"]), bytes.fromhex(expected.get("data", "")))


def _row(target: Mapping[str, int]) -> dict[str, float | int | str | None]:
    return {
        "x": target["x_mm"] / 1000,
        "y": target["y_mm"] / 1000,
        "radial_speed": target["speed_cm_s"] / 100,
        "distance_resolution": target["resolution_mm"] / 1000,
    }
