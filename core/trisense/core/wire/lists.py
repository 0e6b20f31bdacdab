"""Operations on columns of integers as Python lists: any size of number, no numpy.

``arrays`` has the same operations on int64 arrays. ``integers.decode`` is written over either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import sub
from typing import Any

from trisense.core.wire import tables
from trisense.core.wire.bits import BitReader

__all__ = [
    "add",
    "affine",
    "centred",
    "concat",
    "cumulate",
    "differences",
    "equal_to",
    "fill",
    "filled",
    "joined",
    "limits",
    "listed",
    "others",
    "place",
    "plane",
    "reader",
    "rows_by",
    "spread",
    "symbols",
    "take",
    "unranked",
    "unsorted",
    "variation",
    "vector",
    "weighted",
]

Vector = Sequence[int]


def reader(data: bytes) -> BitReader:
    return BitReader(data)


def symbols(reader: BitReader, count: int, table: int) -> list[int]:
    """So many code words of one table."""
    lengths, values = tables.lookup(table)
    return [reader.word(lengths, values, tables.CODE_BITS) for _ in range(count)]


def plane(reader: BitReader, count: int, width: int) -> list[int]:
    """So many numbers of one width."""
    start = reader.take(count * width)
    stop = start + count * width
    chunk = int.from_bytes(reader.data[start >> 3 : (stop + 7) >> 3], "big")
    bits = format(chunk, f"0{(((stop + 7) >> 3) - (start >> 3)) * 8}b")[start & 7 :]
    return [int(bits[at : at + width], 2) for at in range(0, count * width, width)]


def fill(count: int, value: int) -> list[int]:
    return [value] * count


def equal_to(values: Vector, value: int) -> list[int]:
    """Rows that hold ``value``."""
    return [row for row, other in enumerate(values) if other == value]


def place(base: Vector, rows: Vector, values: Vector) -> list[int]:
    """``base`` with ``values`` added at ``rows``."""
    result = list(base)
    for row, value in zip(rows, values, strict=True):
        result[row] += value
    return result


def unranked(ranks: Vector, listed: list[int]) -> list[int]:
    """A rank below the length of the list stands for its entry, a larger one for what it is beyond."""
    size = len(listed)
    return [listed[rank] if rank < size else rank - size for rank in ranks]


def joined(tops: Vector, lows: Vector, shift: int) -> list[int]:
    return [top << shift | low for top, low in zip(tops, lows, strict=True)]


def centred(naturals: Vector, centre: int) -> list[int]:
    """Zig-zag undone, centre added."""
    return [(value >> 1 if not value & 1 else -(value >> 1) - 1) + centre for value in naturals]


def cumulate(first: int, steps: Vector) -> list[int]:
    """Running sum that begins with ``first``."""
    return list(accumulate(steps, initial=first))


def concat(first: int, rest: Vector) -> list[int]:
    return [first, *rest]


def differences(values: Vector, order: int) -> list[int]:
    """Rows 1 and on for order 0 and 1, rows 2 and on for order 2."""
    if order == 0:
        return list(values[1:])
    steps = list(map(sub, values[1:], values))
    return steps if order == 1 else list(map(sub, steps[1:], steps))


def weighted(parts: Sequence[Vector], weights: Sequence[int], shift: int) -> list[int]:
    """(sum of weight x part) >> shift, rounded half up."""
    sums = [0] * len(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        sums = [total + weight * value for total, value in zip(sums, part, strict=True)]
    half = 1 << shift >> 1
    return [(total + half) >> shift for total in sums]


def add(left: Vector, right: Vector) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def affine(values: Vector, step: int, first: int) -> list[int]:
    """Each value times ``step``, plus ``first``."""
    return [first + step * value for value in values]


def take(values: Vector, rows: Vector) -> list[int]:
    return [values[row] for row in rows]


def vector(values: list[int]) -> list[int]:
    return values


def rows_by(keys: Sequence[Vector]) -> list[int]:
    """Rows in the order of the first key, then of the next; equal ones stay in their order."""
    columns = list(zip(*keys, strict=True))
    return sorted(range(len(columns)), key=columns.__getitem__)


def unsorted(values: Vector, order: Vector) -> list[int]:
    """Puts back what was taken in ``order``."""
    result = [0] * len(order)
    for row, value in zip(order, values, strict=True):
        result[row] = value
    return result


def variation(values: Vector) -> int:
    """The sum of all sizes: no running sum of the values is larger."""
    return sum(map(abs, values))


def others(nulls: Sequence[int], rows: int) -> list[int]:
    """Rows that are no nulls."""
    gone = set(nulls)
    return [row for row in range(rows) if row not in gone]


def filled(values: Vector, nulls: Sequence[int], rows: int) -> Vector:
    """All rows: a null one holds the value before it, or else the first."""
    if not nulls:
        return values
    gone, result, at = set(nulls), [], -1
    for row in range(rows):
        at += row not in gone
        result.append(values[max(at, 0)])
    return result


def spread(values: Sequence[Any], nulls: Sequence[int], rows: int) -> list[Any]:
    """All rows: None at a null one."""
    if not nulls:
        return list(values)
    gone, left = set(nulls), iter(values)
    return [None if row in gone else next(left) for row in range(rows)]


def limits(values: Vector) -> tuple[int, int]:
    """The lowest and the highest; 0 where there is none."""
    return (min(values), max(values)) if values else (0, 0)


def listed(values: Vector) -> list[int]:
    return list(values)
