"""The simulated street is plausible, and the same for everybody who looks at it."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from trisense.core.model import Quality
from trisense.core.vocabulary import PROPERTIES, field, judge
from trisense.sims.world import NS, World

HOUR_NS = 3600 * NS
MONDAY_NS = 1_700_438_400 * NS
"""2023-11-20T00:00:00Z."""
PLACE = World(seed=1, latitude=48.137, longitude=11.575)
NEAR = World(seed=1, latitude=48.146, longitude=11.580)


@pytest.mark.parametrize("look", [World.weather, World.air_quality])
def test_every_value_of_a_year_is_believable(look: object) -> None:
    for step in range(0, 365 * 24, 7):
        values = asdict(look(PLACE, MONDAY_NS + step * HOUR_NS))  # type: ignore[operator]  # a method of World
        for name, value in values.items():
            assert judge(field(name), value) is Quality.GOOD, (name, value, step)


def test_every_value_has_a_name_of_the_vocabulary() -> None:
    names = {*asdict(PLACE.weather()), *asdict(PLACE.air_quality())}
    assert names <= set(PROPERTIES)


def test_another_process_would_see_the_same() -> None:
    assert World(1, 48.137, 11.575).weather(MONDAY_NS) == World(1, 48.137, 11.575).weather(MONDAY_NS)
    assert World(2, 48.137, 11.575).weather(MONDAY_NS) != World(1, 48.137, 11.575).weather(MONDAY_NS)


def test_near_stations_agree() -> None:
    for hour in range(0, 240, 5):
        here, there = PLACE.weather(MONDAY_NS + hour * HOUR_NS), NEAR.weather(MONDAY_NS + hour * HOUR_NS)
        assert abs(here.air_temperature - there.air_temperature) < 1
        assert abs(here.barometric_pressure - there.barometric_pressure) < 1
        assert abs(here.relative_humidity - there.relative_humidity) < 3
        assert abs(here.rain_rate - there.rain_rate) < 0.5


def test_values_of_one_second_lie_close_together() -> None:
    for hour in range(48):
        now, next_ = (PLACE.weather(MONDAY_NS + hour * HOUR_NS + offset * NS) for offset in (0, 1))
        assert abs(now.air_temperature - next_.air_temperature) < 0.01
        assert abs(now.wind_speed - next_.wind_speed) < 0.7


def test_nights_are_dark_and_noon_is_warmer_than_dawn() -> None:
    midnight, dawn, noon = (PLACE.weather(MONDAY_NS + hour * HOUR_NS) for hour in (0, 5, 12))
    assert midnight.solar_irradiance == 0
    assert noon.illuminance > 50 * midnight.illuminance
    assert noon.air_temperature > dawn.air_temperature


def test_rush_hours_come_on_working_days_only() -> None:
    monday = {hour: PLACE.traffic(MONDAY_NS + hour * HOUR_NS) for hour in (2, 7, 16)}
    sunday = PLACE.traffic(MONDAY_NS - 24 * HOUR_NS + 7 * HOUR_NS)
    assert monday[7] > 4 * monday[2]
    assert monday[16] > 4 * monday[2]
    assert monday[7] > 2 * sunday


def test_dust_follows_traffic() -> None:
    def mean(hour: int) -> float:
        return sum(PLACE.air_quality(MONDAY_NS + (day * 24 + hour) * HOUR_NS).pm2_5 for day in range(5)) / 5

    assert mean(7) > 1.3 * mean(2)


def test_the_rain_counter_rises_with_the_rate_and_falls_at_its_end_alone() -> None:
    fresh, quarters = World(1), [MONDAY_NS + step * HOUR_NS // 4 for step in range(32 * 96)]
    totals = [PLACE.weather(at).rain_amount_total for at in quarters]
    falls = [index for index in range(1, len(totals)) if totals[index] < totals[index - 1]]
    assert len(falls) <= 1
    assert totals[-1] == fresh.weather(quarters[-1]).rain_amount_total
    dry = [i for i in range(1, len(totals)) if PLACE.weather(quarters[i - 1] + HOUR_NS // 8).rain_rate == 0]
    assert all(totals[i] == totals[i - 1] for i in dry if i not in falls)


def test_who_passes_moves_steadily_and_keeps_its_number() -> None:
    at = next(t for t in range(MONDAY_NS + 7 * HOUR_NS, MONDAY_NS + 8 * HOUR_NS, NS) if PLACE.vehicles(t))
    car = PLACE.vehicles(at)[0]
    later = [one for one in PLACE.vehicles(at + NS // 2) if one.number == car.number]
    assert later == [] or later[0].x_m - car.x_m == pytest.approx(car.speed_mps / 2, abs=0.01)


def test_as_many_pass_as_asked_for() -> None:
    seen = set()
    for step in range(0, 3600 * 5, 2):
        seen |= {
            p.number for p in PLACE.passing("tag", MONDAY_NS + step * NS, per_hour=lambda _: 60.0, lasts_s=4)
        }
    assert 240 < len(seen) < 360


def test_aircraft_stay_within_reach() -> None:
    for hour in range(24):
        for plane in PLACE.aircraft(MONDAY_NS + hour * HOUR_NS):
            assert abs(plane.latitude - PLACE.latitude) < 2.5
            assert 300 <= plane.altitude_m < 18_000
            assert 0 < plane.icao < 0x1000000
