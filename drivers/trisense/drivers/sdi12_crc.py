"""The check of SDI-12 data and of Vaisala's ASCII messages: CRC-16 as three letters (SDI-12 1.4, 4.4.12)."""

from __future__ import annotations

from typing import Final

__all__ = ["CRC_SIZE", "checked", "crc"]

POLYNOMIAL: Final = 0xA001
CRC_SIZE: Final = 3


def crc(text: bytes) -> bytes:
    """The three letters for ``text``, which begins with the address."""
    value = 0
    for byte in text:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return bytes((0x40 | value >> 12, 0x40 | value >> 6 & 0x3F, 0x40 | value & 0x3F))


def checked(text: bytes) -> bytes | None:
    """``text`` without the three letters at its end; None where they do not fit it."""
    body = text[:-CRC_SIZE]
    return body if body and crc(body) == text[-CRC_SIZE:] else None
