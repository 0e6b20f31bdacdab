"""The way up through a real broker: nothing is forgotten before the gateway's receipt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from trisense.core import topics
from trisense.core.messages import EpochReceipt, GatewayState, State, pack_receipts
from trisense.core.model import Batch, BatchClass
from trisense.core.topics import Lane
from trisense.core.wire import unpack
from trisense.edge import link as link_module
from trisense.edge import outbox as outbox_module
from trisense.edge import uplink as uplink_module
from trisense.edge.birth import BirthMaker
from trisense.edge.config import BoxConfig, load
from trisense.edge.link import Connector
from trisense.edge.spool import Cut, Head, Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.uplink import Uplink

pytestmark = pytest.mark.peer

BOX = "kx-001"
MakeCut = Callable[..., Cut]


@dataclass
class Gateway:
    """Takes bundles and answers as told; what it stores is what it has receipted."""

    port: int
    answer: bool = True
    stored: dict[tuple[int, int], Batch] = field(default_factory=dict)
    lanes: list[tuple[Lane, int]] = field(default_factory=list)
    """(lane, batches) of every bundle seen."""
    seen: list[tuple[int, int]] = field(default_factory=list)
    """Identity of every batch seen, repeats too."""
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    client: aiomqtt.Client | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", self.port, identifier="gateway") as self.client:
                    await self.client.subscribe(f"{topics.ROOT}/+/up/+", 1)
                    await self.client.subscribe(f"{topics.ROOT}/+/+", 1)
                    self.ready.set()
                    async for message in self.client.messages:
                        await self.take(message)
            await asyncio.sleep(0.05)

    async def take(self, message: aiomqtt.Message) -> None:
        box, rest = topics.parse(message.topic.value)
        payload = message.payload
        assert isinstance(payload, bytes)
        if rest in ("birth", "state"):
            self.said[rest] = json.loads(payload)
        elif rest.startswith("up/"):
            batches = unpack(payload).batches()
            self.lanes.append((Lane(rest[3:]), len(batches)))
            self.seen += [(b.epoch, b.seq) for b in batches]
            if self.answer:
                self.stored |= {(b.epoch, b.seq): b for b in batches}
                await self.receipt([EpochReceipt(b.epoch, ((b.seq, b.seq),)) for b in batches], box)
        async with self.changed:
            self.changed.notify_all()

    async def receipt(self, receipts: list[EpochReceipt], box: str = BOX) -> None:
        assert self.client is not None
        await self.client.publish(topics.receipt(box), pack_receipts(receipts), 1)

    async def worker(self, *, online: bool) -> None:
        """Say that the one worker of this gateway is online or not."""
        await self.ready.wait()
        assert self.client is not None
        state = GatewayState(online=online).model_dump_json()
        await self.client.publish(topics.gateway_state("w1"), state, 1, retain=True)

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(ready)


async def until(ready: Callable[[], object]) -> None:
    """Wait until ``ready``."""
    async with asyncio.timeout(20):
        while not ready():  # noqa: ASYNC110  # counters have no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def gateway(broker: Any) -> AsyncIterator[Gateway]:
    made = Gateway(broker.port)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def config(tmp_path: Path, broker: Any) -> BoxConfig:
    file = tmp_path / "box.toml"
    file.write_text(
        f'[box]\nid = "{BOX}"\nsite = "kx"\nlatitude = 48.1\nlongitude = 11.5\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/null?baud=9600"\n'
    )
    return load(file)


class Bench:
    """An uplink with its spool, and short waits."""

    def __init__(self, door: SpoolThread, config: BoxConfig) -> None:
        self.door = door
        self.uplink = Uplink(
            Connector(BOX, config.mqtt),
            door,
            BirthMaker(config),
            media_share=0.25,
            state=lambda online: State(online=online, boot_id="boot-1", since="2026-01-01T00:00:00+00:00"),
        )
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.uplink.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def commit(self, *cuts: Cut) -> list[Head]:
        heads = await self.door.run(lambda spool: spool.commit(cuts))
        self.uplink.committed(heads)
        return heads

    async def settled(self) -> None:
        """Wait until nothing waits for a receipt."""
        async with asyncio.timeout(20):
            while await self.door.run(Spool.waiting):  # noqa: ASYNC110  # another thread's file tells nobody
                await asyncio.sleep(0.02)


@pytest.fixture
async def bench(
    make_spool: Callable[..., Spool], config: BoxConfig, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr(outbox_module, "RESEND_MIN_S", 0.3)
    monkeypatch.setattr(uplink_module, "RECONNECT_S", 0.1)
    monkeypatch.setattr(link_module, "CONNECT_S", 0.5)
    async with SpoolThread(make_spool()) as door:
        made = Bench(door, config)
        yield made
        await made.stop()


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
    process.terminate()
    process.wait()


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
