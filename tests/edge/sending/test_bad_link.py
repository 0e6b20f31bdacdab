"""Links that are slow, far, half open or cut, and brokers that lie: nothing is lost, little is sent twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.config import BoxConfig
from trisense.edge.sending import answers as answers_module
from trisense.edge.sending import link as link_module
from trisense.edge.sending import meter as linkmeter_module
from trisense.edge.sending import uplink as uplink_module
from trisense.edge.spool import Cut, Spool

from tests.edge.peers import Bench, Gateway, until
from tests.edge.proxy import BadLink

if TYPE_CHECKING:
    from tests.edge.conftest import Broker, FakeClock

pytestmark = pytest.mark.peer

MakeCut = Callable[..., Cut]


@pytest.fixture
async def far(
    bench: Bench, broker: Broker, config: BoxConfig, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Gives a bench behind a bad link with these settings, and the link."""
    monkeypatch.setattr(answers_module, "SILENCE_S", 0.2)
    benches: list[Bench] = []
    links: list[Any] = []

    async def make(**settings: Any) -> tuple[Bench, BadLink]:
        link = BadLink(**{"target_port": broker.port} | settings)
        links.append(link.running())
        await links[-1].__aenter__()
        # Less than the configuration allows: a dead link is to show within the test's patience.
        mqtt = config.mqtt.model_copy(update={"port": link.port, "keepalive_s": 1})
        benches.append(Bench(bench.door, replace(config, mqtt=mqtt), clock))
        return benches[-1], link

    yield make
    for one in benches:
        await one.stop()
    for running in links:
        await running.__aexit__(None, None, None)


def picture(cut: MakeCut, number: int, size_bytes: int) -> Cut:
    blob = random.Random(number).randbytes(size_bytes)
    return cut(number, rows=1, batch_class=BatchClass.MEDIA, blob=blob)


async def test_an_alarm_overtakes_a_backlog_on_a_slow_link(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linkmeter_module, "BUNDLE_BYTES", (1024, 5000))  # a picture each: the backlog lasts
    bench, _ = await far(rate_bytes_s=60_000, delay_s=0.02)
    await bench.door.run(lambda spool: spool.commit([picture(cut, i, 4000) for i in range(15)]))
    await gateway.ready.wait()
    bench.start()
    for number in range(3):
        before = len(gateway.lanes)
        await gateway.until(lambda before=before: len(gateway.lanes) > before + 1)  # type: ignore[misc]
        at = len(gateway.lanes)
        await bench.commit(cut(100 + number, batch_class=BatchClass.ALARM))
        await gateway.until(lambda at=at: Lane.ALARM in [x for x, _ in gateway.lanes[at:]])  # type: ignore[misc]
        overtaken = [lane for lane, _ in gateway.lanes[at:]].index(Lane.ALARM)
        assert overtaken <= 2  # one on the link, one whose receipt came in that very moment
    assert await bench.door.run(Spool.waiting) > 0, "the backlog was gone before the alarms"


async def test_a_link_of_long_latency_and_a_slow_one_are_told_apart(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut
) -> None:
    bench, _ = await far(rate_bytes_s=40_000, delay_s=0.15, jitter_s=0.02)
    await bench.door.run(lambda spool: spool.commit([picture(cut, i, 3000) for i in range(4)]))
    await gateway.ready.wait()
    bench.start()
    await bench.settled()
    status = bench.uplink.status()
    assert 0.3 <= status.latency_s < 0.6
    assert 15_000 < status.rate_bytes_s < 100_000
    assert status.resent_bytes == 0


async def test_what_a_day_costs_is_what_went_over_the_wire_with_headers(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "LOOK_S", 0.02)
    bench, link = await far(rate_bytes_s=200_000)  # many looks at the books while a picture is on its way
    bench.start()
    await bench.commit(*(picture(cut, i, 20_000) for i in range(5)))
    await bench.settled()
    bench.uplink.use(bench.uplink._connector)  # another connection counts from nothing
    await until(lambda: link.connections == 2 and bench.uplink.connected)
    await bench.commit(picture(cut, 5, 20_000))
    await bench.settled()
    await bench.stop()
    await until(lambda: not link.open)
    carried = link.up_bytes + link.down_bytes
    assert carried > 120_000
    # Headers: 52 bytes a segment; those of the loopback are large, so they are few.
    used_bytes = bench.uplink.status().used_bytes
    assert carried <= used_bytes < carried * 1.2 + 5000
    assert 120_000 < bench.allowance.book.bulk_bytes <= used_bytes, "pictures are bulk, and once"
    assert gateway.stored


