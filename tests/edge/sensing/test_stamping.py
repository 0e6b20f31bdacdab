"""From what a driver saw to a sample: time, values, codes."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from trisense.core.model import ClockState, Field, FieldType, Layer, Quality, Stream, Value
from trisense.drivers import Observed
from trisense.edge.clocks.clock import Stamp
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.stamping import Stamper

from tests.edge.conftest import T0_NS

WEATHER = Stream(
    "mast",
    "weather",
    Layer.GROUND,
    (
        Field("air_temperature", "Cel"),
        Field("wind_speed", "m/s", valid=(0, 40)),
        Field("vehicle_count", "{vehicle}", FieldType.INT),
        Field("note", "", FieldType.STR),
    ),
)
AT = Stamp(T0_NS, ClockState())
GOOD: dict[str, Value] = {"air_temperature": 21.5, "wind_speed": 3, "vehicle_count": 4, "note": "ok"}


@pytest.fixture
def stamper() -> Stamper:
    return Stamper([WEATHER], lambda _: Ordinals())


def one(stamper: Stamper, **changes: Any) -> tuple[tuple[Value, ...], dict[int, int]]:
    given = {key: value for key, value in (GOOD | changes).items() if value != "left out"}
    ((_, sample),) = stamper.stamp([Observed("weather", given)], AT)
    return sample.values, dict(sample.quality)


def test_good_values_carry_no_code(stamper: Stamper) -> None:
    assert one(stamper) == ((21.5, 3.0, 4, "ok"), {})


@pytest.mark.parametrize(
    ("changes", "values", "codes"),
    [
        ({"air_temperature": 55.0}, (55.0, 3.0, 4, "ok"), {0: 3}),
        ({"air_temperature": 99.0}, (99.0, 3.0, 4, "ok"), {0: 4}),
        ({"wind_speed": 41.0}, (21.5, 41.0, 4, "ok"), {1: 4}),
        ({"air_temperature": None}, (None, 3.0, 4, "ok"), {0: 9}),
        ({"note": "left out"}, (21.5, 3.0, 4, None), {3: 9}),
        ({"vehicle_count": -1}, (21.5, 3.0, -1, "ok"), {2: 4}),
    ],
)
def test_codes_follow_the_ranges(stamper: Stamper, changes: Any, values: Any, codes: Any) -> None:
    assert one(stamper, **changes) == (values, codes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("air_temperature", float("nan")),
        ("air_temperature", float("inf")),
        ("air_temperature", "21.5"),
        ("vehicle_count", 4.0),
        ("vehicle_count", 2**63),
        ("vehicle_count", True),
        ("note", "\ud800"),
    ],
)
def test_a_value_that_may_not_travel_becomes_missing_and_is_counted(
    stamper: Stamper, name: str, value: Any
) -> None:
    values, codes = one(stamper, **{name: value})
    index = list(GOOD).index(name)
    assert (values[index], codes) == (None, {index: 9})
    assert stamper.counts == {"value_refused": 1}


def test_the_devices_own_code_stands_where_it_is_worse(stamper: Stamper) -> None:
    row = Observed(
        "weather",
        GOOD | {"wind_speed": 99.0, "note": None},
        {"air_temperature": Quality.SUSPECT, "wind_speed": Quality.SUSPECT, "note": Quality.MISSING},
    )
    ((_, sample),) = stamper.stamp([row], AT)
    assert dict(sample.quality) == {0: 3, 1: 4, 3: 9}


def test_times_are_floored_to_the_tick_and_rows_read_together_share_one(stamper: Stamper) -> None:
    at = Stamp(T0_NS + 1_999_999, ClockState())
    rows = [Observed("weather", GOOD), Observed("weather", GOOD), Observed("weather", GOOD, sensed_at_ns=5)]
    samples = [sample for _, sample in stamper.stamp(rows, at)]
    assert [(s.time_ns % 10_000_000, s.n) for s in samples] == [(1_000_000, 0), (1_000_000, 1), (0, 0)]


def test_what_no_stream_has_is_counted_and_left_out(stamper: Stamper) -> None:
    rows = [
        Observed("tides", {"level": 1.0}),
        Observed("weather", GOOD, sensed_at_ns=-1),
        Observed("weather", GOOD | {"extra": 1}),
    ]
    assert len(stamper.stamp(rows, AT)) == 1
    assert stamper.counts == {"unknown_measurement": 1, "time_refused": 1, "unknown_field": 1}


def test_a_field_without_tests_that_leaves_its_range_is_told_with_the_end_of_it(stamper: Stamper) -> None:
    with capture_logs() as logs:
        for second, value in enumerate([21.5, 99.0, 99.0] + [21.5] * 70):
            at = Stamp(T0_NS + second * 1_000_000_000, ClockState())
            stamper.stamp([Observed("weather", GOOD | {"air_temperature": value})], at)
    told = [(e["event"], e["field"]) for e in logs if e["log_level"] != "debug"]
    assert told == [("quality_flagged", "air_temperature"), ("quality_recovered", "air_temperature")]
    assert stamper.flags() == {"weather.air_temperature": {"range": 2}}
