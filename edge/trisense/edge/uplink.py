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
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt
import structlog
from pydantic import ValidationError
from trisense.core import limits, topics
from trisense.core.errors import LinkError, SpoolError, WireError
from trisense.core.messages import GatewayState, State, unpack_receipts
from trisense.core.model import Batch, BatchClass
from trisense.core.topics import Lane
from trisense.core.wire import Header, split
from trisense.edge.backoff import Backoff
from trisense.edge.birth import BirthMaker
from trisense.edge.link import QOS, Connector
from trisense.edge.outbox import Outbox, Pick
from trisense.edge.spool import Head, Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import together

__all__ = ["Uplink"]

log = structlog.get_logger(__name__)

BULK_LINK_S: Final = 0.25
"""Longest time a bulk bundle may keep the link busy."""
BULK_BYTES: Final = (4 * 1024, limits.PAYLOAD_BYTES * 3 // 4)
"""Smallest and largest size aimed at for a bulk bundle."""
RATE_FIRST_BYTES_S: Final = 64 * 1024
"""Taken for the rate of the link until it is measured: a bad mobile link, so that no bundle is stuck."""
RATE_FROM_BYTES: Final = 2 * 1024
"""Smaller bundles say more about the round trip than about the rate of the link."""
SMOOTH: Final = 0.25
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


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Ready to be published."""

    payload: bytes
    pick: Pick
    spool_bytes: int
    """What its batches take in the spool: what was asked for, to learn from what came out."""


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
    ) -> None:
        """``state`` makes the box's state message, online or not."""
        self.counts: Counter[str] = Counter()
        """bundles, payload_bytes, receipts, and what was ignored, by name."""
        self.connected = False
        self._connector = connector
        self._spool = spool
        self._birth = birth
        self._box = birth.box
        self._site = birth.site
        self._state = state
        self._outbox = Outbox(media_share=media_share)
        self._urgent = asyncio.Event()
        self._bulk = asyncio.Event()
        self._answers = asyncio.Event()
        self._workers: dict[str, GatewayState] = {}
        self._rate_bytes_s: float | None = None
        self._packed_ratio = 1.0
        self._unanswered = 0

    def committed(self, heads: Sequence[Head]) -> None:
        """The spool has new batches."""
        self._outbox.committed(heads, time.monotonic())
        if any(head.batch_class is not BatchClass.MEDIA for head in heads):
            self._urgent.set()
        self._bulk.set()

    async def run(self) -> None:
        """Connect, serve, connect again, until cancelled; then say that the box goes offline."""
        backoff = Backoff(first_s=RECONNECT_S, longest_s=RECONNECT_MAX_S)
        while True:
            began_s = time.monotonic()
            try:
                async with self._connector.connect(self._state(False).model_dump_json()) as client:
                    await self._serve(client)
            except LinkError as error:
                say = log.debug if backoff.failures else log.warning
                say("link_down", why=str(error))
            finally:
                self.connected = False
                self._workers.clear()
                self._outbox.send_again(time.monotonic())
            if time.monotonic() - began_s > STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _greet(self, client: aiomqtt.Client) -> None:
        await client.subscribe([(topics.receipt(self._box), QOS), (topics.gateway_state("+"), QOS)])
        await self._publish_birth(client)
        await self._publish_state(client, online=True)
        # What the gateway's workers say is retained, so it has come by now: heed it from the first bundle on.
        for _ in range(len(client.messages)):
            await self._take(await anext(client.messages))
        self.connected = True
        self._urgent.set()
        self._bulk.set()

    async def _serve(self, client: aiomqtt.Client) -> None:
        try:
            await self._greet(client)
            log.info("link_up")
            await together(
                {
                    "uplink-listen": self._listen(client),
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

    # --- what comes down ---

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            await self._take(message)

    async def _take(self, message: aiomqtt.Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        if message.topic.matches(topics.receipt(self._box)):
            await self._receipt(payload)
        elif message.topic.matches(topics.gateway_state("+")):
            self._gateway_state(message.topic.value, payload)

    async def _receipt(self, payload: bytes) -> None:
        try:
            receipts = unpack_receipts(payload)
        except WireError as error:
            self._ignored("receipts_invalid", str(error))
            return
        settled = await self._spool.run(lambda spool: spool.settle(receipts))
        self.counts["receipts"] += 1
        self.counts["batches_receipted"] += len(settled.heads)
        self.counts["batches_refused"] += settled.refused
        if settled.refused:
            refused = [list(x) for r in receipts for x in r.refused]
            log.error("gateway_refused", batches=refused[:20])
        if settled.beyond:
            self._ignored("receipts_beyond", "a receipt for batches this box never made")
        if settled.unknown_epochs:
            self._ignored("receipts_unknown_epoch", "a receipt for an epoch that is not this box's")
        if settled.heads:
            self._unanswered = 0
            self._outbox.settled([head.id for head in settled.heads], time.monotonic())
            self._answers.set()
            self._bulk.set()

    def _gateway_state(self, topic: str, payload: bytes) -> None:
        try:
            state = GatewayState.model_validate_json(payload) if payload else None
        except ValidationError as error:
            self._ignored("gateway_states_invalid", str(error))
            return
        known = self._workers.pop(topic, None)
        if state is not None:
            self._workers[topic] = state
            if state.online and not (known is not None and known.online):
                self._outbox.send_again(time.monotonic())
                self._urgent.set()
        self._answers.set()
        self._bulk.set()

    def _ignored(self, what: str, why: str) -> None:
        self.counts[what] += 1
        (log.warning if self.counts[what] == 1 else log.debug)(what, why=why)

    def _gateway_takes_bulk(self) -> bool:
        """Some worker is online and gives credit; without a word from any of them too."""
        states = self._workers.values()
        return not states or any(s.online and s.credit != 0 for s in states)

    # --- what goes up ---

    async def _send_urgent(self, client: aiomqtt.Client) -> None:
        while True:
            self._urgent.clear()
            pick = await self._pick_urgent()
            if pick is not None:
                for bundle in await self._bundles(pick):
                    await self._publish(client, bundle)
                continue
            if self._outbox.forget_due(URGENT, time.monotonic()):
                self._bulk.set()  # live data that had no answer is backlog now
            await _wait(self._urgent, self._outbox.next_due_s(URGENT))

    async def _pick_urgent(self) -> Pick | None:
        """Alarms first, then live data."""
        alarms = await self._ready(BatchClass.ALARM)
        if alarms:
            return self._outbox.pick(Lane.ALARM, alarms, limit_bytes=BULK_BYTES[1])
        after = self._outbox.live_after(time.monotonic())
        live = [] if after is None else await self._ready(BatchClass.DATA, after=after)
        return self._outbox.pick(Lane.LIVE, live, limit_bytes=BULK_BYTES[1]) if live else None

    async def _send_bulk(self, client: aiomqtt.Client) -> None:
        """One bundle after the other; while the gateway works on one, the next is packed."""
        unanswered = Backoff(first_s=self._outbox.resend_s(), longest_s=BULK_WAIT_MAX_S)
        packed: deque[_Bundle] = deque()
        async with _Ahead(self._bulk_bundles) as ahead:
            while True:
                self._bulk.clear()
                if not self._gateway_takes_bulk() or not self._outbox.has_room():
                    await _wait(self._bulk)
                    continue
                if not packed:
                    packed.extend(await ahead.result())
                if not packed:
                    self._outbox.forget_due(BULK, time.monotonic())
                    await _wait(self._bulk, self._outbox.next_due_s(BULK), self._outbox.next_backlog_s())
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
                self._answers.clear()
                await _wait(self._answers, time.monotonic() + unanswered.next_s())

    async def _bulk_bundles(self) -> list[_Bundle]:
        """The next bundle of bulk, as a rule one; empty when nothing waits."""
        while (pick := await self._pick_bulk()) is not None:
            bundles = await self._bundles(pick)
            if bundles:
                return bundles
        return []

    async def _pick_bulk(self) -> Pick | None:
        smallest, largest = BULK_BYTES
        rate = self._rate_bytes_s or RATE_FIRST_BYTES_S
        goal_bytes = min(max(rate * BULK_LINK_S, smallest), largest)
        for lane in self._outbox.bulk_order():
            if lane is Lane.MEDIA:
                ready = await self._ready(BatchClass.MEDIA)
            else:
                ready = await self._ready(BatchClass.DATA, up_to=self._outbox.live_after(time.monotonic()))
            if ready:
                return self._outbox.pick(lane, ready, limit_bytes=goal_bytes / self._packed_ratio)
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
            self._answers.clear()
            await _wait(self._answers, until_s)
        return True

    async def _publish(self, client: aiomqtt.Client, bundle: _Bundle) -> None:
        began_s = time.monotonic()
        self._outbox.sent(bundle.pick, began_s)
        await client.publish(topics.up(self._box, bundle.pick.lane), bundle.payload, QOS)
        self._outbox.acknowledged(bundle.pick.ids)
        self._published(len(bundle.payload), bundle.spool_bytes, time.monotonic() - began_s)

    async def _bundles(self, pick: Pick) -> list[_Bundle]:
        """Load and pack the batches of ``pick``; empty when none of them can be sent."""
        found, counters = await self._spool.run(lambda spool: (spool.load(pick.ids), spool.counters()))
        packed = await self._packed(Header(self._box, self._site, counters), found)
        return [
            _Bundle(payload, Pick(pick.lane, tuple(h.id for h in heads)), sum(h.size_bytes for h in heads))
            for payload, heads in packed
        ]

    async def _packed(
        self, header: Header, found: Sequence[tuple[Head, Batch]]
    ) -> list[tuple[bytes, list[Head]]]:
        """Bundles of the batches; one that can never travel is declared lost instead."""
        if not found:
            return []
        by_identity = {(batch.epoch, batch.seq): head for head, batch in found}
        try:
            parts = await asyncio.to_thread(split, header, [batch for _, batch in found])
        except WireError as error:
            if len(found) > 1:
                middle = len(found) // 2
                first = await self._packed(header, found[:middle])
                return first + await self._packed(header, found[middle:])
            (head, _), reason = found[0], error.reason
            log.error("batch_cannot_travel", seq=head.seq, why=str(error))
            await self._spool.run(lambda spool: spool.drop([head.id], reason))
            self._outbox.settled([head.id], time.monotonic())
            self._urgent.set()
            return []
        return [(payload, [by_identity[b.epoch, b.seq] for b in batches]) for payload, batches in parts]

    def _published(self, payload_bytes: int, spool_bytes: int, took_s: float) -> None:
        """Learn from a publish that the broker has acknowledged."""
        self.counts["bundles"] += 1
        self.counts["payload_bytes"] += payload_bytes
        self._unanswered += 1
        if self._unanswered == UNANSWERED:
            log.warning("no_receipts", bundles=UNANSWERED, broker="acknowledges", gateways=len(self._workers))
        if payload_bytes >= RATE_FROM_BYTES:
            rate = payload_bytes / max(took_s, 1e-6)
            known = self._rate_bytes_s
            self._rate_bytes_s = rate if known is None else known + SMOOTH * (rate - known)
            self._packed_ratio += SMOOTH * (payload_bytes / max(spool_bytes, 1) - self._packed_ratio)


class _Ahead:
    """One call of ``make`` at a time, begun before its result is asked for."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, list[_Bundle]]]) -> None:
        self._make = make
        self._task: asyncio.Task[list[_Bundle]] | None = None

    async def __aenter__(self) -> _Ahead:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    def begin(self) -> asyncio.Task[list[_Bundle]]:
        if self._task is None:
            self._task = asyncio.create_task(self._make(), name="uplink-ahead")
        return self._task

    async def result(self) -> list[_Bundle]:
        task = self.begin()
        self._task = None
        return await task

    async def drop(self) -> None:
        """Give up what was begun: it is out of date."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _wait(event: asyncio.Event, *until_s: float | None) -> None:
    """Wait for ``event``, at most until the first of those monotonic times, and never long without a look."""
    now_s = time.monotonic()
    wait_s = min((max(until - now_s, 0.0) for until in until_s if until is not None), default=IDLE_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(wait_s, IDLE_S)):
            await event.wait()
