"""QARTOD tests: what a reading is worth by itself and by those before it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs
from trisense.core.model import Field, Quality
from trisense.edge.sensing.quality import FieldTests, Flags, QualityTable

NS = 1_000_000_000
FIELD = Field("tilt", "deg", valid=(-90, 90))


def codes(values: Sequence[Any], *, step_s: float = 1.0, gap_s: float = 60.0, **table: Any) -> list[int]:
    """The worst code of each value, one every ``step_s``; a pair is (value, seconds)."""
    tests = FieldTests(FIELD, QualityTable(**table), gap_s=gap_s)
    found = []
    for index, item in enumerate(values):
        value, at_s = item if isinstance(item, tuple) else (item, index * step_s)
        flagged = tests.find(value, int(at_s * NS), Quality.GOOD)
        found.append(int(max(flagged.values(), default=Quality.GOOD)))
    return found


@pytest.mark.parametrize(
    ("table", "values", "expected"),
    [
        ({"range": (0, 10), "suspect": (2, 8)}, [-1, 0, 1, 2, 8, 9, 10, 11], [4, 3, 3, 1, 1, 3, 3, 4]),
        ({}, [-91, 90], [4, 1]),
        ({"range": (-math.inf, 10)}, [-1e9, 11], [1, 4]),
        ({"spike": 3, "spike_fail": 8}, [5, 5, 5, 8, 8.1, 13.1, 5], [1, 1, 1, 1, 3, 4, 1]),
        ({"spike": 3}, [5, 5, 50, 5, 5], [1, 1, 1, 1, 1]),
        ({"spike": 3}, [5, 5, 5, 20, 20, 20, 20], [1, 1, 1, 3, 3, 3, 1]),
        ({"rate_per_s": 2}, [5, 7, 9.1, 9, 9], [1, 1, 3, 1, 1]),
        ({"rate_per_s": 2}, [5, 11, 11, 11, 11], [1, 3, 3, 1, 1]),
        ({"rate_per_s": 2}, [5, 40, 5, 5], [1, 3, 1, 1]),
        ({"flat_s": 2, "flat_fail_s": 4}, [5, 5, 5, 5, 5, 5.1, 5.1], [1, 1, 3, 3, 4, 1, 1]),
        ({"flat_s": 2, "eps": 0.5}, [5, 5.5, 4.5, 5.6, 5.2, 5.3], [1, 1, 3, 1, 1, 3]),
    ],
)
def test_each_test_gives_its_code(table: Any, values: list[float], expected: list[int]) -> None:
    assert codes(values, **table) == expected


def test_the_worse_code_wins() -> None:
    assert codes([5, 5, 5, 60], suspect=(0, 50), spike=3, spike_fail=20, rate_per_s=1) == [1, 1, 1, 4]


@pytest.mark.parametrize("at_s", [200.0, -5.0])
def test_a_gap_or_a_step_back_of_time_begins_anew(at_s: float) -> None:
    before: list[Any] = [5, 5, 5, 5]
    after = [(30, at_s), (30, at_s + 1), (30, at_s + 2)]
    found = codes(before + after, spike=3, rate_per_s=1, flat_s=3, gap_s=60)
    assert found == [1, 1, 1, 3, 1, 1, 1]


def test_gaps_are_counted_where_a_test_looks_back() -> None:
    for table, gaps in (({"spike": 3}, 1), ({"range": (0, 9)}, 0)):
        tests = FieldTests(FIELD, QualityTable.model_validate(table), gap_s=60)
        for at_s in (0, 60, 121, 100, 101):  # the step back begins anew, but is no silence
            tests.find(5, at_s * NS, Quality.GOOD)
        assert tests.gaps == gaps


def test_two_rows_of_one_moment_have_no_rate() -> None:
    assert codes([(5, 0), (9, 0), (9, 1), (12, 2)], rate_per_s=2) == [1, 1, 1, 3]


def test_what_cannot_be_is_not_remembered() -> None:
    tests = FieldTests(FIELD, QualityTable(spike=3, rate_per_s=1), gap_s=60)
    for second, (value, given_code, expected) in enumerate(
        [
            (5, 1, {}),
            (5, 1, {}),
            (5, 1, {}),
            (1000, 1, {"range": 4}),
            (80, 4, {}),
            (80, 9, {}),
            (5, 1, {}),
        ]
    ):
        assert tests.find(value, second * NS, Quality(given_code)) == expected


@given(st.lists(st.integers(-50, 50), max_size=40))
def test_spike_and_flat_agree_with_a_plain_reference(values: list[int]) -> None:
    found = codes(values, spike=10, flat_s=3)
    for index, value in enumerate(values):
        before = values[max(0, index - 5) : index]
        spike = len(before) >= 3 and abs(value - statistics.median(before)) > 10
        flat = index >= 3 and len(set(values[index - 3 : index + 1])) == 1
        assert found[index] == (3 if spike or flat else 1)


@given(st.lists(st.floats(-100, 100), max_size=30), st.integers(0, 30))
def test_a_code_never_depends_on_what_comes_later(values: list[float], cut: int) -> None:
    table = {"spike": 2.0, "rate_per_s": 1.0, "flat_s": 2.0, "eps": 0.1}
    assert codes(values, **table)[:cut] == codes(values[:cut], **table)


@pytest.mark.parametrize(
    "table",
    [
        {"range": (5, 5)},
        {"suspect": (1, math.nan)},
        {"spike": 0},
        {"spike": 3, "spike_fail": 2},
        {"flat_s": 60, "flat_fail_s": 60},
        {"rate_per_s": math.inf},
        {"eps": -1},
        {"sentinels": [math.nan]},
        {"flat_count": 3},
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: Any) -> None:
    with pytest.raises(ValidationError):
        QualityTable(**table)


def test_an_episode_is_one_line_and_its_end_another() -> None:
    flags = Flags("mast", "tilt", "tilt")
    spike = {"spike": Quality.SUSPECT}
    with capture_logs() as logs:
        for second in range(0, 100, 10):  # flickers: bad, then good for less than a minute
            flags.note(spike, 40.0, second * NS)
            flags.note({}, 5.0, (second + 5) * NS)
        assert not flags.calm
        flags.note({}, 5.0, 150 * NS)
    told = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [(e["event"], e["test"], e["log_level"]) for e in told] == [
        ("quality_flagged", "spike", "warning"),
        ("quality_recovered", "spike", "info"),
    ]
    assert told[0].items() >= {"device": "mast", "field": "tilt", "code": 3, "value": 40.0}.items()
    assert flags.calm
    assert flags.counts == {"spike": 10}
