"""Profiles: what registers mean, and every mistake named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import ConfigError
from trisense.core.model import FieldType
from trisense.core.vocabulary import PROPERTIES
from trisense.drivers.modbus import Profile, load_profile, profiles

DEVICE = {"name": "probe", "vendor": "Probe", "measurement": "probe"}


def profile(*fields: dict[str, Any], **device: Any) -> Profile:
    return Profile.model_validate(
        {
            "device": DEVICE | device,
            "read": [{"function": 3, "address": 0, "count": 8}],
            "field": [
                {"name": f"f{index}", "unit": "1", "address": 0} | field for index, field in enumerate(fields)
            ],
        }
    )


def value(registers: list[int], **field: Any) -> object:
    made = profile(field)
    (request,) = made.requests({})
    return request.values(registers + [0] * (8 - len(registers)))["f0"]


@pytest.mark.parametrize(
    ("registers", "field", "expected"),
    [
        ([305], {"type": "u16", "scale": 0.1}, 30.5),
        ([1], {"type": "u16", "scale": 0.1}, 0.1),
        ([3], {"type": "u16", "scale": 0.1}, 0.3),
        ([629], {"type": "u16", "scale": 0.1, "offset": -40}, 22.9),
        ([0xFFFF], {"type": "s16", "scale": 0.1}, -0.1),
        ([0xFFFF], {"type": "u16"}, 65_535),
        ([0x8000], {"type": "bits"}, 0x8000),
        ([0x1122, 0x3344], {"type": "u32"}, 0x11223344),
        ([0x3344, 0x1122], {"type": "u32", "word_order": "CDAB"}, 0x11223344),
        ([0x2211, 0x4433], {"type": "u32", "word_order": "BADC"}, 0x11223344),
        ([0x4433, 0x2211], {"type": "u32", "word_order": "DCBA"}, 0x11223344),
        ([0x2211], {"type": "u16", "word_order": "BADC"}, 0x1122),
        ([0xFFFF, 0xF34E], {"type": "s32", "scale": 0.001}, -3.25),
        ([0, 0, 0, 7], {"type": "u64"}, 7),
        ([0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE], {"type": "s64"}, -2),
        ([0x4366, 0x3333], {"type": "f32"}, 230.2),
        ([0x4366, 0x3333], {"type": "f32", "resolution": 0.5}, 230.0),
        ([0x4366, 0x3333], {"type": "f32", "scale": 10}, 2302.0),
        ([0x406C, 0xC666, 0x6666, 0x6666], {"type": "f64"}, 230.2),
        ([0xFE02], {"type": "s8"}, -2),
        ([0xFE02], {"type": "u8", "byte": 1}, 2),
        ([0x1404, 0x6700], {"type": "u16", "byte": 1}, 1127),
        ([0x00FF, 0xFFFF, 0xFE00], {"type": "s32", "byte": 1}, -2),
        ([0x7FFF], {"type": "s16", "sentinel": 0x7FFF}, None),
        ([0xD8F1], {"type": "s16", "sentinel": -9999}, None),
        ([0x8000], {"type": "s16", "sentinel": [0x7FFF, 0x8000]}, None),
        ([0x7FC0, 0], {"type": "f32"}, None),
        ([0xFF80, 0], {"type": "f32"}, None),
    ],
)
def test_registers_become_exact_decimals(
    registers: list[int], field: dict[str, Any], expected: object
) -> None:
    got = value(registers, **field)
    assert got == expected
    assert repr(got) == repr(expected)


def test_each_32_bit_float_is_told_by_its_shortest_decimal() -> None:
    for number in (0.1, 233.41, 50.012, 1e-20, 16_777_217.0, -0.3333333):
        (raw,) = struct.unpack(">I", struct.pack(">f", number))
        got = value([raw >> 16, raw & 0xFFFF], type="f32")
        assert isinstance(got, float)
        assert struct.pack(">f", got) == struct.pack(">f", number)
        assert len(repr(got)) <= len(repr(struct.unpack(">f", struct.pack(">f", number))[0]))


def test_whole_numbers_stay_integers_and_the_vocabulary_decides_its_own_names() -> None:
    made = profile(
        {"name": "counter", "type": "u32"},
        {"name": "relative_humidity", "unit": None, "type": "u16", "address": 2},
    )
    counter, humidity = made.stream("probe", site="", options={}).fields
    assert (counter.type, counter.resolution) == (FieldType.INT, 1.0)
    assert (humidity.type, humidity.unit) == (FieldType.FLOAT, "%")


def test_a_value_that_begins_inside_a_register_is_never_torn() -> None:
    made = profile({"type": "u16", "byte": 1}, {"type": "u8", "address": 2}, max_registers=2)
    assert [(r.address, r.count) for r in made.requests({})] == [(0, 2), (2, 1)]


def test_a_block_is_split_at_what_the_device_allows_and_never_inside_a_field() -> None:
    fields = [{"type": "u32", "address": address} for address in (0, 2, 4, 6)]
    made = profile(*fields, max_registers=5)
    assert [(r.address, r.count) for r in made.requests({})] == [(0, 4), (4, 4)]


def test_no_request_touches_a_forbidden_register() -> None:
    made = Profile.model_validate(
        {
            "device": DEVICE,
            "read": [{"function": 3, "address": 0, "count": 6, "forbidden": [2]}],
            "field": [{"name": f"f{at}", "unit": "1", "address": at, "type": "u16"} for at in (0, 1, 3, 5)],
        }
    )
    assert [(r.address, r.count) for r in made.requests({})] == [(0, 2), (3, 3)]


def test_settings_are_known_but_never_asked_for() -> None:
    made = profiles()["cwt-soil-thc-s"]
    assert [(r.address, r.count) for r in made.requests({})] == [(0, 3)]
    assert "device_address" not in [f.name for f in made.stream("soil", site="", options={}).fields]


def test_options_choose_between_variants() -> None:
    made = profiles()["xy-md02"]
    assert made.options == {"scale": ("x10", "x100")}
    for choice, expected in (("x10", 305.0), ("x100", 30.5)):
        (request,) = made.requests({"scale": choice})
        assert request.values([3050, 0])["air_temperature"] == expected


@pytest.mark.parametrize("name", sorted(profiles()))
def test_each_profile_is_sound(name: str) -> None:
    made = profiles()[name]
    assert made.device.name == name
    for options in (dict(zip(made.options, choice, strict=True)) for choice in _choices(made)):
        requests = made.requests(options)
        assert requests
        assert all(r.count <= made.device.max_registers for r in requests)
        stream = made.stream("d", site="", options=options)
        assert sum(len(r.fields) for r in requests) == len(stream.fields)
        assert all(f.unit == PROPERTIES[f.name].unit for f in stream.fields if f.name in PROPERTIES)


def _choices(made: Profile) -> list[tuple[str, ...]]:
    choices: list[tuple[str, ...]] = [()]
    for values in made.options.values():
        choices = [(*choice, value) for choice in choices for value in values]
    return choices


GOOD_FILE = """
[device]
name = "probe"
vendor = "Probe"
measurement = "probe"

