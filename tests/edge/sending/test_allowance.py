"""What may go over the link: hours, the day's bytes, and the part of them that a backlog may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from trisense.core.model import ClockState
from trisense.edge.config import LinkTable
from trisense.edge.sending.allowance import Allowance, Allowed, cost_bytes
from trisense.edge.sending.daybook import Daybook
from trisense.edge.sending.hours import Hours

if TYPE_CHECKING:
    from tests.edge.conftest import FakeClock

HOUR_S = 3600
NOON_NS = 1_780_056_000 * 1_000_000_000  # 2026-05-29 12:00 UTC
UNSET = ClockState(synced=False)
DAILY = 1_000_000

Make = Callable[..., Allowance]


@pytest.fixture(autouse=True)
def _noon(clock: FakeClock) -> None:
    clock.wall_ns = NOON_NS


@pytest.fixture
def make(tmp_path: Path, clock: FakeClock) -> Make:
    """Makes the allowance of a box that starts now, with the books of earlier runs."""

    def made(**options: Any) -> Allowance:
        book = Daybook(tmp_path / "spool.db.link", clock)
        book.load()
        return Allowance(LinkTable(**options), clock, book)

    return made


def look(allowance: Allowance, *, live: bool = True) -> Allowed:
    allowance.look(live=live)
    return allowance.now


def save(allowance: Allowance, *, exactly: bool = False) -> None:
    text = allowance.book.to_save(DAILY, exactly=exactly)
    if text is not None:
        allowance.book.save(text)


@pytest.mark.parametrize(
    ("text", "open_at", "closed_at"),
    [
        ("05:00-07:00", ("05:00", "06:59"), ("04:59", "07:00")),
        ("22:30-01:00", ("22:30", "23:59", "00:00", "00:59"), ("22:29", "01:00", "12:00")),
        ("18:00-24:00", ("18:00", "23:59"), ("00:00", "17:59")),
    ],
)
def test_a_window_is_open_from_its_begin_to_before_its_end(
    text: str, open_at: tuple[str, ...], closed_at: tuple[str, ...]
) -> None:
    def is_open(at: str) -> bool:
        hour, minute = map(int, at.split(":"))
        return Hours.parse([text]).open_at((20_000 * 86_400 + hour * HOUR_S + minute * 60) * 10**9)

    assert all(map(is_open, open_at))
    assert not any(map(is_open, closed_at))


@pytest.mark.parametrize("text", ["5-7", "05:00-05:00", "24:00-05:00", "05:00-24:30", "05:60-06:00", ""])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Hours.parse([text])


@pytest.mark.parametrize(
    ("outside", "allowed"),
    [("live", Allowed.LIVE), ("alarms", Allowed.ALARMS), ("nothing", Allowed.NOTHING)],
)
def test_outside_the_hours_goes_what_the_option_says_and_in_them_everything(
    make: Make, clock: FakeClock, outside: str, allowed: Allowed
) -> None:
    allowance = make(hours=("13:00-14:00",), outside_hours=outside)
    assert look(allowance) is allowed
    clock.advance(HOUR_S)
    assert look(allowance) is Allowed.EVERYTHING
    clock.advance(HOUR_S)
    assert look(allowance) is allowed


def test_a_clock_that_nobody_set_closes_no_hours(make: Make, clock: FakeClock) -> None:
    allowance = make(hours=("13:00-14:00",), outside_hours="nothing")
    clock.clock_state = UNSET
    assert look(allowance) is Allowed.EVERYTHING
    clock.clock_state = ClockState(False, 2_000)  # in holdover, two seconds off
    assert look(allowance) is Allowed.NOTHING


def test_the_limit_is_told_once_and_the_next_day_begins_anew(make: Make, clock: FakeClock) -> None:
    allowance = make(daily_bytes=DAILY, at_limit="alarms")
    with capture_logs() as logs:
        assert look(allowance) is Allowed.EVERYTHING
        allowance.book.count(DAILY, bulk_bytes=DAILY // 2)
        for _ in range(5):
            assert look(allowance) is Allowed.ALARMS
        assert (allowance.left_bytes(), allowance.why) == (0, "daily_bytes")
        clock.advance(12 * HOUR_S)
        assert look(allowance) is Allowed.EVERYTHING
    assert [entry["event"] for entry in logs] == ["link_limited", "link_day", "link_open"]
    assert (allowance.left_bytes(), allowance.book.bulk_bytes) == (DAILY, 0)


def test_hours_and_limit_together_give_the_stricter(make: Make) -> None:
    allowance = make(daily_bytes=DAILY, at_limit="live", hours=("13:00-14:00",), outside_hours="alarms")
    allowance.book.count(DAILY)
    assert look(allowance) is Allowed.ALARMS


# --- the books ---


def test_what_was_spent_survives_a_restart_and_a_crash_never_makes_it_less(
    make: Make, clock: FakeClock
) -> None:
    first = make(daily_bytes=DAILY)
    look(first)
    save(first)
    first.book.count(100)
    assert first.book.to_save(DAILY) is None  # the file says a step more already
    crashed = make(daily_bytes=DAILY)
    assert 100 <= crashed.book.used_bytes <= 100 + DAILY / 500

    first.book.count(5000)
    save(first, exactly=True)
    clock.advance(60)
    stopped = make(daily_bytes=DAILY)
    look(stopped)
    assert stopped.book.used_bytes == 5100


def test_books_that_cannot_be_read_are_told_and_count_as_none(make: Make, tmp_path: Path) -> None:
    (tmp_path / "spool.db.link").write_bytes(b"\x00\xff")
    with capture_logs() as logs:
        assert make(daily_bytes=DAILY).book.used_bytes == 0
    assert [entry["event"] for entry in logs] == ["daybook_unreadable"]


def test_a_box_that_wakes_in_1970_at_each_start_has_one_budget_for_24_hours_of_running(
    make: Make, clock: FakeClock
) -> None:
    clock.clock_state, clock.wall_ns = UNSET, 0
    for _ in range(4):
        allowance = make(daily_bytes=DAILY)
        look(allowance)
        allowance.book.count(DAILY // 4)
        clock.advance(5 * HOUR_S)
        look(allowance)
        save(allowance, exactly=True)
        clock.wall_ns = 0
    assert look(allowance) is Allowed.ALARMS
    clock.advance(4 * HOUR_S)
    assert look(allowance) is Allowed.EVERYTHING


def test_a_clock_that_becomes_right_gives_no_second_budget_for_the_same_day(
    make: Make, clock: FakeClock
) -> None:
    before = make(daily_bytes=DAILY)
    before.book.count(DAILY // 2)
    look(before)
    save(before, exactly=True)

    clock.clock_state, clock.wall_ns = UNSET, 0
    allowance = make(daily_bytes=DAILY)
    look(allowance)
    allowance.book.count(1000)
    look(allowance)
    clock.clock_state, clock.wall_ns = ClockState(True, 3), NOON_NS + 60 * 10**9
    look(allowance)
    assert allowance.book.used_bytes == DAILY // 2 + 1000
    # It is another day already: then what was spent before anybody knew it was of that day.
    clock.advance(1)
    save(allowance, exactly=True)
    clock.clock_state, clock.wall_ns = UNSET, 0
    later = make(daily_bytes=DAILY)
    later.book.count(700)
    look(later)
    clock.clock_state, clock.wall_ns = ClockState(True, 3), NOON_NS + 86_400 * 10**9
    look(later)
    assert later.book.used_bytes == 700


def test_a_clock_set_to_and_fro_gives_no_budget_each_time(make: Make, clock: FakeClock) -> None:
    allowance = make(daily_bytes=DAILY)
    look(allowance)
    clock.wall_ns += 40 * 86_400 * 10**9
    look(allowance)
    allowance.book.count(DAILY)
    clock.wall_ns -= 40 * 86_400 * 10**9
    assert look(allowance) is Allowed.ALARMS
    clock.advance(24 * HOUR_S)
    assert look(allowance) is Allowed.EVERYTHING


# --- the backlog's part ---


def spend_live(allowance: Allowance, clock: FakeClock, bytes_s: float, seconds: int) -> None:
    for _ in range(seconds // 10):
        clock.advance(10)
        allowance.book.count(int(bytes_s * 10))
        look(allowance)


def test_a_backlog_leaves_the_rest_of_the_day_to_live_data(make: Make, clock: FakeClock) -> None:
    allowance = make(daily_bytes=DAILY, backlog_share=0.01)
    look(allowance)
    spend_live(allowance, clock, 10, 1200)
    left, rest_s = allowance.left_bytes(), allowance.book.rest_s()
    assert left == DAILY - 12_000
    assert rest_s == 12 * HOUR_S - 1200
    assert allowance.bulk_left_bytes() == pytest.approx(left - 10 * rest_s, rel=0.01)

    while allowance.bulk_may_go(20_000):
        allowance.book.count(cost_bytes(20_000), bulk_bytes=cost_bytes(20_000))
    spend_live(allowance, clock, 10, int(rest_s) - 10)
    assert look(allowance) is Allowed.EVERYTHING


def test_a_bundle_that_arrived_after_a_look_at_the_books_was_never_live_data(
    make: Make, clock: FakeClock
) -> None:
    allowance = make(daily_bytes=DAILY)
    look(allowance)
    spend_live(allowance, clock, 10, 1200)
    book, rate = allowance.book, allowance.book.live_bytes_s()
    assert rate == pytest.approx(10, rel=0.01)
    book.count(50_000)
    book.count(0, bulk_bytes=50_000)
    assert (book.used_bytes, book.bulk_bytes) == (62_000, 50_000)
    assert book.live_bytes_s() == pytest.approx(rate)

    book.count(0, bulk_bytes=90_000)  # an estimate that was too high
    assert (book.bulk_bytes, book.live_bytes_s()) == (62_000, 0)


def test_a_backlog_has_its_own_share_of_the_day_even_where_live_data_wants_all(
    make: Make, clock: FakeClock
) -> None:
    allowance = make(daily_bytes=DAILY, backlog_share=0.2)
    look(allowance)
    spend_live(allowance, clock, 100, 1200)
    assert allowance.bulk_left_bytes() == pytest.approx(0.2 * DAILY)
    allowance.book.count(150_000, bulk_bytes=150_000)
    assert allowance.bulk_left_bytes() == pytest.approx(0.05 * DAILY)
    assert allowance.bulk_may_go(10_000)
    assert not allowance.bulk_may_go(60_000)


def test_before_the_live_rate_is_known_a_backlog_takes_at_most_half(make: Make) -> None:
    allowance = make(daily_bytes=DAILY, backlog_share=0.01)
    look(allowance)
    assert allowance.bulk_left_bytes() == DAILY / 2
    assert make().bulk_left_bytes() is None
    assert make().bulk_may_go(1e9)
