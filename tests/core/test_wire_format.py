"""What must never change in version 1: its codes, its numbering, and bundles that exist."""

from __future__ import annotations

import hashlib
import math
import random

import pytest
from trisense.core.model import (
    NAME,
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Sample,
    Stream,
)
from trisense.core.vocabulary import PROPERTIES
from trisense.core.wire import Header, arrays, bits, integers, lists, names, pack, tables
from trisense.core.wire.codec import decode
from trisense.core.wire.frame import open_frame

HEADER = Header("kx-001", "kx", Counters(0xFEDC_BA98_7654_3210, 43, 40, 123_456))
GOLDEN = """
0128b52ffd60c500b50c0054179a01a66b782d303031a26b78cffedcba98765432102b28ce0001e240c501936200032e39a20d1c
ac172b85c8d25595872b0010203035ee20da8a402380599ef68b8bc5b0b45d10a716a2168a739c543368aac0c30ac8f166808c75
60623b463451df51418b068b0e8a2a9417e4856f6d7baca084c53af11c1071020e6041e606ec3717e7f95294a05536edb55001c2
fd36c524a9ce739ce7391d16db6db6db6db680001c58ae8d55536ab21dddd80084c8d545a2f83c43878478be0f20e1e21e1aa420
d69ac804e56c570efd4860c32725359ce739ce734002693c443d65964b2c962aaaaaaaaaa492492400b363809c117208c480721a
72e201ecb972dc94e6cb71121a7ae713554d4d4a7b39ce73979e79e79e23c9a3d9014224047cd1eb251607b2035fc6c495f85239
23728e8ddc3b8ca4c410ce9cbb75faa5a7533476e8c91fd7557c83162ba35400a746a5288006be4151a249a2aafffe30ea800859
7444a0c406647279776574c4096120706963747572650c00f05dc1b406d7ac3710f682ab5570511c45cb0c6c80c14016400e1900
196a512496
"""
"""Made by the first release of version 1."""


def golden_batches() -> list[Batch]:
    """Rows that use every way a column can be written."""
    station = Stream(
        "station",
        "weather",
        Layer.GROUND,
        (
            Field("air_temperature", "Cel"),
            *(Field(name) for name in ("down", "up", "net", "grid", "mean", "odd", "root")),
            Field("state", "", FieldType.STR),
            Field("count", "1", FieldType.INT),
        ),
        "elsewhere",
    )
    rows = []
    for row in range(48):
        down, up = row * row % 97, row * 7 % 31
        values = (
            None if row % 11 == 3 else 20 + up // 8 / 10,
            down / 10,
            up / 10,
            (down - up) / 10,
            round((row * 37 % 200) / 256, 3),
            float(f"{row * 53 % 400 / 12:.15g}"),
            -0.0 if row == 5 else down / 100,
            (20 + up // 8) ** 0.5,
            ("dry", "wet", None, "snow ❄")[row * row % 4],
            10**12 + row * 3 + (2**50 if row == 9 else 0),
        )
        quality = ((0, 9),) if values[0] is None else ((1, 3),) if row % 20 == 0 else ()
        time_ns = (1_767_225_600_000 + row * 1000 + row * row % 5) * 10**6
        rows.append(Sample(station, time_ns, values, row % 2, quality))
    tags = [
        Sample(
            Stream(f"reader-{n}", "tags", Layer.AIR, (Field("rssi", "dB[mW]"),), tick_ns=1),
            17 + n,
            (-60.5 - n,),
        )
        for n in range(4)
    ]
    epoch = HEADER.counters.epoch
    return [
        Batch(epoch, 41, BatchClass.DATA, ClockState(), tuple(rows[:30]), b"\x01" * 8),
        Batch(6, 3, BatchClass.MEDIA, ClockState(False, 20), tuple(tags), b"\x02" * 8, b"a picture"),
        Batch(epoch, 42, BatchClass.ALARM, ClockState(), tuple(rows[30:]), b"\x03" * 8),
    ]


def test_the_family_of_codes_is_that_of_version_1() -> None:
    lengths = bytes(length for index in range(tables.TABLES) for length in tables.code(index).lengths)
    assert hashlib.sha256(lengths).hexdigest()[:16] == "c9e008878f215cb3"
    assert hashlib.sha256(bytes(names.CODE.lengths)).hexdigest()[:16] == "244fcd2715b80470"


def test_the_vocabulary_only_grows_at_its_end() -> None:
    # A bundle names a property by its place, and leaves out its unit.
    text = "\n".join(f"{p.name} {p.unit} {p.type.value}" for p in list(PROPERTIES.values())[:61])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "9fa1ccfbdde3a855"


@pytest.mark.parametrize("index", range(tables.TABLES))
def test_each_code_is_complete_and_short_enough_to_look_up(index: int) -> None:
    lengths = tables.code(index).lengths
    assert math.fsum(2.0**-n for n in lengths) == 1.0
    assert max(lengths) <= tables.CODE_BITS


def test_every_number_comes_back_from_its_bits() -> None:
    rng = random.Random(3)
    values = [0, 1, 2, 2**64, 2**71, *(rng.getrandbits(rng.randrange(1, 72)) for _ in range(500))]
    signed = [value if n % 2 else -value for n, value in enumerate(values) if value < 2**70]
    text = "".join(map(bits.natural, values)) + "".join(map(bits.integer, signed))
    reader = bits.BitReader(bits.to_bytes(text))
    assert [reader.natural() for _ in values] == values
    assert [reader.integer() for _ in signed] == signed
    assert reader.position == len(text)


def test_every_name_comes_back_from_its_bits() -> None:
    known = [*PROPERTIES, "0", "a" * 64, "x-_9", "pm2_5", "pm2_5_cf1"]
    last, text = "", ""
    for name in known:
        assert NAME.fullmatch(name)
        text += names.write_name(name, last)
        last = name
    reader, last = bits.BitReader(bits.to_bytes(text)), ""
    for name in known:
        last = names.read_name(reader, last)
        assert last == name


def test_a_column_reads_no_bit_more_than_it_wrote() -> None:
    rng = random.Random(5)
    for _ in range(200):
        count = rng.choice([0, 1, 2, 3, 30, 300])
        values = [int(rng.gauss(0, 1) * 10 ** rng.randrange(18)) for _ in range(count)]
        text = integers.encode(values)
        reader = bits.BitReader(bits.to_bytes(text + "1"))
        assert lists.listed(integers.decode(reader, count, lists).values) == values
        assert reader.position == len(text)


@pytest.mark.parametrize("ops", [arrays, lists])
def test_a_bundle_of_version_1_still_means_what_it_meant(ops: integers.Operations) -> None:
    bundle = decode(bytes.fromhex(GOLDEN), ops)
    assert (bundle.box, bundle.site, bundle.counters) == (HEADER.box, HEADER.site, HEADER.counters)
    assert repr(bundle.batches()) == repr(golden_batches())


def test_a_bundle_packed_today_is_no_larger_than_at_first() -> None:
    # Before compression, for that of a few hundred bytes is a matter of luck.
    packed = open_frame(pack(HEADER, golden_batches()))
    assert len(packed) <= len(open_frame(bytes.fromhex(GOLDEN)))
