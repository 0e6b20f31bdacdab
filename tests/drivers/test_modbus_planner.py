"""The bus planner: every register is read, none forbidden is touched, and no plan is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import ConfigError
from trisense.drivers.modbus.deviceplan import FORGET_S, DevicePlan
from trisense.drivers.modbus.planner import Rules, Span, plan
from trisense.drivers.modbus.profile import Profile, Request, load_profile, profiles
from trisense.drivers.modbus.timing import ExchangeCost

LIMIT = 12
spans = st.builds(
    lambda start, width: Span(start, start + width), st.integers(0, 40), st.sampled_from([1, 1, 2, 4])
)
wanted_spans = st.lists(spans, min_size=1, max_size=20)
bad_addresses = st.frozensets(st.integers(0, 44), max_size=12)
costs = st.builds(
    lambda fixed, each: lambda count: fixed + each * count, st.integers(0, 50), st.integers(0, 10)
)


def setting(wanted: Sequence[Span], bad: frozenset[int], limit: int = LIMIT) -> tuple[list[Span], Rules]:
    rules = Rules(limit=limit, barred=tuple(Span(at, at + 1) for at in bad))
    return [span for span in wanted if rules.allow(span)], rules


def price(requests: Sequence[Span], cost: Callable[[int], int]) -> int:
    return sum(cost(request.size) for request in requests)


@given(wanted_spans, bad_addresses, costs)
def test_every_register_is_read_whole_and_none_forbidden_is_touched(
    wanted: list[Span], bad: frozenset[int], cost: Callable[[int], int]
) -> None:
    wanted, rules = setting(wanted, bad)
    requests = plan(wanted, cost, rules)
    for span in wanted:
        assert any(request.holds(span) for request in requests), "a value is never torn across two requests"
    assert not any(address in bad for request in requests for address in range(*request))
    assert all(request.size <= LIMIT for request in requests)
    assert price(requests, cost) <= price(sorted(set(wanted)), cost)


def partitions(items: Sequence[Span]) -> Iterator[list[list[Span]]]:
    """Every way to put the items into groups, neighbours or not."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for index, group in enumerate(rest):
            yield [*rest[:index], [items[0], *group], *rest[index + 1 :]]


@given(st.lists(spans, min_size=1, max_size=6, unique=True), bad_addresses, costs)
def test_no_other_plan_is_cheaper(
    wanted: list[Span], bad: frozenset[int], cost: Callable[[int], int]
) -> None:
    wanted, rules = setting(wanted, bad)
    best: tuple[int, int] | None = None
    for groups in partitions(wanted):
        requests = [Span(min(s.start for s in group), max(s.end for s in group)) for group in groups]
        if all(rules.allow(request) for request in requests):
            score = (price(requests, cost), len(requests))
            best = score if best is None else min(best, score)
    found = plan(wanted, cost, rules)
    assert (price(found, cost), len(found)) == best


def test_what_may_not_even_be_read_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 to 4"):
        plan([Span(3, 5)], lambda count: count, Rules(limit=8, barred=(Span(4, 5),)))


@pytest.mark.parametrize(
    ("url", "framing", "answer_s", "hole"),
    [
        ("serial:///dev/x?baud=9600", "rtu", 0.0, 10),
        ("serial:///dev/x?baud=9600", "rtu", 0.02, 18),
        ("serial:///dev/x?baud=115200", "rtu", 0.0, 26),
        ("serial:///dev/x?baud=9600&format=7E1", "ascii", 0.0, 8),
        ("tcp://h:502", "rtu", 0.02, 18),
        ("tcp://h:502", "tcp", 0.02, 80),
    ],
)
def test_a_hole_is_read_up_to_the_cost_of_a_request(
    url: str, framing: Any, answer_s: float, hole: int
) -> None:
    cost = ExchangeCost.of(url, framing, answer_s=answer_s, gap_s=0)
    assert cost.ns(3, 2 + hole) <= 2 * cost.ns(3, 1)
    assert framing == "tcp" or cost.ns(3, 3 + hole) > 2 * cost.ns(3, 1)
    joined = plan([Span(0, 1), Span(hole + 1, hole + 2)], lambda n: cost.ns(3, n), Rules(limit=125))
    assert joined == (Span(0, hole + 2),)


@pytest.mark.parametrize(
    ("baud", "count", "cycle_ms"), [(9600, 1, 25.21), (19_200, 20, 34.38), (115_200, 2, 5.12)]
)
def test_the_cost_of_an_exchange_is_that_of_the_sheet(baud: int, count: int, cycle_ms: float) -> None:
    cost = ExchangeCost.of(f"serial:///dev/x?baud={baud}&format=8E1", "rtu", answer_s=0, gap_s=0)
    assert cost.ns(3, count) / 1e6 == pytest.approx(cycle_ms, abs=0.01)


# --- what one device is asked ---------------------------------------------------------------------


def profile(*addresses: int, forbidden: Sequence[int] = (), settings: Sequence[int] = ()) -> Profile:
    """One block for each field of two registers."""
    return Profile.model_validate(
        {
            "device": {"name": "probe", "vendor": "Probe", "measurement": "probe"},
            "read": [
                {
                    "function": 4,
                    "address": address,
                    "count": 2,
                    "forbidden": forbidden,
                    "poll": address not in settings,
                }
                for address in addresses
            ],
            "field": [
                {"name": f"f{address}", "unit": "1", "address": address, "type": "u32"}
                for address in addresses
            ],
        }
    )


