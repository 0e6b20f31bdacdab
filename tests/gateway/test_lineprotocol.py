"""Lines of line protocol: what a server reads back is what went in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trisense.core.errors import ValueRefused
from trisense.core.model import Field, FieldType, Layer, Sample, Stream
from trisense.core.wire import Block, Column, unpack
from trisense.gateway.stores.columns import Portion
from trisense.gateway.stores.lineprotocol import (
    EMPTY,
    REQUEST_BYTES,
    REQUEST_LINES,
    Lines,
    emit,
    halves,
    lines_of,
    requests,
)

T0_NS = 1_795_392_000_000_000_000


def parse(line: str) -> tuple[str, dict[str, str], dict[str, int | float | str], int]:
    """Read one line as InfluxDB 1.x does: a separator counts unless a backslash stands before it."""
    head, rest = _cut(line, " ")
    measurement, *tags = _parts(head, ",")
    fields_text, time = _fields_end(rest)
    fields: dict[str, int | float | str] = {}
    for item in _outside_quotes(fields_text):
        key, value = _cut(item, "=")
        fields[_plain(key)] = _value(value)
    return (
        re.sub(r"\\([, ])", r"\1", measurement),
        {_plain(k): _plain(v) for k, v in (_cut(tag, "=") for tag in tags)},
        fields,
        int(time),
    )


def _plain(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def _value(text: str) -> int | float | str:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    return int(text[:-1]) if text.endswith("i") else float(text)


def _cut(text: str, at: str) -> tuple[str, str]:
    for i, char in enumerate(text):
        if char == at and (i == 0 or text[i - 1] != "\\"):
            return text[:i], text[i + 1 :]
    raise AssertionError(text)


def _parts(text: str, at: str) -> list[str]:
    parts: list[str] = []
    while True:
        try:
            part, text = _cut(text, at)
        except AssertionError:
            return [*parts, text]
        parts.append(part)


def _fields_end(text: str) -> tuple[str, str]:
    end = text.rindex(" ")
    return text[:end], text[end + 1 :]


def _outside_quotes(text: str) -> Iterator[str]:
    start, quoted, i = 0, False, 0
    while i < len(text):
        if quoted and text[i] == "\\":
            i += 1
        elif text[i] == '"' and (quoted or text[i - 1 : i] == "="):
            quoted = not quoted  # a quote in a key is a letter
        elif text[i] == "," and not quoted and text[i - 1] != "\\":
            yield text[start:i]
            start = i + 1
        i += 1
    yield text[start:]


def block_of(stream: Stream, rows: Sequence[Sample], *, arrays: bool = True) -> Block:
    """A block as ``unpack`` makes it, with anything at all in the null rows of an array."""
    columns = []
    for i, f in enumerate(stream.fields):
        values: Any = [row.values[i] for row in rows]
        nulls = [r for r, value in enumerate(values) if value is None]
        if arrays and f.type is FieldType.FLOAT:
            values = np.array([math.nan if v is None else v for v in values], np.float64)
        elif arrays and f.type is FieldType.INT:
            values = np.array([-1 if v is None else v for v in values], np.int64)
        quality = {r: code for r, row in enumerate(rows) for at, code in row.quality if at == i}
        columns.append(Column(f, values, nulls, quality))
    times = np.array([row.time_ns for row in rows], np.int64)
    ordinals = np.array([row.n for row in rows], np.int64)
    return Block(stream, ((0, len(rows)),), times, ordinals, tuple(columns))


def text_of(block: Block, **options: Any) -> str:
    return "".join(lines.text for lines in emit(block, **({"box": "kx-001", "site": "kx"} | options)))


def expected_fields(stream: Stream, row: Sample) -> dict[str, int | float | str]:
    fields: dict[str, int | float | str] = {}
    codes = dict(row.quality)
    for i, (f, value) in enumerate(zip(stream.fields, row.values, strict=True)):
        if isinstance(value, str):
            fields[f.name] = value.replace("\r", "\\r").replace("\n", "\\n")
        elif value is not None:
            fields[f.name] = value
        if i in codes:
            fields[f"{f.name}_q"] = codes[i]
    return fields or {EMPTY: 1}


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(', ="\\'), min_size=1, max_size=8
).filter(lambda name: not name.endswith("\\"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5000, 5000).map(lambda i: i / 10)
VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.FLOAT: FLOATS,
    FieldType.INT: st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    FieldType.STR: st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Stream, list[Sample], bool]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    fields = tuple(Field(name, "1", draw(st.sampled_from(list(FieldType)))) for name in names)
    stream = Stream(draw(NAMES), draw(NAMES), draw(st.sampled_from(list(Layer))), fields)
    rows = []
    for i in range(draw(st.sampled_from([1, 2, 5, 40]))):
        values = tuple(draw(st.none() | VALUES[f.type]) for f in fields)
        codes = draw(st.dictionaries(st.integers(0, len(fields) - 1), st.sampled_from([2, 3, 4, 9])))
        rows.append(
            Sample(
                stream, T0_NS + i, values, draw(st.sampled_from([0, 0, 1, 7])), tuple(sorted(codes.items()))
            )
        )
    return stream, rows, draw(st.booleans())


@settings(max_examples=100, deadline=None)
@given(tables())
def test_what_is_emitted_parses_back_to_the_same(table: tuple[Stream, list[Sample], bool]) -> None:
    stream, rows, arrays = table
    lines = text_of(block_of(stream, rows, arrays=arrays)).split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        measurement, tags, fields, time_ns = parse(line)
        wanted = {"box": "kx-001", "device": stream.device, "layer": stream.layer.value, "site": "kx"}
        assert (measurement, time_ns) == (stream.measurement, row.time_ns)
        assert tags == wanted | ({"n": str(row.n)} if row.n else {})
        assert list(tags) == sorted(tags)
        told = expected_fields(stream, row)
        assert fields == told
        assert {k: repr(v) for k, v in fields.items()} == {
            k: repr(v) for k, v in told.items()
        }  # 1, 1.0, -0.0


@pytest.mark.parametrize("name", ["", "a\nb", "a\\", "\x00", "tab\t", "\x7f"])
def test_names_that_no_server_keeps_apart_are_refused(name: str) -> None:
    stream = Stream("d", "m", Layer.GROUND, (Field(name),))
    with pytest.raises(ValueRefused):
        text_of(block_of(stream, [Sample(stream, T0_NS, (1.0,))]))


def test_without_texts_string_fields_are_left_out_and_no_row_is_lost() -> None:
    stream = Stream("d", "m", Layer.GROUND, (Field("s", "", FieldType.STR), Field("v")))
    rows = [Sample(stream, T0_NS, ("bad", 1.5)), Sample(stream, T0_NS + 10**6, ("worse", None))]
    text = text_of(block_of(stream, rows), texts=False, time_divisor=1_000_000)
    assert text == (
        "m,box=kx-001,device=d,layer=ground,site=kx v=1.5 1795392000000\n"
        f"m,box=kx-001,device=d,layer=ground,site=kx {EMPTY}=1i 1795392000001\n"
    )


def test_a_table_of_repeated_decimals_keeps_the_sign_of_zero_and_values_that_are_none() -> None:
    stream = Stream("d", "m", Layer.GROUND, (Field("a"), Field("b"), Field("c", "1", FieldType.INT)))
    plain = [(round(i % 7 / 10 - 0.3, 1), i % 3 / 4, i % 5) for i in range(100)]
    for odd in (-0.0, 0.30000000000000004, 1e300, None):
        rows = [Sample(stream, T0_NS + i, values) for i, values in enumerate([*plain, (odd, odd, None)])]
        found = [parse(line)[2] for line in text_of(block_of(stream, rows)).splitlines()]
        assert [repr(sorted(f.items())) for f in found] == [
            repr(sorted(expected_fields(stream, row).items())) for row in rows
        ]


def test_only_the_lines_of_chosen_batches_are_made(box: Any) -> None:
    bundle = unpack(box.bundle(*(box.weather(40) for _ in range(3))))
    chosen = "".join(
        lines.text for lines in lines_of([Portion(bundle, frozenset({0, 2}))], texts=True, time_divisor=1)
    )
    times = [parse(line)[3] for line in chosen.splitlines()]
    assert times == [s.time_ns for b in (0, 2) for s in box.batches[b].samples]


def test_requests_hold_to_lines_and_bytes() -> None:
    pieces = [Lines("m v=1i 1\n" * 900, 900)] * 12 + [Lines('m s="' + "x" * 60_000 + '" 1\n', 1)] * 40
    pieces.append(Lines(('m s="' + "\u2028" * 4_000 + '" 1\n') * 600, 600))
    found = list(requests(pieces))
    assert "".join(r.text for r in found) == "".join(p.text for p in pieces)
    assert all(r.lines <= REQUEST_LINES and len(r.text) <= REQUEST_BYTES for r in found)
    assert all(r.text.count("\n") == r.lines for r in found)


def test_halves_split_between_lines() -> None:
    first, second = halves(Lines("a\nb\u2028c\nd\n", 3))
    assert (first, second) == (Lines("a\n", 1), Lines("b\u2028c\nd\n", 2))
