"""SHDLC frames of the SPS30: flags ``7E``, stuffed bytes, an 8-bit complement sum, ten floats a reading."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from trisense.core.model import Quality
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["FIELDS", "MEASUREMENT", "READ", "START", "STOP", "WAKE", "ShdlcDecoder", "Sps30Codec", "request"]

MEASUREMENT: Final = "air_quality"
FLAG: Final = 0x7E
ESCAPE: Final = 0x7D
FLIPPED: Final = 0x20
STUFFED: Final = frozenset({0x7E, 0x7D, 0x11, 0x13})
OVERHEAD: Final = 5
"""Address, command, state, length and check."""

START: Final = 0x00
STOP: Final = 0x01
READ: Final = 0x03
WAKE: Final = 0x11
DEVICE_ERROR: Final = 0x80
"""Bit of ``state``: one of the device's own error flags is set."""

MASSES: Final = ("pm1", "pm2_5", "pm4", "pm10")
COUNTS: Final = tuple(f"pnc_lt_{size}um" for size in ("0_5", "1_0", "2_5", "4_0", "10"))
FIELDS: Final = (*MASSES, *COUNTS, "typical_particle_size")
READING_BYTES: Final = 4 * len(FIELDS)
LARGEST_UM: Final = 10.0
DIGITS: Final = 6
"""Significant digits kept of a 32-bit float: far below the sensor's precision of a tenth."""


def request(address: int, command: int, data: bytes = b"") -> bytes:
    """The frame that asks the sensor; it has no state byte."""
    body = bytes((address, command, len(data))) + data
    body += bytes((~sum(body) & 0xFF,))
    stuffed = bytearray()
    for byte in body:
        stuffed += bytes((ESCAPE, byte ^ FLIPPED)) if byte in STUFFED else bytes((byte,))
    return bytes((FLAG, *stuffed, FLAG))


def _unstuffed(stuffed: bytes) -> bytes | None:
    """One pass from left to right; None where a byte stands stuffed or bare that never does."""
    plain, escaped = bytearray(), False
    for byte in stuffed:
        if escaped:
            if byte ^ FLIPPED not in STUFFED:
                return None
            plain.append(byte ^ FLIPPED)
            escaped = False
        elif byte == ESCAPE:
            escaped = True
        elif byte in STUFFED:
            return None
        else:
            plain.append(byte)
    return None if escaped else bytes(plain)


class ShdlcDecoder(Decoder):
    max_frame = 2 * (OVERHEAD + 255) + 2

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != FLAG:
            found = data.find(FLAG, start)
            return Cut((found if found >= 0 else len(data)) - start)
        end = data.find(FLAG, start + 1, start + self.max_frame)
        if end < 0:
            return None
        if end == start + 1:  # the end of one frame and the beginning of the next
            return Cut(1)
        return _judge(data[start + 1 : end])


def _judge(stuffed: bytes) -> Cut:
    """What stands between two flags. The second flag of damage may be the first one of a good frame."""
    damaged = len(stuffed) + 1
    body = _unstuffed(stuffed)
    if body is None:
        return Cut(damaged, damage="stuffing")
    if len(body) < OVERHEAD or body[3] != len(body) - OVERHEAD:
        return Cut(damaged, damage="length")
    if ~sum(body[:-1]) & 0xFF != body[-1]:
        return Cut(damaged, damage="checksum")
    data = body[4:-1]
    frame: Frame = {
        "address": body[0],
        "command": body[1],
        "state": body[2],
        "data_length": len(data),
        "data": data.hex(),
    }
    if body[1] == READ and len(data) == READING_BYTES:
        frame["values"] = dict(zip(FIELDS, struct.unpack(">10f", data), strict=True))
        if not _plausible(frame["values"]):
            return Cut(damaged, damage="implausible")
        for name, value in frame["values"].items():
            frame["values"][name] = float(f"{value:.{DIGITS}g}")
    return Cut(damaged + 1, frame)


def _plausible(values: Mapping[str, float]) -> bool:
    """Lost bytes pass an 8-bit sum once in 256: coarse dust must include fine dust."""
    return (
        all(math.isfinite(value) and value >= 0 for value in values.values())
        and all(values[finer] <= values[coarser] for finer, coarser in pairwise(MASSES))
        and all(values[finer] <= values[coarser] for finer, coarser in pairwise(COUNTS))
        and values["typical_particle_size"] <= LARGEST_UM
    )


class Sps30Codec(FramedCodec):
    decoder = ShdlcDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "values" not in frame:
            return ()
        doubted = frame["values"] if frame["state"] & DEVICE_ERROR else ()
        return (Observed(MEASUREMENT, frame["values"], dict.fromkeys(doubted, Quality.SUSPECT)),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if "cmd" not in expected:
            return None
        return request(expected["address"], expected["cmd"], bytes.fromhex(expected["data"]))
