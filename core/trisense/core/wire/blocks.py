"""Tables to bits, and tables to the blocks of their streams."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isfinite
from typing import Any, Final

from trisense.core import limits
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import Field, FieldType, Quality, Sample, Stream, Value, check_value
from trisense.core.wire import integers, lists
from trisense.core.wire.bits import BitReader, natural
from trisense.core.wire.bundle import Block, Column
from trisense.core.wire.columns import Budget, Table, decode_column, encode_column
from trisense.core.wire.integers import Operations, Vector
from trisense.core.wire.schema import Shape

__all__ = ["Budget", "Texts", "read_table", "write_table"]

CODES: Final = frozenset(Quality) - {Quality.GOOD}
PLAIN_FLOATS: Final = frozenset({float, type(None)})
ORDINAL_MAX: Final = 2**31 - 1


class Texts:
    """The text of a bundle: entries of dictionaries one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, lengths: Sequence[int]) -> list[str]:
        """The next entries."""
        ends = list(accumulate(lengths, initial=self._at))
        if min(lengths, default=0) < 0 or max(lengths, default=0) > limits.TEXT_BYTES:
            raise WireError("text_length", "no length of a text")
        if ends[-1] > len(self._data):
            raise WireError("truncated", "text runs past the end")
        self._at = ends[-1]
        try:
            return [self._data[a:b].decode() for a, b in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise WireError("text_encoding", str(error)) from error

    def check_end(self) -> None:
        """All has been read."""
        if self._at != len(self._data):
            raise WireError("length", f"{len(self._data) - self._at} bytes of text too many")


def write_table(shape: Shape, rows: Sequence[Sample], texts: bytearray, budget: Budget) -> str:
    """Bits of a table's rows, stream after stream; its text is added to ``texts``.

    Raises:
        ValueRefused: a time, ordinal, value or quality code no bundle may carry.
    """
    table = Table(len(rows), budget)
    parts = [_write_times(shape, rows), _write_ordinals(rows)]
    quality = _quality(shape, rows)
    columns = zip(*(row.values for row in rows), strict=True)
    for at, (field, cells) in enumerate(zip(shape.fields, columns, strict=True)):
        values = _checked(cells, field.type)
        if field.type is FieldType.STR:
            bits, values = _write_entries(values, texts)
            parts.append(bits)
        parts.append(encode_column(table, field.type, values, quality.get(at, {})))
    return "".join(parts)


def _checked(cells: tuple[Value, ...], type_: FieldType) -> Sequence[Value]:
    """``check_value`` of each; at once where all are good, as almost always."""
    if type_ is FieldType.FLOAT and set(map(type, cells)) <= PLAIN_FLOATS:
        present: Any = [cell for cell in cells if cell is not None] if None in cells else cells
        if all(map(isfinite, present)):
            return cells
    if type_ is FieldType.INT and set(map(type, cells)) == {int}:
        lowest, highest = min(cells), max(cells)  # type: ignore[type-var]  # all are integers
        if limits.INT_MIN <= lowest <= highest <= limits.INT_MAX:  # type: ignore[operator]  # all are integers
            return cells
    return [check_value(cell, type_) for cell in cells]


def _write_times(shape: Shape, rows: Sequence[Sample]) -> str:
    times = [row.time_ns for row in rows]
    if min(times) < limits.TIME_MIN_NS or max(times) > limits.TIME_MAX_NS:
        raise ValueRefused("time", f"{min(times)} to {max(times)} ns")
    tick_ns = shape.tick_ns
    if any(time_ns % tick_ns for time_ns in times):
        raise ValueRefused("time", f"no multiple of {tick_ns} ns")
    return integers.encode([time_ns // tick_ns for time_ns in times])


def _write_ordinals(rows: Sequence[Sample]) -> str:
    ordinals = [row.n for row in rows]
    if not any(ordinals):
        return "0"
    if min(ordinals) < 0 or max(ordinals) > ORDINAL_MAX:
        raise ValueRefused("ordinal", f"{min(ordinals)} to {max(ordinals)}")
    return "1" + integers.encode(ordinals)


def _quality(shape: Shape, rows: Sequence[Sample]) -> dict[int, dict[int, int]]:
    """Field index to row to code."""
    found: dict[int, dict[int, int]] = {}
    for at, row in enumerate(rows):
        last = -1
        for index, code in row.quality:
            if not last < index < len(shape.fields) or code not in CODES:
                raise ValueRefused("quality", f"code {code} of field {index}")
            found.setdefault(index, {})[at] = code
            last = index
    return found


def _write_entries(values: Sequence[Value], texts: bytearray) -> tuple[str, list[Value]]:
    """A dictionary in order of first appearance, and the column as its indices."""
    place: dict[Value, Value] = {None: None}
    lengths: list[int] = []
    for value in values:
        if isinstance(value, str) and value not in place:
            place[value] = len(lengths)
            encoded = value.encode()
            lengths.append(len(encoded))
            texts += encoded
    return natural(len(lengths)) + integers.encode(lengths), [place[value] for value in values]


def read_table(  # noqa: PLR0917  # called in one place
    reader: BitReader,
    streams: Sequence[Stream],
    counts: Sequence[tuple[int, ...]],
    texts: Texts,
    budget: Budget,
    ops: Operations,
) -> list[Block]:
    """The block of each stream of one shape; ``counts``: its rows, batch by batch."""
    fields, tick_ns = streams[0].fields, streams[0].tick_ns
    sizes = list(map(sum, counts))
    rows = sum(sizes)
    table, begin = Table(rows, budget), reader.position
    times = _read_times(reader, tick_ns, rows, ops)
    ordinals = ops.fill(rows, 0)
    if reader.fixed(1):
        ordinals = integers.decode(reader, rows, ops).values
        _check_range(ordinals, 0, ORDINAL_MAX, "ordinal", ops)
    columns = [_read_column(reader, table, field, texts, ops) for field in fields]
    row_bytes = (reader.position - begin) / 8 / rows
    coded = [sorted(column.quality) for column in columns]
    blocks = []
    for stream, own, (start, stop) in zip(streams, counts, _spans(sizes), strict=True):
        pairs = _pairs(own)
        cut = columns
        if stop - start < rows:
            cut = [_cut(c, start, stop, of) for c, of in zip(columns, coded, strict=True)]
        size_bytes = row_bytes * (stop - start)
        blocks.append(Block(stream, pairs, times[start:stop], ordinals[start:stop], tuple(cut), size_bytes))
    return blocks


@lru_cache(maxsize=64)
def _pairs(counts: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(head, rows) where there are rows; the streams of a box mostly have the same."""
    return tuple((index, count) for index, count in enumerate(counts) if count)


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(sizes, initial=0))
    return list(pairwise(ends))


def _read_times(reader: BitReader, tick_ns: int, rows: int, ops: Operations) -> Vector:
    ticks = integers.decode(reader, rows, ops).values
    _check_range(ticks, -(-limits.TIME_MIN_NS // tick_ns), limits.TIME_MAX_NS // tick_ns, "time", ops)
    return ops.affine(ticks, tick_ns, 0)


def _check_range(values: Vector, low: int, high: int, what: str, ops: Operations) -> None:
    lowest, highest = ops.limits(values)
    if not low <= lowest <= highest <= high:
        raise WireError("range", f"{what} {lowest} to {highest}, not within {low} to {high}")


def _read_column(reader: BitReader, table: Table, field: Field, texts: Texts, ops: Operations) -> Column:
    if field.type is not FieldType.STR:
        return decode_column(reader, table, field, ops)
    size = reader.bounded(table.rows, "entries")
    entries = texts.read(integers.decode(reader, size, lists).values)
    column = decode_column(reader, table, field, ops)
    gone = set(column.nulls)
    indices = [0 if row in gone else int(index) for row, index in enumerate(column.values)]
    if len(gone) < table.rows and not 0 <= min(indices) <= max(indices) < size:
        raise WireError("range", "a text that the dictionary does not have")
    values: list[Value] = [None if row in gone else entries[index] for row, index in enumerate(indices)]
    return Column(field, values, column.nulls, column.quality)


def _cut(column: Column, start: int, stop: int, coded: Sequence[int]) -> Column:
    """Rows ``start`` to ``stop`` of a column; ``coded``: its rows with a quality code, rising."""
    nulls, quality = column.nulls, column.quality
    if nulls:
        nulls = [row - start for row in nulls[bisect_left(nulls, start) : bisect_left(nulls, stop)]]
    if coded:
        own = coded[bisect_left(coded, start) : bisect_left(coded, stop)]
        quality = {row - start: quality[row] for row in own}
    return Column(column.field, column.values[start:stop], nulls, quality)
