"""Columns of floats as columns of integers, exactly.

Most measured values are decimals, so k / 10**digits is the very same double. Many others are
averages of a few readings or counts of a converter printed with too few or too many digits: k / 18
to two decimals, k / 256 to three, k / 1200 to 15 significant digits. They become k. What fits no
scale travels as its 64 bits. A few values that do not fit the scale of their column are patched.

Encoder and decoder do the same double operations in the same order (division, multiplication, round
half even), so what the encoder has checked, the decoder gets.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from itertools import repeat
from math import copysign, gcd, isfinite, lcm
from operator import mul, sub, truediv
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trisense.core.errors import WireError
from trisense.core.wire import integers, lists
from trisense.core.wire.bits import BitReader, fixed, natural, plane

if TYPE_CHECKING:
    from trisense.core.wire.integers import Operations, Vector

__all__ = ["Scale", "encode_scale", "read_scale"]

DECIMAL, ROUNDED, SIGNIFICANT, PATTERN = 0, 1, 2, 3
"""k / 10**d; a grid of steps 1 / D, to d decimals; k / D to 15 significant digits; 64 bits."""
KIND_BITS: Final = 2
DIGITS_BITS: Final = 5
DIGITS_MAX: Final = 22
"""10**22 is the largest power of ten that is a double."""
SHORT_DIGITS: Final = 9
"""More decimals than this are no hardware's: look for a fraction first."""
EXACT: Final = 2**53
DENOMINATOR_MAX: Final = 1 << 20
PATCHED_SHARE: Final = 8
"""At most one value in so many is patched."""
CORRECTED_SHARE: Final = 3
"""At most one value in so many stands beside its grid point."""
ROWS_FOR_GRID: Final = 24
SAMPLE: Final = 16
GUESS: Final = 8
"""Values that a number of decimals is guessed from."""
GRID_STEP: Final = 3.0
"""A grid is worth while when its steps are so many units of the last decimal."""
POWERS: Final = tuple(float(10**e) for e in range(DIGITS_MAX + 1))
MAGNITUDES: Final = (*(float(f"1e-{e}") for e in range(8, 0, -1)), *POWERS[:15])
SCALES: Final = tuple(float(10 ** (14 - e)) for e in range(-8, 15))
"""For a number from MAGNITUDES[i] on: what makes it an integer of 15 digits."""
GRIDS: Final = tuple(
    sorted({n * 10**e for n in range(3, 65) for e in range(5)} | {2**e for e in range(6, 17)})
)


class Scale(NamedTuple):
    """How integers become floats again."""

    kind: int = DECIMAL
    digits: int = 0
    denominator: int = 1
    offset: int = 0
    """Of the grid's points, in 10**-digits / denominator."""
    corrections: Vector = ()
    """Units of the last decimal, one per value."""
    patches: tuple[tuple[int, ...], tuple[float, ...]] = ((), ())
    """Rows, and the values that stand there."""

    def floats(self, ks: Sequence[int]) -> list[float]:
        """As a list. Raises WireError where a value is none."""
        values = self._unpatched(ks)
        for row, value in zip(*self.patches, strict=True):
            values[row] = value
        if not all(map(isfinite, values)):
            raise WireError("not_finite")
        return values

    def _unpatched(self, ks: Sequence[int]) -> list[float]:
        if self.kind == PATTERN:
            return [_from_pattern(k) for k in ks]
        if any(not -EXACT <= k <= EXACT for k in ks):
            raise WireError("range", "an integer that is no exact double")
        if self.kind == DECIMAL:
            power = POWERS[self.digits]
            return [k / power for k in ks]
        if self.kind == SIGNIFICANT:
            return [significant(k / self.denominator) for k in ks]
        power = POWERS[self.digits]
        points = [k * power + self.offset for k in ks]
        units = [round(p / self.denominator) + c for p, c in zip(points, self.corrections, strict=True)]
        return [unit / power for unit in units]

    def array(self, ks: Any, bound: int) -> Any:
        """As a float64 array; no integer is further from 0 than ``bound``."""
        import numpy as np  # noqa: PLC0415  # arrays come only from numpy

        if self.kind != PATTERN and bound > EXACT and not -EXACT <= int(ks.min()) <= int(ks.max()) <= EXACT:
            raise WireError("range", "an integer that is no exact double")
        power = POWERS[self.digits]
        if self.kind == DECIMAL:
            values = ks / power
        elif self.kind == PATTERN:
            values = np.where(ks < 0, (-1 - ks) | np.int64(-(2**63)), ks).view(np.float64)
        elif self.kind == SIGNIFICANT:
            plain = ks / float(self.denominator)
            at = np.searchsorted(MAGNITUDES, np.abs(plain), "right") - 1
            scale = np.array(SCALES)[np.maximum(at, 0)]
            values = np.rint(plain * scale) / scale
        else:
            values = (np.rint((ks * power + self.offset) / self.denominator) + self.corrections) / power
        rows, patched = self.patches
        if rows:
            values[list(rows)] = patched
        if (rows or self.kind == PATTERN) and not np.isfinite(values).all():
            raise WireError("not_finite")
        return values


