"""Damaged and hostile bytes: refused with a WireError or a valid bundle, in bounded time and memory."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Callable

import msgpack
import pytest
import zstandard
from trisense.core import limits
from trisense.core.errors import WireError
from trisense.core.model import (
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Sample,
    Stream,
    check_value,
)
from trisense.core.wire import Bundle, Header, arrays, following, lists, pack, unpack
from trisense.core.wire import bits as b
from trisense.core.wire.codec import decode
from trisense.core.wire.frame import open_frame, seal
from trisense.core.wire.integers import Operations, encode, encode_naturals
from trisense.core.wire.names import write_name

HEADER = Header("kx-001", "kx", Counters(7, 100, 90, 5000))
PEAK_BYTES = 160 * 2**20


def sample_payload() -> bytes:
    """A bundle that uses every part of the format."""
    rng = random.Random(4)
    station = Stream(
        "station",
        "weather",
        Layer.GROUND,
        (
            Field("air_temperature", "Cel"),
            *(Field(name) for name in ("down", "up", "net", "grid", "mean", "ratio")),
            Field("state", "", FieldType.STR),
            Field("count", "1", FieldType.INT),
        ),
        "elsewhere",
    )  # fmt: skip
    rows = []
    down = 200
    for row in range(36):
        down += rng.randrange(-9, 10)
        up = rng.randrange(40)
        values = (
            None if row % 11 == 3 else 20 + up // 8 / 10,
            down / 10,
            up / 10,
            (down - up) / 10,
            round(rng.randrange(900) / 256, 3),
            float(f"{rng.randrange(9000) / 1200:.15g}"),
            (20 + up // 8) ** 0.5,
            rng.choice(["dry", "wet", None]),
            10**12 + row * 3 + (2**50 if row == 9 else 0),
        )
        quality = ((0, 9),) if values[0] is None else ((1, 3),) if row % 20 == 0 else ()
        rows.append(
            Sample(station, (10**12 + row * 1000 + rng.randrange(9)) * 10**6, values, row % 2, quality)
        )
    others = [
        Sample(
            Stream(f"pm-{n}", "particles", Layer.AIR, (Field("pm2_5", "ug/m3"),)), 10**18, (n + rng.random(),)
        )
        for n in range(6)
    ]
    batches = [
        Batch(7, 98, BatchClass.DATA, ClockState(), tuple(rows[:24]), b"\x01" * 8),
        Batch(6, 3, BatchClass.MEDIA, ClockState(False, 20), tuple(others), b"\x02" * 8, b"a picture" * 3),
        Batch(7, 99, BatchClass.ALARM, ClockState(), tuple(rows[24:]), b"\x03" * 8),
    ]
    return pack(HEADER, batches)


PAYLOAD = sample_payload()


def with_checksum(frame: bytes) -> bytes:
    return frame + zlib.crc32(frame).to_bytes(4, "little")


def is_valid(bundle: Bundle) -> bool:
    """What any consumer of a bundle may rely on."""
    for block in bundle.blocks:
        rows = len(block.times_ns)
        assert rows == len(block.ordinals) == sum(count for _, count in block.counts) > 0
        assert all(0 <= index < len(bundle.heads) and count > 0 for index, count in block.counts)
        assert len(block.columns) == len(block.stream.fields)
        for column in block.columns:
            assert len(column.values) == rows
            assert list(column.nulls) == sorted(set(column.nulls))
            assert all(0 <= row < rows for row in (*column.nulls, *column.quality))
            for value in column.to_list():
                check_value(value, column.field.type)
    return [len(batch.samples) for batch in bundle.batches()] == [head.samples for head in bundle.heads]


def survives_or_is_refused(payload: bytes) -> bool:
    """Whether it is a bundle; numpy and lists agree on that and on what is in it."""
    outcomes: list[str | None] = []
    for ops in (arrays, lists):
        try:
            bundle = decode(payload, ops)
        except WireError as error:
            assert error.reason  # noqa: PT017  # both outcomes are good
            outcomes.append(None)
        else:
            assert is_valid(bundle)
            outcomes.append(repr(bundle.batches()))
    assert outcomes[0] == outcomes[1]
    return outcomes[0] is not None


@pytest.mark.parametrize("at", range(0, len(PAYLOAD), 7))
def test_a_flipped_bit_is_refused(at: int) -> None:
    damaged = bytearray(PAYLOAD)
    damaged[at] ^= 1 << at % 8
    with pytest.raises(WireError):
        unpack(bytes(damaged))


def test_a_cut_or_prolonged_payload_is_refused() -> None:
    for size in range(len(PAYLOAD)):
        with pytest.raises(WireError):
            unpack(PAYLOAD[:size])
    with pytest.raises(WireError):
        unpack(PAYLOAD + b"\0")


def test_flips_behind_a_right_checksum_are_refused_or_give_a_valid_bundle() -> None:
    rng = random.Random(1)
    body = msgpack.unpackb(open_frame(PAYLOAD), use_list=True)
    good = 0
    for _ in range(1500):
        bits = bytearray(body[7])
        for _ in range(rng.choice([1, 1, 1, 2, 4, 9])):
            bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.1:
            del bits[rng.randrange(len(bits)) :]
        elif rng.random() < 0.1:
            at = rng.randrange(len(bits))
            bits[at : at + 8] = rng.randbytes(8)
        frame = b"\0" + msgpack.packb([*body[:7], bytes(bits), *body[8:]])
        good += survives_or_is_refused(with_checksum(frame))
    # Both happen, so both have been tried.
    assert 100 < good < 1400


def test_any_bytes_behind_a_right_checksum_are_refused_or_give_a_valid_bundle() -> None:
    rng = random.Random(2)
    frame = b"\0" + open_frame(PAYLOAD)
    for _ in range(700):
        damaged = bytearray(frame)
        for _ in range(rng.choice([1, 2, 5])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        survives_or_is_refused(with_checksum(bytes(damaged)))
        survives_or_is_refused(with_checksum(bytes(damaged[: rng.randrange(1, len(damaged))])))
        survives_or_is_refused(with_checksum(bytes([rng.randrange(3)]) + rng.randbytes(rng.randrange(300))))


# Crafted -----------------------------------------------------------------------------------------------


def head_bits(batches: int) -> str:
    """Heads of so many equal batches."""
    parts = [b.natural(batches), b.natural(0), *(encode([0] * batches) for _ in range(6))]
    return "".join(parts) + "0" * 64 * batches


def stream_bits(fields: int, streams: int = 1, last: str = "") -> str:
    """One table of that many float fields."""
    bits = write_name("m", last) + "00" + "0" + b.natural(fields)
    bits += "".join("0" + write_name(f"x{n}", f"x{n - 1}" if n else "") + "1" for n in range(fields))
    bits += b.natural(streams - 1)
    return bits + "".join(write_name(f"d{n}", f"d{n - 1}" if n else "") + "0" for n in range(streams))


def crafted(
    bits: str,
    *extra: object,
) -> bytes:
    body = msgpack.packb([1, "kx-001", "kx", 7, 100, 90, 5000, b.to_bytes(bits), *extra])
    return with_checksum(b"\0" + body)


def refused(payload: bytes) -> str:
    with pytest.raises(WireError) as caught:
        unpack(payload)
    return caught.value.reason


def test_a_zstd_bomb_is_stopped_at_the_limit() -> None:
    for bomb in (
        zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2**30)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**28)),
    ):
        tracemalloc.start()
        reason = refused(with_checksum(b"\x01" + bomb))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason == "size"
        assert peak < 4 * limits.DECODED_BYTES


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "truncated"),
        (b"\x07abc", "codec"),
        (b"\x01abc", "codec"),
        (b"\x00", "msgpack"),
        (b"\x00" + msgpack.packb({}), "msgpack"),
        (b"\x00" + msgpack.packb([1] * 8), "body"),
        (b"\x00\xdd\xff\xff\xff\xff", "body"),
        (b"\x00" + msgpack.packb([[]] * 8), "body"),
        (b"\x00" + msgpack.packb([[1]] * 8), "msgpack"),
        (b"\x00" + open_frame(PAYLOAD) + b"\x00", "body"),
    ],
)
def test_a_frame_that_holds_no_bundle_is_refused(frame: bytes, reason: str) -> None:
    assert refused(with_checksum(frame)) == reason


@pytest.mark.parametrize(
    ("item", "value", "reason"),
    [
        (0, 2, "version"),
        (1, "no box", "name"),
        (2, "no site", "name"),
        (3, -1, "counters"),
        (3, 1.5, "body"),
        (4, 2**63, "counters"),
        (7, "text", "body"),
        (7, b"", "number"),
    ],
)
def test_an_item_out_of_its_bounds_is_refused(item: int, value: object, reason: str) -> None:
    body: list[object] = [1, "kx-001", "kx", 7, 100, 90, 5000, b.to_bytes(head_bits(0) + b.natural(0))]
    assert unpack(with_checksum(b"\0" + msgpack.packb(body))).heads == ()
    body[item] = value
    assert refused(with_checksum(b"\0" + msgpack.packb(body))) == reason


def measured(work: Callable[[], object]) -> int:
    """Peak of memory that a call takes, in bytes."""
    tracemalloc.start()
    try:
        work()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_a_few_bytes_may_hold_all_the_cells_a_bundle_may_have_and_no_more() -> None:
    # No nulls, no codes, decimals of 0 digits, no patches, not following, all zero.
    first = "00" + "00" + "00000" + "0" + encode([0] * 4000)
    later = "00" + "00" + "00000" + "0" + "0" + encode([0] * 4000)

    def payload(fields: int) -> bytes:
        table = encode([0] * 4000) + "0" + first + later * (fields - 1)
        return crafted(head_bits(1) + b.natural(1) + stream_bits(fields) + encode([4000]) + table)

    big = payload(1000)
    assert len(big) < 12_000
    assert measured(lambda: unpack(big)) < PEAK_BYTES
    assert refused(payload(1001)) == "size"


def test_tables_are_bounded_together_not_one_by_one() -> None:
    tables = b.natural(2) + stream_bits(900) + stream_bits(900, last="m")
    assert refused(crafted(head_bits(1) + tables + encode([3000, 3000]))) == "size"


def test_more_streams_than_a_bundle_may_have_are_refused_before_their_names_are_read() -> None:
    bits = head_bits(1) + b.natural(1) + write_name("m", "") + "000" + b.natural(1000)
    bits += "".join("0" + write_name(f"x{n}", f"x{n - 1}" if n else "") + "1" for n in range(1000))
    assert refused(crafted(bits + b.natural(limits.BUNDLE_SERIES - 1))) == "size"


def test_more_rows_than_a_bundle_may_have_are_refused() -> None:
    bits = head_bits(1) + b.natural(1) + stream_bits(1) + encode([limits.BUNDLE_ROWS + 1])
    assert refused(crafted(bits)) == "counts"
    bits = head_bits(2) + b.natural(1) + stream_bits(1) + encode([limits.BUNDLE_ROWS] * 2)
    assert refused(crafted(bits)) == "size"


def test_a_stream_without_rows_is_refused() -> None:
    assert refused(crafted(head_bits(1) + b.natural(1) + stream_bits(1) + encode([0]))) == "counts"


def test_spelled_out_nulls_are_bounded_over_all_columns() -> None:
    nulls = "1" + b.natural(0) + b.natural(49_998) + encode_naturals([0] * 49_999) + "0"
    first = nulls + "00" + "00000" + "0" + encode([0])

    def payload(fields: int) -> bytes:
        table = encode([0] * 50_000) + "0" + first * fields
        return crafted(head_bits(1) + b.natural(1) + stream_bits(fields) + encode([50_000]) + table)

    assert measured(lambda: unpack(payload(10))) < PEAK_BYTES
    assert refused(payload(11)) == "size"


@pytest.mark.parametrize("pattern", [0x7FF0 << 48, 0x7FF8 << 48, 0xFFF0 << 48, 0xFFFF << 48])
@pytest.mark.parametrize("ops", [arrays, lists])
def test_a_number_that_is_none_never_comes_out(pattern: int, ops: Operations) -> None:
    k = pattern if pattern < 2**63 else 2**63 - 1 - pattern
    as_pattern = "00" + "11" + "0" + encode([k] * 20)
    patch = "1" + b.natural(0) + encode_naturals([3]) + b.fixed(pattern, 64)
    as_patch = f"000000000{patch}{encode([0] * 20)}"
    for column in (as_pattern, as_patch):
        table = encode([0] * 20) + "0" + column
        payload = crafted(head_bits(1) + b.natural(1) + stream_bits(1) + encode([20]) + table)
        with pytest.raises(WireError) as caught:
            decode(payload, ops)
        assert caught.value.reason == "not_finite"


@pytest.mark.parametrize("ops", [arrays, lists])
def test_a_column_of_too_large_a_span_cannot_be_followed(ops: Operations) -> None:
    for far, allowed in ((following.FEATURE_MAX - 1, True), (following.FEATURE_MAX, False)):
        features = following.Features(columns=[(ops.vector([0] * 19 + [far]), ())])
        form = "1" + "0" + "1" + b.fixed(0, 2) + b.integer(1) + b.fixed(0, following.SHIFT_BITS)
        reader = ops.reader(b.to_bytes(form + encode([5] * 20)))
        if allowed:
            values = following.decode(reader, features, 20, (), ops).values
            assert ops.listed(values) == [5] * 19 + [5 + far]
        else:
            with pytest.raises(WireError):
                following.decode(reader, features, 20, (), ops)


def test_dictionaries_within_dictionaries_end() -> None:
    nested = b.integer(0) + b.natural(0) + "11" + b.natural(300)
    table = encode([0] * 1000) + "0" + "00" + "00" + "00000" + "0" + nested * 5000
    payload = crafted(head_bits(1) + b.natural(1) + stream_bits(1) + encode([1000]) + table)
    assert refused(payload) in {"range", "truncated", "kind", "number"}


def test_a_number_longer_than_any_is_refused() -> None:
    assert refused(crafted("0" * 200)) == "number"


def test_text_that_does_not_match_its_lengths_is_refused() -> None:
    stream = Stream("d", "m", Layer.GROUND, (Field("s", "", FieldType.STR),))
    rows = tuple(Sample(stream, 0, (text,), n) for n, text in enumerate(["ab", "é"]))
    good = pack(HEADER, [Batch(7, 99, BatchClass.DATA, ClockState(), rows, bytes(8))])
    body = msgpack.unpackb(open_frame(good))
    for text, reason in ((b"ab", "truncated"), (b"abcdef", "length"), (b"abc\xc3", "text_encoding")):
        assert refused(seal(msgpack.packb([*body[:8], text]))) == reason


def test_a_blob_too_many_or_too_few_is_refused() -> None:
    body = msgpack.unpackb(open_frame(PAYLOAD))
    assert refused(seal(msgpack.packb([*body, b"another"]))) == "blob"
    assert refused(seal(msgpack.packb(body[:-1]))) == "blob"


def test_a_payload_longer_than_any_is_not_even_looked_at() -> None:
    assert refused(bytes(limits.PAYLOAD_BYTES + 1)) == "size"