def device_plan(made: Profile) -> DevicePlan:
    return DevicePlan(made, {}, ExchangeCost.of("serial:///dev/x", "rtu", answer_s=0.02, gap_s=0).ns)


def asked(requests: Sequence[Request]) -> list[tuple[int, int]]:
    return [tuple(request.span) for request in requests]  # type: ignore[misc]  # a span is a pair


def read(made: DevicePlan, holds: set[int], now_s: float = 0.0) -> tuple[list[str], int]:
    """Read a device that holds these registers; gives the fields that came and the exchanges it took."""
    left = list(made.requests(now_s))
    names: list[str] = []
    exchanges, refusals = 0, 0
    while left:
        request = left.pop(0)
        exchanges += 1
        if set(range(*request.span)) <= holds:
            made.answered(request)
            names += [field.name for field in request.fields]
        else:
            refusals += 1
            left[:0] = made.refused(request, now_s)
    if not refusals:
        made.read_whole(now_s)
    return sorted(names), exchanges


def test_a_device_is_first_asked_as_declared_and_then_over_the_holes() -> None:
    made = device_plan(profile(0, 6, 12))
    assert asked(made.requests(0.0)) == [(0, 2), (6, 8), (12, 14)]
    made.read_whole(0.0)
    assert asked(made.requests(0.0)) == [(0, 14)]


def test_no_request_reaches_over_a_forbidden_register_between_two_blocks() -> None:
    made = device_plan(profile(0, 6, 12, forbidden=[9]))
    made.read_whole(0.0)
    assert asked(made.requests(0.0)) == [(0, 8), (12, 14)]


def test_settings_between_two_blocks_are_never_asked_for() -> None:
    made = device_plan(profile(0, 6, 12, settings=[6]))
    made.read_whole(0.0)
    assert asked(made.requests(0.0)) == [(0, 2), (12, 14)]


@given(
    st.sets(st.integers(0, 30).map(lambda n: 2 * n), min_size=1, max_size=10),
    st.sets(st.integers(0, 63), max_size=30),
)
def test_a_refusal_costs_no_value_and_is_not_asked_for_twice(addresses: set[int], missing: set[int]) -> None:
    holds = set(range(64)) - missing
    expected = sorted(f"f{at}" for at in addresses if {at, at + 1} <= holds)
    made = device_plan(profile(*sorted(addresses)))
    rounds = [read(made, holds) for _ in range(2 * len(addresses) ** 2 + 2)]
    assert all(names == expected for names, _ in rounds), "good values come while it is learnt"
    settled = made.requests(0.0)
    assert rounds[-1][1] == len(settled), "nothing is refused any more"
    assert all(set(range(*request.span)) <= holds for request in settled)


def test_what_was_refused_is_tried_again_after_a_while() -> None:
    made = device_plan(profile(0, 6))
    assert read(made, {0, 1})[0] == ["f0"]
    assert asked(made.requests(FORGET_S - 1)) == [(0, 2)]
    assert read(made, set(range(9)), FORGET_S)[0] == ["f0", "f6"]


def test_silence_to_a_request_over_a_hole_leads_back_to_what_is_declared() -> None:
    made = device_plan(profile(0, 6))
    read(made, set(range(9)))
    (over,) = made.requests(0.0)
    assert asked(made.silent(over, 0.0)) == [(0, 2), (6, 8)]
    made.read_whole(1.0)
    assert asked(made.requests(1.0)) == [(0, 2), (6, 8)]
    made.read_whole(FORGET_S)
    assert asked(made.requests(FORGET_S)) == [(0, 8)]


def test_silence_to_what_was_answered_before_says_nothing_about_registers() -> None:
    made = device_plan(profile(0, 6))
    (first, _) = made.requests(0.0)
    assert made.silent(first, 0.0) == ()
    read(made, set(range(9)))
    (over,) = made.requests(0.0)
    made.answered(over)
    assert made.silent(over, 0.0) == ()


@pytest.mark.parametrize("name", sorted(profiles()))
def test_the_plan_of_each_profile_reads_all_its_fields(name: str) -> None:
    made = profiles()[name]
    options = {option: values[0] for option, values in made.options.items()}
    cost = ExchangeCost.of("serial:///dev/x", "rtu", answer_s=0.02, gap_s=0).ns
    fields = {field.name for field in made.polled(options)}
    declared, wide = (made.requests(options, cost=cost, wide=wide) for wide in (False, True))
    for requests in (declared, wide):
        assert {field.name for request in requests for field in request.fields} == fields
    assert sum(cost(r.function, r.count) for r in wide) <= sum(cost(r.function, r.count) for r in declared)


def test_a_field_on_an_address_that_another_block_forbids_is_a_mistake(tmp_path: Any) -> None:
    path = tmp_path / "probe.toml"
    path.write_text(
        '[device]\nname = "probe"\nvendor = "Probe"\nmeasurement = "probe"\n'
        "[[read]]\nfunction = 3\naddress = 0\ncount = 1\nforbidden = [4]\n"
        "[[read]]\nfunction = 3\naddress = 4\ncount = 1\n"
        '[[field]]\nname = "co2"\naddress = 4\ntype = "u16"\n'
    )
    with pytest.raises(ConfigError, match="another block forbids"):
        load_profile(path)
