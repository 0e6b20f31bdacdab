"""One column of a table to bits and back: nulls, quality codes, values, and what predicts them.

A column of numbers may follow others of its table: as a weighted sum of their differences, or with
its rows sorted by theirs (a function of another column is smooth in that order, and repeats where
that repeats). Which, the encoder finds on some rows; the decoder is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from trisense.core.errors import WireError
from trisense.core.model import Field, FieldType, Quality, Value
from trisense.core.wire import floats, following, integers, lists
from trisense.core.wire.bits import BitReader, natural
from trisense.core.wire.bundle import Column
from trisense.core.wire.integers import Operations

__all__ = ["Table", "decode_column", "encode_column"]

CODES: Final = (Quality.NOT_EVALUATED, Quality.SUSPECT, Quality.FAIL, Quality.MISSING)


@dataclass
class Table:
    """What the columns of a table that is being written or read share."""

    rows: int
    masks: list[Sequence[int]] = field(default_factory=list)
    """Sets of null rows seen so far."""
    features: following.Features = field(default_factory=following.Features)


def encode_column(table: Table, type_: FieldType, values: Sequence[Value], quality: Mapping[int, int]) -> str:
    """Bits of one column; its values have been checked, its text is written elsewhere as lengths."""
    nulls = [row for row, value in enumerate(values) if value is None] if None in values else []
    bits = _encode_nulls(table, nulls) + _encode_quality(nulls, quality)
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
    nulls = _decode_nulls(reader, table)
    quality = _decode_quality(reader, table.rows, nulls)
    count = table.rows - len(nulls)
    if not count:
        return Column(field, ops.fill(table.rows, 0), nulls, quality)
    scale = floats.read_scale(reader, count, ops) if field.type is FieldType.FLOAT else None
    decoded = following.decode(reader, table.features, table.rows, nulls, ops)
    values: Any = decoded.values
    if scale is not None:
        values = scale.floats(values) if ops is lists else scale.array(values, decoded.bound)
    return Column(field, ops.spread(values, nulls, table.rows), nulls, quality)


# Nulls and quality codes ---------------------------------------------------------------------------


def _encode_nulls(table: Table, nulls: Sequence[int]) -> str:
    """A bit; then which earlier set, or a new one as gaps."""
    if not nulls:
        return "0"
    if nulls in table.masks:
        return "1" + natural(table.masks.index(nulls) + 1)
    table.masks.append(nulls)
    return "1" + natural(0) + _encode_rows(nulls)


def _decode_nulls(reader: BitReader, table: Table) -> Sequence[int]:
    if not reader.fixed(1):
        return ()
    which = reader.bounded(len(table.masks), "mask")
    if which:
        return table.masks[which - 1]
    nulls = _decode_rows(reader, table.rows)
    table.masks.append(nulls)
    return nulls


def _encode_rows(rows: Sequence[int]) -> str:
    gaps = [after - before - 1 for before, after in zip([-1, *rows], rows, strict=False)]
    return natural(len(rows) - 1) + integers.encode_naturals(gaps)


def _decode_rows(reader: BitReader, count: int) -> list[int]:
    """Rising rows below ``count``, one at least."""
    if not count:
        raise WireError("range", "a row of an empty table")
    size = reader.bounded(count - 1, "rows") + 1
    gaps = integers.decode_small(reader, size, lists)
    rows = list(accumulate((gap + 1 for gap in gaps), initial=-1))[1:]
    if rows[-1] >= count:
        raise WireError("range", f"row {rows[-1]} of {count}")
    return rows


def _encode_quality(nulls: Sequence[int], quality: Mapping[int, int]) -> str:
    """A bit where all is as it should be: good, and missing where null."""
    expected = dict.fromkeys(nulls, int(Quality.MISSING))
    if quality == expected:
        return "0"
    if not quality:
        return "10"
    places = sorted(quality)
    codes = [CODES.index(Quality(quality[row])) for row in places]
    return "11" + _encode_rows(places) + integers.encode(codes)


def _decode_quality(reader: BitReader, rows: int, nulls: Sequence[int]) -> dict[int, int]:
    if not reader.fixed(1):
        return dict.fromkeys(nulls, int(Quality.MISSING))
    if not reader.fixed(1):
        return {}
    places = _decode_rows(reader, rows)
    codes = integers.decode(reader, len(places), lists).values
    if not 0 <= min(codes) <= max(codes) < len(CODES):
        raise WireError("quality", "an unknown code")
    return {row: int(CODES[code]) for row, code in zip(places, codes, strict=True)}