def significant(value: float) -> float:
    """Rounded to 15 significant digits."""
    scale = SCALES[max(bisect_right(MAGNITUDES, abs(value)) - 1, 0)]
    return round(value * scale) / scale


def encode_scale(values: Sequence[float]) -> tuple[str, list[int]]:
    """Bits of the scale that fits the values best, and the integers that remain to be written."""
    scale, ks, bad = _fit(values)
    bits = fixed(scale.kind, KIND_BITS)
    if scale.kind in (DECIMAL, ROUNDED):
        bits += fixed(scale.digits, DIGITS_BITS)
    if scale.kind in (ROUNDED, SIGNIFICANT):
        bits += natural(scale.denominator - 1)
    if scale.kind == ROUNDED:
        bits += natural(scale.offset) + integers.encode(scale.corrections)
    if not bad:
        return bits + "0", ks
    for row in bad:
        ks[row] = ks[row - 1] if row else 0
    gaps = [after - before - 1 for before, after in zip([-1, *bad], bad, strict=False)]
    bits += "1" + natural(len(bad) - 1) + integers.encode_naturals(gaps)
    return bits + plane([_bits_of(values[row]) for row in bad], 64), ks


def read_scale(reader: BitReader, count: int, ops: Operations) -> Scale:
    """What ``encode_scale`` wrote for ``count`` values, one at least."""
    kind = reader.fixed(KIND_BITS)
    digits = reader.fixed(DIGITS_BITS) if kind in (DECIMAL, ROUNDED) else 0
    if digits > DIGITS_MAX:
        raise WireError("range", f"{digits} decimals")
    denominator = 1
    if kind in (ROUNDED, SIGNIFICANT):
        denominator = reader.bounded(DENOMINATOR_MAX - 1, "denominator") + 1
    offset, corrections = 0, ()
    if kind == ROUNDED:
        offset = reader.bounded(10**digits, "offset")
        corrections = integers.decode(reader, count, ops).values
    if not reader.fixed(1):
        return Scale(kind, digits, denominator, offset, corrections)
    size = reader.bounded(count - 1, "patches") + 1
    rows, row = [], -1
    for gap in integers.decode_small(reader, size, lists):
        row += gap + 1
        rows.append(row)
    if row >= count:
        raise WireError("range", f"a patch at row {row} of {count}")
    patches = tuple(_double(bits) for bits in lists.plane(reader, size, 64))
    return Scale(kind, digits, denominator, offset, corrections, (tuple(rows), patches))


Found = tuple[Scale, list[int], list[int]]
"""A scale, the integers by it, and the rows that need a patch."""


def _fit(values: Sequence[float]) -> Found:
    # A sum is finite only where all values are: minimum and maximum would overlook a NaN.
    tame = isfinite(sum(values)) and min(values) >= -EXACT and max(values) <= EXACT
    if not tame:
        wild = [row for row, value in enumerate(values) if not -EXACT <= value <= EXACT]
        if _too_many(wild, values):
            return _patterns(values)
        bounded = list(values)
        for row in wild:
            bounded[row] = 0.0
        scale, ks, bad = _fit(bounded)
        return (scale, ks, sorted({*bad, *wild})) if scale.kind != PATTERN else _patterns(values)
    short = _decimal(values, SHORT_DIGITS)
    if short is not None and not short[2]:
        return _grid(short[0], short[1]) or short
    fraction = _fraction(values)
    if fraction and short:
        return min(fraction, short, key=lambda found: len(found[2]))
    return fraction or short or _decimal(values, DIGITS_MAX) or _patterns(values)


def _too_many(bad: Sequence[int], values: Sequence[float]) -> bool:
    return len(bad) * PATCHED_SHARE > len(values)


