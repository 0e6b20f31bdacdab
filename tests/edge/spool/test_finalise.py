"""Open batches: what they are until the time is known, and how they become final, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trisense.core.model import BatchClass, ClockState, batch_hash
from trisense.edge.spool import Cut, Spool

from tests.edge.conftest import FakeClock

Make = Callable[..., Cut]
SECOND = 1_000_000_000
RIGHT = ClockState(True, 4)


@pytest.fixture
def offset_ns(clock: FakeClock) -> int:
    """Provisional: what the clocks say."""
    return clock.wall_ns - clock.since_boot_ns


@pytest.fixture
def open_cut(cut: Make, offset_ns: int) -> Make:
    def make(number: int, **kwargs: object) -> Cut:
        return replace(cut(number, **kwargs), offset_ns=offset_ns)

    return make


def test_an_open_batch_is_not_sent_and_a_final_one_has_other_times_and_another_hash(
    spool: Spool, open_cut: Make, offset_ns: int
) -> None:
    cut = open_cut(1)
    spool.commit([cut])
    assert spool.heads(BatchClass.DATA) == []
    assert spool.finalise("boot-1", offset_ns + 7 * SECOND, RIGHT) == 1
    assert spool.finalise("boot-1", offset_ns, RIGHT) == 0, "a final time changes again"
    ((_, batch),) = spool.load([head.id for head in spool.heads(BatchClass.DATA)])
    assert [s.time_ns for s in batch.samples] == [s.time_ns + 7 * SECOND for s in cut.samples]
    assert [s.values for s in batch.samples] == [s.values for s in cut.samples]
    assert batch.hash == batch_hash(batch.samples)
    assert batch.clock == RIGHT


def test_a_part_at_a_time_the_oldest_first_and_only_of_that_boot(
    spool: Spool, open_cut: Make, offset_ns: int, clock: FakeClock
) -> None:
    spool.commit([open_cut(number) for number in range(3)])
    clock.boot_id = "boot-2"
    spool.commit([open_cut(3)])
    assert spool.finalise("boot-1", offset_ns, RIGHT, limit=2) == 2
    assert [head.seq for head in spool.heads(BatchClass.DATA)] == [0, 1]
    assert [found.boot_id for found in spool.unfinished()] == ["boot-1", "boot-2"]
    assert spool.finalise("boot-1", offset_ns, RIGHT) == 1
    assert [found.boot_id for found in spool.unfinished()] == ["boot-2"]


def test_what_is_open_survives_a_restart_and_is_known_by_its_boot(
    make_spool: Callable[..., Spool], open_cut: Make, offset_ns: int, clock: FakeClock
) -> None:
    cut = open_cut(1)
    clock.advance(2)
    with make_spool() as spool:
        spool.commit([cut])
    with make_spool() as spool:
        (found,) = spool.unfinished()
        assert found.boot_id == clock.boot_id
        assert found.first_boot_ns == cut.samples[0].time_ns - offset_ns
        assert found.offset_ns == offset_ns
        spool.finalise(clock.boot_id, offset_ns + SECOND, RIGHT)
        assert spool.line_ns() == cut.samples[-1].time_ns + SECOND
    with make_spool() as spool:
        assert spool.line_ns() == cut.samples[-1].time_ns + SECOND


def test_provisional_times_do_not_hold_up_the_numbers_of_a_stream(
    make_spool: Callable[..., Spool], open_cut: Make, offset_ns: int
) -> None:
    """A clock in the far future must not cost every later sample its ordinal 0."""
    cut = open_cut(1)
    with make_spool() as spool:
        spool.commit([cut])
        assert spool.ordinals(cut.samples[0].stream.key).take(cut.samples[0].time_ns) == 0
        spool.finalise("boot-1", offset_ns - 86_400 * SECOND, RIGHT)
        assert spool.ordinals(cut.samples[0].stream.key).take(cut.samples[0].time_ns) == 0


def test_a_sample_that_moves_to_where_another_is_gets_a_number_of_its_own(
    spool: Spool, cut: Make, open_cut: Make, offset_ns: int
) -> None:
    spool.commit([cut(1)])
    spool.commit([open_cut(2)])
    spool.finalise("boot-1", offset_ns - SECOND, RIGHT)
    loaded = spool.load([head.id for head in spool.heads(BatchClass.DATA)])
    names = [(s.time_ns, s.n) for _, batch in loaded for s in batch.samples]
    assert len(set(names)) == 6


def test_a_final_sample_that_comes_between_two_parts_is_kept_apart(
    spool: Spool, cut: Make, open_cut: Make, offset_ns: int
) -> None:
    spool.commit([open_cut(1), open_cut(3)])
    spool.finalise("boot-1", offset_ns - SECOND, RIGHT, limit=1)
    spool.commit([cut(2)])
    spool.finalise("boot-1", offset_ns - SECOND, RIGHT)
    loaded = spool.load([head.id for head in spool.heads(BatchClass.DATA)])
    assert len({(s.time_ns, s.n) for _, batch in loaded for s in batch.samples}) == 9


def test_a_cut_whose_offset_has_become_known_moves_on_its_commit(
    spool: Spool, open_cut: Make, offset_ns: int
) -> None:
    cut = open_cut(1)
    spool.commit([replace(cut, final_offset_ns=offset_ns + 2 * SECOND, clock=RIGHT)])
    ((_, batch),) = spool.load([head.id for head in spool.heads(BatchClass.DATA)])
    assert [s.time_ns for s in batch.samples] == [s.time_ns + 2 * SECOND for s in cut.samples]
    assert batch.clock == RIGHT
    assert spool.unfinished() == []


def test_a_picture_waits_for_the_time_too(spool: Spool, open_cut: Make, offset_ns: int) -> None:
    spool.commit([open_cut(1, rows=1, batch_class=BatchClass.MEDIA, blob=b"picture")])
    spool.finalise("boot-1", offset_ns, RIGHT)
    ((_, batch),) = spool.load([head.id for head in spool.heads(BatchClass.MEDIA)])
    assert batch.blob == b"picture"


def test_a_damaged_open_batch_is_declared_lost_and_holds_up_no_other(
    spool: Spool, open_cut: Make, offset_ns: int, clock: FakeClock
) -> None:
    clock.advance(5)
    cuts = [open_cut(number) for number in range(3)]
    spool.commit(cuts)
    spool._db.execute("UPDATE batch SET samples = samples + 1 WHERE seq = 0")
    (found,) = spool.unfinished()
    assert found.first_boot_ns == min(s.time_ns for s in cuts[1].samples) - offset_ns
    while spool.finalise("boot-1", offset_ns, RIGHT):
        pass
    assert spool.unfinished() == []
    assert [head.seq for head in spool.heads(BatchClass.DATA)] == [1, 2]
    ((_, declared),) = spool.load([head.id for head in spool.heads(BatchClass.ALARM)])
    assert declared.samples[0].values[1:3] == (0, 0)


def test_a_power_cut_between_two_parts_leaves_each_batch_open_or_final(
    make_spool: Callable[..., Spool], open_cut: Make, offset_ns: int, spool_path: Path, clock: FakeClock
) -> None:
    with make_spool() as spool:
        spool.commit([open_cut(number) for number in range(4)])
        spool.finalise("boot-1", offset_ns + SECOND, RIGHT, limit=2)
    clock.boot_id = "boot-2"
    with make_spool() as spool:
        (left,) = spool.unfinished()
        assert spool.finalise(left.boot_id, left.offset_ns, ClockState(synced=False)) == 2
        loaded = [batch for _, batch in spool.load([h.id for h in spool.heads(BatchClass.DATA)])]
    assert [batch.clock.synced for batch in loaded] == [True, True, False, False]
