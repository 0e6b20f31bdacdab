"""Three senders share one connection: alarms, live data, and bulk (previews, backlog, pictures).

None waits for another, so that an alarm goes out behind at most one live and one bulk bundle; both are
cut to what the link carries in a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Coroutine
from typing import Any, Final

import aiomqtt
import structlog
from trisense.core import topics
from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.backoff import Backoff
from trisense.edge.once import Fault
from trisense.edge.sending.allowance import Allowance, Allowed, cost_bytes
from trisense.edge.sending.answers import Answers
from trisense.edge.sending.bundler import Ahead, Bundle, Bundler
from trisense.edge.sending.downlink import Downlink, Wake
from trisense.edge.sending.link import QOS, Connection
from trisense.edge.sending.meter import LinkMeter
from trisense.edge.sending.outbox import Outbox, Pick
from trisense.edge.spool import Head
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import wait_for

__all__ = ["Sender"]

log = structlog.get_logger(__name__)

BULK_WAIT_MAX_S: Final = 60.0
MEDIA_LINK_S: Final = 20.0
"""A picture that the link would carry for longer waits for a better link: it cannot be cut, alarms would wait
behind it, and signs of life too, so that the connection would break before it is through."""
PAGE: Final = 500
BULK: Final = (Lane.BACKLOG, Lane.MEDIA)


class Sender:
    """Sends what waits in the spool, connection after connection."""

    def __init__(
        self,
        spool: SpoolThread,
        bundler: Bundler,
        outbox: Outbox,
        down: Downlink,
        *,
        wake: Wake,
        meter: LinkMeter,
        allowance: Allowance,
        answers: Answers,
        counts: Counter[str],
    ) -> None:
        self.bulk_spent_bytes = 0
        """Estimated cost of backlog and pictures, for the uplink to book and to set back."""
        self._spool = spool
        self._bundler = bundler
        self._outbox = outbox
        self._down = down
        self._wake = wake
        self._meter = meter
        self._allowance = allowance
        self._answers = answers
        self._counts = counts
        self._slow = Fault(log, "pictures_rest", "pictures_go")

    def parts(self, client: Connection) -> dict[str, Coroutine[Any, Any, None]]:
        """What to run together while ``client`` is connected."""
        return {
            "uplink-alarm": self._send_alarms(client),
            "uplink-live": self._send_live(client),
            "uplink-bulk": self._send_bulk(client),
        }

    async def _send_alarms(self, client: Connection) -> None:
        while True:
            self._wake.alarm.clear()
            ready = await self._ready(BatchClass.ALARM)
            if ready:
                await self._send(client, self._pick(Lane.ALARM, ready))
                continue
            self._outbox.forget_due([Lane.ALARM], time.monotonic())
            await wait_for(self._wake.alarm, self._outbox.next_due_s([Lane.ALARM]))

    async def _send_live(self, client: Connection) -> None:
        while True:
            self._wake.live.clear()
            after = self._outbox.live_after(time.monotonic())
            if after is not None and self._allowance.now >= Allowed.LIVE:
                ready = await self._ready(BatchClass.DATA, after=after)
                if ready:
                    await self._send(client, self._pick(Lane.LIVE, ready))
                    continue
            if self._outbox.forget_due([Lane.LIVE], time.monotonic()):
                self._wake.bulk.set()  # live data that had no answer is backlog now
            await wait_for(self._wake.live, self._outbox.next_due_s([Lane.LIVE]))

    async def _send(self, client: Connection, pick: Pick) -> None:
        for bundle in await self._bundler.bundles(pick):
            await self._publish(client, bundle)

    async def _send_bulk(self, client: Connection) -> None:
        """One bundle after the other; while the gateway works on one, the next is packed."""
        unanswered = Backoff(first_s=self._outbox.resend_s(), longest_s=BULK_WAIT_MAX_S)
        packed: deque[Bundle] = deque()
        async with Ahead(self._bulk_bundles) as ahead:
            while True:
                self._wake.bulk.clear()
                if not self._bulk_may_go():
                    # Nobody tells when the gateway's rush is over.
                    rush_s = self._down.bulk_from_s
                    await wait_for(self._wake.bulk, rush_s if rush_s > time.monotonic() else None)
                    continue
                if not packed:
                    packed.extend(await ahead.result())
                if not packed:
                    self._outbox.forget_due(BULK, time.monotonic())
                    until_s = (self._outbox.next_due_s(BULK), self._outbox.next_backlog_s())
                    await wait_for(self._wake.bulk, *until_s)
                    continue
                if not self._allowance.bulk_may_go(len(packed[0].payload)):
                    await wait_for(self._wake.bulk)
                    continue
                bundle = packed.popleft()
                await self._publish(client, bundle)
                self._outbox.bulk_sent(bundle.pick.lane, len(bundle.payload))
                if not packed:
                    ahead.begin()
                if await self._answered(bundle.pick):
                    self._answers.answered(len(bundle.payload))
                    unanswered.reset()
                    continue
                packed.clear()
                await ahead.drop()
                # Live data goes on asking; the first answer to it ends this rest.
                self._wake.answers.clear()
                await wait_for(self._wake.answers, time.monotonic() + unanswered.next_s())

    def _bulk_may_go(self) -> bool:
        return (
            self._down.takes_bulk()
            and time.monotonic() >= self._down.bulk_from_s
            and self._outbox.has_room()
            and self._allowance.now is Allowed.EVERYTHING
        )

    async def _bulk_bundles(self) -> list[Bundle]:
        """The next bundle of bulk, as a rule one; empty when nothing waits."""
        while (pick := await self._pick_bulk()) is not None:
            bundles = await self._bundler.bundles(pick)
            if bundles:
                return bundles
        return []

    async def _pick_bulk(self) -> Pick | None:
        for lane in self._outbox.bulk_order():
            ready = await (self._ready_media() if lane is Lane.MEDIA else self._ready_backlog())
            if ready:
                return self._pick(lane, ready)
        return None

    async def _ready_backlog(self) -> list[Head]:
        """Previews, all of them, before the rest."""
        previews = await self._ready(BatchClass.DATA, preview=True)
        if previews:
            return previews
        up_to = self._outbox.live_after(time.monotonic())
        newest = self._allowance.table.order == "newest"
        return await self._ready(BatchClass.DATA, up_to=up_to, newest=newest)

    async def _ready_media(self) -> list[Head]:
        """Pictures that the link carries in time."""
        rate = self._meter.rate_bytes_s
        if rate is None:
            return await self._ready(BatchClass.MEDIA)
        ready = await self._ready(BatchClass.MEDIA, smaller_bytes=rate * MEDIA_LINK_S)
        if ready:
            self._slow.recovered()
        elif await self._ready(BatchClass.MEDIA):
            self._slow.failed(why="too large for the link as it is now", rate_bytes_s=round(rate))
        return ready

    async def _ready(
        self,
        of: BatchClass,
        *,
        after: int = 0,
        up_to: int | None = None,
        newest: bool = False,
        preview: bool = False,
        smaller_bytes: float | None = None,
    ) -> list[Head]:
        """Waiting batches of a class, with ids in (after, up_to], that may be sent now: a page of them."""
        cursor = after
        if newest:
            cursor = 0 if up_to is None else up_to + 1
        while True:
            page = await self._spool.run(
                lambda spool, cursor=cursor: spool.heads(  # type: ignore[misc]
                    of, after_id=cursor, limit=PAGE, newest=newest, preview=preview
                )
            )
            inside = [head for head in page if up_to is None or head.id <= up_to]
            fit = [head for head in inside if smaller_bytes is None or head.size_bytes < smaller_bytes]
            ready = self._outbox.ready(fit, time.monotonic())
            if ready or len(inside) < PAGE:
                return ready
            cursor = page[-1].id

    def _pick(self, lane: Lane, ready: list[Head]) -> Pick:
        return self._outbox.pick(lane, ready, limit_bytes=self._meter.spool_bytes(lane))

    async def _answered(self, pick: Pick) -> bool:
        """Wait for the receipts of a bulk bundle, as long as one may take."""
        until_s = time.monotonic() + self._outbox.resend_s()
        while self._outbox.on_the_way(pick.ids):
            if time.monotonic() >= until_s:
                return False
            self._wake.answers.clear()
            await wait_for(self._wake.answers, until_s)
        return True

    async def _publish(self, client: Connection, bundle: Bundle) -> None:
        pick, size_bytes = bundle.pick, len(bundle.payload)
        resent = self._outbox.sent(pick, time.monotonic())
        self._meter.sent(pick.lane, size_bytes, bundle.spool_bytes, resent=resent)
        began_s = time.monotonic()
        self._answers.sent_again(pick.lane, size_bytes, self._outbox.tries(pick), began_s)
        alone = self._meter.begin()
        try:
            await client.publish(topics.up(self._bundler.box, pick.lane), bundle.payload, QOS)
        except (aiomqtt.MqttError, asyncio.CancelledError):
            self._meter.broke(size_bytes)
            raise
        now_s = time.monotonic()
        self._meter.end(size_bytes, began_s, now_s, alone=alone)
        self._meter.came_through(size_bytes)
        self._outbox.acknowledged(pick.ids, now_s)
        self._answers.published(now_s, self._down.workers.values())
        self._counts["bundles"] += 1
        self._counts["payload_bytes"] += size_bytes
        if pick.lane in BULK:
            self.bulk_spent_bytes += cost_bytes(size_bytes)
