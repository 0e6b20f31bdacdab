"""The operations of ``lists`` on int64 arrays: whole columns at once, for a gateway.

Each raises OverflowError where it cannot prove that int64 holds the result; the caller then decodes
that column with ``lists``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from trisense.core.errors import WireError
from trisense.core.wire import tables
from trisense.core.wire.bits import BitReader

Vector: TypeAlias = NDArray[np.int64]
WIDE: Final = 62
LIMIT: Final = 2**63 - 1
CHUNK_BITS: Final = 7
"""Code words take less on average: so many bits a word are looked up at first."""
CONTAINERS: Final = ((8, ">u1"), (16, ">u2"), (32, ">u4"), (64, ">u8"))


class Windows:
    """For each bit of a stream, the 15 bits that begin there."""

    def __init__(self, data: bytes) -> None:
        octets = np.frombuffer(data + bytes(2), np.uint8)
        words = octets[:-2].astype(np.uint32) << 16
        words |= octets[1:-1].astype(np.uint32) << 8
        words |= octets[2:]
        drops = np.arange(24 - tables.CODE_BITS, 16 - tables.CODE_BITS, -1, dtype=np.uint32)
        self.octets = octets
        self.at = ((words[:, None] >> drops) & ((1 << tables.CODE_BITS) - 1)).astype(np.uint16).reshape(-1)


def _windows(reader: BitReader) -> Windows:
    if reader.cache is None:
        reader.cache = Windows(reader.data)
    return cast("Windows", reader.cache)


@lru_cache(maxsize=tables.TABLES)
def _lookup(table: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    lengths, symbols = tables.lookup(table)
    return np.frombuffer(lengths, np.uint8), np.frombuffer(symbols, np.uint8)


def symbols(reader: BitReader, count: int, table: int) -> Vector:
    """So many code words of one table."""
    windows = _windows(reader).at[reader.position :]
    lengths, values = _lookup(table)
    start, left = reader.position, reader.end - reader.position
    if count > left:
        raise WireError("truncated", f"{count} code words wanted, {left} bits left")
    begins, at = _begins(lengths, windows, count)
    if at > left:
        raise WireError("truncated", "a code word runs past the end")
    reader.position = start + at
    return values[windows[begins]].astype(np.int64)


def _begins(lengths: NDArray[np.uint8], windows: NDArray[np.uint16], count: int) -> tuple[list[int], int]:
    """Where each of ``count`` words begins, and where the last ends."""
    begins: list[int] = []
    at = 0
    sizes = b""
    while len(begins) < count:
        wanted = len(sizes) + (count - len(begins)) * CHUNK_BITS + tables.CODE_BITS
        known = len(sizes)
        sizes += lengths[windows[known:wanted]].tobytes()
        if at >= len(sizes):
            raise WireError("truncated", "a code word runs past the end")
        stop = len(sizes)
        for _ in range(count - len(begins)):
            begins.append(at)
            at += sizes[at]
            if at >= stop:
                break
    return begins, at


def plane(reader: BitReader, count: int, width: int) -> Vector:
    """So many numbers of one width."""
    if width > WIDE:
        raise OverflowError
    if not width:
        return np.zeros(count, np.int64)
    start = reader.take(count * width)
    stop = start + count * width
    bits = np.unpackbits(_windows(reader).octets[start >> 3 : (stop + 7) >> 3])[start & 7 :][: count * width]
    size, kind = next(c for c in CONTAINERS if c[0] >= width)
    spread = np.zeros((count, size), np.uint8)
    spread[:, size - width :] = bits.reshape(count, width)
    return np.packbits(spread, axis=1).view(kind).reshape(count).astype(np.int64)


def fill(count: int, value: int) -> Vector:
    return np.full(count, value, np.int64)


def any_at_least(values: Vector, bound: int) -> Vector:
    """Rows that hold ``bound`` or more."""
    return np.flatnonzero(values >= bound)


def place(base: Vector, rows: Vector, values: Vector) -> Vector:
    """``base`` with ``values`` added at ``rows``."""
    _check(_largest(base) + _largest(values))
    result = base.copy()
    result[rows] += values
    return result


def joined(tops: Vector, lows: Vector, shift: int) -> Vector:
    _check((_largest(tops) + 1) << shift)
    return (tops << shift) | lows


def centred(naturals: Vector, centre: int) -> Vector:
    """Zig-zag undone, centre added."""
    _check((_largest(naturals) >> 1) + 1 + abs(centre))
    return ((naturals >> 1) ^ -(naturals & 1)) + centre


def cumulate(first: int, steps: Vector) -> Vector:
    """Running sum that begins with ``first``."""
    _check(abs(first) + _largest(steps) * len(steps))
    result = np.empty(len(steps) + 1, np.int64)
    result[0] = first
    np.cumsum(steps, out=result[1:])
    if first:
        result[1:] += first
    return result


def concat(first: int, rest: Vector) -> Vector:
    _check(abs(first))
    return np.concatenate(([first], rest))


def differences(values: Vector, order: int) -> Vector:
    """Rows 1 and on for order 0 and 1, rows 2 and on for order 2."""
    _check(_largest(values) * 4)
    return values[1:] if order == 0 else np.diff(values, order)


def weighted(parts: Sequence[Vector], weights: Sequence[int], shift: int) -> Vector:
    """(sum of weight x part) >> shift, rounded half up."""
    half = 1 << shift >> 1
    _check(half + sum(abs(w) * _largest(p) for w, p in zip(weights, parts, strict=True)))
    total = np.full(len(parts[0]), half, np.int64)
    for part, weight in zip(parts, weights, strict=True):
        total += part * weight
    return total >> min(shift, 63)


def add(left: Vector, right: Vector) -> Vector:
    _check(_largest(left) + _largest(right))
    return left + right


def affine(values: Vector, step: int, first: int) -> Vector:
    """Each value times ``step``, plus ``first``."""
    _check(_largest(values) * step + abs(first))
    return values * step + first if step != 1 else values + first


def take(values: Vector, rows: Vector) -> Vector:
    return values[rows]


def _largest(values: Vector) -> int:
    return max(int(values.max()), -int(values.min())) if len(values) else 0


def _check(bound: int) -> None:
    if bound > LIMIT:
        raise OverflowError


def vector(values: list[int]) -> Vector:
    return np.array(values, np.int64)


def rows_by(keys: Sequence[Vector]) -> Vector:
    """Rows in the order of the first key, then of the next; equal ones stay in their order."""
    return np.lexsort(tuple(reversed(keys)))


def unsorted(values: Vector, order: Vector) -> Vector:
    """Puts back what was taken in ``order``."""
    result = np.empty_like(values)
    result[order] = values
    return result


def sizes(values: Vector) -> Vector:
    """Without signs."""
    return np.abs(values)


def filled(values: Vector, nulls: Sequence[int], rows: int) -> Vector:
    """All rows: a null one holds the value before it, or else the first."""
    if not len(nulls):
        return values
    present = np.ones(rows, np.int64)
    present[list(nulls)] = 0
    return values[np.maximum(np.cumsum(present) - 1, 0)]


def spread(values: NDArray[Any], nulls: Sequence[int], rows: int) -> NDArray[Any]:
    """All rows: 0 at a null one."""
    if not len(nulls):
        return values
    present = np.ones(rows, np.bool_)
    present[list(nulls)] = False
    result = np.zeros(rows, values.dtype)
    result[present] = values
    return result


def limits(values: Vector) -> tuple[int, int] | None:
    """The lowest and the highest."""
    return (int(values.min()), int(values.max())) if len(values) else None
