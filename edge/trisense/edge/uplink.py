"""The way up: bundles to the broker, receipts back, until the spool may forget.

Two senders share one connection: ``urgent`` (alarms, then live data) and ``bulk`` (backlog and
pictures, one bundle at a time and no longer than a quarter of a second at the measured link rate),
so that neither can starve the other and an alarm never waits behind a picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import aiomqtt
import structlog
from trisense.core import topics
from trisense.core.errors import LinkError, SpoolError
from trisense.core.messages import State
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.backoff import Backoff
from trisense.edge.birth import BirthMaker
from trisense.edge.bundler import BUNDLE_BYTES, Ahead, Bundle, Bundler, LinkMeter
from trisense.edge.downlink import Downlink, Mailbox, OnMessage, Wake
from trisense.edge.link import QOS, Connector
from trisense.edge.outbox import Outbox, Pick
from trisense.edge.spool import Head, Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import together

__all__ = ["Uplink"]

log = structlog.get_logger(__name__)

BULK_WAIT_MAX_S: Final = 60.0
IDLE_S: Final = 30.0
"""Longest wait without looking into the spool again."""
BIRTH_S: Final = 60.0
"""How often a change in the books of older epochs is told."""
RECONNECT_S: Final = 1.0
RECONNECT_MAX_S: Final = 30.0
STEADY_S: Final = 3.0
"""A link that lasts less is as good as none: two boxes of one name throw each other out each second."""
GOODBYE_S: Final = 1.0
PAGE: Final = 500
URGENT: Final = (Lane.ALARM, Lane.LIVE)
BULK: Final = (Lane.BACKLOG, Lane.MEDIA)
UNANSWERED: Final = 5
"""Bundles in a row without a receipt before it is said aloud."""


class Uplink:
    """Keeps the box connected and drains its spool."""

    def __init__(
        self,
        connector: Connector,
        spool: SpoolThread,
        birth: BirthMaker,
        *,
        media_share: float,
        state: Callable[[bool], State],
        topics: Sequence[str] = (),
        on_message: OnMessage | None = None,
        on_connect: Callable[[], None] | None = None,
    ) -> None:
        """``state`` makes the box's state message, online or not.

        ``topics`` are subscribed beside the uplink's own; their messages go to ``on_message``, one at a
        time. At most 64 wait, then the oldest is dropped. It may call ``use`` and ``publish``.
        ``on_connect`` is called with each new connection, when ``publish`` works.
        """
        self.counts: Counter[str] = Counter()
        """bundles, payload_bytes, receipts, and what was ignored, by name."""
        self._connector = connector
        self._client: aiomqtt.Client | None = None
        self._replaced = asyncio.Event()
        self._on_connect = on_connect
        self._spool = spool
        self._birth = birth
        self._box = birth.box
        self._state = state
        self._outbox = Outbox(media_share=media_share)
        self._wake = Wake()
        self._meter = LinkMeter()
        self._bundler = Bundler(birth.box, birth.site, spool, given_up=self._given_up)
        self._mailbox = None if on_message is None else Mailbox(on_message, self.counts)
        self._down = Downlink(
            birth.box,
            spool,
            self._outbox,
            self._wake,
            counts=self.counts,
            others=topics,
            mailbox=self._mailbox,
        )
        self._receipted = 0
        self._unanswered = 0

    @property
    def connected(self) -> bool:
        """Whether the broker has taken the birth message on this connection."""
        return self._client is not None

    def committed(self, heads: Sequence[Head]) -> None:
        """The spool has new batches."""
        self._outbox.committed(heads, time.monotonic())
        if any(head.batch_class is not BatchClass.MEDIA for head in heads):
            self._wake.urgent.set()
        self._wake.bulk.set()

    async def publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        """Publish a message of others on the box (QoS 1), beside the bundles.

        Raises:
            LinkError: there is no connection, or it broke: the broker may or may not have the message.
        """
        if self._client is None:
            raise LinkError("not connected")
        try:
            await self._client.publish(topic, payload, QOS, retain=retain)
        except aiomqtt.MqttError as error:
            raise LinkError(str(error)) from error

    def use(self, connector: Connector) -> None:
        """Leave the broker, if there is one, and go on with this one; what waits is sent there."""
        self._connector = connector
        self._replaced.set()

    async def tell(self, birth: BirthMaker) -> None:
        """The box is another now: tell its birth again, at once or with the next connection.

        Raises:
            LinkError: the connection broke meanwhile; the next one begins with the new birth.
        """
        self._birth = birth
        self._bundler.site = birth.site
        if self._client is None:
            return
        try:
            await self._publish_birth(self._client)
        except aiomqtt.MqttError as error:
            raise LinkError(str(error)) from error

    async def run(self) -> None:
        """Connect, serve, connect again, until cancelled; then say that the box goes offline."""
        parts: dict[str, Coroutine[Any, Any, None]] = {"uplink-keep": self._keep_connected()}
        if self._mailbox is not None:
            parts["uplink-messages"] = self._mailbox.run()
        await together(parts)

    async def _keep_connected(self) -> None:
        backoff = Backoff(first_s=RECONNECT_S, longest_s=RECONNECT_MAX_S)
        while True:
            self._replaced.clear()
            began_s = time.monotonic()
            try:
                await together({"uplink-link": self._connection(), "uplink-replaced": self._replaced.wait()})
            except LinkError as error:
                say = log.debug if backoff.failures else log.warning
                say("link_down", why=str(error))
            finally:
                self._client = None
                self._down.workers.clear()
                self._outbox.send_again(time.monotonic())
            if self._replaced.is_set() or time.monotonic() - began_s > STEADY_S:
                backoff.reset()
            await _wait(self._replaced, time.monotonic() + backoff.next_s())

    async def _connection(self) -> None:
        async with self._connector.connect(self._state(False).model_dump_json()) as client:
            await self._serve(client)

    async def _greet(self, client: aiomqtt.Client) -> None:
        await self._down.subscribe(client)
        await self._publish_birth(client)
        await self._publish_state(client, online=True)
        # What the gateway's workers say is retained, so it has come by now: heed it from the first bundle on.
        await self._down.take_waiting(client)
        self._client = client
        if self._on_connect is not None:
            self._on_connect()
        self._wake.senders()

    async def _serve(self, client: aiomqtt.Client) -> None:
        try:
            await self._greet(client)
            log.info("link_up")
            await together(
                {
                    "uplink-listen": self._down.listen(client),
                    "uplink-urgent": self._send_urgent(client),
                    "uplink-bulk": self._send_bulk(client),
                    "uplink-birth": self._keep_birth(client),
                }
            )
        except aiomqtt.MqttError as error:
            raise LinkError(str(error)) from error
        except SpoolError as error:
            # The disk is sick, which the batcher tells too: sending rests like a link that is down.
            raise LinkError(str(error)) from error
        except asyncio.CancelledError:
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._publish_state(client, online=False)
            raise

    # --- what the box says of itself ---

    async def _publish_birth(self, client: aiomqtt.Client) -> None:
        counters = await self._spool.run(Spool.all_counters)
        await client.publish(topics.birth(self._box), self._birth.payload(counters), QOS, retain=True)

    async def _publish_state(self, client: aiomqtt.Client, *, online: bool) -> None:
        payload = self._state(online).model_dump_json()
        await client.publish(topics.state(self._box), payload, QOS, retain=True)

    async def _keep_birth(self, client: aiomqtt.Client) -> None:
        """Tell the books of older epochs again when they changed: bundles carry the current one's only."""
        told = (await self._spool.run(Spool.all_counters))[:-1]
        while True:
            await asyncio.sleep(BIRTH_S)
            now = (await self._spool.run(Spool.all_counters))[:-1]
            if now != told:
                await self._publish_birth(client)
                told = now

    # --- what goes up ---

    async def _send_urgent(self, client: aiomqtt.Client) -> None:
        while True:
            self._wake.urgent.clear()
            pick = await self._pick_urgent()
            if pick is not None:
                for bundle in await self._bundler.bundles(pick):
                    await self._publish(client, bundle)
                continue
            if self._outbox.forget_due(URGENT, time.monotonic()):
                self._wake.bulk.set()  # live data that had no answer is backlog now
            await _wait(self._wake.urgent, self._outbox.next_due_s(URGENT))

    async def _pick_urgent(self) -> Pick | None:
        """Alarms first, then live data."""
        alarms = await self._ready(BatchClass.ALARM)
        if alarms:
            return self._outbox.pick(Lane.ALARM, alarms, limit_bytes=BUNDLE_BYTES[1])
        after = self._outbox.live_after(time.monotonic())
        live = [] if after is None else await self._ready(BatchClass.DATA, after=after)
        return self._outbox.pick(Lane.LIVE, live, limit_bytes=BUNDLE_BYTES[1]) if live else None

    async def _send_bulk(self, client: aiomqtt.Client) -> None:
        """One bundle after the other; while the gateway works on one, the next is packed."""
        unanswered = Backoff(first_s=self._outbox.resend_s(), longest_s=BULK_WAIT_MAX_S)
        packed: deque[Bundle] = deque()
        async with Ahead(self._bulk_bundles) as ahead:
            while True:
                self._wake.bulk.clear()
                if not self._down.takes_bulk() or not self._outbox.has_room():
                    await _wait(self._wake.bulk)
                    continue
                if not packed:
                    packed.extend(await ahead.result())
                if not packed:
                    self._outbox.forget_due(BULK, time.monotonic())
                    await _wait(self._wake.bulk, self._outbox.next_due_s(BULK), self._outbox.next_backlog_s())
                    continue
                bundle = packed.popleft()
                await self._publish(client, bundle)
                self._outbox.bulk_sent(bundle.pick.lane, len(bundle.payload))
                if not packed:
                    ahead.begin()
                if await self._answered(bundle.pick):
                    unanswered.reset()
                    continue
                packed.clear()
                await ahead.drop()
                # Live data goes on asking; the first answer to it ends this rest.
                self._wake.answers.clear()
                await _wait(self._wake.answers, time.monotonic() + unanswered.next_s())

    async def _bulk_bundles(self) -> list[Bundle]:
        """The next bundle of bulk, as a rule one; empty when nothing waits."""
        while (pick := await self._pick_bulk()) is not None:
            bundles = await self._bundler.bundles(pick)
            if bundles:
                return bundles
        return []

    async def _pick_bulk(self) -> Pick | None:
        for lane in self._outbox.bulk_order():
            if lane is Lane.MEDIA:
                ready = await self._ready(BatchClass.MEDIA)
            else:
                ready = await self._ready(BatchClass.DATA, up_to=self._outbox.live_after(time.monotonic()))
            if ready:
                return self._outbox.pick(lane, ready, limit_bytes=self._meter.bulk_spool_bytes())
        return None

    async def _ready(self, of: BatchClass, *, after: int = 0, up_to: int | None = None) -> list[Head]:
        """The oldest waiting batches of a class, with ids in (after, up_to], that may be sent now."""
        while True:
            page = await self._spool.run(
                lambda spool, after=after: spool.heads(of, after_id=after, limit=PAGE)  # type: ignore[misc]
            )
            inside = [head for head in page if up_to is None or head.id <= up_to]
            ready = self._outbox.ready(inside, time.monotonic())
            if ready or len(inside) < PAGE:
                return ready
            after = page[-1].id

    async def _answered(self, pick: Pick) -> bool:
        """Wait for the receipts of a bulk bundle, as long as one may take."""
        until_s = time.monotonic() + self._outbox.resend_s()
        while self._outbox.on_the_way(pick.ids):
            if time.monotonic() >= until_s:
                return False
            self._wake.answers.clear()
            await _wait(self._wake.answers, until_s)
        return True

    async def _publish(self, client: aiomqtt.Client, bundle: Bundle) -> None:
        began_s = time.monotonic()
        self._outbox.sent(bundle.pick, began_s)
        await client.publish(topics.up(self._box, bundle.pick.lane), bundle.payload, QOS)
        self._outbox.acknowledged(bundle.pick.ids)
        self._published(bundle, time.monotonic() - began_s)

    def _published(self, bundle: Bundle, took_s: float) -> None:
        """Learn from a publish that the broker has acknowledged."""
        self.counts["bundles"] += 1
        self.counts["payload_bytes"] += len(bundle.payload)
        self._meter.published(bundle, took_s)
        if self.counts["batches_receipted"] != self._receipted:
            self._receipted = self.counts["batches_receipted"]
            self._unanswered = 0
        self._unanswered += 1
        if self._unanswered == UNANSWERED:
            log.warning(
                "no_receipts", bundles=UNANSWERED, broker="acknowledges", gateways=len(self._down.workers)
            )

    def _given_up(self, ids: Sequence[int]) -> None:
        self._outbox.settled(ids, time.monotonic())
        self._wake.urgent.set()  # their loss is an alarm


async def _wait(event: asyncio.Event, *until_s: float | None) -> None:
    """Wait for ``event``, at most until the first of those monotonic times, and never long without a look."""
    now_s = time.monotonic()
    wait_s = min((max(until - now_s, 0.0) for until in until_s if until is not None), default=IDLE_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(wait_s, IDLE_S)):
            await event.wait()
