"""One column of a table to bits and back: nulls, quality codes, values, and what predicts them.

A column of numbers may follow others of its table: as a weighted sum of their differences, or with
its rows sorted by theirs (a function of another column is smooth in that order, and repeats where
that repeats). Which, the encoder finds on some rows; the decoder is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final

from trisense.core import limits
from trisense.core.errors import WireError
from trisense.core.model import Field, FieldType, Quality, Value
from trisense.core.wire import floats, following, integers, lists
from trisense.core.wire.bits import BitReader, natural
from trisense.core.wire.bundle import Column
from trisense.core.wire.integers import Operations

__all__ = ["Budget", "Table", "decode_column", "encode_column"]

NOTHING: Final[Mapping[int, int]] = MappingProxyType({})
CODES: Final = (Quality.NOT_EVALUATED, Quality.SUSPECT, Quality.FAIL, Quality.MISSING)


@dataclass
class Budget:
    """Nulls and quality codes that a bundle may still spell out: they take more memory than values."""

    exceptions: int = limits.BUNDLE_EXCEPTIONS

    def spend(self, rows: int) -> None:
        """Raise WireError where there are too many."""
        self.exceptions -= rows
        if self.exceptions < 0:
            raise WireError("size", f"more than {limits.BUNDLE_EXCEPTIONS} nulls and quality codes")


@dataclass
class Table:
    """What the columns of a table that is being written or read share."""

    rows: int
    budget: Budget
    masks: list[Sequence[int]] = field(default_factory=list)
    """Sets of null rows seen so far."""
    missing: list[dict[int, int]] = field(default_factory=list)
    """For each of them, the quality codes of rows that are null because they are missing."""
    features: following.Features = field(default_factory=following.Features)

    def add_mask(self, nulls: Sequence[int]) -> None:
        """A new set of null rows."""
        self.budget.spend(len(nulls))
        self.masks.append(nulls)
        self.missing.append(dict.fromkeys(nulls, int(Quality.MISSING)))


def encode_column(table: Table, type_: FieldType, values: Sequence[Value], quality: Mapping[int, int]) -> str:
    """Bits of one column; its values have been checked, its text has become indices."""
    nulls = [row for row, value in enumerate(values) if value is None] if None in values else []
    bits, missing = _encode_nulls(table, nulls)
    bits += _encode_quality(table, missing, quality)
    if len(nulls) == table.rows:
        return bits
    present: Any = [value for value in values if value is not None] if nulls else values
    if type_ is FieldType.FLOAT:
        scale, ks = floats.encode_scale(present)
        bits += scale
    else:
        ks = present
    return bits + following.encode(table.features, table.rows, nulls, ks)


def decode_column(reader: BitReader, table: Table, field: Field, ops: Operations) -> Column:
    """What ``encode_column`` wrote; text columns come out as indices."""
    nulls, missing = _decode_nulls(reader, table)
    quality = _decode_quality(reader, table, missing)
    count = table.rows - len(nulls)
    if not count:
        # As the others are: floats in an array of floats.
        values: Any = ops.fill(0, 0)
        scale, bound = floats.Scale(), 0
    else:
        scale = floats.read_scale(reader, count, ops) if field.type is FieldType.FLOAT else floats.Scale()
        values, _, bound = following.decode(reader, table.features, table.rows, nulls, ops)
    if field.type is FieldType.FLOAT:
        values = scale.floats(values) if ops is lists else scale.array(values, bound)
    return Column(field, ops.spread(values, nulls, table.rows), nulls, quality)


# Nulls and quality codes ---------------------------------------------------------------------------


def _encode_nulls(table: Table, nulls: Sequence[int]) -> tuple[str, Mapping[int, int]]:
    """A bit; then which earlier set, or a new one as gaps. With it, the codes to expect."""
    if not nulls:
        return "0", NOTHING
    if nulls in table.masks:
        which = table.masks.index(nulls)
        return "1" + natural(which + 1), table.missing[which]
    table.add_mask(nulls)
    return "1" + natural(0) + _encode_rows(nulls), table.missing[-1]


def _decode_nulls(reader: BitReader, table: Table) -> tuple[Sequence[int], Mapping[int, int]]:
    if not reader.fixed(1):
        return (), NOTHING
    which = reader.bounded(len(table.masks), "mask")
    if not which:
        table.add_mask(_decode_rows(reader, table.rows))
    return table.masks[which - 1], table.missing[which - 1]


def _encode_rows(rows: Sequence[int]) -> str:
    gaps = [after - before - 1 for before, after in zip([-1, *rows], rows, strict=False)]
    return natural(len(rows) - 1) + integers.encode_naturals(gaps)


def _decode_rows(reader: BitReader, count: int) -> list[int]:
    """Rising rows below ``count``, one at least."""
    size = reader.bounded(count - 1, "rows") + 1
    gaps = integers.decode_small(reader, size, lists)
    rows = list(accumulate((gap + 1 for gap in gaps), initial=-1))[1:]
    if rows[-1] >= count:
        raise WireError("range", f"row {rows[-1]} of {count}")
    return rows


def _encode_quality(table: Table, missing: Mapping[int, int], quality: Mapping[int, int]) -> str:
    """A bit where all is as it should be: good, and missing where null."""
    if quality == missing:
        return "0"
    if not quality:
        return "10"
    places = sorted(quality)
    table.budget.spend(len(places))
    codes = [CODES.index(Quality(quality[row])) for row in places]
    return "11" + _encode_rows(places) + integers.encode(codes)


def _decode_quality(reader: BitReader, table: Table, missing: Mapping[int, int]) -> Mapping[int, int]:
    if not reader.fixed(1):
        return missing
    if not reader.fixed(1):
        return NOTHING
    places = _decode_rows(reader, table.rows)
    table.budget.spend(len(places))
    codes = integers.decode(reader, len(places), lists).values
    if not 0 <= min(codes) <= max(codes) < len(CODES):
        raise WireError("quality", "an unknown code")
    return {row: int(CODES[code]) for row, code in zip(places, codes, strict=True)}
