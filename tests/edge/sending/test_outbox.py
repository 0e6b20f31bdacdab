"""What goes next, on which lane, and when it goes again."""

from __future__ import annotations

import tracemalloc

import pytest
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.sending.outbox import LIVE_S, ON_THE_WAY, RESEND_MAX_S, Outbox, Pick
from trisense.edge.spool import Head

LARGE = 1e9


def head(identity: int, *, of: BatchClass = BatchClass.DATA, samples: int = 10, size: int = 100) -> Head:
    return Head(identity, 7, identity, of, samples, size)


def heads(count: int) -> list[Head]:
    return [head(identity) for identity in range(1, count + 1)]


def outbox() -> Outbox:
    return Outbox(media_share=0.25)


def publish(box: Outbox, pick: Pick, now_s: float) -> None:
    """Sent, and acknowledged by the broker at once."""
    box.sent(pick, now_s)
    box.acknowledged(pick.ids, now_s)


def test_data_is_live_for_ten_seconds_and_backlog_after() -> None:
    box = outbox()
    box.committed([head(5)], 100.0)
    box.committed([head(6), head(7, of=BatchClass.MEDIA)], 105.0)
    assert box.live_after(100.0 + LIVE_S) == 4
    assert box.live_after(100.1 + LIVE_S) == 5
    assert box.live_after(105.1 + LIVE_S) is None


def test_live_data_is_looked_at_again_when_it_becomes_backlog() -> None:
    box = outbox()
    assert box.next_backlog_s() is None
    box.committed([head(5)], 100.0)
    box.committed([head(6)], 103.0)
    assert box.next_backlog_s() == 100.0 + LIVE_S


def test_the_round_trip_is_smoothed_towards_what_is_measured_but_not_by_what_was_sent_twice() -> None:
    box = outbox()
    for identity, took_s in ((1, 1.0), (2, 9.0)):
        publish(box, Pick(Lane.LIVE, (identity,)), 100.0)
        box.settled([identity], 100.0 + took_s)
    assert box.round_trip_s == pytest.approx(1.0 + 0.125 * 8.0)
    publish(box, Pick(Lane.LIVE, (3,)), 100.0)
    publish(box, Pick(Lane.LIVE, (3,)), 200.0)
    box.settled([3], 201.0)
    assert box.round_trip_s == pytest.approx(2.0)


def test_what_is_on_its_way_is_not_ready_until_its_timer_has_run() -> None:
    box = outbox()
    publish(box, Pick(Lane.BACKLOG, (1, 2)), 0.0)
    assert [h.id for h in box.ready(heads(3), 4.9)] == [3]
    due = box.next_due_s([Lane.BACKLOG])
    assert due is not None
    assert 5.0 <= due <= 6.0
    assert [h.id for h in box.ready(heads(3), 6.0)] == [1, 2, 3]


def test_the_timer_doubles_and_follows_the_round_trip() -> None:
    box = outbox()
    waits = []
    now = 0.0
    for _ in range(9):
        publish(box, Pick(Lane.ALARM, (1,)), now)
        due = box.next_due_s([Lane.ALARM])
        assert due is not None
        waits.append(due - now)
        now = due
    assert all(5 * 2**k <= wait <= 6 * 2**k for k, wait in enumerate(waits[:6]))
    assert waits[-1] <= RESEND_MAX_S * 1.2

    publish(box, Pick(Lane.ALARM, (2,)), now)
    box.settled([1, 2], now + 10)  # 1 was sent more than once: it measures nothing
    assert box.round_trip_s == 10
    assert box.resend_s() == 40


def test_a_bundle_that_came_back_is_sent_in_smaller_parts_until_a_batch_is_alone() -> None:
    box = outbox()
    sizes = []
    now = 0.0
    for _ in range(6):
        ready = box.ready(heads(400), now)
        pick = box.pick(Lane.BACKLOG, ready, limit_bytes=LARGE)
        sizes.append(len(pick.ids))
        publish(box, pick, now)
        now = box.next_due_s([Lane.BACKLOG]) or 0.0
        box.forget_due([Lane.MEDIA], now)
        now += 1000
    assert sizes == [400, 64, 64, 64, 64, 64]

    for _ in range(3):
        publish(box, Pick(Lane.BACKLOG, (1, 2)), now)
    assert box.pick(Lane.BACKLOG, heads(2), limit_bytes=LARGE).ids == (1,)


