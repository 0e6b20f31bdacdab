"""What goes in which order, and what waits: order, previews, hours, budget, credit, rush, pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from trisense.core import topics
from trisense.core.messages import GatewayState
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.config import BoxConfig, LinkTable
from trisense.edge.sending import downlink as downlink_module
from trisense.edge.sending import meter as linkmeter_module
from trisense.edge.sending import senders as sending_module
from trisense.edge.sending import uplink as uplink_module
from trisense.edge.spool import Cut, Spool

from tests.edge.peers import Bench, Gateway, until

if TYPE_CHECKING:
    from tests.edge.conftest import FakeClock

pytestmark = pytest.mark.peer

MakeCut = Callable[..., Cut]
NOON_NS = 1_780_056_000 * 1_000_000_000
DAILY = 1_000_000


@pytest.fixture
async def limited(
    bench: Bench, config: BoxConfig, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Bench]]:
    """Makes a bench at noon whose link table has these options."""
    monkeypatch.setattr(uplink_module, "LOOK_S", 0.05)
    clock.wall_ns = NOON_NS
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(bench.door, replace(config, link=LinkTable(**options)), clock))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


async def waiting(bench: Bench, cuts: list[Cut]) -> None:
    """Commit what an earlier run left: nobody tells the uplink."""
    await bench.door.run(lambda spool: spool.commit(cuts))


async def stored_seqs(gateway: Gateway, count: int) -> list[int]:
    await gateway.until(lambda: len(gateway.stored) >= count)
    return [seq for _, seq in gateway.stored]


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_the_backlog_goes_from_the_end_that_is_wished(
    limited: Callable[..., Bench],
    gateway: Gateway,
    cut: MakeCut,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linkmeter_module, "BUNDLE_BYTES", (600, 600))
    bench = limited(order=order)
    await waiting(bench, [cut(i) for i in range(60)])
    await gateway.ready.wait()
    bench.start()
    seqs = await stored_seqs(gateway, 60)
    first = gateway.lanes[0][1]
    assert 1 < first < 30
    assert seqs[:first] == (list(range(first)) if order == "oldest" else list(range(60 - first, 60)))
    assert sorted(seqs) == list(range(60))


async def test_after_an_outage_alarms_and_live_data_go_then_all_previews_then_the_rest(
    bench: Bench, gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linkmeter_module, "BUNDLE_BYTES", (300, 300))
    previews = [replace(cut(100 + i), preview=True) for i in range(10)]
    await waiting(bench, [cut(i) for i in range(10)] + previews)
    await gateway.worker(online=False)
    bench.start()
    await bench.commit(cut(50), cut(51, batch_class=BatchClass.ALARM))
    assert set(await stored_seqs(gateway, 2)) == {20, 21}
    await gateway.worker(online=True)
    seqs = (await stored_seqs(gateway, 22))[2:]
    assert seqs == [*range(10, 20), *range(10)]
    assert {lane for lane, _ in gateway.lanes[2:]} == {Lane.BACKLOG}


async def test_outside_the_hours_a_backlog_waits_and_live_data_does_not(
    limited: Callable[..., Bench], gateway: Gateway, clock: FakeClock, cut: MakeCut
) -> None:
    bench = limited(hours=("13:00-14:00",))
    await waiting(bench, [cut(1)])
    bench.start()
    await bench.commit(cut(2), cut(3, batch_class=BatchClass.ALARM))
    assert set(await stored_seqs(gateway, 2)) == {1, 2}
    status = bench.uplink.status()
    assert (status.allowed, status.limited_by, status.hours_open) == ("live", "hours", False)
    await bench.settled(but=1)
    assert await bench.door.run(Spool.waiting) == 1

    clock.advance(3600)
    await bench.settled()
    assert Lane.BACKLOG in {lane for lane, _ in gateway.lanes}


async def test_where_nothing_may_go_the_box_leaves_the_broker_and_comes_back_in_time(
    limited: Callable[..., Bench], gateway: Gateway, clock: FakeClock, cut: MakeCut
) -> None:
    bench = limited(hours=("11:00-13:00",), outside_hours="nothing")
    bench.start()
    await until(lambda: bench.uplink.connected)
    clock.advance(3600)
    await gateway.until(lambda: gateway.said.get("state", {}).get("online") is False)
    await until(lambda: not bench.uplink.connected)
    await bench.commit(cut(1, batch_class=BatchClass.ALARM))
    assert bench.uplink.status().allowed == "nothing"
    assert gateway.seen == []

    clock.advance(22 * 3600)
    await bench.settled()
    assert bench.uplink.connected


async def test_at_the_daily_limit_only_alarms_go_and_the_rest_waits_for_the_next_day(
    limited: Callable[..., Bench], gateway: Gateway, clock: FakeClock, cut: MakeCut
) -> None:
    bench = limited(daily_bytes=DAILY)
    bench.start()
    await until(lambda: bench.uplink.status().used_bytes > 0)
    bench.allowance.book.count(DAILY)
    with capture_logs() as logs:
        await until(lambda: bench.uplink.status().allowed == "alarms")
        await bench.commit(cut(1))
        await bench.commit(cut(2, batch_class=BatchClass.ALARM))
        await stored_seqs(gateway, 1)
        assert gateway.lanes == [(Lane.ALARM, 1)]
        assert (bench.uplink.status().left_bytes, bench.uplink.status().limited_by) == (0, "daily_bytes")
        clock.advance(12 * 3600)
        await bench.settled()
    told = [entry["event"] for entry in logs]
    assert told == ["link_limited", "link_day", "link_open"]
    assert bench.uplink.status().used_bytes < DAILY


async def test_what_a_day_cost_is_written_before_more_is_spent_and_exactly_at_the_end(
    limited: Callable[..., Bench], gateway: Gateway, cut: MakeCut
) -> None:
    bench = limited(daily_bytes=DAILY)
    bench.start()
    await bench.commit(cut(1))
    await bench.settled()
    await until(bench.allowance.book.path.exists)
    bench.allowance.book.load()
    assert bench.allowance.book.used_bytes > 0
    await bench.stop()
    spent = bench.uplink.status().used_bytes
    bench.allowance.book.load()
    assert bench.allowance.book.used_bytes == spent > 500
    assert gateway.stored


async def test_a_backlog_rests_before_it_eats_the_live_data_s_bytes(
    limited: Callable[..., Bench], gateway: Gateway, cut: MakeCut
) -> None:
    bench = limited(daily_bytes=DAILY, at_limit="live", backlog_share=1e-6)
    bench.start()
    await until(lambda: bench.uplink.status().used_bytes > 1000)
    # A bundle costs more than the half of what is left.
    bench.allowance.book.count((bench.allowance.left_bytes() or 0) - 800)
    await waiting(bench, [cut(1)])
    with capture_logs() as logs:
        bench.uplink.committed(())
        await until(lambda: logs)
        await bench.commit(cut(2))
        await stored_seqs(gateway, 1)
    assert [lane for lane, _ in gateway.lanes] == [Lane.LIVE]
    assert "backlog_rests" in [entry["event"] for entry in logs]


async def test_another_link_table_counts_at_once(
    limited: Callable[..., Bench], gateway: Gateway, cut: MakeCut
) -> None:
    bench = limited(hours=("13:00-14:00",), outside_hours="alarms")
    await waiting(bench, [cut(1)])
    bench.start()
    await bench.commit(cut(2))
    await bench.commit(cut(3, batch_class=BatchClass.ALARM))
    await stored_seqs(gateway, 1)
    assert [lane for lane, _ in gateway.lanes] == [Lane.ALARM]
    bench.uplink.limit(LinkTable())
    await bench.settled()


async def test_no_credit_means_no_bulk(bench: Bench, gateway: Gateway, cut: MakeCut) -> None:
    async def credit(count: int) -> None:
        assert gateway.client is not None
        state = GatewayState(online=True, credit=count).model_dump_json()
        await gateway.client.publish(topics.gateway_state("w1"), state, 1, retain=True)

    await gateway.ready.wait()
    await credit(0)
    await waiting(bench, [cut(1)])
    bench.start()
    for number in range(1, 6):
        await bench.commit(cut(10 + number))
        await stored_seqs(gateway, number)
    assert {lane for lane, _ in gateway.lanes} == {Lane.LIVE}
    await credit(1)
    await bench.settled()


async def test_after_a_gateways_return_live_data_goes_at_once_and_bulk_at_a_moment_of_its_own(
    bench: Bench, gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downlink_module, "RUSH_S", 3600.0)
    await gateway.worker(online=False)
    await waiting(bench, [cut(1)])
    bench.start()
    await until(lambda: bench.uplink.connected)
    await gateway.worker(online=True)
    await until(lambda: bench.uplink.status().gateways == 1)
    await bench.commit(cut(2))
    await stored_seqs(gateway, 1)
    await bench.commit(cut(3))
    await stored_seqs(gateway, 2)
    assert [lane for lane, _ in gateway.lanes] == [Lane.LIVE, Lane.LIVE]


async def test_a_picture_too_large_for_the_link_waits_for_a_better_one(
    bench: Bench, gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = cut(1, rows=1, batch_class=BatchClass.MEDIA, blob=bytes(range(256)) * 20)
    monkeypatch.setattr(sending_module, "MEDIA_LINK_S", 0.0)
    monkeypatch.setattr(linkmeter_module, "SMALL_BYTES", 100)  # the birth measures the rate
    await waiting(bench, [picture, cut(2)])
    with capture_logs() as logs:
        bench.start()
        await stored_seqs(gateway, 1)
        await until(lambda: "pictures_rest" in [entry["event"] for entry in logs])
    assert {lane for lane, _ in gateway.lanes} == {Lane.BACKLOG}

    monkeypatch.setattr(sending_module, "MEDIA_LINK_S", 20.0)
    await bench.commit(cut(3))
    await bench.settled()


async def test_the_status_counts_each_lane(bench: Bench, gateway: Gateway, cut: MakeCut) -> None:
    gateway.answer = False
    bench.start()
    await bench.commit(cut(1, batch_class=BatchClass.ALARM))
    await gateway.until(lambda: bool(gateway.seen))
    await until(lambda: bench.uplink.status().lanes["alarm"].bundles)
    status = bench.uplink.status()
    assert status.lanes["alarm"].on_the_way == 1
    assert status.lanes["alarm"].payload_bytes == status.payload_bytes > 0
    assert (status.connected, status.protocol, status.trouble) == (True, "5", None)

    gateway.answer = True
    await bench.settled()
    await until(lambda: bench.uplink.status().resent_bytes)
    assert bench.uplink.status().lanes["alarm"].on_the_way == 0
    assert bench.uplink.status().round_trip_s is None  # sent twice: it measures nothing
