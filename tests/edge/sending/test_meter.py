"""How fast the link is, by what the broker acknowledges when; a simulated link says the truth."""

from __future__ import annotations

import random

import pytest
from trisense.core.topics import Lane
from trisense.edge.sending.meter import BUNDLE_BYTES, FIRST_BYTES, LinkMeter


class SimulatedLink:
    """Carries messages one after the other and acknowledges each after the latency."""

    def __init__(self, rate_bytes_s: float, latency_s: float, jitter_s: float = 0.0) -> None:
        self.meter = LinkMeter(backlog_share=0.25)
        self._rate = rate_bytes_s
        self._latency_s = latency_s
        self._jitter_s = jitter_s
        self._rng = random.Random(1)
        self._free_s = 0.0

    def carry(self, at_s: float, *sizes: int) -> float:
        """Messages given together at ``at_s``; gives when the last one was acknowledged."""
        alone = [self.meter.begin() for _ in sizes]
        now_s = at_s
        for size, only in zip(sizes, alone, strict=True):
            self._free_s = max(self._free_s, at_s) + size / self._rate
            late_s = self._latency_s + self._rng.uniform(-self._jitter_s, self._jitter_s)
            now_s = max(now_s, self._free_s + late_s)
            self.meter.end(size, at_s, now_s, alone=only and len(sizes) == 1)
        return now_s


@pytest.mark.parametrize(
    ("rate_bytes_s", "latency_s", "jitter_s"),
    [(2e3, 0.6, 0.1), (8e3, 0.3, 0.05), (30e3, 0.6, 0.02), (50e3, 0.3, 0.15), (1e6, 0.04, 0.005)],
)
def test_the_rate_is_found_whatever_the_latency_also_where_messages_queue(
    rate_bytes_s: float, latency_s: float, jitter_s: float
) -> None:
    link = SimulatedLink(rate_bytes_s, latency_s, jitter_s)
    now_s = link.carry(0.0, 0)
    seen = []
    for turn in range(80):
        bulk = int(link.meter.spool_bytes(Lane.BACKLOG))
        now_s = 1 + link.carry(now_s, *((bulk, 300) if turn % 2 else (300,)))
        now_s = 1 + link.carry(now_s, bulk, bulk, bulk, bulk, bulk)
        seen.append(link.meter.rate_bytes_s or 0.0)
    late = sorted(seen[40:])
    assert rate_bytes_s / 2 < late[len(late) // 2] < rate_bytes_s * 2


def test_a_bulk_bundle_is_a_quarter_of_a_second_of_the_link_and_live_leaves_the_backlog_its_share() -> None:
    link = SimulatedLink(100e3, 0.1)
    now_s = link.carry(0.0, 0)
    for _ in range(10):
        now_s = link.carry(now_s, 20_000)
        link.meter.came_through(BUNDLE_BYTES[1])
    assert link.meter.spool_bytes(Lane.BACKLOG) == pytest.approx(25_000, rel=0.02)
    assert link.meter.spool_bytes(Lane.LIVE) == pytest.approx(75_000, rel=0.02)
    link.meter.backlog_share = 0.5
    assert link.meter.spool_bytes(Lane.LIVE) == pytest.approx(25_000, rel=0.02)


def test_bundles_begin_small_grow_while_they_come_through_and_halve_where_the_link_breaks() -> None:
    link = SimulatedLink(1e7, 0.01)
    link.carry(0.0, 0)
    link.carry(1.0, 10_000)
    assert link.meter.spool_bytes(Lane.BACKLOG) == FIRST_BYTES
    for _ in range(10):
        link.meter.came_through(int(link.meter.spool_bytes(Lane.BACKLOG)))
    assert link.meter.spool_bytes(Lane.BACKLOG) == BUNDLE_BYTES[1]

    link.meter.broke(300)  # a reading that was on its way with it
    link.meter.broke(BUNDLE_BYTES[1])
    assert link.meter.spool_bytes(Lane.BACKLOG) == BUNDLE_BYTES[1] / 2
    link.meter.came_through(BUNDLE_BYTES[1] // 2)
    assert link.meter.spool_bytes(Lane.BACKLOG) == pytest.approx(BUNDLE_BYTES[1] / 2 * 1.05)
    for _ in range(20):
        link.meter.broke(BUNDLE_BYTES[1])
    assert link.meter.spool_bytes(Lane.BACKLOG) == BUNDLE_BYTES[0]


def test_on_a_link_that_breaks_every_so_many_bytes_few_are_sent_in_vain() -> None:
    link, rng = SimulatedLink(1e7, 0.01), random.Random(5)
    link.carry(0.0, 0)
    link.carry(1.0, 10_000)
    good = bad = 0.0
    for _ in range(3000):
        size = int(link.meter.spool_bytes(Lane.BACKLOG))
        if rng.expovariate(1 / 60_000) < size:
            bad += size
            link.meter.broke(size)
        else:
            good += size
            link.meter.came_through(size)
    assert bad / good < 0.15


def test_bundles_are_not_cut_below_what_a_description_of_streams_takes() -> None:
    link = SimulatedLink(100.0, 0.1)
    link.carry(0.0, 5000)
    assert link.meter.spool_bytes(Lane.BACKLOG) == BUNDLE_BYTES[0]


def test_a_lane_that_packs_tight_asks_for_more_of_the_spool() -> None:
    meter = LinkMeter(backlog_share=0.25)
    before = meter.spool_bytes(Lane.BACKLOG)
    meter.sent(Lane.BACKLOG, 1000, 10_000, resent=0.0)
    assert meter.spool_bytes(Lane.BACKLOG) == pytest.approx(10 * before), "from the first bundle on"
    assert meter.spool_bytes(Lane.MEDIA) == before
    for _ in range(20):
        meter.sent(Lane.BACKLOG, 2000, 10_000, resent=0.0)
    assert meter.spool_bytes(Lane.BACKLOG) == pytest.approx(5 * before, rel=0.02), "and it changes with them"


def test_a_link_that_became_slow_is_known_after_its_first_large_message() -> None:
    link = SimulatedLink(1e6, 0.05)
    now_s = link.carry(0.0, 0)
    for _ in range(20):
        now_s = link.carry(now_s, 100_000)
    slow = SimulatedLink(4e3, 0.3)
    slow.meter = link.meter
    slow.meter.reconnected()
    now_s = slow.carry(now_s, 0)
    slow.carry(now_s, 5000)
    assert (slow.meter.rate_bytes_s or 0) < 20e3
