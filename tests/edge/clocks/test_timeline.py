"""The line of time: what is believed when, and that it never runs backward."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from trisense.core.model import ClockState
from trisense.edge.clocks.timeline import Fix, Mode, Timeline

from tests.edge.conftest import T0_NS, FakeClock

SECOND = 1_000_000_000
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
UNSYNCED = ClockState(synced=False)


class Source:
    """A receiver that says what it is told to."""

    def __init__(self, fix: Fix | None = None) -> None:
        self.says = fix

    def fix(self) -> Fix | None:
        return self.says


def begun(
    clock: FakeClock, *, floor_ns: int = -1, hold_s: float = 600, source: Source | None = None
) -> Timeline:
    """A line that has begun, and has switched where it could at once."""
    timeline = Timeline(clock, hold_s=hold_s, source=source)
    timeline.begin(floor_ns)
    switch(timeline)
    return timeline


def switch(timeline: Timeline) -> None:
    """What the clock-watch does with a spool that has no open batches."""
    if timeline.target is not None:
        timeline.switch(timeline.plan(-1, None))


def tick(timeline: Timeline, clock: FakeClock, times: int = 1, step_s: float = 1.0) -> None:
    for _ in range(times):
        clock.advance(step_s)
        timeline.tick()
        switch(timeline)


def set_wall(clock: FakeClock, by_ns: int) -> None:
    """Somebody sets the clock; the kernel is then not synchronised."""
    clock.wall_ns += by_ns
    clock.clock_state = UNSYNCED


def test_a_synchronised_kernel_is_believed_at_once(clock: FakeClock) -> None:
    timeline = begun(clock)
    tick(timeline, clock)
    at = timeline.stamp()
    assert (at.time_ns, at.offset_ns, at.clock) == (clock.wall_ns, None, ClockState(True, 3))
    assert timeline.status().mode is Mode.ANCHORED


def test_without_a_word_the_line_is_open_until_the_hold_after_boot_is_over(clock: FakeClock) -> None:
    clock.clock_state = UNSYNCED
    timeline = begun(clock)
    at = timeline.stamp()
    assert at.offset_ns == clock.wall_ns - clock.since_boot_ns
    tick(timeline, clock, step_s=590)
    assert timeline.open
    tick(timeline, clock, step_s=10)
    at = timeline.stamp()
    assert (at.offset_ns, at.clock) == (None, UNSYNCED)
    assert abs(at.time_ns - clock.wall_ns) <= 1_000_000


def test_a_box_that_has_been_up_for_longer_than_the_hold_never_waits_again(clock: FakeClock) -> None:
    clock.since_boot_ns, clock.clock_state = 601 * SECOND, UNSYNCED
    timeline = begun(clock)
    assert not timeline.open
    assert timeline.status().mode is Mode.UNSYNCHRONISED


def test_with_no_hold_the_line_is_never_open(clock: FakeClock) -> None:
    clock.clock_state = UNSYNCED
    timeline = begun(clock, hold_s=0)
    assert timeline.stamp().offset_ns is None
    set_wall(clock, HOUR)
    assert timeline.stamp().offset_ns is None


@pytest.mark.parametrize("wall_ns", [0, T0_NS - HOUR])
def test_a_clock_that_cannot_be_right_is_not_used_even_when_the_hold_is_over(
    clock: FakeClock, wall_ns: int
) -> None:
    clock.wall_ns, clock.clock_state = wall_ns, UNSYNCED
    timeline = begun(clock, floor_ns=T0_NS, hold_s=0)
    at = timeline.stamp()
    assert 0 < at.time_ns - T0_NS <= 2_000_000
    assert at.clock == UNSYNCED


def test_a_first_box_in_1970_begins_when_its_software_was_made(clock: FakeClock) -> None:
    clock.wall_ns, clock.clock_state = 20 * SECOND, UNSYNCED
    assert begun(clock, hold_s=0).stamp().time_ns >= 1_767_225_600 * SECOND


def test_a_step_is_noticed_by_the_very_next_stamp_and_not_followed(clock: FakeClock) -> None:
    timeline = begun(clock)
    before = timeline.stamp()
    clock.advance(1)
    set_wall(clock, DAY)
    at = timeline.stamp()
    assert at.offset_ns is not None
    assert at.time_ns - before.time_ns == pytest.approx(SECOND, abs=1_000_000)


def test_the_step_that_brings_the_first_right_time_is_not_doubted(clock: FakeClock) -> None:
    clock.clock_state = UNSYNCED
    for hold_s in (600, 0):
        timeline = begun(clock, hold_s=hold_s)
        clock.wall_ns += HOUR
        clock.clock_state = ClockState(True, 3)
        tick(timeline, clock)
        assert timeline.stamp().offset_ns is None
        assert timeline.status().mode is Mode.ANCHORED
        clock.clock_state = UNSYNCED


def test_a_slew_is_no_step(clock: FakeClock) -> None:
    """The kernel slews boot time too; what remains is the noise of reading two clocks."""
    timeline = begun(clock)
    for noise_ns in (900_000, -900_000, 5_000_000):
        clock.wall_ns += noise_ns
        tick(timeline, clock)
        assert timeline.stamp().clock.synced
    assert abs(timeline.stamp().time_ns - clock.wall_ns) <= 2_000_000


def test_a_new_time_is_believed_once_it_has_stood_synchronised_for_half_a_minute(clock: FakeClock) -> None:
    timeline = begun(clock)
    set_wall(clock, HOUR)
    timeline.stamp()
    tick(timeline, clock, 40)
    assert timeline.open
    clock.clock_state = ClockState(True, 3)
    tick(timeline, clock, 29)
    assert timeline.open
    clock.wall_ns += HOUR  # it moves again: all over
    tick(timeline, clock, 29)
    assert timeline.open
    tick(timeline, clock, 3)
    assert timeline.stamp().time_ns == pytest.approx(clock.wall_ns, abs=2_000_000)
    assert timeline.stamp().clock.synced


def test_a_step_that_is_undone_leaves_nothing(clock: FakeClock) -> None:
    timeline = begun(clock)
    set_wall(clock, -HOUR)
    timeline.stamp()
    tick(timeline, clock, 5)
    set_wall(clock, HOUR)
    tick(timeline, clock, 32)
    assert timeline.status().mode is Mode.HOLDOVER
    clock.clock_state = ClockState(True, 3)
    tick(timeline, clock)
    assert timeline.stamp().clock == ClockState(True, 3)


def test_a_step_that_nobody_stands_by_is_not_followed_when_the_hold_is_over(clock: FakeClock) -> None:
    timeline = begun(clock)
    right_ns = clock.wall_ns - clock.since_boot_ns
    set_wall(clock, DAY)
    tick(timeline, clock, 31, step_s=20)
    at = timeline.stamp()
    assert at.offset_ns is None
    assert abs(at.time_ns - clock.since_boot_ns - right_ns) <= 2_000_000
    assert not at.clock.synced
    assert at.clock.error_ms is not None


def test_a_clock_that_is_set_back_holds_the_line_at_half_speed_until_it_caught_up(
    clock: FakeClock,
) -> None:
    timeline = begun(clock)
    set_wall(clock, -60 * SECOND)
    first = timeline.stamp()
    clock.clock_state = ClockState(True, 3)
    last_ns = first.time_ns
    flagged = 0
    for _ in range(200):
        tick(timeline, clock)
        at = timeline.stamp()
        assert at.time_ns > last_ns
        last_ns = at.time_ns
        if at.offset_ns is None:
            ahead_ns = at.time_ns - clock.wall_ns
            assert ahead_ns <= (at.clock.error_ms or 0) * 1_000_000
            flagged += not at.clock.synced
    assert timeline.stamp().clock == ClockState(True, 3)
    assert abs(last_ns - clock.wall_ns) <= 1_000_000
    assert 115 <= flagged <= 125, "a minute ahead takes two to melt"
    assert timeline.status().held_back_s == 0


def test_a_clock_that_comes_back_from_years_ahead_begins_a_new_run_and_says_so(clock: FakeClock) -> None:
    clock.clock_state = UNSYNCED
    clock.wall_ns += 1000 * DAY
    timeline = begun(clock, hold_s=0)
    ahead = timeline.stamp()
    clock.wall_ns -= 1000 * DAY
    clock.clock_state = ClockState(True, 3)
    with capture_logs() as logs:
        tick(timeline, clock)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["clock_new_run"]
    assert timeline.stamp().time_ns == clock.wall_ns < ahead.time_ns


def test_the_line_does_not_run_back_over_a_restart(clock: FakeClock) -> None:
    timeline = begun(clock, floor_ns=clock.wall_ns + HOUR)
    at = timeline.stamp()
    assert 0 < at.time_ns - clock.wall_ns - HOUR <= 2_000_000
    assert not at.clock.synced
    assert timeline.status().held_back_s == pytest.approx(3600, abs=1)
    tick(timeline, clock, 80, step_s=100)
    assert timeline.stamp().clock.synced


def test_the_error_grows_while_nobody_disciplines_the_clock(clock: FakeClock) -> None:
    timeline = begun(clock)
    clock.clock_state = UNSYNCED
    tick(timeline, clock, step_s=3600)
    state = timeline.stamp().clock
    assert state == ClockState(False, 3 + 360)


def test_a_clock_set_by_hand_is_followed_and_flagged_where_nothing_better_is_known(clock: FakeClock) -> None:
    clock.clock_state = UNSYNCED
    timeline = begun(clock, hold_s=0)
    set_wall(clock, HOUR)
    tick(timeline, clock, 20)
    assert timeline.stamp().time_ns < clock.wall_ns - HOUR // 2
    tick(timeline, clock, 20)
    assert abs(timeline.stamp().time_ns - clock.wall_ns) <= 1_000_000
    assert timeline.stamp().clock == UNSYNCED


def test_gnss_says_the_time_where_the_kernel_does_not_and_steps_of_the_wall_are_nothing_to_it(
    clock: FakeClock,
) -> None:
    right_ns = clock.wall_ns - clock.since_boot_ns
    set_wall(clock, -HOUR)
    source = Source(Fix(right_ns, 1000))
    timeline = begun(clock, source=source)
    at = timeline.stamp()
    assert (at.offset_ns, at.clock) == (None, ClockState(True, 1001))
    assert abs(at.time_ns - clock.since_boot_ns - right_ns) <= 1_000_000
    set_wall(clock, DAY)
    source.says = Fix(right_ns + 300_000_000, 1000)
    tick(timeline, clock)
    at = timeline.stamp()
    assert abs(at.time_ns - clock.since_boot_ns - right_ns) <= 2_000_000, (
        "a receiver that is late is not chased"
    )
    assert at.clock.error_ms in (1300, 1301)
    source.says = None
    tick(timeline, clock)
    assert timeline.status().mode is Mode.HOLDOVER
    clock.wall_ns = clock.since_boot_ns + right_ns + 400_000_000
    clock.clock_state = ClockState(True, 3)
    tick(timeline, clock)
    assert abs(timeline.stamp().time_ns - clock.wall_ns) <= 2_000_000, "the kernel knows better, no step"


def test_open_samples_of_an_earlier_boot_stay_where_they_can_have_been(clock: FakeClock) -> None:
    timeline = Timeline(clock, hold_s=600)
    timeline.begin(T0_NS - DAY)
    assert timeline.target is not None
    floor_ns = T0_NS - DAY
    plausible = T0_NS - HOUR
    assert timeline.place(0, 60 * SECOND, plausible, floor_ns=floor_ns) == plausible
    for wrong in (0, T0_NS - 2 * DAY, T0_NS + DAY):
        assert timeline.place(7, 60 * SECOND, wrong, floor_ns=floor_ns) == floor_ns + 1_000_000 - 7