def _decimal(values: Sequence[float], most: int) -> Found | None:
    """Decimals of at most ``most`` digits, found from a sample and proven on every value."""
    digits, more = -1, _most_digits(values[:: len(values) // GUESS + 1], most)
    while more > digits:
        digits = more
        power = POWERS[digits]
        ks = list(map(round, map(mul, values, repeat(power))))
        again = list(map(truediv, ks, repeat(power)))
        bad = (
            [] if again == list(values) else [row for row, value in enumerate(values) if again[row] != value]
        )
        more = _most_digits([values[row] for row in bad[:SAMPLE]], most)
    if max(ks) > EXACT or min(ks) < -EXACT:
        return None
    if 0 in ks:
        bad = sorted(bad + [row for row, k in enumerate(ks) if not k and copysign(1, values[row]) < 0])
    return None if _too_many(bad, values) else (Scale(DECIMAL, digits), ks, bad)


def _most_digits(values: Sequence[float], most: int) -> int:
    return max((digits for value in values if (digits := _digits(value)) <= most), default=0)


def _digits(value: float) -> int:
    """Decimals of the shortest text that is this double."""
    text = repr(value)
    if "e" in text:
        return max(-int(Decimal(text).as_tuple().exponent), 0)
    return 0 if text.endswith(".0") else len(text) - text.index(".") - 1


def _fraction(values: Sequence[float]) -> Found | None:
    """Multiples of one small fraction, to 15 significant digits: averages."""
    denominator, known = 1, 0
    for value in values:
        k = round(value * denominator)
        if known < SAMPLE and significant(k / denominator) != value:
            denominator = lcm(denominator, _denominator(abs(value)))
            known += 1
            if denominator > DENOMINATOR_MAX:
                return None
    ks = [round(value * denominator) for value in values]
    bad = [
        row
        for row, (k, value) in enumerate(zip(ks, values, strict=True))
        if significant(k / denominator) != value or (not k and copysign(1, value) < 0)
    ]
    if _too_many(bad, values) or max(ks) > EXACT or min(ks) < -EXACT:
        return None
    return Scale(SIGNIFICANT, denominator=denominator), ks, bad


def _denominator(value: float) -> int:
    """Of the simplest fraction within 15 digits, by continued fraction; too large where there is none."""
    near = value * 4e-15
    rest, whole = value, int(value)
    before, denominator = 0, 1
    numerators = (1, whole)
    while abs(numerators[1] / denominator - value) > near:
        if rest - whole < 1 / DENOMINATOR_MAX:
            return DENOMINATOR_MAX + 1
        rest = 1 / (rest - whole)
        whole = int(rest)
        before, denominator = denominator, whole * denominator + before
        numerators = (numerators[1], whole * numerators[1] + numerators[0])
        if denominator > DENOMINATOR_MAX:
            break
    return denominator


def _grid(scale: Scale, units: Sequence[int]) -> Found | None:
    """Decimals that are a coarser grid, rounded: steps of 10**digits / D units, from some offset."""
    if not scale.digits or len(units) < ROWS_FOR_GRID:
        return None
    distinct = sorted(set(units))
    gaps = list(map(sub, distinct[1:], distinct))
    if len(distinct) < ROWS_FOR_GRID or gaps.count(1) * 4 > len(gaps) or gcd(*gaps) > 1:
        return None
    power = 10**scale.digits
    sample = distinct[:: max(len(distinct) // SAMPLE, 1)]
    # The closest values are at least a step apart, give or take the rounding of both.
    coarsest = bisect_right(GRIDS, power / (sorted(gaps)[len(gaps) // 8] + 1.5))
    for denominator in GRIDS[coarsest:]:
        if power < denominator * GRID_STEP or max(distinct[-1], -distinct[0]) * denominator > EXACT:
            break
        if _on_grid(sample, power, denominator):
            found = _laid_on(units, scale.digits, denominator)
            if found is not None:
                return found
    return None


def _on_grid(sample: Sequence[int], power: int, denominator: int) -> bool:
    """Whether most stand as far above their grid point as the first, give or take the rounding."""
    # With less than half of the circle allowed, chance fails.
    first, slack, misses = sample[0] * denominator, min(denominator * 1.5, power * 0.28), 0
    for unit in sample:
        off = (unit * denominator - first) % power
        if slack < off < power - slack:
            misses += 1
            if misses > 2:
                return False
    return True


def _laid_on(units: Sequence[int], digits: int, denominator: int) -> Found | None:
    power = 10**digits
    half = power // 2
    first = units[len(units) // 2] * denominator
    around = sorted((unit * denominator - first + half) % power - half for unit in set(units))
    edge = len(around) // 16
    middle = (first + (around[edge] + around[-1 - edge]) // 2) % power
    forms = []
    for offset in (0, middle):
        ks = [round((unit * denominator - offset) / power) for unit in units]
        exact = [round((k * power + offset) / denominator) for k in ks]
        off = list(map(sub, units, exact))
        forms.append((len(units) - off.count(0), offset, ks, off))
    wrong, offset, ks, off = min(forms)
    if wrong * CORRECTED_SHARE > len(units):
        return None
    return Scale(ROUNDED, digits, denominator, offset, off), ks, []


def _patterns(values: Sequence[float]) -> Found:
    return Scale(PATTERN), [_to_pattern(value) for value in values], []


def _bits_of(value: float) -> int:
    return int.from_bytes(struct.pack(">d", value), "big")


def _double(bits: int) -> float:
    value: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    return value


def _to_pattern(value: float) -> int:
    """A signed integer that rises with the value; -0.0 stands below 0.0."""
    bits = _bits_of(value)
    return bits if bits < 1 << 63 else -1 - (bits - (1 << 63))


def _from_pattern(k: int) -> float:
    return _double(k if k >= 0 else (-1 - k) | 1 << 63)
