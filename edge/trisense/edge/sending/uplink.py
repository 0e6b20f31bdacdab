"""The way up: connected as far as the link table allows, greeting, and the books of what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
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
from trisense.edge.config import LinkTable
from trisense.edge.once import Fault
from trisense.edge.sending.allowance import Allowance, Allowed
from trisense.edge.sending.answers import Answers
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.bundler import Bundler
from trisense.edge.sending.downlink import Downlink, Mailbox, OnMessage, Wake
from trisense.edge.sending.link import QOS, Connection, Connector
from trisense.edge.sending.meter import LinkMeter
from trisense.edge.sending.model import LaneStatus, LinkStatus
from trisense.edge.sending.outbox import Outbox
from trisense.edge.sending.senders import Sender
from trisense.edge.spool import Head, Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import together, wait_for

__all__ = ["Uplink"]

log = structlog.get_logger(__name__)

BIRTH_S: Final = 60.0
"""How often a change in the books of older epochs is told."""
RECONNECT_S: Final = 1.0
RECONNECT_MAX_S: Final = 30.0
STEADY_S: Final = 3.0
"""A link that lasts less is as good as none: two boxes of one name throw each other out each second."""
GOODBYE_S: Final = 1.0
LOOK_S: Final = 2.0
"""How often bytes are counted and hours are looked at."""


class Uplink:
    """Keeps the box connected and drains its spool."""

    def __init__(
        self,
        connector: Connector,
        spool: SpoolThread,
        birth: BirthMaker,
        allowance: Allowance,
        *,
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
        self._client: Connection | None = None
        self._since_s = time.monotonic()
        self._error: str | None = None
        self._replaced = asyncio.Event()
        self._on_connect = on_connect
        self._spool = spool
        self._birth = birth
        self._box = birth.box
        self._state = state
        self._allowance = allowance
        self._outbox = Outbox(media_share=allowance.table.media_share)
        self._meter = LinkMeter(backlog_share=allowance.table.backlog_share)
        self._answers = Answers()
        self._wake = Wake()
        self._mailbox = None if on_message is None else Mailbox(on_message, self.counts)
        self._down = Downlink(
            birth.box,
            spool,
            self._outbox,
            self._wake,
            counts=self.counts,
            others=topics,
            mailbox=self._mailbox,
            answers=self._answers,
        )
        self._bundler = Bundler(birth.box, birth.site, spool, given_up=self._given_up)
        self._sender = Sender(
            spool,
            self._bundler,
            self._outbox,
            self._down,
            wake=self._wake,
            meter=self._meter,
            allowance=allowance,
            answers=self._answers,
            counts=self.counts,
        )
        self._carried_bytes = 0
        self._book_fault = Fault(log, "daybook_failed", "daybook_works")

    @property
    def connected(self) -> bool:
        """Whether the broker has taken the birth message on this connection."""
        return self._client is not None

    def committed(self, heads: Sequence[Head]) -> None:
        """The spool has new batches; none of them: others than before may go now."""
        self._outbox.committed(heads, time.monotonic())
        classes = {head.batch_class for head in heads} or set(BatchClass)
        if BatchClass.ALARM in classes:
            self._wake.alarm.set()
        if BatchClass.DATA in classes:
            self._wake.live.set()
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

    def limit(self, table: LinkTable) -> None:
        """Share the link, and spend its bytes and hours, by ``table`` from now on."""
        self._allowance.use(table)
        self._outbox.media_share = table.media_share
        self._meter.backlog_share = table.backlog_share
        self._wake.senders()

    def status(self) -> LinkStatus:
        """What the link does now."""
        now_s = time.monotonic()
        on_the_way = self._outbox.counts()
        bulk_left = self._allowance.bulk_left_bytes()
        lanes = {
            lane.value: LaneStatus(
                self._meter.bundles[lane], self._meter.payload_bytes[lane], on_the_way[lane]
            )
            for lane in Lane
        }
        return LinkStatus(
            broker=self._connector.broker,
            connected=self.connected,
            for_s=now_s - self._since_s,
            error=self._error,
            protocol=self._connector.protocol,
            latency_s=self._meter.latency_s,
            round_trip_s=self._outbox.round_trip_s,
            rate_bytes_s=self._meter.rate_bytes_s,
            lanes=lanes,
            payload_bytes=self._meter.payload_bytes.total(),
            resent_bytes=round(self._meter.resent_bytes),
            gateways=sum(worker.online for worker in self._down.workers.values()),
            allowed=self._allowance.now.name.lower(),
            limited_by=self._allowance.why,
            hours_open=self._allowance.hours_open(),
            used_bytes=self._allowance.book.used_bytes,
            left_bytes=self._allowance.left_bytes(),
            bulk_left_bytes=None if bulk_left is None else int(bulk_left),
            trouble=self._answers.trouble(now_s),
            trouble_s=self._answers.trouble_s(now_s),
        )

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
        await asyncio.to_thread(self._allowance.book.load)
        parts: dict[str, Coroutine[Any, Any, None]] = {"uplink-keep": self._keep_connected()}
        if self._mailbox is not None:
            parts["uplink-messages"] = self._mailbox.run()
        try:
            await together(parts)
        finally:
            await self._save_book(exactly=True)

    async def _keep_connected(self) -> None:
        backoff = Backoff(first_s=RECONNECT_S, longest_s=RECONNECT_MAX_S)
        while True:
            await self._until_allowed()
            self._replaced.clear()
            began_s = time.monotonic()
            try:
                await together({"uplink-link": self._connection(), "uplink-replaced": self._replaced.wait()})
            except LinkError as error:
                self._error = str(error)
                say = log.debug if backoff.failures else log.warning
                say("link_down", why=str(error))
            finally:
                if self._client is not None:
                    self._since_s = time.monotonic()
                self._client = None
                self._down.workers.clear()
                self._outbox.send_again(time.monotonic())
            if self._replaced.is_set() or time.monotonic() - began_s > STEADY_S:
                backoff.reset()
            await wait_for(self._replaced, time.monotonic() + backoff.next_s())

    async def _until_allowed(self) -> None:
        while True:
            self._allowance.look(live=False)
            if self._allowance.now is not Allowed.NOTHING:
                return
            await asyncio.sleep(LOOK_S)

    async def _connection(self) -> None:
        async with self._connector.connect(self._state(False).model_dump_json()) as client:
            self._carried_bytes = 0
            if self._allowance.table.daily_bytes is not None and client.carried_bytes() is None:
                raise LinkError("daily_bytes: this kernel counts no bytes of a connection, Linux 4.19 does")
            client.on_reason = self._answers.reason
            try:
                await self._serve(client)
            finally:
                self._count(client)

    async def _greet(self, client: Connection) -> None:
        self._meter.reconnected()
        # An answer to a small message, then to a large one: so the rate is known before the first bundle.
        await self._measured(0, self._down.subscribe(client))
        await self._publish_birth(client)
        await self._publish_state(client, online=True)
        # What the gateway's workers say is retained, so it has come by now: heed it from the first bundle on.
        await self._down.take_waiting(client)
        self._client = client
        self._since_s, self._error = time.monotonic(), None
        if self._on_connect is not None:
            self._on_connect()

    async def _serve(self, client: Connection) -> None:
        try:
            await together({"uplink-greet": self._greet(client), "uplink-ended": client.ended()})
            log.info("link_up")
            await together(
                {
                    "uplink-listen": self._down.listen(client),
                    "uplink-birth": self._keep_birth(client),
                    "uplink-allowed": self._while_allowed(client),
                    **self._sender.parts(client),
                }
            )
            await self._say_goodbye(client)
        except aiomqtt.MqttError as error:
            raise LinkError(str(error)) from error
        except SpoolError as error:
            # The disk is sick, which the batcher tells too: sending rests like a link that is down.
            raise LinkError(str(error)) from error
        except asyncio.CancelledError:
            await self._say_goodbye(client)
            raise

    async def _say_goodbye(self, client: Connection) -> None:
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._publish_state(client, online=False)

    # --- what it costs ---

    async def _while_allowed(self, client: Connection) -> None:
        """Keep the books; end when not even the connection may stay."""
        while self._allowance.now is not Allowed.NOTHING:
            self._count(client)
            if self._allowance.look(live=self._allowance.now >= Allowed.LIVE):
                self._wake.senders()
            await self._save_book()
            await asyncio.sleep(LOOK_S)

    def _count(self, client: Connection) -> None:
        """Book what the connection has carried since the last look."""
        carried = client.carried_bytes()
        if carried is None:
            return  # it is closed: what went since the last look is lost to the books
        spent = carried - self._carried_bytes
        self._carried_bytes = carried
        bulk, self._sender.bulk_spent_bytes = self._sender.bulk_spent_bytes, 0
        self._allowance.book.count(spent, bulk_bytes=bulk)

    async def _save_book(self, *, exactly: bool = False) -> None:
        daily_bytes = self._allowance.table.daily_bytes
        if daily_bytes is None:
            return
        text = self._allowance.book.to_save(daily_bytes, exactly=exactly)
        if text is None:
            return
        try:
            await asyncio.to_thread(self._allowance.book.save, text)
            self._book_fault.recovered()
        except OSError as error:
            self._book_fault.failed(why=str(error))

    async def _measured(self, size_bytes: int, message: Coroutine[Any, Any, None]) -> None:
        """Await the broker's answer to ``message`` and learn of the link."""
        began_s, alone = time.monotonic(), self._meter.begin()
        await message
        self._meter.end(size_bytes, began_s, time.monotonic(), alone=alone)

    # --- what the box says of itself ---

    async def _publish_birth(self, client: Connection) -> None:
        counters = await self._spool.run(Spool.all_counters)
        payload = self._birth.payload(counters)
        publish = client.publish(topics.birth(self._box), payload, QOS, retain=True)
        await self._measured(len(payload), publish)

    async def _publish_state(self, client: Connection, *, online: bool) -> None:
        payload = self._state(online).model_dump_json()
        await client.publish(topics.state(self._box), payload, QOS, retain=True)

    async def _keep_birth(self, client: Connection) -> None:
        """Tell the books of older epochs again when they changed: bundles carry the current one's only."""
        told = (await self._spool.run(Spool.all_counters))[:-1]
        while True:
            await asyncio.sleep(BIRTH_S)
            now = (await self._spool.run(Spool.all_counters))[:-1]
            if now != told:
                await self._publish_birth(client)
                told = now

    def _given_up(self, ids: Sequence[int]) -> None:
        self._outbox.settled(ids, time.monotonic())
        self._wake.alarm.set()  # their loss is an alarm
