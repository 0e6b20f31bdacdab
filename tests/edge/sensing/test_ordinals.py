"""(stream, time, n) is unique for ever: clock steps, shared ticks, late rows, restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trisense.edge.sensing.ordinals import Ordinals

MS = 1_000_000


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("step"), st.integers(-5_000, 5_000)),
            st.tuples(st.just("rows"), st.integers(1, 4)),
            st.tuples(st.just("run"), st.integers(1, 400)),
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_no_time_and_ordinal_come_twice(moves: list[tuple[str, int]]) -> None:
    ordinals, now, used = Ordinals(), 10_000_000, []
    for move, amount in moves:
        if move == "step":
            now = max(0, now + amount)
        elif move == "rows":
            used += [(now, ordinals.take(now)) for _ in range(amount)]
        elif move == "run":
            for _ in range(amount):
                now += 1
                used.append((now, ordinals.take(now)))
        elif used:
            ordinals = Ordinals(max(t for t, _ in used), max(n for _, n in used))
    assert len(set(used)) == len(used)


def test_rows_of_one_tick_count_up_and_the_next_tick_begins_anew() -> None:
    ordinals = Ordinals()
    assert [ordinals.take(t) for t in (5, 5, 5, 6, 6, 9)] == [0, 1, 2, 0, 1, 0]


def test_rows_that_come_a_little_out_of_order_keep_small_ordinals() -> None:
    ordinals = Ordinals()
    times = [t for base in range(0, 5_000, 2) for t in (base + 1, base)]
    assert {ordinals.take(t) for t in times} == {0}


def test_a_clock_set_back_an_hour_costs_one_new_ordinal_for_the_whole_hour() -> None:
    ordinals = Ordinals()
    for second in range(7200):
        ordinals.take(second)
    assert {ordinals.take(second) for second in range(3600, 7200 - 256)} == {1}
    assert ordinals.take(7200) == 0


def test_after_a_restart_with_the_clock_behind_nothing_is_used_again() -> None:
    ordinals = Ordinals(high_ns=1000, max_n=2)
    assert [ordinals.take(t) for t in (990, 991, 991, 1000, 1001)] == [3, 3, 4, 3, 0]


def test_numbers_stay_apart_from_final_ones_beyond_the_time_that_was_found() -> None:
    """A source's own clock may be ahead of the time that the box's samples moved to."""
    ordinals = Ordinals()
    assert ordinals.take(1000) == 0
    ordinals.take(5000, final=False)
    ordinals.resume(500, -1)
    assert ordinals.take(1000) != 0


def test_a_final_sample_among_ones_that_will_move_gets_a_number_none_of_them_can_get() -> None:
    ordinals = Ordinals(100, 3)
    given = [ordinals.take(200, final=False), ordinals.take(300, final=False)]
    n = ordinals.take(300)
    moving = Ordinals(100, 3)
    assert n not in {moving.moved(time_ns, old) for time_ns, old in zip((90, 90), given, strict=True)}
    assert n not in given


def test_what_moves_to_where_others_were_stays_apart_when_its_source_goes_back() -> None:
    moving = Ordinals(1000, 2)
    names = [(time_ns, moving.moved(time_ns, 0)) for time_ns in (990, 990, 980, 990)]
    assert len(set(names)) == len(names)


def test_a_run_from_before_others_moved_is_not_gone_on_with() -> None:
    ordinals = Ordinals(1000, 0)
    ordinals.take(500)  # begins a run at an old time; it is not committed yet
    ordinals.take(2000, final=False)
    moved = Ordinals(1000, 0).moved(600, 0)
    ordinals.resume(600, moved)
    assert ordinals.take(600) != moved
