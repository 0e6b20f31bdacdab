"""Traffic statistics: the worked interval of the sheet, and what happens at the edges of intervals."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.model import Quality
from trisense.drivers import Observed
from trisense.drivers.traffic import INTERVAL, LaneStatistics, Vehicle, percentile

NS = 1_000_000_000
BEGAN_NS = 1_700_000_040 * NS  # a whole minute
WORKED = (
    *((0.0, 48, 4.4), (6.2, 52.5, 4.1), (11, 61, 4.7), (19.5, 44, 12.2), (24.1, 57.5, 4.3)),
    *((31.4, 66, 1.9), (36, 50, 8.9), (47.3, 54, 4.6), (52.8, 72.5, 4.5), (58.6, 39, 16.4)),
)


def at(seconds: float) -> int:
    return BEGAN_NS + round(seconds * NS)


def minute(vehicles: Any, *, until_s: float = 60, lane: LaneStatistics | None = None) -> list[Observed]:
    """Tell vehicles while the sensor lives, a sign of life each second."""
    lane = lane or LaneStatistics(1, zone_m=2.0)
    events: list[tuple[float, Vehicle | None]] = [(float(s), None) for s in range(int(until_s) + 1)]
    events += [(t, Vehicle(at(t), speed, length)) for t, speed, length in vehicles]
    rows = []
    for t, vehicle in sorted(events, key=lambda event: event[0]):
        rows += lane.at(at(t)) if vehicle is None else lane.add(vehicle)
    return rows


def test_the_worked_interval_comes_out_as_stated() -> None:
    (row,) = minute(WORKED)
    expected = {
        "lane": 1,
        "vehicle_count": 10,
        "flow": 600,
        "mean_speed": 54.45,
        "space_mean_speed": 52.771,
        "speed_85th": 64.25,
        "occupancy": 10.017,  # the last vehicle is clipped at the end
        "headway": 6.511,
        "gap": 6.130,
        "density": 11.37,
        "motorcycle_count": 1,
        "short_count": 6,
        "medium_count": 2,
        "long_count": 1,
        "coverage": 100,
        "duration": 60,
    }
    assert {name: row.values[name] for name in expected} == pytest.approx(expected, rel=2e-4)
    assert row.sensed_at_ns == at(60)
    assert row.quality == {}
    assert set(row.values) <= {field.name for field in INTERVAL}


def test_what_covers_the_zone_beyond_the_end_counts_in_the_next_interval() -> None:
    first, second = minute(WORKED, until_s=120)
    beyond_s = 18.4 / (39 / 3.6) - 1.4
    assert second.values["occupancy"] == pytest.approx(100 * beyond_s / 60)
    assert (first.values["vehicle_count"], second.values["vehicle_count"]) == (10, 0)


def test_no_vehicle_is_volume_0_without_speed() -> None:
    (row,) = minute(())
    assert (row.values["vehicle_count"], row.values["flow"], row.values["occupancy"]) == (0, 0, 0)
    assert not {"mean_speed", "speed_85th", "headway", "density", "short_count"} & set(row.values)


def test_a_sensor_without_lengths_tells_no_occupancy_and_no_classes() -> None:
    (row,) = minute([(3, 50, None), (9, 60, None)], lane=LaneStatistics(2))
    assert row.values["mean_speed"] == 55
    assert not {"occupancy", "gap", "short_count"} & set(row.values)


def test_a_length_or_a_speed_that_cannot_be_is_none() -> None:
    (row,) = minute([(3, 50, 0.2), (9, 0, 45)])
    assert row.values["mean_speed"] == 50
    assert not {"occupancy", "short_count", "long_count"} & set(row.values)


def test_an_interval_that_was_not_watched_throughout_is_suspect() -> None:
    lane, rows = LaneStatistics(1), []
    for second in (*range(20), *range(40, 61)):
        rows += lane.at(at(second))
    (row,) = rows
    assert row.values["coverage"] == pytest.approx(100 * 39 / 60)
    assert row.quality["vehicle_count"] is Quality.SUSPECT


def test_intervals_of_a_long_outage_have_no_rows() -> None:
    lane = LaneStatistics(1)
    lane.add(Vehicle(at(1), 50, 4))
    (row,) = lane.at(at(3 * 3600 + 1))
    assert (row.sensed_at_ns, row.values["vehicle_count"]) == (at(60), 1)
    (row,) = lane.add(Vehicle(at(3 * 3600 + 61), 50, 4))
    assert "headway" not in row.values


def test_a_clock_that_goes_back_begins_anew() -> None:
    lane = LaneStatistics(1)
    lane.add(Vehicle(at(7200), 50, 4))
    assert lane.add(Vehicle(at(1), 60, 4)) == []
    (row,) = lane.at(at(60))
    assert (row.values["vehicle_count"], row.values["mean_speed"]) == (1, 60)


def test_the_first_headway_of_an_interval_reaches_into_the_last_one() -> None:
    first, second = minute([(50, 50, 4), (65, 50, 4)], until_s=120)
    assert "headway" not in first.values
    assert second.values["headway"] == 15


@given(st.lists(st.floats(0.1, 250), min_size=1, max_size=40), st.floats(0, 1))
def test_a_percentile_lies_within_its_values_whatever_their_order(values: list[float], part: float) -> None:
    found = percentile(values, part)
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9
    shuffled = random.Random(1).sample(values, len(values))
    assert percentile(shuffled, part) == found


@given(st.lists(st.tuples(st.floats(0, 59), st.floats(1, 200), st.floats(0.5, 30)), max_size=30))
def test_the_space_mean_is_never_above_the_time_mean(vehicles: list[tuple[float, float, float]]) -> None:
    (row,) = minute(vehicles)
    assert row.values["vehicle_count"] == len(vehicles)
    assert 0 <= row.values["occupancy"] <= 100  # type: ignore[operator]  # a number
    if vehicles:
        assert row.values["space_mean_speed"] <= row.values["mean_speed"] + 1e-9  # type: ignore[operator]  # numbers