def test_limits_end_a_bundle_but_one_batch_always_goes() -> None:
    box = outbox()
    assert len(box.pick(Lane.BACKLOG, heads(50), limit_bytes=1000).ids) == 10
    assert box.pick(Lane.MEDIA, [head(1, size=10**6), head(2)], limit_bytes=1000).ids == (1,)
    many = [head(i, samples=7_000) for i in range(5)]
    assert len(box.pick(Lane.BACKLOG, many, limit_bytes=LARGE).ids) == 2


def test_a_slow_link_is_no_reason_to_send_twice() -> None:
    box = outbox()
    box.sent(Pick(Lane.LIVE, (1,)), 0.0)
    assert box.ready(heads(1), 60.0) == []
    box.acknowledged([1], 60.0)
    assert box.ready(heads(1), 64.9) == []
    assert box.ready(heads(1), 66.1) != []


def test_what_goes_again_is_known_also_on_another_lane() -> None:
    box = outbox()
    assert box.sent(Pick(Lane.LIVE, (1,)), 0.0) == 0
    box.acknowledged([1], 0.0)
    assert box.forget_due([Lane.LIVE], 7.0)
    assert box.sent(Pick(Lane.BACKLOG, (1, 2)), 20.0) == 0.5


def test_previews_are_no_live_data() -> None:
    box = outbox()
    box.committed([Head(1, 7, 1, BatchClass.DATA, 10, 100, preview=True)], 0.0)
    assert box.live_after(0.0) is None


def test_a_bundle_of_the_newest_is_packed_in_the_order_of_time() -> None:
    newest_first = list(reversed(heads(5)))
    assert outbox().pick(Lane.BACKLOG, newest_first, limit_bytes=300).ids == (3, 4, 5)


def test_a_lost_link_sends_again_at_once_but_what_was_unanswered_at_two_losses_rests() -> None:
    box = outbox()
    box.sent(Pick(Lane.BACKLOG, (1,)), 0.0)
    box.send_again(1.0)
    assert [h.id for h in box.ready(heads(1), 1.0)] == [1]
    box.sent(Pick(Lane.BACKLOG, (1,)), 1.0)
    box.send_again(2.0)
    assert box.ready(heads(1), 2.0) == []


def test_media_and_backlog_share_the_bulk_lane() -> None:
    box = outbox()
    sent = {Lane.BACKLOG: 0, Lane.MEDIA: 0}
    for _ in range(400):
        lane = box.bulk_order()[0]
        box.bulk_sent(lane, 1000)
        sent[lane] += 1
    assert 0.2 < sent[Lane.MEDIA] / 400 < 0.3


def test_without_receipts_memory_stays_bounded_and_the_oldest_live_count_as_never_sent() -> None:
    box = outbox()
    for identity in range(ON_THE_WAY + 50):
        publish(box, Pick(Lane.LIVE, (identity,)), 0.0)
    assert not box.has_room()
    assert [h.id for h in box.ready([head(i) for i in range(60)], 0.0)] == list(range(50))


@pytest.mark.parametrize("sending", [False, True])
def test_a_week_without_receipts_takes_no_more_memory_than_two_days(*, sending: bool) -> None:
    box = outbox()
    sizes = []
    tracemalloc.start()
    for second in range(0, 7 * 86_400, 40):
        box.committed([head(second)], float(second))
        if sending:  # to a broker behind which no gateway answers
            publish(box, Pick(Lane.LIVE, (second,)), float(second))
            box.forget_due([Lane.LIVE], float(second))
        if second % 86_400 == 0:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes[3:]) < sizes[2] + 20_000
    assert sizes[-1] < 1_000_000


def test_what_the_spool_dropped_is_forgotten() -> None:
    box = outbox()
    publish(box, Pick(Lane.MEDIA, (1,)), 0.0)
    box.forget_due([Lane.MEDIA], 100.0)
    assert not box.on_the_way([1])
    assert box.next_due_s([Lane.MEDIA]) is None
