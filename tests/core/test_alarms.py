"""Alarm rules: what they may say, what they watch, and when they speak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from trisense.core.alarms import Evaluator, Rule, Source, Transition, alarm_values, bind, rule_mistakes
from trisense.core.alarms.evaluator import BURST, NOT_WATCHED, REFILL_S
from trisense.core.alarms.stream import ALARM
from trisense.core.model import Field, FieldType, Layer, Sample, Stream

RULE: TypeAdapter[Rule] = TypeAdapter(Rule)
T0_NS = 1_780_000_000_000_000_000


def stream(device: str, measurement: str = "weather") -> Stream:
    fields = (
        Field("air_temperature", "Cel"),
        Field("relative_humidity", "%"),
        Field("sky", "", FieldType.STR),
    )
    return Stream(device, measurement, Layer.GROUND, fields)


ROOF = stream("roof")
SOURCES = {
    "roof": Source((ROOF,), period_s=1.0),
    "yard": Source((stream("yard"), stream("yard", "soil"))),
    "box": Source((Stream("box", "health", Layer.GROUND, (Field("disk_free", "By"),)),), period_s=60.0),
}
HOT: dict[str, Any] = {
    "kind": "threshold", "name": "hot", "device": "roof", "field": "air_temperature",
    "unit": "Cel", "above": 40.0,
}  # fmt: skip


def rule(**options: Any) -> Rule:
    return RULE.validate_python(HOT | options)


def only(kind: str, **options: Any) -> Rule:
    return RULE.validate_python({"kind": kind, "name": "rule", "device": "roof"} | options)


def watching(*rules: Rule) -> Evaluator:
    subjects, mistakes = bind(rules, SOURCES)
    assert mistakes == []
    evaluator = Evaluator()
    assert evaluator.watch(subjects, 0.0, T0_NS) == []
    return evaluator


def sample(value: float | None, at_s: float = 0.0, *, code: int | None = None) -> Sample:
    if value is None:
        code = 9
    quality = () if code is None else ((0, code),)
    return Sample(ROOF, T0_NS + int(at_s * 1e9), (value, 50.0, "clear"), 0, quality)


def fed(
    evaluator: Evaluator, readings: Iterable[tuple[float, float | None]]
) -> list[tuple[float, bool, int]]:
    return [
        (at_s, told.raised, told.occurrence)
        for at_s, value in readings
        for told in evaluator.feed(sample(value, at_s), at_s)
    ]


# --- limits ---


def test_an_alarm_is_raised_above_the_limit_and_cleared_below_its_hysteresis() -> None:
    evaluator = watching(rule(hysteresis=2.0))
    readings = [(0.0, 20.0), (1.0, 41.0), (2.0, 39.0), (3.0, 41.0), (4.0, 38.0)]
    assert fed(evaluator, readings) == [(0.0, False, 0), (1.0, True, 1), (4.0, False, 1)]


def test_delays_ask_for_samples_that_hold_so_long() -> None:
    evaluator = watching(rule(for_s=2.0, clear_for_s=3.0))
    readings = [(0.0, 20.0), (3.0, 20.0), (4.0, 41.0), (5.0, 20.0), (6.0, 41.0), (7.5, 42.0), (8.0, 43.0)]
    readings += [(9.0, 20.0), (10.0, 41.0), (11.0, 20.0), (13.9, 20.0), (14.0, 20.0)]
    assert fed(evaluator, readings) == [(3.0, False, 0), (8.0, True, 1), (14.0, False, 1)]


def test_what_is_told_names_value_limit_and_when_the_condition_began() -> None:
    evaluator = watching(rule(for_s=2.0, below=-10.0, message="Close the road"))
    evaluator.feed(sample(-11.0, 1.0), 1.0)
    (told,) = evaluator.feed(sample(-12.5, 3.0), 3.0)
    values = alarm_values(told)
    assert set(values) == {field.name for field in ALARM.fields}
    assert values == {
        "rule": "hot", "kind": "threshold", "priority": "medium", "state": "raised", "source": "roof",
        "measurement": "weather", "field": "air_temperature", "value": -12.5, "limit": -10.0, "unit": "Cel",
        "since": "2026-05-28T20:26:41.000+00:00", "occurrence": 1, "held": 0, "message": "Close the road",
    }  # fmt: skip
    (told,) = evaluator.feed(sample(20.0, 4.0), 4.0)
    assert (told.raised, told.limit, told.value, told.since_ns) == (False, -10.0, 20.0, T0_NS + 10**9)


@pytest.mark.parametrize("code", [4, 9])
def test_a_failed_value_is_unknown_and_never_normal(code: int) -> None:
    evaluator = watching(rule(clear_for_s=2.0))
    assert fed(evaluator, [(0.0, 41.0)]) == [(0.0, True, 1)]
    bad = sample(20.0, code=code)
    assert evaluator.feed(bad, 1.0) == evaluator.feed(bad, 100.0) == []
    # Nor does it lend its time to the wait before the end.
    assert fed(evaluator, [(101.0, 20.0)]) == []
    assert evaluator.feed(bad, 102.0) == []
    assert fed(evaluator, [(103.0, 20.0), (104.9, 20.0), (105.0, 20.0)]) == [(105.0, False, 1)]


def test_a_failed_value_does_not_begin_the_wait_before_an_alarm_anew() -> None:
    evaluator = watching(rule(for_s=3.0))
    assert fed(evaluator, [(0.0, 41.0), (1.0, None), (2.0, None), (3.0, 41.0)]) == [(3.0, True, 1)]


def test_after_a_start_between_limit_and_hysteresis_nothing_is_claimed() -> None:
    evaluator = watching(rule(hysteresis=5.0))
    assert fed(evaluator, [(0.0, 38.0), (1.0, 39.0)]) == []
    assert fed(evaluator, [(2.0, 30.0)]) == [(2.0, False, 0)]


def test_an_alarm_that_was_there_before_a_restart_is_raised_again_or_ended() -> None:
    assert fed(watching(rule()), [(0.0, 41.0), (1.0, 42.0)]) == [(0.0, True, 1)]
    assert fed(watching(rule()), [(0.0, None), (1.0, 20.0), (2.0, 20.0)]) == [(1.0, False, 0)]


class Reference:
    """The threshold rule said slowly: it looks at the whole past at each sample."""

    def __init__(
        self, *, above: float, below: float, hysteresis: float, for_s: float, clear_for_s: float
    ) -> None:
        self.above, self.below, self.hysteresis = above, below, hysteresis
        self.for_s, self.clear_for_s = for_s, clear_for_s
        self.active: bool | None = None
        self.past: list[tuple[float, str]] = []

    def kind(self, value: float | None) -> str:
        if value is None:
            return "unknown"
        if value > self.above or value < self.below:
            return "outside"
        return (
            "inside" if self.below + self.hysteresis <= value <= self.above - self.hysteresis else "between"
        )

    def feed(self, at_s: float, value: float | None) -> bool | None:
        kind = self.kind(value)
        self.past.append((at_s, kind))
        if kind == "outside" and self.active is not True and self.held(("outside", "unknown")) >= self.for_s:
            self.active, self.past = True, []
        elif kind == "inside" and self.active is not False and self.held(("inside",)) >= self.clear_for_s:
            self.active, self.past = False, []
        else:
            return None
        return self.active

    def held(self, kinds: Sequence[str]) -> float:
        """Seconds from the first look of the newest kind since anything else, to now."""
        run: list[tuple[float, str]] = []
        for at_s, kind in reversed(self.past):
            if kind not in kinds:
                break
            run.append((at_s, kind))
        firsts = [at_s for at_s, kind in run if kind == kinds[0]]
        return self.past[-1][0] - min(firsts)


MINUTE_S = 60
"""One step: a subject may speak once in it, so that the bound on chatter plays no part."""
levels = st.one_of(st.none(), st.sampled_from([-12.0, -10.0, -9.0, -8.0, 0.0, 37.0, 38.0, 39.0, 40.0, 41.0]))
delays = st.integers(0, 6).map(lambda n: n * MINUTE_S)
steps = st.lists(st.tuples(st.integers(1, 4).map(lambda n: n * MINUTE_S), levels), max_size=60)


@given(steps=steps, hysteresis=st.sampled_from([0.0, 2.0]), for_s=delays, clear_for_s=delays)
def test_limits_are_judged_as_a_slow_reference_does(
    steps: list[tuple[int, float | None]], hysteresis: float, for_s: int, clear_for_s: int
) -> None:
    options: dict[str, Any] = {
        "above": 40.0, "below": -10.0, "hysteresis": hysteresis, "for_s": for_s, "clear_for_s": clear_for_s,
    }  # fmt: skip
    evaluator, reference = watching(rule(**options)), Reference(**options)
    now_s = 0.0
    for step_s, value in steps:
        now_s += step_s
        told = evaluator.feed(sample(value, now_s), now_s) + evaluator.tick(now_s)
        expected = reference.feed(now_s, value)
        assert [t.raised for t in told] == ([] if expected is None else [expected])
        assert [t.held for t in told] == [0] * len(told)


# --- rates ---


def steep(**options: Any) -> Evaluator:
    return watching(
        only(
            "rate",
            field="air_temperature",
            unit="Cel",
            window_s=60.0,
            **({"above": 3.0, "below": -3.0} | options),
        )
    )


def test_a_rate_is_the_change_over_the_window() -> None:
    evaluator = steep()
    calm = [(s, 20.0 + 0.04 * s) for s in range(120)]  # 2.4 Cel/min
    assert fed(evaluator, calm) == [(60, False, 0)]
    # From there on 6 Cel/min: above 3 as soon as a sixth of the window is steep.
    told = [t for s in range(120, 180) for t in evaluator.feed(sample(24.8 + 0.1 * (s - 120), s), s)]
    (raised,) = told
    assert raised.raised
    assert raised.value == pytest.approx(3.0, abs=0.1)
    assert (raised.limit, raised.unit) == (3.0, "Cel/min")


def test_a_rate_over_a_gap_is_unknown() -> None:
    evaluator = steep()
    assert fed(evaluator, [(0.0, 20.0), (60.0, 20.0)]) == [(60.0, False, 0)]
    assert fed(evaluator, [(500.0, 90.0), (520.0, 90.0)]) == []


@given(gaps=st.lists(st.integers(1, 50), max_size=80), data=st.data())
def test_rates_are_those_of_a_slow_reference(gaps: list[int], data: st.DataObject) -> None:
    evaluator = steep(above=0.0, below=-1e9)
    past: list[tuple[int, float]] = []
    now_s = 0
    for gap in gaps:
        now_s += gap
        value = float(data.draw(st.integers(-50, 50)))
        old = [(at_s, v) for at_s, v in past if 60 <= now_s - at_s <= 120]
        past.append((now_s, value))
        evaluator.feed(sample(value, now_s), now_s)
        if old:
            assert bool(evaluator.active) == (value - old[-1][1] > 0)


# --- silence and devices ---


def test_silence_is_told_when_it_lasts_and_when_it_ends() -> None:
    evaluator = watching(only("missing", periods=3))
    assert [t.raised for t in evaluator.feed(sample(None, 1.0), 1.0)] == [False]
    assert evaluator.tick(4.0) == []
    (told,) = evaluator.tick(4.5)
    assert (told.raised, told.value, told.limit, told.since_ns) == (True, 3.5, 3.0, T0_NS + 10**9)
    assert [t.raised for t in evaluator.feed(sample(20.0, 9.0), 9.0)] == [False]


def test_of_a_field_only_usable_values_end_the_silence() -> None:
    evaluator = watching(only("missing", field="air_temperature", missing_s=5.0))
    assert evaluator.feed(sample(None, 1.0), 1.0) == evaluator.feed(sample(99.0, 4.0, code=4), 4.0) == []
    (told,) = evaluator.tick(6.0)
    assert (told.raised, told.since_ns) == (True, T0_NS)


def test_a_device_is_told_when_it_fails_for_longer_than_allowed() -> None:
    evaluator = watching(only("device", for_s=10.0, clear_for_s=5.0))
    assert evaluator.device("roof", False, "", 0.0, T0_NS) == []
    assert [(t.raised, t.occurrence) for t in evaluator.tick(5.0)] == [(False, 0)]
    assert evaluator.device("roof", True, "no answer", 20.0, T0_NS + 1) == []
    assert evaluator.tick(29.9) == []
    (told,) = evaluator.device("roof", True, "no answer (waited 1 s)", 30.0, T0_NS + 2)
    assert (told.raised, told.value, told.since_ns) == (True, 10.0, T0_NS + 1)
    assert alarm_values(told)["message"] == "cannot be read: no answer (waited 1 s)"
    assert evaluator.device("roof", False, "", 31.0, T0_NS) == []
    assert [t.raised for t in evaluator.tick(36.0)] == [False]


def test_a_device_nobody_has_heard_of_yet_is_neither_well_nor_failing() -> None:
    evaluator = watching(only("device", for_s=10.0))
    assert evaluator.tick(1e6) == []


# --- floods ---


def test_a_subject_that_chatters_is_bounded_and_its_last_word_is_told_with_the_count() -> None:
    evaluator = watching(rule())
    readings = [(0.01 * i, 41.0 if i % 2 else 20.0) for i in range(1, 1001)]
    told = fed(evaluator, readings)
    assert len(told) == BURST
    assert evaluator.tick(11.0) == []
    (last,) = evaluator.tick(10.0 + REFILL_S)
    assert (last.raised, last.occurrence, last.held) == (False, 500, 1000 - BURST - 1)
    assert evaluator.held == 1000 - BURST - 1
    assert evaluator.tick(1e6) == []


# --- what a rule may say and watch ---


@pytest.mark.parametrize(
    ("options", "where", "expected"),
    [
        ({"above": None}, "alarm[0]", "above, below or both"),
        ({"below": 50.0}, "alarm[0]", "below less than above"),
        ({"below": 38.0, "hysteresis": 1.5}, "alarm[0]", "at most half"),
        ({"for_s": -1}, "alarm[0].for_s", "greater than or equal to 0"),
        ({"above": float("nan")}, "alarm[0].above", "finite"),
        ({"colour": "red"}, "alarm[0].colour", "a known key"),
        ({"kind": "guess"}, "alarm[0].kind", "'threshold', 'rate', 'missing', 'device'"),
        ({"priority": "urgent"}, "alarm[0].priority", "'critical', 'high', 'medium' or 'low'"),
        ({"kind": "missing"}, "alarm[0].unit", "a known key"),
    ],
)
def test_a_mistake_in_a_rule_names_its_key(options: dict[str, Any], where: str, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**options)
    told = {m.where: m.expected for m in rule_mistakes(caught.value, "alarm[0]")}
    assert expected in told[where]


@pytest.mark.parametrize(
    ("made", "where", "expected"),
    [
        (rule(device="rooof"), "alarm[0].device", "one of box, roof, yard"),
        (rule(device="cellar-*"), "alarm[0].device", "one of box, roof, yard"),
        (rule(measurement="whether"), "alarm[0].measurement", "one of weather"),
        (rule(field="temperature"), "alarm[0].field", "one of air_temperature, relative_humidity, sky"),
        (rule(field="sky"), "alarm[0].field", "a field of numbers"),
        (rule(unit="K"), "alarm[0].unit", "'Cel', the unit of roof/weather.air_temperature"),
        (rule(device="yard"), "alarm[0].measurement", "one of soil, weather"),
        (only("missing", device="yard", periods=3), "alarm[0].periods", "yard keeps its own pace"),
        (
            only("missing", device="box", missing_s=59),
            "alarm[0].missing_s",
            "at least the interval of box, 60",
        ),
        (only("missing", measurement="soil", missing_s=3), "alarm[0].measurement", "one of weather"),
        (
            only("rate", device="box", field="disk_free", unit="By", below=-1, window_s=30),
            "alarm[0].window_s",
            "at least the interval of box, 60",
        ),
    ],
)
def test_a_rule_for_what_is_not_there_is_a_mistake_with_the_known_names(
    made: Rule, where: str, expected: str
) -> None:
    _, (mistake,) = bind([made], SOURCES)
    assert mistake.where == where
    assert expected in mistake.expected


def test_a_pattern_takes_every_device_that_has_the_field_but_never_the_box() -> None:
    subjects, mistakes = bind([rule(device="*", measurement="weather"), only("device", device="*")], SOURCES)
    assert mistakes == []
    assert [s.device for s in subjects] == ["roof", "yard", "roof", "yard"]


def test_two_rules_of_one_name_are_a_mistake() -> None:
    assert [m.where for m in bind([rule(), rule()], SOURCES)[1]] == ["alarm[1].name"]


def test_rules_can_be_exchanged_and_what_is_watched_no_more_is_cleared() -> None:
    hot, damp = rule(), rule(name="damp", field="relative_humidity", unit="%", above=40.0)
    evaluator = watching(hot, damp)
    assert len(evaluator.feed(sample(41.0), 0.0)) == 2

    def exchange(*rules: Rule) -> list[Transition]:
        return evaluator.watch(bind(rules, SOURCES)[0], 1.0, T0_NS)

    (told,) = exchange(hot)
    assert (told.subject.rule, told.raised, told.why) == (damp, False, NOT_WATCHED)
    assert alarm_values(told)["message"] == NOT_WATCHED, "not that all is well, which nobody can say"
    assert evaluator.feed(sample(41.0, 2.0), 2.0) == []
    assert [t.raised for t in evaluator.feed(sample(20.0, 3.0), 3.0)] == [False]


def test_samples_of_another_shape_than_the_rule_was_bound_to_are_left_alone() -> None:
    evaluator = watching(rule())
    other = Stream("roof", "weather", Layer.GROUND, (Field("wind_speed", "m/s"),))
    assert evaluator.feed(Sample(other, T0_NS, (99.0,)), 0.0) == []
