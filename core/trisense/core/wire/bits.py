"""A stream of bits: fixed widths, Elias delta numbers, and columns of them.

Written as text of ``0`` and ``1``, which is what makes a pure Python encoder fast; most significant
bit first. ``BitReader`` checks what is left before it allocates anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trisense.core.errors import WireError

__all__ = ["NUMBER_BITS", "BitReader", "fixed", "integer", "natural", "plane", "to_bytes", "zigzag"]

NUMBER_BITS: Final = 72
"""Widest number in a stream: a zig-zag difference of two signed 64-bit integers needs 66."""


def fixed(value: int, width: int) -> str:
    """``width`` bits; none where the width is 0."""
    return format(value, f"0{width}b") if width else ""


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
    mask, form = (1 << width) - 1, f"0{width}b"
    return "".join([format(value & mask, form) for value in values])


def to_bytes(bits: str) -> bytes:
    """Whole bytes, the last one filled with zeros."""
    size = (len(bits) + 7) // 8
    return int(bits.ljust(size * 8, "0") or "0", 2).to_bytes(size, "big")


class BitReader:
    """Reads single numbers; columns are read by the operations of ``lists`` and ``arrays``."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        """In bits."""
        self.end = len(data) * 8
        self.cache: object = None
        """What ``arrays`` keeps of the data between columns."""

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
        start = self.take(width)
        stop = start + width
        chunk = int.from_bytes(self.data[start >> 3 : (stop + 7) >> 3], "big")
        return (chunk >> (-stop & 7)) & ((1 << width) - 1)

    def natural(self) -> int:
        prefix = 1
        while not self.fixed(1):
            prefix += 1
            if prefix > NUMBER_BITS.bit_length():
                raise WireError("number", "longer than any number in a bundle")
        length = (1 << (prefix - 1)) | self.fixed(prefix - 1)
        if length > NUMBER_BITS:
            raise WireError("number", f"{length} bits")
        return ((1 << (length - 1)) | self.fixed(length - 1)) - 1

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
