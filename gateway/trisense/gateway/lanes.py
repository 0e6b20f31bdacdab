"""One bounded queue per lane between MQTT and the writer.

What does not fit is dropped at once and counted (policy: drop_newest): the box has it, gets no receipt and
sends it again. Each lane has its own bound, so that a backlog never costs an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import Final

from trisense.core.topics import Lane
from trisense.gateway.intake import Delivery

__all__ = ["Lanes"]

KIB: Final = 1024
BOUND_BYTES: Final = {
    Lane.ALARM: 8 * KIB * KIB,
    Lane.LIVE: 16 * KIB * KIB,
    Lane.BACKLOG: 8 * KIB * KIB,
    Lane.MEDIA: 16 * KIB * KIB,
}
BOUND_MESSAGES: Final = 20_000
"""Per lane: small messages cost more memory than their bytes."""
SHARE_BYTES: Final = {Lane.LIVE: 1024 * KIB, Lane.BACKLOG: 256 * KIB, Lane.MEDIA: 2048 * KIB}
"""Most of one lane in a group, at least one message: backlog and media always move, and a group stays
short enough (about a quarter of a second) for the alarm that comes behind it."""
LINGER_S: Final = 0.2
"""How long live data waits for company: with many boxes one commit serves them all. An alarm ends it."""


class Lanes:
    """Deliveries waiting for the writer."""

    def __init__(self) -> None:
        self._queues: dict[Lane, deque[Delivery]] = {lane: deque() for lane in Lane}
        self._bytes: Counter[Lane] = Counter()
        self._some = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closed = False
        self.taken: Counter[str] = Counter()
        """Messages accepted since the start, by lane."""
        self.dropped: Counter[str] = Counter()
        """Messages dropped because their lane was full."""

    def put(self, delivery: Delivery) -> bool:
        """Queue a delivery; False where it was dropped."""
        lane, size = delivery.lane, len(delivery.payload)
        full = self._bytes[lane] + size > BOUND_BYTES[lane] or len(self._queues[lane]) >= BOUND_MESSAGES
        if full or self._closed:
            self.dropped[lane.value] += 1
            return False
        self._queues[lane].append(delivery)
        self._bytes[lane] += size
        self.taken[lane.value] += 1
        self._some.set()
        if lane is Lane.ALARM:
            self._urgent.set()
        return True

    def close(self) -> None:
        """Take nothing more; what is queued can still be had."""
        self._closed = True
        self._some.set()
        self._urgent.set()

    def waiting(self) -> dict[str, int]:
        """Messages queued, by lane."""
        return {lane.value: len(queue) for lane, queue in self._queues.items()}

    async def take(self) -> list[Delivery]:
        """Wait for the next group: all alarms alone, else a share of each lane. Empty: closed and drained."""
        await self._some.wait()
        # Bulk waits for nobody: lingering for alarms that come often would starve it.
        if not any(self._queues[lane] for lane in (Lane.ALARM, Lane.BACKLOG, Lane.MEDIA)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._urgent.wait()
        alarms = self._pop(Lane.ALARM, BOUND_BYTES[Lane.ALARM])
        return alarms or [d for lane, share in SHARE_BYTES.items() for d in self._pop(lane, share)]

    def fresh(self) -> list[Delivery]:
        """Alarms and live data at once, to be shown while the store is down and then forgotten."""
        return [
            *self._pop(Lane.ALARM, BOUND_BYTES[Lane.ALARM]),
            *self._pop(Lane.LIVE, SHARE_BYTES[Lane.LIVE]),
        ]

    def _pop(self, lane: Lane, share: int) -> list[Delivery]:
        queue = self._queues[lane]
        taken: list[Delivery] = []
        size = 0
        while queue and (not taken or size + len(queue[0].payload) <= share):
            delivery = queue.popleft()
            taken.append(delivery)
            size += len(delivery.payload)
        self._bytes[lane] -= size
        if not self._closed:
            if not any(self._queues.values()):
                self._some.clear()
            if not self._queues[Lane.ALARM]:
                self._urgent.clear()
        return taken
