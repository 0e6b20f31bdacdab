"""Whatever a box may say comes out of a bundle to the bit; what it may not is refused with a reason."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from trisense.core import limits, wire
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import (
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Quality,
    Sample,
    Stream,
    Value,
    batch_hash,
)
from trisense.core.wire import Header, arrays, lists, pack, split, unpack
from trisense.core.wire.codec import decode

EPOCH = 0xFEDC_BA98_7654_3210
HEADER = Header("kx-001", "kx", Counters(EPOCH, 1000, 900, 12_345))
WEATHER = Stream(
    "weather-1",
    "weather",
    Layer.GROUND,
    (Field("air_temperature", "Cel"), Field("relative_humidity", "%"), Field("wind_speed", "m/s")),
)
START_NS = 1_780_000_000 * 10**9


def batch_of(samples: Sequence[Sample], seq: int = 950, **changes: object) -> Batch:
    rows = tuple(samples)
    batch = Batch(EPOCH, seq, BatchClass.DATA, ClockState(), rows, b"any hash")
    return replace(batch, **changes)  # type: ignore[arg-type]  # any field of a batch


def stream_of(type_: FieldType, name: str = "x") -> Stream:
    return Stream("probe", "test", Layer.GROUND, (Field(name, "" if type_ is FieldType.STR else "1", type_),))


def column(values: Sequence[Value], type_: FieldType) -> Batch:
    stream = stream_of(type_)
    return batch_of([Sample(stream, START_NS + row * 10**9, (value,)) for row, value in enumerate(values)])


def bits(value: Value) -> object:
    return struct.pack(">d", value) if isinstance(value, float) else value


def canonical(batch: Batch) -> object:
    """All that must survive: rows stream by stream in their order, floats as their bits."""
    rows: dict[Stream, list[object]] = {}
    for s in batch.samples:
        rows.setdefault(s.stream, []).append((s.time_ns, s.n, tuple(map(bits, s.values)), s.quality))
    return (replace(batch, samples=()), sorted(rows.items(), key=lambda item: repr(item[0])))


def survives(batches: Sequence[Batch], header: Header = HEADER) -> bytes:
    payload = pack(header, batches)
    for bundle in (unpack(payload), decode(payload, lists), decode(payload, arrays)):
        assert (bundle.box, bundle.site, bundle.counters) == (header.box, header.site, header.counters)
        assert [h.samples for h in bundle.heads] == [len(b.samples) for b in batches]
        assert list(map(canonical, bundle.batches())) == list(map(canonical, batches))
    return payload


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking such cases takes minutes

# Any streams of any values ---------------------------------------------------------------------------

INTS = st.one_of(
    st.integers(limits.INT_MIN, limits.INT_MAX),
    st.integers(-5, 5),
    st.sampled_from([limits.INT_MIN, limits.INT_MAX, 0]),
)
DECIMALS = st.builds(lambda k, digits: k / 10**digits, st.integers(-(10**6), 10**6), st.integers(0, 6))
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    DECIMALS,
    st.integers(0, 5000).map(lambda k: round(k / 256, 3)),
    st.integers(0, 90_000).map(lambda k: float(f"{k / 1200:.15g}")),
    st.sampled_from([0.0, -0.0, 5e-324, -9999.9, 1.7976931348623157e308, 0.1 + 0.2, 2.0**53]),
)
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "E280116060000204", "\x00", "\U0010fffd", "汉字"])
)
VALUES: dict[FieldType, st.SearchStrategy[Value]] = {
    FieldType.INT: st.none() | INTS,
    FieldType.FLOAT: st.none() | FLOATS,
    FieldType.STR: st.none() | TEXTS,
}
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    names = draw(st.lists(NAMES | st.sampled_from(["pm2_5", "co2", "laeq"]), unique=True, max_size=4))
    fields = tuple(
        Field(
            name,
            draw(st.sampled_from(["1", "", "Cel", "dB[SPL]", "{vehicle}"])),
            draw(st.sampled_from(FieldType)),
        )
        for name in names
    )
    return Stream(
        draw(NAMES),
        draw(NAMES),
        draw(st.sampled_from(Layer)),
        fields,
        draw(st.just("") | NAMES),
        draw(st.sampled_from([1, 1000, 1_000_000, 10**9])),
    )


@st.composite
def samples(draw: st.DrawFn, stream: Stream) -> Sample:
    tick = draw(st.integers(0, 20) | st.integers(0, limits.TIME_MAX_NS // stream.tick_ns))
    values = tuple(draw(VALUES[field.type]) for field in stream.fields)
    codes = st.sampled_from([code for code in Quality if code is not Quality.GOOD])
    quality = draw(st.dictionaries(st.integers(0, len(values) - 1), codes, max_size=2)) if values else {}
    ordered = tuple(sorted((index, int(code)) for index, code in quality.items()))
    return Sample(
        stream, tick * stream.tick_ns, values, draw(st.integers(0, 3) | st.integers(0, 2**31 - 1)), ordered
    )


@st.composite
def batch_lists(draw: st.DrawFn) -> list[Batch]:
    known = draw(st.lists(streams(), min_size=1, max_size=4, unique_by=lambda s: s.key))
    found = []
    for _ in range(draw(st.integers(0, 3))):
        rows = tuple(draw(st.lists(st.sampled_from(known).flatmap(samples), max_size=12)))
        found.append(
            Batch(
                draw(st.integers(0, 2**64 - 1) | st.just(EPOCH)),
                draw(st.integers(0, 2**63 - 1) | st.integers(980, 999)),
                draw(st.sampled_from(BatchClass)),
                ClockState(draw(st.booleans()), draw(st.none() | st.integers(0, 10**6))),
                rows,
                draw(st.binary(min_size=8, max_size=8)),
                draw(st.none() | st.binary(max_size=20)),
            )
        )
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(batch_lists())
def test_any_batches_of_any_streams_survive(batches: list[Batch]) -> None:
    survives(batches)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(st.sampled_from(FieldType).flatmap(lambda t: st.tuples(st.just(t), st.lists(VALUES[t], max_size=90))))
def test_any_column_survives(case: tuple[FieldType, list[Value]]) -> None:
    type_, values = case
    survives([column(values, type_)])


# Columns as sensors make them ------------------------------------------------------------------------

WALK = [math.floor(20 * math.sin(row / 9) + 7 * math.sin(row * row)) for row in range(300)]
COLUMNS: dict[str, tuple[FieldType, list[Value]]] = {
    "constant": (FieldType.FLOAT, [-9999.9] * 300),
    "decimals": (FieldType.FLOAT, [k / 100 for k in WALK]),
    "constant offset": (FieldType.FLOAT, [round(44.085907 + k / 10, 6) for k in WALK]),
    "counts of a converter": (FieldType.FLOAT, [round(k / 256, 3) for k in WALK]),
    "averages": (FieldType.FLOAT, [float(f"{20 + k / 1200:.15g}") for k in WALK]),
    "full mantissa": (FieldType.FLOAT, [math.exp(k / 10) for k in WALK]),
    "full mantissa, repeated": (FieldType.FLOAT, [math.sqrt(2 + row % 5) for row in range(300)]),
    "mostly decimals": (FieldType.FLOAT, [k / 10 if row % 50 else math.pi for row, k in enumerate(WALK)]),
    "minus zero": (FieldType.FLOAT, [-0.0 if row % 40 == 7 else k / 10 for row, k in enumerate(WALK)]),
    "one sentinel": (FieldType.FLOAT, [-9999.0 if row == 77 else k / 10 for row, k in enumerate(WALK)]),
    "nulls": (FieldType.FLOAT, [None if row % 7 == 3 else k / 10 for row, k in enumerate(WALK)]),
    "all null": (FieldType.FLOAT, [None] * 300),
    "counter": (FieldType.INT, list(range(10**12, 10**12 + 300 * 17, 17))),
    "whole range": (FieldType.INT, [(row * 0x9E37_79B9_7F4A_7C15) % 2**64 - 2**63 for row in range(300)]),
    "ends of the range": (FieldType.INT, [0, limits.INT_MIN, limits.INT_MAX, limits.INT_MIN]),
    "rare": (FieldType.INT, [2**40 if row % 90 == 0 else 0 for row in range(300)]),
    "flags": (FieldType.INT, [row // 40 % 2 for row in range(300)]),
    "tags": (FieldType.STR, [f"E28011606000{row * row % 13:012X}" for row in range(300)]),
    "unique text": (FieldType.STR, [f"track {row}" for row in range(300)]),
    "text and nulls": (FieldType.STR, [None if row % 3 else "é𝄞\x00" for row in range(300)]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_survives(name: str) -> None:
    type_, values = COLUMNS[name]
    survives([column(values, type_)])


@pytest.mark.parametrize(
    ("name", "most"),
    [("constant", 0.4), ("decimals", 1.2), ("constant offset", 1.3), ("counts of a converter", 1.3),
     ("averages", 1.3), ("full mantissa, repeated", 0.7), ("counter", 0.4), ("rare", 0.45), ("flags", 0.5)],
)  # fmt: skip
def test_a_column_takes_few_bytes_a_value(name: str, most: float) -> None:
    type_, values = COLUMNS[name]
    assert len(pack(HEADER, [column(values, type_)])) / len(values) < most


def test_a_sum_of_other_columns_is_nearly_free() -> None:
    stream = Stream("rad", "radiation", Layer.GROUND, (Field("down"), Field("up"), Field("net")))

    def size(width: int) -> int:
        cut = replace(stream, fields=stream.fields[:width])
        rows = []
        for row, down in enumerate(WALK):
            up = row * 7919 % 23
            values = (down / 10, up / 10, (down - up) / 10)[:width]
            rows.append(Sample(cut, START_NS + row * 10**9, values))
        return len(survives([batch_of(rows)]))

    assert size(3) - size(2) < 25


def test_a_function_of_two_other_columns_costs_only_its_new_values() -> None:
    stream = Stream("room", "air", Layer.GROUND, (Field("t"), Field("rh"), Field("ratio")))
    rows = []
    for row in range(300):
        t, rh = 20 + row // 60 / 4, 40 + row * row % 11 / 2
        rows.append((t, rh, 0.00622 * math.exp(t / 17) * rh / (1000 - rh)))
    payload = survives([batch_of([Sample(stream, START_NS + i * 10**9, row) for i, row in enumerate(rows)])])
    assert len(payload) < 900


@pytest.mark.parametrize(
    "ticks",
    [
        [0, 0, 0],
        [5, 4, 3, 2, 1],
        [0, 1000, 2001, 2999, 4000],
        [limits.TIME_MAX_NS // 10**6, 0],
        [row * 60_000 + row * row % 7 for row in range(300)],
    ],
    ids=["repeated", "backward", "jittered", "ends of time", "long"],
)
def test_times_survive_in_any_order(ticks: list[int]) -> None:
    survives([batch_of([Sample(WEATHER, tick * 10**6, (1.0, None, 2.5), n) for n, tick in enumerate(ticks)])])


def test_ordinals_and_quality_codes_survive() -> None:
    quality = ((0, 3), (2, 9))
    rows = [
        Sample(WEATHER, START_NS, (20.5, 50.0, None), 2, quality),
        Sample(WEATHER, START_NS, (99.0, None, None), 1, ((0, 4), (1, 9), (2, 9))),
        Sample(WEATHER, START_NS, (20.6, None, 1.0), 0),
    ]
    survives([batch_of(rows)])


def test_empty_batches_and_an_empty_bundle_survive() -> None:
    survives([])
    survives([batch_of([]), batch_of([], 951)])


def test_a_media_batch_carries_its_blob() -> None:
    blob = bytes(range(256)) * 4
    survives([batch_of([], 950), batch_of([], 951, batch_class=BatchClass.MEDIA, blob=blob)])


def test_an_empty_blob_is_not_no_blob() -> None:
    survives([batch_of([], blob=b""), batch_of([])])


def test_streams_of_one_shape_share_columns_and_come_out_apart() -> None:
    devices = [replace(WEATHER, device=f"weather-{n}", site="" if n % 2 else "ky") for n in range(20)]
    batches = [
        batch_of(
            [
                Sample(s, START_NS + n * 10**6, (20.0 + n / 10, None if n % 4 == 0 else 50.0, 3.0), 0,
                       ((1, 9),) if n % 4 == 0 else ())
                for n, s in enumerate(devices)
            ],
            950 + second,
        )
        for second in range(2)
    ]  # fmt: skip
    assert len(survives(batches)) < 500
    blocks = unpack(pack(HEADER, batches)).blocks
    assert {block.stream for block in blocks} == set(devices)
    assert {block.counts for block in blocks} == {((0, 1), (1, 1))}


def test_all_rows_of_a_stream_lie_in_one_block() -> None:
    rows = [Sample(WEATHER, START_NS + row * 10**9, (20.0, 50.0, row / 10)) for row in range(30)]
    batches = [batch_of(rows[at : at + 10], 950 + at) for at in range(0, 30, 10)]
    (block,) = unpack(pack(HEADER, batches)).blocks
    assert block.counts == ((0, 10), (1, 10), (2, 10))
    assert list(block.times_ns) == [row.time_ns for row in rows]


def test_columns_come_out_as_arrays_where_numpy_is_there() -> None:
    fields = (Field("f"), Field("i", type=FieldType.INT), Field("s", "", FieldType.STR), Field("gone"))
    stream = Stream("d", "m", Layer.AIR, fields)
    bundle = unpack(
        pack(
            HEADER,
            [batch_of([Sample(stream, 0, (0.5, 3, "a", None)), Sample(stream, 0, (None, None, None, None))])],
        )
    )
    (block,) = bundle.blocks
    f, i, s, gone = block.columns
    assert isinstance(f.values, np.ndarray)
    assert f.values.dtype == np.float64
    assert isinstance(i.values, np.ndarray)
    assert i.values.dtype == np.int64
    assert s.values == ["a", None]
    assert isinstance(gone.values, np.ndarray)
    assert gone.values.dtype == np.float64
    assert [list(c.nulls) for c in block.columns] == [[1], [1], [1], [0, 1]]


def test_resolution_and_valid_range_stay_on_the_box() -> None:
    field = Field("x", resolution=0.1, valid=(0, 9))
    sample = Sample(Stream("d", "m", Layer.SKY, (field,)), 0, (1.5,))
    (batch,) = unpack(pack(HEADER, [batch_of([sample])])).batches()
    assert batch.samples[0].stream.fields == (Field("x"),)


def test_hashes_come_out_as_they_went_in_and_fit_the_rows() -> None:
    rows = [Sample(WEATHER, START_NS, (20.5, None, 3.0))]
    (batch,) = unpack(pack(HEADER, [batch_of(rows, hash=batch_hash(rows))])).batches()
    assert batch.hash == batch_hash(batch.samples) == batch_hash(rows)


# Refused before packing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value", "reason"),
    [
        (FieldType.FLOAT, math.nan, "not_finite"),
        (FieldType.FLOAT, math.inf, "not_finite"),
        (FieldType.FLOAT, -math.inf, "not_finite"),
        (FieldType.FLOAT, 2**53 + 1, "int_in_float"),
        (FieldType.FLOAT, "1", "type"),
        (FieldType.FLOAT, True, "type"),
        (FieldType.INT, 2**63, "int_range"),
        (FieldType.INT, 1.0, "type"),
        (FieldType.STR, "\ud800", "text_encoding"),
        (FieldType.STR, "x" * (limits.TEXT_BYTES + 1), "text_length"),
    ],
)
def test_a_value_that_no_bundle_may_carry_is_refused(type_: FieldType, value: Value, reason: str) -> None:
    with pytest.raises(ValueRefused) as caught:
        pack(HEADER, [column([None, value], type_)])
    assert caught.value.reason == reason


def test_an_integer_in_a_float_field_becomes_that_float() -> None:
    (batch,) = unpack(pack(HEADER, [column([3, 2.5, -(2**53)], FieldType.FLOAT)])).batches()
    assert [bits(s.values[0]) for s in batch.samples] == [bits(3.0), bits(2.5), bits(-(2.0**53))]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(WEATHER, START_NS + 1, (1.0, 1.0, 1.0)), "time"),
        (Sample(WEATHER, -(10**6), (1.0, 1.0, 1.0)), "time"),
        (Sample(WEATHER, limits.TIME_MAX_NS + 10**6, (1.0, 1.0, 1.0)), "time"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), -1), "ordinal"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), 2**31), "ordinal"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), 0, ((0, 1),)), "quality"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), 0, ((0, 7),)), "quality"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), 0, ((3, 4),)), "quality"),
        (Sample(WEATHER, START_NS, (1.0, 1.0, 1.0), 0, ((1, 4), (0, 4))), "quality"),
        (Sample(replace(WEATHER, device="Weather"), START_NS, (1.0, 1.0, 1.0)), "name"),
        (Sample(replace(WEATHER, device="w" * 65), START_NS, (1.0, 1.0, 1.0)), "name"),
        (Sample(replace(WEATHER, site="a b"), START_NS, (1.0, 1.0, 1.0)), "name"),
        (Sample(replace(WEATHER, tick_ns=0), START_NS, (1.0, 1.0, 1.0)), "tick"),
        (Sample(Stream("d", "m", Layer.SKY, (Field("x", "°C"),)), START_NS, (1.0,)), "unit"),
    ],
)
def test_a_sample_that_no_bundle_may_carry_is_refused(sample: Sample, reason: str) -> None:
    with pytest.raises(ValueRefused) as caught:
        pack(HEADER, [batch_of([sample])])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (replace(HEADER, box="No Box"), "box"),
        (replace(HEADER, site="no site"), "name"),
        (replace(HEADER, counters=Counters(2**64, 1, 1, 1)), "counters"),
        (replace(HEADER, counters=Counters(1, -1, 1, 1)), "counters"),
    ],
)
def test_a_header_that_no_bundle_may_carry_is_refused(header: Header, reason: str) -> None:
    with pytest.raises(ValueRefused) as caught:
        pack(header, [])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "batch",
    [batch_of([], hash=b"short"), batch_of([], -1), batch_of([], epoch=2**64)],
    ids=["hash", "seq", "epoch"],
)
def test_a_batch_that_no_bundle_may_carry_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueRefused):
        pack(HEADER, [batch])


# Limits ----------------------------------------------------------------------------------------------


def rows_of(count: int, stream: Stream = WEATHER) -> list[Sample]:
    return [Sample(stream, row * 10**6, (1.0,) * len(stream.fields)) for row in range(count)]


def test_as_many_rows_as_a_bundle_may_hold_survive() -> None:
    stream = Stream("d", "m", Layer.GROUND, (Field("x"),))
    batch = batch_of(rows_of(limits.BUNDLE_ROWS, stream))
    bundle = unpack(pack(HEADER, [batch]))
    assert bundle.heads[0].samples == limits.BUNDLE_ROWS
    assert bundle.blocks[0].times_ns[-1] == (limits.BUNDLE_ROWS - 1) * 10**6


def test_one_row_more_is_refused() -> None:
    stream = Stream("d", "m", Layer.GROUND, ())
    with pytest.raises(WireError) as caught:
        pack(HEADER, [batch_of(rows_of(limits.BUNDLE_ROWS + 1, stream))])
    assert caught.value.reason == "size"


def test_more_cells_than_a_bundle_may_hold_are_refused() -> None:
    wide = Stream("d", "m", Layer.GROUND, tuple(Field(f"x{n}") for n in range(1000)))
    sample = Sample(wide, 0, (None,) * 1000)
    with pytest.raises(WireError) as caught:
        pack(HEADER, [batch_of([sample] * (limits.BUNDLE_CELLS // 1000 + 1))])
    assert caught.value.reason == "size"


def test_more_streams_than_a_bundle_may_hold_are_refused() -> None:
    wide = tuple(Field(f"x{n}") for n in range(1000))
    batch = batch_of([Sample(Stream(f"d{n}", "m", Layer.GROUND, wide), 0, (None,) * 1000) for n in range(66)])
    with pytest.raises(WireError) as caught:
        pack(HEADER, [batch])
    assert caught.value.reason == "size"


def noise(count: int, seed: int) -> list[Sample]:
    stream = Stream("d", "m", Layer.GROUND, (Field("x"),))
    state, rows = seed, []
    for row in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        value = struct.unpack(">d", struct.pack(">Q", state >> 2 | 1 << 61))[0]
        rows.append(Sample(stream, row * 10**6, (value,)))
    return rows


def test_what_does_not_fit_one_payload_is_split_in_order() -> None:
    batches = [batch_of(noise(7000, seq), seq) for seq in range(6)]
    bundles = split(HEADER, batches)
    assert len(bundles) > 1
    assert [batch for _, part in bundles for batch in part] == batches
    for payload, part in bundles:
        assert len(payload) <= limits.PAYLOAD_BYTES
        assert list(map(canonical, unpack(payload).batches())) == list(map(canonical, part))


def test_a_batch_too_large_for_any_payload_is_named() -> None:
    with pytest.raises(WireError) as caught:
        split(HEADER, [batch_of([]), batch_of(noise(40_000, 1), 7)])
    assert caught.value.reason == "too_large"
    assert "batch 7" in str(caught.value)


def test_a_blob_that_fills_the_payload_survives_and_a_larger_one_does_not() -> None:
    blob = b"".join(hash_of(n) for n in range(limits.PAYLOAD_BYTES // 32))
    fits = blob[: limits.PAYLOAD_BYTES - 200]
    survives([batch_of([], batch_class=BatchClass.MEDIA, blob=fits)])
    with pytest.raises(WireError) as caught:
        pack(HEADER, [batch_of([], batch_class=BatchClass.MEDIA, blob=blob)])
    assert caught.value.reason == "size"


def hash_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def test_splitting_nothing_gives_nothing() -> None:
    assert split(HEADER, []) == []


def test_a_value_refused_while_splitting_is_still_refused() -> None:
    with pytest.raises(ValueRefused):
        split(HEADER, [column([math.nan], FieldType.FLOAT)])


def test_the_public_surface_is_what_it_says() -> None:
    assert wire.__all__ == ["BatchHead", "Block", "Bundle", "Column", "Header", "pack", "split", "unpack"]
