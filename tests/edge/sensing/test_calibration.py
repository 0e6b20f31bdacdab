"""Certificates: what they make of a raw value, and which of them counts when."""

from __future__ import annotations

import bisect
import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trisense.edge.sensing.calibration import Calibration, Certificate, decimals_for

NS = 1_000_000_000
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(**changes: Any) -> Certificate:
    given: dict[str, Any] = {
        "device": "no2-1",
        "field": "no2",
        "unit": "[ppb]",
        "polynomial": [1.0, 2.0],
        "range": (-10.0, 100.0),
        "valid_from": NEW_YEAR,
        "valid_to": NEW_YEAR + timedelta(days=365),
        "by": "a laboratory",
        "uncertainty": 4.0,
        "version": "2026-1",
    }
    return Certificate(**{key: value for key, value in (given | changes).items() if value != "left out"})


def table(points: Any, **changes: Any) -> Certificate:
    return certificate(polynomial="left out", range="left out", table=points, **changes)


def at_ns(moment: datetime) -> int:
    return int(moment.timestamp()) * NS


sane = st.floats(-1e3, 1e3)


@given(st.lists(sane, min_size=1, max_size=6), st.floats(-10, 10))
def test_a_polynomial_agrees_with_exact_arithmetic(coefficients: list[float], raw: float) -> None:
    exact = sum(Fraction(c) * Fraction(raw) ** power for power, c in enumerate(coefficients))
    one = certificate(polynomial=coefficients, range=(-10, 10), uncertainty=1e-3)
    value, inside = one.value(raw)
    assert inside
    assert abs(value - exact) <= 0.5000001 * 10**-one.decimals + 1e-7


@given(st.lists(st.tuples(sane, sane), min_size=2, max_size=20, unique_by=lambda p: p[0]), st.data())
def test_a_table_agrees_with_exact_arithmetic(points: list[tuple[float, float]], data: Any) -> None:
    points.sort()
    raw = data.draw(st.floats(points[0][0], points[-1][0]))
    after = min(bisect.bisect_right([x for x, _ in points], raw), len(points) - 1)
    (x0, y0), (x1, y1) = ([Fraction(c) for c in p] for p in points[after - 1 : after + 1])
    exact = y0 + (y1 - y0) * (Fraction(raw) - x0) / (x1 - x0)
    value, inside = table(points, uncertainty=1e-2).value(raw)
    assert inside
    assert abs(value - exact) <= 0.0005001


def test_a_table_gives_its_own_points() -> None:
    one = table([(0, 5), (10, -5), (20, 7)])
    assert [one.value(x) for x in (0, 5, 10, 15, 20)] == [(v, True) for v in (5, 0, -5, 1, 7)]


@pytest.mark.parametrize(
    ("one", "raw", "end"),
    [
        (table([(0, 5), (10, -5)]), -0.001, 5.0),
        (table([(0, 5), (10, -5)]), 11, -5.0),
        (certificate(), 101, 201.0),
        (certificate(), -1e300, -19.0),
    ],
)
def test_nothing_is_extrapolated(one: Certificate, raw: float, end: float) -> None:
    assert one.value(raw) == (end, False)


@pytest.mark.parametrize(
    ("uncertainty", "decimals"),
    [(4.0, 1), (10.0, 0), (9.99, 1), (0.1, 2), (0.01, 3), (0.05, 3), (1.0, 1), (100.0, -1), (350.0, -1)],
)
def test_a_value_is_rounded_to_a_power_of_ten_within_a_tenth_of_its_uncertainty(
    uncertainty: float, decimals: int
) -> None:
    assert decimals_for(uncertainty) == decimals


@given(st.floats(1e-9, 1e9))
def test_the_step_of_values_lies_between_a_hundredth_and_a_tenth_of_the_uncertainty(
    uncertainty: float,
) -> None:
    step = 10.0 ** -decimals_for(uncertainty)
    assert uncertainty / 100 * (1 - 1e-6) < step <= uncertainty / 10 * (1 + 1e-6)


def test_certificates_follow_each_other_and_each_says_how_it_stands() -> None:
    one = certificate(version="one", valid_to=NEW_YEAR + timedelta(days=10))
    two = certificate(
        version="two",
        valid_from=NEW_YEAR + timedelta(days=10),
        valid_to=NEW_YEAR + timedelta(days=20),
    )
    three = certificate(
        version="three",
        valid_from=NEW_YEAR + timedelta(days=25),
        valid_to=NEW_YEAR + timedelta(days=30),
    )
    chain = Calibration((one, two, three))
    found = {}
    for day in (-1, 0, 9, 10, 19, 20, 24, 25, 30, 99):
        time_ns = at_ns(NEW_YEAR + timedelta(days=day))
        chosen, state, (first, after) = chain.at(time_ns)
        assert first <= time_ns < after
        assert chain.at(first)[:2] == chain.at(after - 1)[:2] == (chosen, state)
        found[day] = (chosen.version, state)
    assert found == {
        -1: ("one", "early"),
        0: ("one", "valid"),
        9: ("one", "valid"),
        10: ("two", "valid"),
        19: ("two", "valid"),
        20: ("two", "expired"),
        24: ("two", "expired"),
        25: ("three", "valid"),
        30: ("three", "expired"),
        99: ("three", "expired"),
    }
    assert list(chain.holes()) == [(two, three)]
    assert not list(chain.overlaps())


def test_the_hash_is_that_of_what_it_says() -> None:
    assert certificate().hash == certificate(valid_from=datetime(2026, 1, 1, tzinfo=UTC)).hash
    others = [
        certificate(polynomial=[1.0, 2.1]),
        certificate(range=(-math.inf, 100)),
        certificate(range=(-10, math.inf)),
        certificate(version="2"),
    ]
    assert len({one.hash for one in [certificate(), *others]}) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"polynomial": "left out"},
        {"range": "left out"},
        {"table": [(0, 1), (1, 2)]},
        {"polynomial": "left out", "range": "left out", "table": [(0, 1), (0, 2)]},
        {"polynomial": "left out", "range": "left out", "table": [(0, 1)]},
        {"polynomial": "left out", "range": "left out", "table": [(0, math.nan), (1, 1)]},
        {"polynomial": [math.inf]},
        {"range": (5, 5)},
        {"valid_to": NEW_YEAR},
        {"valid_from": datetime(2025, 1, 1)},  # a time without an offset is the mistake
        {"uncertainty": 0},
        {"by": ""},
    ],
)
def test_a_certificate_that_makes_no_sense_is_refused(changes: Any) -> None:
    with pytest.raises(ValidationError):
        certificate(**changes)
