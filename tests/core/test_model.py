"""Samples, values and the hash of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core import vocabulary
from trisense.core.errors import ValueRefused
from trisense.core.model import (
    Field,
    FieldType,
    Layer,
    Quality,
    Sample,
    Stream,
    Value,
    batch_hash,
    check_value,
)

STREAM = Stream(
    "wx", "weather", Layer.GROUND, (Field("air_temperature", "Cel"), Field("note", "", FieldType.STR))
)
SAMPLE = Sample(STREAM, 1_000_000, (20.5, "ok"))


@pytest.mark.parametrize(
    ("type_", "value", "kept"),
    [
        (FieldType.FLOAT, 1, 1.0),
        (FieldType.FLOAT, -0.0, -0.0),
        (FieldType.FLOAT, 5e-324, 5e-324),
        (FieldType.INT, -(2**63), -(2**63)),
        (FieldType.INT, 2**63 - 1, 2**63 - 1),
        (FieldType.STR, "\U0001f6a6 路口", "\U0001f6a6 路口"),
        (FieldType.STR, None, None),
    ],
)
def test_a_value_that_fits_is_kept(type_: FieldType, value: Value, kept: Value) -> None:
    got = check_value(value, type_)
    assert (got, type(got), str(got)) == (kept, type(kept), str(kept))


@pytest.mark.parametrize(
    ("type_", "value", "reason"),
    [
        (FieldType.FLOAT, float("nan"), "not_finite"),
        (FieldType.FLOAT, float("-inf"), "not_finite"),
        (FieldType.FLOAT, 2**53 + 1, "int_in_float"),
        (FieldType.FLOAT, "1.0", "type"),
        (FieldType.FLOAT, True, "type"),
        (FieldType.INT, 2**63, "int_range"),
        (FieldType.INT, 1.0, "type"),
        (FieldType.INT, False, "type"),
        (FieldType.STR, "\ud800", "text_encoding"),
        (FieldType.STR, "x" * 70_000, "text_length"),
        (FieldType.STR, b"x", "type"),
    ],
)
def test_a_value_that_no_bundle_may_carry_is_refused_with_its_reason(
    type_: FieldType, value: object, reason: str
) -> None:
    with pytest.raises(ValueRefused) as caught:
        check_value(value, type_)  # type: ignore[arg-type]  # wrong types are the point
    assert caught.value.reason == reason


def test_a_sample_has_one_value_per_field() -> None:
    with pytest.raises(ValueRefused, match="2 fields, 1 values"):
        Sample(STREAM, 0, (1.0,))


def test_the_hash_does_not_depend_on_the_order_of_rows() -> None:
    later = replace(SAMPLE, time_ns=2_000_000)
    assert batch_hash([SAMPLE, later]) == batch_hash([later, SAMPLE])


@given(
    change=st.sampled_from(
        [
            {"time_ns": 2_000_000},
            {"n": 1},
            {"values": (20.6, "ok")},
            {"values": (20.5, None)},
            {"quality": ((0, 3),)},
            {"stream": replace(STREAM, device="wy")},
            {"stream": replace(STREAM, site="north")},
            {"stream": replace(STREAM, fields=(Field("air_temperature", "K"), STREAM.fields[1]))},
        ]
    )
)
def test_the_hash_sees_every_change_of_content(change: dict[str, Any]) -> None:
    assert batch_hash([replace(SAMPLE, **change)]) != batch_hash([SAMPLE])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (20.0, Quality.GOOD),
        (-50.0, Quality.GOOD),
        (55.0, Quality.SUSPECT),
        (60.5, Quality.FAIL),
        (-273.0, Quality.FAIL),
    ],
)
def test_the_vocabulary_judges_a_temperature(value: float, code: Quality) -> None:
    assert vocabulary.judge(vocabulary.field("air_temperature"), value) is code


def test_a_device_s_own_range_goes_before_the_vocabulary_s() -> None:
    narrow = vocabulary.field("air_temperature", valid=(0, 40))
    assert vocabulary.judge(narrow, -5.0) is Quality.FAIL


def test_a_range_holds_only_for_its_own_unit() -> None:
    assert vocabulary.judge(Field("air_temperature", "K", valid=(200, 350)), 290.0) is Quality.GOOD


def test_names_of_the_vocabulary_are_valid_and_carry_units() -> None:
    for name, known in vocabulary.PROPERTIES.items():
        assert name == known.name
        assert known.unit
