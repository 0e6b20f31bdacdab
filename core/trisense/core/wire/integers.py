"""Columns of integers to bits.

A column is written as its first value, what all steps share (their greatest common divisor), an
order, and one residual for each further row: the value itself (order 0), its difference to the row
before (1) or the difference of that (2), less a weighted sum of the same of other columns, less a
centre. Residuals are zig-zagged and written with the cheapest code of the family, low bits apart;
where most are zero, the gaps between the others are written. Few distinct values become a
dictionary when that is shorter. ``decode`` is the other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, log2
from operator import sub
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from trisense.core import limits
from trisense.core.errors import WireError
from trisense.core.wire import lists, tables
from trisense.core.wire.bits import NUMBER_BITS, BitReader, fixed, integer, natural, plane

__all__ = [
    "DENSE",
    "DICTIONARY",
    "ORDERS",
    "SPARSE",
    "ZERO",
    "Rest",
    "Weights",
    "decode",
    "decode_small",
    "encode",
    "encode_naturals",
    "rebase",
]

ORDERS: Final = 3
DICTIONARY_GAP: Final = 3
DICTIONARY: Final = 3
"""Written where an order would be."""
ZERO, DENSE, SPARSE, RANKED = 0, 1, 2, 3
"""How a row of naturals is written: RANKED lists the most frequent, to write one of the others by ranks."""
RANKED_ROWS: Final = 48
RANKED_SHARE: Final = 3
"""Ranks are tried where values repeat so often on average."""
RANKED_MAX: Final = 40
RANKED_COUNT: Final = 3
"""Only values as frequent as this are listed."""
SPARSE_SHARE: Final = 0.6
"""Of non-zero residuals: above it, no code is tried that skips the zeros."""
TABLE_BITS: Final = 6
WIDTH_BITS: Final = 6
SHIFTS: Final = 2
"""Numbers of low bits that are tried."""
FEW: Final = 48
"""With fewer values only one is: a wrong one costs less than trying."""
DICTIONARY_SHARE: Final = 3
"""A dictionary is tried where values repeat so often on average."""

Vector: TypeAlias = Any
"""A list of integers, or an int64 array: whatever the operations work on."""


class Operations(Protocol):
    """What the modules ``lists`` and ``arrays`` have in common.

    Those of ``arrays`` work on int64 without looking for overflow: the decoder bounds every result
    before it asks for it.
    """

    def reader(self, data: bytes) -> BitReader: ...
    def symbols(self, reader: BitReader, count: int, table: int) -> Vector: ...
    def plane(self, reader: BitReader, count: int, width: int) -> Vector: ...
    def fill(self, count: int, value: int) -> Vector: ...
    def equal_to(self, values: Vector, value: int) -> Vector: ...
    def place(self, base: Vector, rows: Vector, values: Vector) -> Vector: ...
    def unranked(self, ranks: Vector, listed: list[int]) -> Vector: ...
    def joined(self, tops: Vector, lows: Vector, shift: int) -> Vector: ...
    def centred(self, naturals: Vector, centre: int) -> Vector: ...
    def cumulate(self, first: int, steps: Vector) -> Vector: ...
    def concat(self, first: int, rest: Vector) -> Vector: ...
    def differences(self, values: Vector, order: int) -> Vector: ...
    def weighted(self, parts: Sequence[Vector], weights: Sequence[int], shift: int) -> Vector: ...
    def add(self, left: Vector, right: Vector) -> Vector: ...
    def affine(self, values: Vector, step: int, first: int) -> Vector: ...
    def take(self, values: Vector, rows: Vector) -> Vector: ...
    def rows_by(self, keys: Sequence[Vector]) -> Vector: ...
    def unsorted(self, values: Vector, order: Vector) -> Vector: ...
    def limits(self, values: Vector) -> tuple[int, int]: ...
    def variation(self, values: Vector) -> int: ...
    def others(self, nulls: Sequence[int], rows: int) -> Vector: ...
    def filled(self, values: Vector, nulls: Sequence[int], rows: int) -> Vector: ...
    def spread(self, values: Any, nulls: Sequence[int], rows: int) -> Any: ...
    def vector(self, values: list[int]) -> Vector: ...
    def listed(self, values: Vector) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Weights:
    """A prediction from other columns: (sum of weight x column) >> shift, rounded."""

    columns: tuple[Sequence[int], ...]
    """Rebased: the first row of each is 0."""
    weights: tuple[int, ...]
    shift: int


@dataclass(frozen=True, slots=True)
class Rest:
    """A column less its first value, over what the steps share."""

    first: int
    step: int
    values: Sequence[int]
    """The first is 0."""


def rebase(values: Sequence[int]) -> Rest:
    """First value and common step taken out; at least one value."""
    first = values[0]
    rest = [value - first for value in values]
    step = gcd(*rest)
    if step > 1:
        rest = [value // step for value in rest]
    return Rest(first, max(step, 1), rest)


def encode(values: Sequence[int], rest: Rest | None = None, weights: Weights | None = None) -> str:
    """Bits of a column; nothing for no values, one number for one. ``rest``: the column rebased."""
    if not values:
        return ""
    if len(values) == 1:
        return integer(values[0])
    rest = rest or rebase(values)
    head = integer(rest.first) + natural(rest.step - 1)
    best = encode_rest(rest.values, weights)
    if weights is None:
        entries = set(rest.values)
        # Where most values in between occur, differences do as well.
        sparse = max(entries) - min(entries) > DICTIONARY_GAP * len(entries)
        if sparse and len(values) >= DICTIONARY_SHARE * len(entries):
            best = min(best, _encode_dictionary(rest.values, sorted(entries)), key=len)
    return head + best


def _encode_dictionary(values: Sequence[int], entries: Sequence[int]) -> str:
    place = {value: at for at, value in enumerate(entries)}
    first, *rest = [place[value] for value in values]
    places = encode_rest([value - first for value in (first, *rest)])
    return fixed(DICTIONARY, 2) + natural(len(entries) - 2) + encode(entries) + natural(first) + places


def encode_rest(values: Sequence[int], weights: Weights | None = None) -> str:
    """Order and residuals of a rebased column of two values at least."""
    forms = []
    # What follows others has no trend left of its own.
    for order in range(min(ORDERS if weights is None else 2, len(values))):
        steps = lists.differences(values, order)
        if weights is not None:
            parts = [lists.differences(column, order) for column in weights.columns]
            steps = list(map(sub, steps, lists.weighted(parts, weights.weights, weights.shift)))
        centre = sorted(steps)[len(steps) // 2]
        if centre:
            steps = [step - centre for step in steps]
        forms.append((_estimate(steps), order, centre, steps))
    _, order, centre, steps = min(forms)
    head = fixed(order, 2) + (integer(values[1]) if order == 2 else "") + integer(centre)
    return head + encode_naturals([step << 1 if step >= 0 else ~(step << 1) for step in steps])


def _estimate(steps: Sequence[int]) -> float:
    """Roughly the bits that ``encode_naturals`` will take; quick."""
    count = len(steps)
    zeros = steps.count(0)
    others = count - zeros
    if not others:
        return 0.0
    bits = others * (log2(sum(map(abs, steps)) / others) + 2.44)
    if zeros:
        share = zeros / count
        bits -= count * (share * log2(share) + (1 - share) * log2(1 - share))
    return bits


def encode_naturals(values: Sequence[int]) -> str:
    """Bits of naturals whose number the reader knows."""
    counts = Counter(values)
    best = _encode_unranked(values, counts)
    if len(values) < RANKED_ROWS or len(counts) * RANKED_SHARE > len(values):
        return best
    listed = [value for value, count in counts.most_common(RANKED_MAX) if count >= RANKED_COUNT]
    naming = sum(2 * value.bit_length() + 1 for value in listed)
    entropy = len(values) * log2(len(values)) - sum(count * log2(count) for count in counts.values())
    if len(listed) < 2 or naming + entropy > len(best):
        return best
    rank = {value: at for at, value in enumerate(listed)}
    ranks = [rank[value] if value in rank else len(listed) + value for value in values]
    head = fixed(RANKED, 2) + natural(len(listed) - 1) + "".join(map(natural, listed))
    return min(best, head + _encode_unranked(ranks, Counter(ranks)), key=len)


def _encode_unranked(values: Sequence[int], counts: Counter[int]) -> str:
    others = [value - 1 for value in values if value]
    if not others:
        return fixed(ZERO, 2)
    dense = _choose(counts, len(values))
    if len(others) < SPARSE_SHARE * len(values):
        places = [row for row, value in enumerate(values) if value]
        gaps = [after - before - 1 for before, after in zip([-1, *places], places, strict=False)]
        between = _choose(Counter(gaps), len(gaps))
        beyond = _choose(Counter(others), len(others)) if any(others) else None
        count = natural(len(others) - 1)
        if len(count) + between.bits + (beyond.bits if beyond else 0) + 1 < dense.bits:
            rest = "0" if beyond is None else "1" + _dense(others, beyond)
            return fixed(SPARSE, 2) + count + _dense(gaps, between) + rest
    return fixed(DENSE, 2) + _dense(values, dense)


class Choice(NamedTuple):
    """How a row of naturals is best written densely."""

    bits: int
    """All of it, what says the rest of this too."""
    table: int
    shift: int
    escape_bits: int
    """Width of what the table has no code for; 0: nothing."""


def _dense(values: Sequence[int], choice: Choice) -> str:
    """Table, shift, whether there are escapes and how wide, code words, escapes, low bits."""
    words, shift = tables.code(choice.table).words, choice.shift
    tops = [value >> shift for value in values] if shift else values
    head = fixed(choice.table, TABLE_BITS) + natural(shift)
    low = plane(values, shift)
    if not choice.escape_bits:
        return head + "0" + "".join([words[top] for top in tops]) + low
    escaped = [top - tables.ESCAPE for top in tops if top >= tables.ESCAPE]
    body = "".join([words[top if top < tables.ESCAPE else tables.ESCAPE] for top in tops])  # noqa: FURB136  # min() takes 3 times as long
    head += "1" + fixed(choice.escape_bits - 1, WIDTH_BITS)
    return head + body + plane(escaped, choice.escape_bits) + low


def _choose(counts: Mapping[int, int], rows: int) -> Choice:
    """The cheapest for so many of each value, tried around what the median suggests."""
    largest = max(counts)
    # What escapes must fit the 64 bits that its width can say.
    likely = max(int(log2(_median(counts, rows) / 8 + 1)), largest.bit_length() - 64)
    best: Choice | None = None
    for shift in range(likely, likely + (SHIFTS if rows >= FEW else 1)):
        histogram = [0] * (min(largest >> shift, tables.ESCAPE) + 1)
        for value, count in counts.items():
            top = value >> shift
            histogram[top if top < tables.ESCAPE else tables.ESCAPE] += count  # noqa: FURB136  # min() takes 3 times as long
        table, bits = tables.cheapest(histogram)
        bits += TABLE_BITS + len(natural(shift)) + 1 + rows * shift
        escape_bits = 0
        if len(histogram) > tables.ESCAPE:
            escape_bits = max(((largest >> shift) - tables.ESCAPE).bit_length(), 1)
            bits += WIDTH_BITS + histogram[tables.ESCAPE] * escape_bits
        if best is None or bits < best.bits:
            best = Choice(bits, table, shift, escape_bits)
        if len(histogram) < tables.ESCAPE // 3:
            break
    assert best is not None  # noqa: S101  # one shift is always tried
    return best


def _median(counts: Mapping[int, int], rows: int) -> int:
    """The value in the middle of the sorted row that has so many of each."""
    left = rows // 2
    for value in sorted(counts):
        left -= counts[value]
        if left < 0:
            return value
    raise AssertionError("counts of fewer rows")


# Reading -------------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """A column, and what of it other columns may refer to."""

    values: Vector
    rest: Vector | None
    """Rebased: the first is 0. None: its span is beyond 64 bits, no column may refer to it."""
    bound: int
    """No value is further from 0."""


def decode(reader: BitReader, count: int, ops: Operations, weights: Weights | None = None) -> Decoded:
    """A column of ``count`` integers within 64 bits; the caller has bounded ``count``.

    Raises:
        WireError: no column, or a value beyond 64 bits.
    """
    start = reader.position
    if ops is not lists:
        try:
            return Decoding(reader, ops, bounded=True).column(count, weights)
        except OverflowError:
            # Rare: differences of full-range integers. Python's own have no bounds.
            reader.position = start
    if weights is not None:
        weights = replace(weights, columns=tuple(map(ops.listed, weights.columns)))
    wide = Decoding(reader, lists, bounded=False).column(count, weights)
    low, high = lists.limits(wide.values)
    if not limits.INT_MIN <= low <= high <= limits.INT_MAX:
        raise WireError("range", "an integer beyond 64 bits")
    rest = wide.rest or []
    fits = lists.variation(rest) <= limits.INT_MAX
    return Decoded(ops.vector(wide.values), ops.vector(rest) if fits else None, max(-low, high))


def decode_small(reader: BitReader, count: int, ops: Operations) -> Vector:
    """Naturals that must fit 64 bits.

    Raises:
        WireError: none, or a larger one.
    """
    try:
        values, _ = Decoding(reader, ops, bounded=True).naturals(count)
    except OverflowError as error:
        raise WireError("range", "a natural beyond 64 bits") from error
    return values


class Decoding:
    """Reads columns with one set of operations; carries along how large a number can be.

    With ``bounded`` each method raises OverflowError where a result might not fit 64 bits.
    """

    def __init__(self, reader: BitReader, ops: Operations, *, bounded: bool) -> None:
        self._reader = reader
        self._ops = ops
        self._bounded = bounded

    def _within(self, bound: int) -> int:
        if self._bounded and bound > limits.INT_MAX:
            raise OverflowError
        return bound

    def column(self, count: int, weights: Weights | None = None) -> Decoded:
        """What ``encode`` wrote."""
        reader, ops = self._reader, self._ops
        if not count:
            return Decoded(ops.fill(0, 0), ops.fill(0, 0), 0)
        first = reader.integer()
        if count == 1:
            bound = self._within(abs(first))
            return Decoded(ops.fill(1, first), ops.fill(1, 0), bound)
        step = reader.natural() + 1
        order = reader.fixed(2)
        if order == DICTIONARY:
            rest, bound = self._dictionary(count)
        else:
            rest, bound = self._rest(count, order, weights)
        bound = self._within(bound * step + abs(first))
        values = rest if step == 1 and not first else ops.affine(rest, step, first)
        return Decoded(values, rest, bound)

    def _dictionary(self, count: int) -> tuple[Vector, int]:
        reader, ops = self._reader, self._ops
        size = reader.natural() + 2
        if size * DICTIONARY_SHARE > count:
            raise WireError("range", f"a dictionary of {size} for {count} rows")
        entries = self.column(size)
        first, order = reader.natural(), reader.fixed(2)
        if order == DICTIONARY:
            raise WireError("kind", "a dictionary of a dictionary")
        places, bound = self._rest(count, order, None)
        self._within(bound + first)
        places = ops.affine(places, 1, first)
        low, high = ops.limits(places)
        if low < 0 or high >= size:
            raise WireError("range", "an entry that the dictionary does not have")
        return ops.take(entries.values, places), entries.bound

    def _rest(self, count: int, order: int, weights: Weights | None) -> tuple[Vector, int]:
        reader, ops = self._reader, self._ops
        second = reader.integer() if order == 2 else 0
        centre = reader.integer()
        steps, bound = self.naturals(count - max(order, 1))
        bound = self._within((bound >> 1) + 1 + abs(centre))
        steps = ops.centred(steps, centre)
        if weights is not None:
            predicted, far = self._predicted(weights, order)
            bound = self._within(bound + far)
            steps = ops.add(steps, predicted)
        if order == 0:
            return ops.concat(0, steps), bound
        if order == 2:
            bound = self._within(self._span(steps, bound) + abs(second))
            steps = ops.cumulate(second, steps)
        bound = self._within(self._span(steps, bound))
        return ops.cumulate(0, steps), bound

    def _span(self, steps: Vector, bound: int) -> int:
        """How far a running sum can come."""
        far = bound * len(steps)
        return far if far <= limits.INT_MAX else self._ops.variation(steps)

    def _predicted(self, weights: Weights, order: int) -> tuple[Vector, int]:
        ops = self._ops
        half = 1 << weights.shift >> 1
        far = half
        for column, weight in zip(weights.columns, weights.weights, strict=True):
            low, high = ops.limits(column)
            far += abs(weight) * max(-low, high) * 4
        self._within(far)
        parts = [ops.differences(column, order) for column in weights.columns]
        return ops.weighted(parts, weights.weights, weights.shift), far

    def naturals(self, count: int) -> tuple[Vector, int]:
        """What ``encode_naturals`` wrote."""
        kind = self._reader.fixed(2)
        if kind == RANKED:
            return self._ranked(count)
        return self._unranked(count, kind)

    def _ranked(self, count: int) -> tuple[Vector, int]:
        reader, ops = self._reader, self._ops
        listed = [reader.natural() for _ in range(reader.bounded(RANKED_MAX - 1, "ranks") + 1)]
        ranks, bound = self._unranked(count, reader.fixed(2))
        bound = self._within(max(bound, *listed))
        return ops.unranked(ranks, listed), bound

    def _unranked(self, count: int, kind: int) -> tuple[Vector, int]:
        reader, ops = self._reader, self._ops
        if kind == ZERO:
            return ops.fill(count, 0), 0
        if kind == DENSE:
            return self._dense(count)
        if kind != SPARSE or not count:
            raise WireError("kind", f"naturals of kind {kind}")
        others = reader.bounded(count - 1, "rows") + 1
        gaps, bound = self._dense(others)
        self._within(self._span(gaps, bound) + others)
        rows = ops.cumulate(-1, ops.affine(gaps, 1, 1))[1:]
        if rows[-1] >= count:
            raise WireError("range", f"row {rows[-1]} of {count}")
        values, bound = self._dense(others) if reader.fixed(1) else (ops.fill(others, 0), 0)
        bound = self._within(bound + 1)
        return ops.place(ops.fill(count, 0), rows, ops.affine(values, 1, 1)), bound

    def _dense(self, count: int) -> tuple[Vector, int]:
        reader, ops = self._reader, self._ops
        table, shift = reader.fixed(TABLE_BITS), reader.bounded(NUMBER_BITS, "shift")
        if table >= tables.TABLES:
            raise WireError("range", f"table {table}")
        width = reader.fixed(WIDTH_BITS) + 1 if reader.fixed(1) else 0
        tops, bound = ops.symbols(reader, count, table), tables.ESCAPE
        if width:
            escaped = ops.equal_to(tops, tables.ESCAPE)
            bound = self._within(bound + (1 << width))
            tops = ops.place(tops, escaped, ops.plane(reader, len(escaped), width))
        if not shift:
            return tops, bound
        bound = self._within((bound + 1) << shift)
        return ops.joined(tops, ops.plane(reader, count, shift), shift), bound
