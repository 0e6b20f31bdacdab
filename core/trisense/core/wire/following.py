"""Columns that follow others of their table: weighted sums of differences, and sorted rows.

``encode`` searches, on some rows and by least squares, for what a column follows, and writes the
shortest form it has found; ``decode`` is told. A feature is an earlier column of the table as
integers, rebased, over all rows; the caller keeps the list, one entry per column with values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from operator import mul
from typing import Any, Final

from trisense.core.errors import WireError
from trisense.core.wire import integers, lists
from trisense.core.wire.bits import BitReader, fixed, integer
from trisense.core.wire.integers import Decoded, Operations, Rest, Vector, Weights

__all__ = ["Features", "decode", "encode"]

ROWS_MIN: Final = 16
"""Shorter columns follow no other: saying so costs more."""
LOOK_ROWS: Final = 256
"""Rows that the search looks at."""
FOLLOWED_MAX: Final = 4
KEYS_MAX: Final = 2
FEATURE_MAX: Final = 1 << 40
"""Columns of a larger span are not followed: their products would not fit 64 bits."""
SHIFT_BITS: Final = 6
TERM_BITS: Final = 20
"""About what one more column to follow costs."""
SORT_SHARE: Final = 0.2
"""A column with more of its energy left by others is hardly a function of them."""
WORTH_BITS: Final = 0.5
"""A column of fewer bits a row is not worth a search."""
PLAIN, FOLLOWED = "0", "1"

Terms = list[tuple[int, float]]
"""(which feature, weight), strongest first."""


@dataclass
class Features:
    """The columns of a table so far, as integers."""

    columns: list[Any] = field(default_factory=list)
    """Rebased, over all rows, each null one holding the value before it; while reading and not yet
    followed, (without the null rows, null rows). None: its span is too large to be followed."""
    steps: list[list[int]] = field(default_factory=list)
    """Differences of the rows that the encoder looks at; the decoder needs none."""
    products: list[list[int]] = field(default_factory=list)
    """Of the steps of each column with those of the ones before it and its own."""


def encode(features: Features, rows: int, nulls: Sequence[int], values: Sequence[int]) -> str:
    """Bits of a column whose ``nulls`` are left out; it becomes a feature itself."""
    rest = integers.rebase(values)
    best = integers.encode(values, rest)
    can_follow = bool(features.columns) and len(values) >= ROWS_MIN
    _add(features, rest, nulls, rows)
    if not can_follow:
        return best
    best = PLAIN + best
    if len(best) > WORTH_BITS * len(values):
        for form in _forms(features, nulls, values, rest):
            best = min(best, form, key=len)
    return best


def _add(features: Features, rest: Rest, nulls: Sequence[int], rows: int) -> None:
    column = lists.filled(rest.values, nulls, rows)
    small = -FEATURE_MAX < min(column) <= max(column) < FEATURE_MAX
    steps = lists.differences(column[:LOOK_ROWS], 1)
    features.columns.append(column if small else None)
    features.steps.append(steps)
    features.products.append([sum(map(mul, steps, other)) for other in features.steps])


def decode(
    reader: BitReader, features: Features, rows: int, nulls: Sequence[int], ops: Operations
) -> Decoded:
    """What ``encode`` wrote, nulls left out, one value at least."""
    count = rows - len(nulls)
    order, weights = None, None
    if features.columns and count >= ROWS_MIN and reader.fixed(1):
        order, weights = _read_form(reader, features, rows, nulls, ops)
    decoded = integers.decode(reader, count, ops, weights)
    rest = decoded.rest
    if order is not None:
        rest = None if rest is None else ops.unsorted(rest, order)
        decoded = decoded._replace(values=ops.unsorted(decoded.values, order), rest=rest)
    features.columns.append((rest, nulls) if rest is not None else None)
    return decoded


def _feature(features: Features, which: int, rows: int, ops: Operations) -> Vector:
    """An earlier column over all rows; made when it is first followed."""
    kept = features.columns[which] if which < len(features.columns) else None
    if isinstance(kept, tuple):
        rest, nulls = kept
        rest = ops.affine(rest, 1, -int(rest[0]))
        low, high = ops.limits(rest)
        kept = ops.filled(rest, nulls, rows) if -FEATURE_MAX < low <= high < FEATURE_MAX else None
        features.columns[which] = kept
    if kept is None:
        raise WireError("range", f"no column {which} to follow")
    return kept


def _read_form(
    reader: BitReader, features: Features, rows: int, nulls: Sequence[int], ops: Operations
) -> tuple[Vector | None, Weights | None]:
    width = (len(features.columns) - 1).bit_length()
    present = ops.others(nulls, rows) if nulls else None

    def feature() -> Vector:
        column = _feature(features, reader.fixed(width), rows, ops)
        return column if present is None else ops.take(column, present)

    order = None
    if reader.fixed(1):
        order = ops.rows_by([feature() for _ in range(reader.fixed(1) + 1)])
    if not reader.fixed(1):
        return order, None
    columns, weights = [], []
    for _ in range(reader.fixed(2) + 1):
        column = feature() if order is None else ops.take(feature(), order)
        columns.append(ops.affine(column, 1, -int(column[0])))
        weights.append(reader.integer())
    return order, Weights(tuple(columns), tuple(weights), reader.fixed(SHIFT_BITS))


# The encoder's search ------------------------------------------------------------------------------


def _forms(features: Features, nulls: Sequence[int], values: Sequence[int], rest: Rest) -> list[str]:
    """What is worth comparing: weighted; and sorted by the strongest one or two, then weighted again."""
    own = len(features.columns) - 1
    known = [which for which in range(own) if features.columns[which] is not None]
    terms, left = _terms(known, features.products, own, len(values))
    if not terms:
        return []
    present = lists.others(nulls, len(nulls) + len(values)) if nulls else None
    columns = {}
    for which, _ in terms:
        column: Sequence[int] = features.columns[which] or ()
        columns[which] = lists.take(column, present) if present else column
    width = (own - 1).bit_length()
    forms = [FOLLOWED + "0" + _weighted(columns, width, values, rest, terms)]
    if left > SORT_SHARE:
        return forms
    for count in range(1, min(len(terms), KEYS_MAX) + 1):
        keys = [which for which, _ in terms[:count]]
        order = lists.rows_by([columns[key] for key in keys])
        turned = {which: lists.take(column, order) for which, column in columns.items()}
        moved = lists.take(values, order)
        moved_rest = integers.rebase(moved)
        again, _ = _sorted_terms(turned, moved_rest)
        head = FOLLOWED + "1" + fixed(count - 1, 1) + "".join([fixed(key, width) for key in keys])
        forms.append(head + _weighted(turned, width, moved, moved_rest, again))
    return forms


def _weighted(
    columns: Mapping[int, Sequence[int]], width: int, values: Sequence[int], rest: Rest, terms: Terms
) -> str:
    if not terms:
        return "0" + integers.encode(values, rest)
    followed = [lists.affine(columns[which], 1, -columns[which][0]) for which, _ in terms]
    shift = _shift(followed)
    weights = [round(weight * (1 << shift)) for _, weight in terms]
    bits = "1" + fixed(len(terms) - 1, 2)
    for (which, _), weight in zip(terms, weights, strict=True):
        bits += fixed(which, width) + integer(weight)
    bits += fixed(shift, SHIFT_BITS)
    return bits + integers.encode(values, rest, Weights(tuple(followed), tuple(weights), shift))


def _shift(columns: Sequence[Sequence[int]]) -> int:
    """Fraction bits that keep the error of each product of a typical step below half a unit."""
    typical = [sum(map(abs, lists.differences(c[:LOOK_ROWS], 1))) / len(c[:LOOK_ROWS]) for c in columns]
    return min(int(log2(max(typical) + 1)) + 2, (1 << SHIFT_BITS) - 1)


def _sorted_terms(columns: Mapping[int, Sequence[int]], rest: Rest) -> tuple[Terms, float]:
    """``_terms`` again, for the same columns in another order."""
    names = list(columns)
    steps = [lists.differences(columns[name][:LOOK_ROWS], 1) for name in names]
    steps.append(lists.differences(rest.values[:LOOK_ROWS], 1))
    products = [[sum(map(mul, a, b)) for b in steps[: at + 1]] for at, a in enumerate(steps)]
    terms, left = _terms(range(len(names)), products, len(names), len(rest.values))
    return [(names[at], weight) for at, weight in terms], left


def _terms(
    known: Sequence[int], products: Sequence[Sequence[int]], own: int, rows: int
) -> tuple[Terms, float]:
    """Columns to follow and their weights by least squares on differences; share of energy left.

    ``products``: lower triangle of the scalar products of all columns, ``own`` the last of them.
    """
    whole = left = float(products[own][own])
    chosen: list[int] = []
    weights: list[float] = []
    while left > 0 and len(chosen) < FOLLOWED_MAX:
        best = (0.0, -1)
        for which in known:
            energy = products[which][which]
            if energy and which not in chosen:
                toward = float(products[own][which])
                for other, weight in zip(chosen, weights, strict=True):
                    toward -= weight * products[max(which, other)][min(which, other)]
                best = max(best, (toward * toward / energy, which))
        trial = [*chosen, best[1]]
        solved = _solve(trial, products, own) if best[1] >= 0 else None
        if solved is None:
            break
        now = whole - sum(w * products[own][which] for which, w in zip(trial, solved, strict=True))
        # Half a bit a row for each halving of the energy.
        if rows / 2 * log2(left / max(now, left * 1e-9)) < TERM_BITS:
            break
        chosen, weights, left = trial, solved, max(now, 0.0)
    return list(zip(chosen, weights, strict=True)), left / whole if whole else 1.0


def _solve(columns: Sequence[int], products: Sequence[Sequence[int]], own: int) -> list[float] | None:
    """Weights of least squares by Gauss elimination; None where the columns depend on each other."""
    size = len(columns)
    rows = [
        [float(products[max(a, b)][min(a, b)]) for b in columns] + [float(products[own][a])] for a in columns
    ]
    for at in range(size):
        pivot = rows[at][at]
        if pivot <= 1e-9 * products[columns[at]][columns[at]]:
            return None
        for below in range(at + 1, size):
            ratio = rows[below][at] / pivot
            rows[below] = [b - ratio * a for a, b in zip(rows[at], rows[below], strict=True)]
    weights = [0.0] * size
    for at in reversed(range(size)):
        known = sum(map(mul, rows[at][at + 1 : size], weights[at + 1 :]))
        weights[at] = (rows[at][size] - known) / rows[at][at]
    return weights