[[read]]
function = 3
address = 0
count = 4

[[field]]
name = "air_temperature"
address = 0
type = "s16"
"""


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('vendor = "Probe"', 'vendor = "Probe"\ncolour = "red"', ["device.colour: expected a known key"]),
        ("function = 3", "function = 7", ["read[0].function"]),
        ("count = 4", "count = 0", ["read[0].count"]),
        ('type = "s16"', 'type = "int16"', ["field[0].type"]),
        ('type = "s16"', 'type = "s16"\nunit = "K"', ["the vocabulary's unit Cel"]),
        ('"air_temperature"', '"soul"', ["a unit: soul is not in the vocabulary"]),
        ("address = 0\ntype", "address = 4\ntype", ["inside a read block"]),
        ('type = "s16"', 'type = "s16"\nword_order = "CDAB"', ["word_order ABCD or BADC"]),
        ('type = "s16"', 'type = "bits"\nscale = 2', ["no scale nor offset for bits"]),
        ('type = "s16"', 'type = "s16"\nvalid = [3, 1]', ["valid = [lowest, highest]"]),
        ("function = 3", "function = 1", ["of type bits, as function 1 reads bits"]),
        ("count = 4", "count = 4\nforbidden = [0]", ["off its forbidden addresses"]),
        (
            "count = 4",
            "count = 4\n[[read]]\nfunction = 4\naddress = 0\ncount = 2",
            ["in one read block, not in 2"],
        ),
        (
            'type = "s16"',
            'type = "s16"\n[[field]]\nname = "air_temperature"\naddress = 1\ntype = "s16"',
            ["once"],
        ),
        (
            'name = "probe"',
            'name = "Pro be"\nunit = 300\nmax_registers = 126',
            ["device.name", "device.unit", "device.max_registers"],
        ),
    ],
)
def test_each_mistake_in_a_profile_is_named(tmp_path: Path, old: str, new: str, wanted: list[str]) -> None:
    path = tmp_path / "probe.toml"
    path.write_text(GOOD_FILE)
    load_profile(path)
    path.write_text(GOOD_FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_profile(path)
    for text in wanted:
        assert text in str(error.value)
    assert str(path) in str(error.value)