async def test_resets_lose_nothing_and_little_is_sent_twice(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "RECONNECT_MAX_S", 0.2)
    bench, link = await far(seed=3, delay_s=0.002, reset_bytes=40_000)
    heads = await bench.door.run(lambda spool: spool.commit([picture(cut, i, 3000) for i in range(45)]))
    await gateway.ready.wait()
    bench.start()
    await bench.settled()
    assert {(head.epoch, head.seq) for head in heads} == gateway.stored.keys()
    assert link.resets >= 3
    status = bench.uplink.status()
    assert 0 < status.resent_bytes <= 0.3 * (status.payload_bytes - status.resent_bytes)


async def test_a_half_open_link_is_noticed_and_what_was_on_it_goes_again(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut
) -> None:
    bench, link = await far()
    bench.start()
    await bench.commit(cut(1))
    await bench.settled()
    link.freeze()
    await bench.commit(cut(2))
    await until(lambda: not bench.uplink.connected)
    assert bench.uplink.status().error is not None
    link.thaw()
    await bench.settled()
    assert link.connections >= 2
    assert len(gateway.stored) == 2


async def test_a_reset_before_or_within_the_greeting_costs_no_time_out(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "CONNECT_S", 3600.0)
    bench, link = await far()
    cut_off = iter([b"\x10", b"\x33"])  # CONNECT, then a retained PUBLISH: the birth
    link.reset_at = next(cut_off)
    bench.start()
    for count in (1, 2):
        await until(lambda count=count: link.resets == count)  # type: ignore[misc]
        link.reset_at = next(cut_off, b"")
    await bench.commit(cut(1))
    await bench.settled()
    assert gateway.stored
    assert link.connections == 3


async def test_a_broker_that_acknowledges_and_drops_loses_nothing_and_is_told(
    far: Callable[..., Any], gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "TRIES", 2)
    bench, link = await far(swallow=lambda topic, _: topic.endswith("up/media"))
    await bench.door.run(lambda spool: spool.commit([picture(cut, 1, 500), cut(2)]))
    await gateway.ready.wait()
    bench.start()
    await until(lambda: bench.uplink.status().trouble is not None)
    assert "media" in (bench.uplink.status().trouble or "")
    await until(lambda: link.swallowed >= 2)
    assert [lane for lane, _ in gateway.lanes] == [Lane.BACKLOG]
    assert await bench.door.run(Spool.waiting) == 1

    link.swallow = lambda topic, _: False  # noqa: ARG005  # it tells the truth again
    await bench.settled()


async def test_a_picture_above_the_broker_s_limit_holds_up_nobody_and_is_told(
    far: Callable[..., Any], make_broker: Callable[..., Broker], cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "TRIES", 3)
    narrow = make_broker("narrow", max_packet="20000")
    gateway = Gateway(narrow.port)
    listening = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    bench, link = await far(target_port=narrow.port)
    pictures = [picture(cut, number, 40_000 if number == 0 else 2000) for number in range(8)]
    await bench.door.run(lambda spool: spool.commit([*pictures, cut(100)]))
    bench.start()
    await gateway.until(lambda: len(gateway.stored) == 8)
    await until(lambda: bench.uplink.status().trouble is not None)
    assert "larger than any answered so far" in (bench.uplink.status().trouble or "")
    assert link.connections >= 3, "the broker did not throw the box out"
    assert await bench.door.run(Spool.waiting) == 1
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    ("rights", "cause"),
    [("topic readwrite #", "No matching subscribers"), ("topic write tri/v1/+/state", "Not authorized")],
)
async def test_what_mqtt_5_says_of_a_publish_names_the_cause(
    far: Callable[..., Any], make_broker: Callable[..., Broker], cut: MakeCut, rights: str, cause: str
) -> None:
    bench, _ = await far(target_port=make_broker("strict", rights=rights).port)
    bench.start()
    await bench.commit(cut(1, batch_class=BatchClass.ALARM))
    for number in range(2, 7):
        await bench.commit(cut(number))
    await until(lambda: bench.uplink.status().trouble is not None)
    assert cause in (bench.uplink.status().trouble or "")
