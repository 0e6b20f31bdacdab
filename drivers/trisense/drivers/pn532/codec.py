"""Frames of the PN532 on a UART: start code, length with its complement, direction, code, data, checksum.

Around a frame stand a preamble and a postamble of zeros. ACK, NACK and error are frames of their own form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers.epc import SIGHTING
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["LIST_PASSIVE", "MAX_TARGETS", "Pn532Codec", "Pn532Decoder", "command"]

START: Final = b"\x00\xff"
FROM_HOST, FROM_MODULE, ERROR = 0xD4, 0xD5, 0x7F
FIRMWARE_ANSWER: Final = 0x03
LIST_PASSIVE: Final = 0x4A
LIST_ANSWER: Final = 0x4B
MAX_TARGETS: Final = 2
"""So many cards a PN532 keeps in hand at once."""
MAX_LENGTH: Final = 265
"""Direction, code and data."""
MAX_ZEROS: Final = 32
SHORT_FRAMES: Final[Mapping[bytes, str]] = {b"\x00\xff": "ACK", b"\xff\x00": "NACK"}
ISO_DEP: Final = 0x20
"""Bit of SEL_RES: an answer to select with its own length stands behind the UID."""
RANDOM_UID: Final = 0x08
"""First byte of a UID of four bytes that a card makes up anew each time (ISO 14443-3)."""
UID_BYTES: Final = (4, 7, 10)
TYPES: Final[Mapping[int, str]] = {
    0x00: "Ultralight or NTAG",
    0x08: "MIFARE Classic 1K",
    0x18: "MIFARE Classic 4K",
    0x20: "ISO-DEP",
    0x28: "ISO-DEP",
}
"""By SEL_RES."""


def command(code: int, data: bytes = b"") -> bytes:
    """A frame from the host; ``data`` of at most 253 bytes."""
    body = bytes((FROM_HOST, code)) + data
    return b"\x00" + START + bytes((len(body), -len(body) & 0xFF)) + body + bytes((-sum(body) & 0xFF, 0))


class Pn532Decoder(Decoder):
    """Takes both directions."""

    max_frame = MAX_ZEROS + len(START) + 6 + MAX_LENGTH + 2

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start]:
            return Cut(1)
        head = start
        while head < len(data) and data[head] == 0 and head - start <= MAX_ZEROS:
            head += 1
        if head == len(data):
            return None
        if data[head] != START[1] or head - start > MAX_ZEROS:
            return Cut(1)
        found = _body(data, head + 1)
        if found is None or found.frame is None:
            return found
        end = head + 1 + found.size
        if end == len(data):
            return None
        # Of the postamble one zero: every 256th noise inside a frame fits the one byte of its checksum.
        return Cut(1, damage="postamble") if data[end] else Cut(end + 1 - start, found.frame)


def _body(data: bytes, start: int) -> Cut | None:
    """What stands behind a start code, up to its checksum."""
    head = data[start : start + 5]
    if head[:2] in SHORT_FRAMES:
        return Cut(2, {"frame": SHORT_FRAMES[head[:2]]})
    extended = head[:2] == b"\xff\xff"
    if len(head) < (5 if extended else 2):
        return None
    outer = head if extended else head[:2]
    length = int.from_bytes(head[2:4], "big") if extended else head[0]
    if sum(outer[2:] or outer) & 0xFF or not 1 <= length <= MAX_LENGTH:
        return Cut(1, damage="length")
    body = data[start + len(outer) :][: length + 1]
    if len(body) <= length:
        return None
    frame = _frame(body[:-1]) if sum(body) & 0xFF == 0 else None
    return Cut(len(outer) + len(body), frame) if frame is not None else Cut(1, damage="checksum or content")


def _frame(body: bytes) -> Frame | None:
    if body[0] == ERROR and len(body) == 1:
        return {"frame": "ERROR"}
    if body[0] not in (FROM_HOST, FROM_MODULE) or len(body) < 2:
        return None
    code, data = body[1], body[2:]
    frame: Frame = {"tfi": body[:1].hex(), "code": body[1:2].hex(), "data": data.hex(), "dcs_ok": True}
    if (body[0], code) == (FROM_MODULE, FIRMWARE_ANSWER) and len(data) == 4:
        frame |= {"ic": data[0], "version": f"{data[1]}.{data[2]}", "support": data[3]}
    elif (body[0], code) == (FROM_MODULE, LIST_ANSWER):
        targets = _targets(data)
        return None if targets is None else frame | {"targets": targets}
    return frame


def _targets(data: bytes) -> list[Frame] | None:
    """Cards of type A; None where they do not fill the data."""
    found, rest = [], data[1:]
    for _ in range(data[0] if data else 0):
        if len(rest) < 5 or rest[4] not in UID_BYTES or len(rest) < 5 + rest[4]:
            return None
        uid = rest[5 : 5 + rest[4]]
        found.append(
            {"tg": rest[0], "sens_res": rest[1:3].hex(), "sel_res": rest[3:4].hex(), "uid": uid.hex()}
        )
        answer_to_select = rest[3] & ISO_DEP
        rest = rest[5 + len(uid) :]
        if answer_to_select and rest:
            if not 1 <= rest[0] <= len(rest):
                return None
            rest = rest[rest[0] :]
    return found if data and not rest else None


class Pn532Codec(FramedCodec):
    decoder = Pn532Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return [_sighting(target) for target in frame.get("targets", ())]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        (frame,) = expected["frames"]
        if frame["tfi"] != f"{FROM_HOST:02x}":
            return None
        return command(int(frame["code"], 16), bytes.fromhex(frame["data"]))


def _sighting(target: Frame) -> Observed:
    uid = bytes.fromhex(target["uid"])
    random = len(uid) == UID_BYTES[0] and uid[0] == RANDOM_UID
    selected = int(target["sel_res"], 16)
    values: dict[str, str | int] = {"uid_kind": "random" if random else "fixed", "sel_res": selected}
    if not random:  # it says nothing about who it is
        values["uid"] = target["uid"]
    if selected in TYPES:
        values["tag_type"] = TYPES[selected]
    return Observed(SIGHTING, values)
