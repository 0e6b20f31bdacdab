"""What comes down: receipts, the word of the gateway's workers, and messages for others on the box."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiomqtt
import structlog
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError
from trisense.core import topics
from trisense.core.errors import WireError
from trisense.core.messages import GatewayState, merged, unpack_receipts
from trisense.core.model import BatchClass
from trisense.edge.once import Fault
from trisense.edge.sending.answers import Answers
from trisense.edge.sending.link import QOS
from trisense.edge.sending.outbox import Outbox
from trisense.edge.spool.thread import SpoolThread

__all__ = ["Downlink", "Mailbox", "OnMessage", "Wake"]

log = structlog.get_logger(__name__)

OnMessage = Callable[[str, bytes], Awaitable[None]]
"""Takes the topic and the payload of a message."""
MAIL_MAX: Final = 64
"""Messages for others that wait; at the limit the oldest goes (``drop_oldest``): of two configurations
the newer counts, and a command that waited longest is nearest to its deadline."""
RUSH_S: Final = 10.0
"""A box begins its bulk at some moment of so many seconds after a gateway's return: all others return too."""
WORKERS_MAX: Final = 64
"""Workers that are remembered; at the limit the one that has been silent longest goes (``drop_oldest``)."""
COMES_S: Final = 20.0
COMES_MAX: Final = 4
"""Workers that come in so many seconds and have everything sent again; a worker that comes and goes each
second, or names without end, do not."""
REFUSED: Final = 128
"""Answers to a subscription from here on are refusals (MQTT 3.9.3)."""


class Wake:
    """What the senders wait for."""

    def __init__(self) -> None:
        self.alarm = asyncio.Event()
        self.live = asyncio.Event()
        self.bulk = asyncio.Event()
        """Backlog or pictures may go."""
        self.answers = asyncio.Event()
        """A receipt came, or a worker spoke."""

    def senders(self) -> None:
        self.alarm.set()
        self.live.set()
        self.bulk.set()


class Mailbox:
    """Hands messages to one handler, one at a time, apart from the receipts."""

    def __init__(self, on_message: OnMessage, counts: Counter[str]) -> None:
        self._on_message = on_message
        self._counts = counts
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._filled = asyncio.Event()

    def put(self, topic: str, payload: bytes) -> None:
        """Keep a message for the handler; the oldest gives way when ``MAIL_MAX`` wait."""
        if len(self._waiting) == MAIL_MAX:
            self._waiting.popleft()
            self._counts["messages_dropped"] += 1
        self._waiting.append((topic, payload))
        self._filled.set()

    async def run(self) -> None:
        """Call the handler with each message, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                topic, payload = self._waiting.popleft()
                try:
                    await self._on_message(topic, payload)
                except Exception:  # a bug in a handler must not cost the box its link
                    self._counts["messages_failed"] += 1
                    log.exception("message_failed", topic=topic)


class Downlink:
    """Takes the messages of one box, connection after connection."""

    def __init__(
        self,
        box: str,
        spool: SpoolThread,
        outbox: Outbox,
        wake: Wake,
        *,
        counts: Counter[str],
        others: Sequence[str],
        mailbox: Mailbox | None,
        answers: Answers,
    ) -> None:
        """``others`` are topics (wildcards allowed) whose messages go to ``mailbox``."""
        self.bulk_from_s = 0.0
        """Monotonic time from which bulk may go, after a gateway's return."""
        self._came_s: deque[float] = deque(maxlen=COMES_MAX)
        self._answers = answers
        self._rng = random.Random()  # noqa: S311  # jitter, no secret
        self.workers: dict[str, GatewayState] = {}
        """The gateway's workers by topic, as far as this connection has heard them."""
        self._refused = Fault(log, "gateway_refused", level="error", forget_s=3600.0)
        self._receipts = topics.receipt(box)
        self._spool = spool
        self._outbox = outbox
        self._wake = wake
        self._counts = counts
        self._others = tuple(others)
        self._mailbox = mailbox

    async def subscribe(self, client: aiomqtt.Client) -> None:
        """Ask for everything, and heed what is retained from the first bundle on."""
        wanted = (self._receipts, topics.gateway_state("+"), *self._others)
        granted: Sequence[int | ReasonCode] = await client.subscribe([(topic, QOS) for topic in wanted])
        for topic, answer in zip(wanted, granted, strict=True):
            if (answer if isinstance(answer, int) else answer.value) >= REFUSED:
                self._ignored("subscriptions_refused", f"the broker refuses {topic}: {answer}")

    async def take_waiting(self, client: aiomqtt.Client) -> None:
        """Take what has come so far."""
        for _ in range(len(client.messages)):
            await self._take(await anext(client.messages))

    async def listen(self, client: aiomqtt.Client) -> None:
        """Take messages until the connection ends."""
        async for message in client.messages:
            await self._take(message)

    def takes_bulk(self) -> bool:
        """Some worker is online and gives credit; without a word from any of them too.

        Our own limit is one bulk bundle in flight, so that any credit but 0 is enough.
        """
        states = self.workers.values()
        return not states or any(s.online and s.credit != 0 for s in states)

    async def _take(self, message: aiomqtt.Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        if message.topic.matches(self._receipts):
            await self._receipt(payload)
        elif message.topic.matches(topics.gateway_state("+")):
            self._gateway_state(message.topic.value, payload)
        elif self._mailbox is not None:
            self._mailbox.put(message.topic.value, payload)

    async def _receipt(self, payload: bytes) -> None:
        try:
            receipts = merged(unpack_receipts(payload))
        except WireError as error:
            self._ignored("receipts_invalid", str(error))
            return
        settled = await self._spool.run(lambda spool: spool.settle(receipts))
        self._counts["receipts"] += 1
        self._counts["batches_receipted"] += len(settled.heads)
        self._counts["data_receipted"] += sum(h.batch_class is BatchClass.DATA for h in settled.heads)
        self._counts["batches_refused"] += settled.refused
        if settled.refused:
            refused = [list(x) for r in receipts for x in r.refused]
            self._refused.failed(batches=refused[:20])
        if settled.beyond:
            self._ignored("receipts_beyond", "a receipt for batches this box never made")
        if settled.unknown_epochs:
            self._ignored("receipts_unknown_epoch", "a receipt for an epoch that is not this box's")
        if settled.heads:
            self._outbox.settled([head.id for head in settled.heads], time.monotonic())
            self._answers.receipted()
            self._wake.answers.set()
            self._wake.bulk.set()

    def _gateway_state(self, topic: str, payload: bytes) -> None:
        try:
            state = GatewayState.model_validate_json(payload) if payload else None
        except ValidationError as error:
            self._ignored("gateway_states_invalid", str(error))
            return
        known = self.workers.pop(topic, None)
        if state is not None:
            if len(self.workers) >= WORKERS_MAX:
                del self.workers[next(iter(self.workers))]
            self.workers[topic] = state
            now_s = time.monotonic()
            comes = state.online and not (known is not None and known.online)
            if comes and (len(self._came_s) < COMES_MAX or now_s - self._came_s[0] > COMES_S):
                self._came_s.append(now_s)
                self._outbox.send_again(now_s)
                if known is not None:  # else it was there before this connection, and nobody rushes
                    self.bulk_from_s = now_s + self._rng.uniform(0.0, RUSH_S)
                self._wake.alarm.set()
                self._wake.live.set()
        self._wake.answers.set()
        self._wake.bulk.set()

    def _ignored(self, what: str, why: str) -> None:
        self._counts[what] += 1
        (log.warning if self._counts[what] == 1 else log.debug)(what, why=why)
