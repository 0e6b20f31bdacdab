"""The operations of ``lists`` on int64 arrays: whole columns at once, for a gateway.

None looks for overflow: ``integers.Decoding`` bounds every result before it asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from trisense.core.errors import WireError
from trisense.core.wire import tables
from trisense.core.wire.bits import BitReader, natural

Vector: TypeAlias = NDArray[np.int64]
ENOUGH: Final = 1.25
"""Columns hardly ever take more bits than what is expected of their code, times this."""
ROUNDING: Final = 1 + 2**-20
"""More than a sum of doubles can be too small by."""
POWERS: Final = 1 << np.arange(7, -1, -1, dtype=np.int64)
CONTAINERS: Final = ((8, ">u1"), (16, ">u2"), (32, ">u4"), (64, ">u8"))


class WindowReader(BitReader):
    """Knows, for each bit of a stream, the 15 bits that begin there."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.octets = np.frombuffer(data + bytes(2), np.uint8)
        words = self.octets[:-2].astype(np.uint32) << 16
        words |= self.octets[1:-1].astype(np.uint32) << 8
        words |= self.octets[2:]
        windows = np.empty((len(words), 8), np.uint16)
        for bit in range(8):
            windows[:, bit] = (words >> (24 - tables.CODE_BITS - bit)) & ((1 << tables.CODE_BITS) - 1)
        self.windows = windows.reshape(-1)
        self._window = self.windows.data

    def fixed(self, width: int) -> int:
        if width > tables.CODE_BITS or self.position + width >= self.end:
            return super().fixed(width)
        start = self.position
        self.position = start + width
        return self._window[start] >> (tables.CODE_BITS - width)

    def natural(self) -> int:
        start = self.position
        if start + tables.CODE_BITS < self.end:
            lengths, values = _short_naturals()
            window = self._window[start]
            if lengths[window]:
                self.position = start + lengths[window]
                return values[window]
        return super().natural()


@lru_cache(maxsize=1)
def _short_naturals() -> tuple[bytes, memoryview]:
    """For each window that a short natural begins: its length, else 0; and the number."""
    lengths = np.zeros(1 << tables.CODE_BITS, np.uint8)
    values = np.zeros(1 << tables.CODE_BITS, np.uint16)
    number = 0
    while len(code := natural(number)) <= tables.CODE_BITS:
        free = tables.CODE_BITS - len(code)
        start = int(code, 2) << free
        lengths[start : start + (1 << free)] = len(code)
        values[start : start + (1 << free)] = number
        number += 1
    return lengths.tobytes(), values.data


def reader(data: bytes) -> WindowReader:
    return WindowReader(data)


def _windowed(reader: BitReader) -> WindowReader:
    if not isinstance(reader, WindowReader):
        raise TypeError
    return reader


