"""Frames of the DR500: marks that may not stand inside, so they are escaped there, and a CRC-16/XMODEM."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["AVERAGE", "UNITS", "Dr500Codec", "Dr500Decoder", "message", "query_variable"]

BEGIN, END, ESCAPE = 0xF3, 0xFC, 0xFA
ESCAPES: Final = re.compile(rb"[\xfa\xf3\xfc]")
ESCAPED: Final = re.compile(rb"\xfa(.?)", re.DOTALL)
MEANT: Final[Mapping[bytes, bytes]] = {b"\x0a": b"\xfa", b"\x03": b"\xf3", b"\x0c": b"\xfc"}
AVERAGE, AVERAGE_REPLY = 0x31, 0x32
STATUS, VARIABLE_QUERY, VARIABLE_REPLY = 0x13, 0x18, 0x19
DOMAIN: Final = b"\x00"
UNITS: Final = (("mph", 1.609344), ("km/h", 1.0), ("ft/s", 1.09728), ("m/s", 3.6))
"""By the value of the variable UN: name, and km/h in one of it."""


def message(body: bytes) -> bytes:
    """The frame of a body."""
    whole = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    escaped = ESCAPES.sub(lambda found: bytes((ESCAPE, found[0][0] & 0x0F)), whole)
    return bytes((BEGIN,)) + escaped + bytes((END,))


def query_variable(name: str) -> bytes:
    """The question for a variable of two letters."""
    return message(bytes((VARIABLE_QUERY,)) + DOMAIN + name.encode("ascii"))


class Dr500Decoder(Decoder):
    max_frame = 100

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != BEGIN:
            return Cut(1)
        limit = start + self.max_frame
        end = data.find(END, start, limit)
        again = data.find(BEGIN, start + 1, limit if end < 0 else end)
        if again >= 0:
            return Cut(again - start, damage="lost its end")
        if end < 0:
            return None
        body = _body(data[start + 1 : end])
        size = end + 1 - start
        return Cut(size, damage=body) if isinstance(body, str) else Cut(size, _frame(body))


def _body(escaped: bytes) -> bytes | str:
    """What stands in a frame without its CRC, or what is wrong with it."""
    if any(found[1] not in MEANT for found in ESCAPED.finditer(escaped)):
        return "escape"
    whole = ESCAPED.sub(lambda found: MEANT[found[1]], escaped)
    if len(whole) < 3:
        return "too short"
    body, crc = whole[:-2], int.from_bytes(whole[-2:], "little")
    return body if binascii.crc_hqx(body, 0) == crc else "CRC"


def _frame(body: bytes) -> Frame:
    frame: Frame = {"msg": body[0], "data": body[1:].hex()}
    if body[0] == AVERAGE_REPLY and len(body) == 2:
        frame["avg_speed"] = body[1]
    elif body[0] == VARIABLE_REPLY and len(body) == 6 and body[2:4].isalpha():
        frame |= {"variable": body[2:4].decode("ascii"), "value": int.from_bytes(body[4:], "little")}
    elif body[0] == STATUS and len(body) == 3:
        frame["status"] = int.from_bytes(body[1:], "little", signed=True)
    return frame


class Dr500Codec(FramedCodec):
    """``unit`` is the radar's variable UN; without it a speed cannot be told."""

    decoder = Dr500Decoder

    def __init__(self, unit: int | None = None) -> None:
        self._unit = unit

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "avg_speed" not in frame:
            return ()
        values: dict[str, Value] = {"presence": int(frame["avg_speed"] > 0)}
        if frame["avg_speed"] and self._unit is not None:
            values["vehicle_speed"] = frame["avg_speed"] * UNITS[self._unit][1]
        return [Observed("radar_speed", values)]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return message(bytes((expected["msg"],)) + bytes.fromhex(expected.get("data", "")))
