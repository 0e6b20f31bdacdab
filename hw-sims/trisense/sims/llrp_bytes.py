"""Bytes of an LLRP reader, written from the protocol sheet: messages, parameters, tag numbers."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "Malformed",
    "Request",
    "capabilities",
    "children",
    "gen2_crc",
    "message",
    "status",
    "tag_number",
    "tlv",
    "tv",
]

HEADER_BYTES: Final = 10
MAX_REQUEST_BYTES: Final = 65_536
OK: Final = 0


class Malformed(Exception):
    """The client sent bytes that are no LLRP."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message of the client."""

    type: int
    id: int
    body: bytes

    @classmethod
    def take(cls, heard: bytearray) -> Request | None:
        """Take the first whole message off ``heard``.

        Raises:
            Malformed: its header is none, or it is longer than a client's message can be.
        """
        if len(heard) < HEADER_BYTES:
            return None
        head, length, id_ = struct.unpack_from(">HII", heard)
        if head >> 10 != 1 or not HEADER_BYTES <= length <= MAX_REQUEST_BYTES:
            raise Malformed(f"header {heard[:HEADER_BYTES].hex()}")
        if len(heard) < length:
            return None
        body = bytes(heard[HEADER_BYTES:length])
        del heard[:length]
        return cls(head & 0x3FF, id_, body)


def message(type_: int, id_: int, body: bytes = b"") -> bytes:
    """A message of version 1."""
    return struct.pack(">HII", 1 << 10 | type_, len(body) + HEADER_BYTES, id_) + body


def tlv(type_: int, body: bytes = b"") -> bytes:
    return struct.pack(">HH", type_, len(body) + 4) + body


def tv(type_: int, body: bytes) -> bytes:
    return bytes([0x80 | type_]) + body


def status(code: int = OK, text: str = "", field: int | None = None) -> bytes:
    """LLRPStatus; ``field`` is the number of the field that is invalid (FieldError 300)."""
    said = text.encode()
    error = b"" if field is None else tlv(288, struct.pack(">HH", field, 300))
    return tlv(287, struct.pack(">HH", code, len(said)) + said + error)


def children(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each TLV in ``data``; requests hold no TV.

    Raises:
        Malformed: a length that does not fit.
    """
    place = 0
    while place < len(data):
        if len(data) - place < 4:
            raise Malformed("a parameter cut short")
        type_, size = struct.unpack_from(">HH", data, place)
        if type_ > 1023 or not 4 <= size <= len(data) - place:
            raise Malformed(f"parameter {type_} of {size} bytes")
        yield type_, data[place + 4 : place + size]
        place += size


def capabilities(antennas: int, powers_dbm: tuple[float, ...], hop_table_khz: tuple[int, ...]) -> bytes:
    """General, LLRP, regulatory and air protocol capabilities of a reader with a UTC clock."""
    firmware = b"9.1.0-sim"
    general = struct.pack(">HHIIH", antennas, 0x4000, 0, 1, len(firmware)) + firmware
    general += tlv(139, struct.pack(">Hh", 1, 0)) + tlv(141, struct.pack(">HH", 4, 4))
    for antenna in range(1, antennas + 1):
        general += tlv(140, struct.pack(">HHB", antenna, 1, 1))
    llrp = struct.pack(">BBHIIIII", 0x48, 1, 0, 1, 1, 1, 0, 0)
    band = b"".join(tlv(145, struct.pack(">Hh", i, round(dbm * 100))) for i, dbm in enumerate(powers_dbm, 1))
    hops = struct.pack(f">BBH{len(hop_table_khz)}I", 1, 0, len(hop_table_khz), *hop_table_khz)
    band += tlv(146, b"\x80" + tlv(147, hops))
    mode = struct.pack(">IBBBBIIIII", 1000, 0x40, 1, 0, 2, 40_000, 1500, 6250, 25_000, 6250)
    band += tlv(328, tlv(329, mode))
    regulatory = struct.pack(">HH", 840, 1) + tlv(144, band)
    return tlv(137, general) + tlv(142, llrp) + tlv(143, regulatory) + tlv(327, struct.pack(">BH", 0, 2))


def gen2_crc(data: bytes) -> int:
    """CRC-16 of class 1 generation 2 over PC and EPC."""
    value = 0xFFFF
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value ^ 0xFFFF


def tag_number(own: random.Random) -> bytes:
    """An EPC as they pass in a street: goods, assets, unprogrammed tags, private numbers of 128 bits."""
    kind = own.random()
    if kind < 0.6:
        # SGTIN-96, filter 1, partition 5: a prefix of 7 digits and an item of 6.
        value = 0x30 << 88 | 1 << 85 | 5 << 82
        value |= own.randrange(600_000, 700_000) << 58 | own.randrange(900_000) << 38 | own.randrange(2**38)
        return value.to_bytes(12, "big")
    if kind < 0.75:
        # GIAI-96, filter 0, partition 5.
        value = 0x34 << 88 | 5 << 82 | own.randrange(400_000, 500_000) << 58 | own.randrange(10**9)
        return value.to_bytes(12, "big")
    if kind < 0.9:
        return b"\xe2\x80\x11\x60" + own.randbytes(8)
    return b"\xa5" + own.randbytes(15)