@lru_cache(maxsize=tables.TABLES)
def _lookup(table: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    lengths, symbols = tables.lookup(table)
    return np.frombuffer(lengths, np.uint8), np.frombuffer(symbols, np.uint8)


def symbols(reader: BitReader, count: int, table: int) -> Vector:
    """So many code words of one table."""
    start, left = reader.position, reader.end - reader.position
    if count > left:
        raise WireError("truncated", f"{count} code words wanted, {left} bits left")
    windows = _windowed(reader).windows[start:]
    lengths, values = _lookup(table)
    likely = int(count * tables.code(table).bits * ENOUGH) + tables.CODE_BITS
    begins, end = _begins(lengths, windows, count, likely)
    if end > left:
        raise WireError("truncated", "a code word runs past the end")
    reader.position = start + end
    return values.take(windows.take(begins)).astype(np.int64)


def _begins(
    lengths: NDArray[np.uint8], windows: NDArray[np.uint16], count: int, likely: int
) -> tuple[NDArray[np.intp], int]:
    """Where each of ``count`` words begins, and where the last ends, ``likely`` within so many bits.

    The length of a word is looked up for every bit at once; only the walk from word to word is a loop.
    """
    for size in (likely, count * tables.CODE_BITS):
        sizes = lengths.take(windows[:size]).tobytes()
        marks = bytearray(len(sizes))
        at = 0
        try:
            for _ in range(count):
                marks[at] = 1
                at += sizes[at]
        except IndexError:
            continue
        return np.frombuffer(marks, np.bool_).nonzero()[0], at
    raise WireError("truncated", "a code word runs past the end")


def plane(reader: BitReader, count: int, width: int) -> Vector:
    """So many numbers of one width."""
    start = reader.take(count * width)
    stop = start + count * width
    bits = np.unpackbits(_windowed(reader).octets[start >> 3 : (stop + 7) >> 3])
    table: NDArray[np.uint8] = bits[start & 7 : (start & 7) + count * width].reshape(count, width)
    if width <= 8:
        return table @ POWERS[-width:]
    size, kind = next(c for c in CONTAINERS if c[0] >= width)
    spread = np.zeros((count, size), np.uint8)
    spread[:, size - width :] = table
    packed: Vector = np.packbits(spread, axis=1).view(kind).reshape(count).astype(np.int64)
    return packed


def fill(count: int, value: int) -> Vector:
    return np.full(count, value, np.int64)


def equal_to(values: Vector, value: int) -> Vector:
    """Rows that hold ``value``."""
    rows: Vector = (values == value).nonzero()[0]
    return rows


def place(base: Vector, rows: Vector, values: Vector) -> Vector:
    """``base`` with ``values`` added at ``rows``."""
    base[rows] += values
    return base


def unranked(ranks: Vector, listed: list[int]) -> Vector:
    """A rank below the length of the list stands for its entry, a larger one for what it is beyond."""
    entries = np.array(listed, np.int64)
    return np.where(ranks < len(listed), entries.take(ranks, mode="clip"), ranks - len(listed))


def joined(tops: Vector, lows: Vector, shift: int) -> Vector:
    return (tops << shift) | lows


def centred(naturals: Vector, centre: int) -> Vector:
    """Zig-zag undone, centre added."""
    signed = (naturals >> 1) ^ -(naturals & 1)
    return signed + centre if centre else signed


def cumulate(first: int, steps: Vector) -> Vector:
    """Running sum that begins with ``first``."""
    result = np.empty(len(steps) + 1, np.int64)
    result[0] = 0
    steps.cumsum(out=result[1:])
    return result + first if first else result


def concat(first: int, rest: Vector) -> Vector:
    result = np.empty(len(rest) + 1, np.int64)
    result[0], result[1:] = first, rest
    return result


def differences(values: Vector, order: int) -> Vector:
    """Rows 1 and on for order 0 and 1, rows 2 and on for order 2."""
    for _ in range(order):
        values = values[1:] - values[:-1]
    return values if order else values[1:]


def weighted(parts: Sequence[Vector], weights: Sequence[int], shift: int) -> Vector:
    """(sum of weight x part) >> shift, rounded half up."""
    total = np.full(len(parts[0]), 1 << shift >> 1, np.int64)
    for part, weight in zip(parts, weights, strict=True):
        total += part * weight
    return total >> min(shift, 63)


def add(left: Vector, right: Vector) -> Vector:
    return left + right


def affine(values: Vector, step: int, first: int) -> Vector:
    """Each value times ``step``, plus ``first``."""
    return values * step + first if step != 1 else values + first


def take(values: Vector, rows: Vector) -> Vector:
    return values[rows]


def rows_by(keys: Sequence[Vector]) -> Vector:
    """Rows in the order of the first key, then of the next; equal ones stay in their order."""
    return np.lexsort(tuple(reversed(keys)))


def unsorted(values: Vector, order: Vector) -> Vector:
    """Puts back what was taken in ``order``."""
    result = np.empty_like(values)
    result[order] = values
    return result


def limits(values: Vector) -> tuple[int, int]:
    """The lowest and the highest; 0 where there is none."""
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


def variation(values: Vector) -> int:
    """At least the sum of all sizes: no running sum of the values is larger."""
    return int(np.abs(values).sum(dtype=np.float64) * ROUNDING) + 1


def others(nulls: Sequence[int], rows: int) -> Vector:
    """Rows that are no nulls."""
    rest: Vector = _present(nulls, rows).nonzero()[0]
    return rest


def filled(values: Vector, nulls: Sequence[int], rows: int) -> Vector:
    """All rows: a null one holds the value before it, or else the first."""
    if not nulls:
        return values
    last: Vector = np.maximum(_present(nulls, rows).cumsum() - 1, 0)
    return values[last]


def spread(values: NDArray[Any], nulls: Sequence[int], rows: int) -> NDArray[Any]:
    """All rows: 0 at a null one."""
    if not nulls:
        return values
    result = np.zeros(rows, values.dtype)
    result[_present(nulls, rows)] = values
    return result


def _present(nulls: Sequence[int], rows: int) -> NDArray[np.bool_]:
    present = np.ones(rows, np.bool_)
    present[np.array(nulls)] = False
    return present


def vector(values: list[int]) -> Vector:
    return np.array(values, np.int64)


def listed(values: Vector) -> list[int]:
    found: list[int] = values.tolist()
    return found
