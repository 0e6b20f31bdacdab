"""What tests of the link share: a gateway that answers as told, and an uplink with its spool."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from trisense.core import topics
from trisense.core.messages import EpochReceipt, GatewayState, State, pack_receipts
from trisense.core.model import Batch
from trisense.core.mqtt import Client
from trisense.core.topics import Lane
from trisense.core.wire import unpack
from trisense.edge.clocks.clock import Clock
from trisense.edge.config import BoxConfig
from trisense.edge.sending.allowance import Allowance
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.daybook import Daybook
from trisense.edge.sending.downlink import OnMessage
from trisense.edge.sending.link import Connector
from trisense.edge.sending.uplink import Uplink
from trisense.edge.spool import Cut, Head, Spool
from trisense.edge.spool.thread import SpoolThread

BOX = "kx-001"


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
                async with Client("127.0.0.1", self.port, identifier="gateway") as self.client:
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


class Bench:
    """An uplink with its spool, and short waits."""

    def __init__(
        self,
        door: SpoolThread,
        config: BoxConfig,
        clock: Clock,
        *,
        topics: Sequence[str] = (),
        on_message: OnMessage | None = None,
    ) -> None:
        self.door = door
        self.allowance = Allowance(config.link, clock, Daybook(config.path.with_name("link"), clock))
        self.uplink = Uplink(
            Connector(BOX, config.mqtt),
            door,
            BirthMaker(config),
            self.allowance,
            state=lambda online: State(online=online, boot_id="boot-1", since="2026-01-01T00:00:00+00:00"),
            topics=topics,
            on_message=on_message,
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

    async def settled(self, *, but: int = 0) -> None:
        """Wait until nothing waits for a receipt, or no more than so many."""
        async with asyncio.timeout(20):
            while await self.door.run(Spool.waiting) > but:  # noqa: ASYNC110  # another thread's file tells nobody
                await asyncio.sleep(0.02)
