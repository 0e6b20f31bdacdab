"""The way up through a real broker: nothing is forgotten before the gateway's receipt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from trisense.core import topics
from trisense.core.messages import EpochReceipt, GatewayState, State
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.config import BoxConfig
from trisense.edge.sending import downlink as downlink_module
from trisense.edge.sending import outbox as outbox_module
from trisense.edge.sending import uplink as uplink_module
from trisense.edge.sending.link import Connector
from trisense.edge.spool import Cut, Head, Spool

from tests.edge.peers import BOX, Bench, Gateway, until
from tests.servers import stop

pytestmark = pytest.mark.peer

MakeCut = Callable[..., Cut]


async def test_live_batches_arrive_as_committed_and_are_forgotten_with_the_receipt(
    bench: Bench, gateway: Gateway, cut: MakeCut
) -> None:
    bench.start()
    await gateway.until(lambda: "birth" in gateway.said)
    one = cut(1)
    (head,) = await bench.commit(one)
    await gateway.until(lambda: bool(gateway.stored))
    await bench.settled()

    (batch,) = gateway.stored.values()
    assert [s.values for s in batch.samples] == [s.values for s in one.samples]
    assert gateway.lanes == [(Lane.LIVE, 1)]
    assert gateway.said["state"]["online"] is True
    assert gateway.said["birth"]["counters"][-1]["epoch"] == head.epoch
    assert [d["name"] for d in gateway.said["birth"]["devices"]] == ["dust"]


async def test_an_alarm_goes_first_and_old_data_as_backlog(
    bench: Bench, gateway: Gateway, cut: MakeCut
) -> None:
    cuts = [cut(i) for i in range(50)]
    await bench.door.run(lambda spool: spool.commit(cuts))  # from before this run: nobody told the uplink
    await bench.door.run(lambda spool: spool.commit([cut(99, batch_class=BatchClass.ALARM)]))
    await bench.door.run(
        lambda spool: spool.commit([cut(98, rows=1, batch_class=BatchClass.MEDIA, blob=b"picture")])
    )
    bench.start()
    await bench.settled()

    assert set(gateway.lanes) == {(Lane.ALARM, 1), (Lane.BACKLOG, 50), (Lane.MEDIA, 1)}
    assert {b.blob for b in gateway.stored.values()} == {None, b"picture"}


async def test_without_a_receipt_it_is_sent_again_and_the_broker_s_word_frees_nothing(
    bench: Bench, gateway: Gateway, cut: MakeCut
) -> None:
    gateway.answer = False
    bench.start()
    (head,) = await bench.commit(cut(1))
    await gateway.until(lambda: len(gateway.seen) >= 3)
    assert set(gateway.seen) == {(head.epoch, head.seq)}
    assert await bench.door.run(Spool.waiting) == 1

    gateway.answer = True
    await bench.settled()


async def test_lost_receipts_and_lies_do_no_harm(bench: Bench, gateway: Gateway, cut: MakeCut) -> None:
    gateway.answer = False
    bench.start()
    (head,) = await bench.commit(cut(1))
    await gateway.until(lambda: bool(gateway.seen))
    assert gateway.client is not None
    await gateway.client.publish(topics.receipt(BOX), b"\xff garbage", 1)
    await gateway.receipt([EpochReceipt(head.epoch, ((0, 5),))])
    await gateway.receipt([EpochReceipt(head.epoch ^ 1, ((0, 0),))])
    await until(lambda: bench.uplink.counts["receipts_unknown_epoch"])
    assert bench.uplink.counts["receipts_invalid"] == 1
    assert bench.uplink.counts["receipts_beyond"] == 1
    assert await bench.door.run(Spool.waiting) == 1

    await gateway.receipt([EpochReceipt(head.epoch, refused=((0, "types", 3),))])
    await bench.settled()
    assert bench.uplink.counts["batches_refused"] == 1


async def test_a_subscription_that_the_broker_refuses_is_counted_and_told(bench: Bench) -> None:
    """128 is all that MQTT 3.1.1 says; 135, not authorised, is of version 5. Mosquitto never refuses one."""

    class Refusing:
        async def subscribe(self, wanted: list[tuple[str, int]]) -> list[int]:
            return [128, 135, *(1 for _ in wanted[2:])]

    with capture_logs() as logs:
        await bench.uplink._down.subscribe(Refusing())  # type: ignore[arg-type]  # of a client only this
    assert bench.uplink.counts["subscriptions_refused"] == 2
    assert "receipt" in logs[0]["why"]


async def test_bulk_waits_while_no_gateway_worker_is_online_and_live_does_not(
    bench: Bench, gateway: Gateway, cut: MakeCut
) -> None:
    await bench.door.run(lambda spool: spool.commit([cut(1)]))
    await gateway.worker(online=False)
    bench.start()
    await gateway.until(lambda: gateway.said.get("state", {}).get("online") is True)
    await bench.commit(cut(2))
    await gateway.until(lambda: bool(gateway.stored))
    assert [lane for lane, _ in gateway.lanes] == [Lane.LIVE]

    await gateway.worker(online=True)
    await bench.settled()
    assert Lane.BACKLOG in {lane for lane, _ in gateway.lanes}


async def test_a_gateway_that_comes_back_gets_alarms_at_once(
    bench: Bench, gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RESEND_MIN_S", 3600.0)
    gateway.answer = False
    await gateway.worker(online=True)
    bench.start()
    await bench.commit(cut(1, batch_class=BatchClass.ALARM))
    await gateway.until(lambda: bool(gateway.seen))

    await gateway.worker(online=False)
    gateway.answer = True
    await gateway.worker(online=True)
    await bench.settled()
    assert [lane for lane, _ in gateway.lanes] == [Lane.ALARM, Lane.ALARM]


async def test_workers_without_end_are_forgotten_and_have_nothing_sent_again_and_again(
    bench: Bench, gateway: Gateway, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RESEND_MIN_S", 3600.0)
    gateway.answer = False
    bench.start()
    await bench.commit(cut(1, batch_class=BatchClass.ALARM))
    await gateway.until(lambda: bool(gateway.seen))
    assert gateway.client is not None
    online = GatewayState(online=True).model_dump_json()
    for number in range(200):
        await gateway.client.publish(topics.gateway_state(f"w{number}"), online, 1)
    receipts = bench.uplink.counts["receipts"]
    await gateway.receipt([])
    await until(lambda: bench.uplink.counts["receipts"] > receipts)  # so all before it was heard
    assert bench.uplink.status().gateways == downlink_module.WORKERS_MAX
    assert len(gateway.seen) <= 5


async def test_brokers_may_die_as_often_as_they_like(
    bench: Bench, gateway: Gateway, broker: Any, cut: MakeCut
) -> None:
    bench.start()
    committed: list[Head] = []

    def newest_is_stored() -> bool:
        return (committed[-1].epoch, committed[-1].seq) in gateway.stored

    for round_ in range(3):
        committed += [(await bench.commit(cut(10 * round_ + i)))[0] for i in range(5)]
        await gateway.until(newest_is_stored)
        broker.kill()
        committed += [(await bench.commit(cut(10 * round_ + 5 + i)))[0] for i in range(5)]
        broker.start()
    await bench.settled()
    assert {(h.epoch, h.seq) for h in committed} == gateway.stored.keys()


async def test_a_broker_that_is_away_is_tried_ever_more_rarely(
    bench: Bench, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.kill()
    waits_s: list[float] = []
    enough = asyncio.Event()

    async def no_wait(_: asyncio.Event, until_s: float) -> None:
        waits_s.append(until_s - time.monotonic())
        if len(waits_s) == 7:
            enough.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(uplink_module, "wait_for", no_wait)
    monkeypatch.setattr(uplink_module, "RECONNECT_S", 1000.0)  # beside which no machine is slow
    monkeypatch.setattr(uplink_module, "RECONNECT_MAX_S", 16_000.0)
    bench.start()
    await enough.wait()
    expected_s = [1000, 2000, 4000, 8000, 16_000, 16_000, 16_000]
    for wait_s, around_s in zip(waits_s, expected_s, strict=False):
        assert 0.7 * around_s < wait_s < 1.3 * around_s


async def test_a_batch_that_can_never_travel_is_declared_lost_and_blocks_nobody(
    bench: Bench, gateway: Gateway, cut: MakeCut
) -> None:
    big = cut(1, rows=1, batch_class=BatchClass.MEDIA, blob=os.urandom(300_000))
    heads = await bench.commit(big, cut(2, rows=1, batch_class=BatchClass.MEDIA, blob=b"small"))
    bench.start()
    await bench.settled()
    losses = [s.values for b in gateway.stored.values() for s in b.samples if s.stream.measurement == "loss"]
    assert [(x[1], x[2], x[3], x[7]) for x in losses] == [(heads[0].seq, heads[0].seq, 1, "too_large")]
    assert b"small" in {b.blob for b in gateway.stored.values()}


async def test_leaving_says_so_and_a_killed_box_is_told_by_its_will(
    bench: Bench, gateway: Gateway, config: BoxConfig
) -> None:
    bench.start()
    await gateway.until(lambda: gateway.said.get("state", {}).get("online") is True)
    await bench.stop()
    await gateway.until(lambda: gateway.said["state"]["online"] is False)

    will = State(online=False, boot_id="boot-1", since="2026-01-01T00:00:00+00:00").model_dump_json()
    gateway.said.clear()
    async with Connector(BOX, config.mqtt).connect(will) as client:
        link = client._client.socket()  # nothing else breaks a link without a word
        assert isinstance(link, socket.socket)
        link.shutdown(socket.SHUT_RDWR)
        await gateway.until(lambda: gateway.said.get("state", {}).get("online") is False)


@pytest.fixture
def old_broker(tmp_path: Path, broker: Any) -> Iterator[int]:
    """A broker that knows MQTT 3.1.1 only; gives its port."""
    broker.stop()
    log = tmp_path / "amqtt.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "trisense.sims.broker", str(broker.port)], stdout=file, stderr=file
        )
    while True:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()
            break
    yield broker.port
    stop(process)


async def test_a_broker_of_mqtt_3_only_is_served_too(old_broker: int, bench: Bench, cut: MakeCut) -> None:
    gateway = Gateway(old_broker)
    task = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    bench.start()
    await bench.commit(cut(1))
    await bench.settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gateway.lanes == [(Lane.LIVE, 1)]
