"""A stream of bits: fixed widths, Elias delta numbers, and columns of them.

Written as text of ``0`` and ``1``, which is what makes a pure Python encoder fast; most significant
bit first. ``BitReader`` checks what is left before it allocates anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from trisense.core.errors import WireError

__all__ = ["NUMBER_BITS", "BitReader", "fixed", "integer", "natural", "plane", "to_bytes", "zigzag"]

NUMBER_BITS: Final = 72
"""Widest number in a stream: a zig-zag difference of two signed 64-bit integers needs 66."""
WORD_BITS: Final = 10
"""Up to this width the text of every number is kept: looking it up is five times as fast."""
NATURALS: Final = 4096
"""Texts of single numbers that are kept: counts, widths and names are the same in every bundle."""
LENGTH_BITS: Final = NUMBER_BITS.bit_length()


def fixed(value: int, width: int) -> str:
    """``width`` bits; none where the width is 0."""
    return format(value, f"0{width}b") if width else ""


@lru_cache(maxsize=NATURALS)
def natural(value: int) -> str:
    """Elias delta code of value + 1: one bit for 0, about log2 for large numbers."""
    length = (value + 1).bit_length()
    prefix = format(length, "b")
    return "0" * (len(prefix) - 1) + prefix + format(value + 1, "b")[1:]


def zigzag(value: int) -> int:
    """0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ..."""
    return value * 2 if value >= 0 else -2 * value - 1


def integer(value: int) -> str:
    """``natural`` of the zig-zag form: any sign."""
    return natural(zigzag(value))


def plane(values: Iterable[int], width: int) -> str:
    """The low ``width`` bits of each value."""
    if not width:
        return ""
    if width <= WORD_BITS:
        words, low = _words(width), (1 << width) - 1
        return "".join([words[value & low] for value in values])
    mask, form = (1 << width) - 1, f"0{width}b"
    return "".join([format(value & mask, form) for value in values])


@lru_cache(maxsize=16)
def _words(width: int) -> list[str]:
    return [format(value, f"0{width}b") for value in range(1 << width)]


def to_bytes(bits: str) -> bytes:
    """Whole bytes, the last one filled with zeros."""
    size = (len(bits) + 7) // 8
    return int(bits.ljust(size * 8, "0") or "0", 2).to_bytes(size, "big")


class BitReader:
    """Reads single numbers; columns are read by the operations of ``lists`` and ``arrays``."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._padded = data + bytes(12)
        self.position = 0
        """In bits."""
        self.end = len(data) * 8

    def take(self, bits: int) -> int:
        """Move past so many bits; return where they begin.

        Raises:
            WireError: ``truncated``: there are not so many left.
        """
        start = self.position
        if bits > self.end - start:
            raise WireError("truncated", f"{bits} bits wanted, {self.end - start} left")
        self.position = start + bits
        return start

    def fixed(self, width: int) -> int:
        stop = self.take(width) + width
        chunk = int.from_bytes(self.data[(stop - width) >> 3 : (stop + 7) >> 3], "big")
        return (chunk >> (-stop & 7)) & ((1 << width) - 1)

    def word(self, lengths: bytes, symbols: bytes, width: int) -> int:
        """The symbol of one code word, looked up by the next ``width`` bits, at most 16."""
        start = self.position
        chunk = int.from_bytes(self._padded[start >> 3 : (start >> 3) + 3], "big")
        window = chunk >> (24 - width - (start & 7)) & ((1 << width) - 1)
        self.take(lengths[window])
        return symbols[window]

    def natural(self) -> int:
        start = self.position
        byte, skipped = start >> 3, start & 7
        # The longest code has 13 bits of length and 71 of number: with the skipped ones, 12 bytes.
        chunk = int.from_bytes(self._padded[byte : byte + 12], "big") & ((1 << (96 - skipped)) - 1)
        left = 96 - skipped
        zeros = left - chunk.bit_length()
        left -= 2 * zeros + 1
        length = chunk >> left if zeros < LENGTH_BITS else NUMBER_BITS + 1
        if length > NUMBER_BITS:
            raise WireError("number", "longer than any number in a bundle")
        left -= length - 1
        self.take(2 * zeros + length)
        return ((chunk >> left) & ((1 << (length - 1)) - 1) | 1 << (length - 1)) - 1

    def integer(self) -> int:
        value = self.natural()
        return value >> 1 if not value & 1 else -(value >> 1) - 1

    def bounded(self, high: int, what: str) -> int:
        """A natural of at most ``high``.

        Raises:
            WireError: ``range``: a larger one.
        """
        value = self.natural()
        if value > high:
            raise WireError("range", f"{what} {value}, at most {high}")
        return value
