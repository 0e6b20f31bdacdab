"""What the link does: its rate, by which bundles are cut, and what went over it, by lane."""

from __future__ import annotations

from collections import Counter
from typing import Final

from trisense.core import limits
from trisense.core.topics import Lane

__all__ = ["LinkMeter"]

RATE_FIRST_BYTES_S: Final = 64 * 1024
"""Taken for the rate until it is measured: a bad mobile link, so that no bundle is stuck."""
SMALL_BYTES: Final = 512
"""A message up to this size measures the latency of the link, a larger one its rate."""
SMOOTH: Final = 0.2
RATE_MAX_BYTES_S: Final = 1e9
FIRST_BYTES: Final = 16 * 1024
"""Size of the first bundles, however fast the link: it may break often."""
FIRST_GROWTH, GROWTH = 1.5, 1.05
"""Factors by which a bundle that came through lets the next be larger, before and after the first one that
did not, which halves it: so on a link that breaks every so many bytes about one bundle in fifteen is lost."""
FIRST_PART: Final = 0.05
"""A first message was carried for no less than so much of the time it took: chance must not make a slow link
fast."""
LANE_S: Final = {Lane.BACKLOG: 0.25, Lane.MEDIA: 0.25, Lane.ALARM: 0.5}
"""Longest time one bundle may keep the link busy: an alarm may have to wait for it."""
BUNDLE_BYTES: Final = (1024, limits.PAYLOAD_BYTES * 3 // 4)
"""Smallest and largest size aimed at: smaller ones would be description of streams for the most part."""


class LinkMeter:
    """Learns from every message that the broker acknowledged. Times are monotonic seconds.

    Messages leave in the order they were given, so one is carried from the moment the one before it had
    arrived, or its own beginning, until the latency before its acknowledgement. Without taking the latency
    off, a fast link far away would look slow, and small bundles would keep it so.
    """

    def __init__(self, *, backlog_share: float) -> None:
        self.latency_s: float | None = None
        """Smoothed time until a message without content would be acknowledged."""
        self.bundles: Counter[Lane] = Counter()
        self.payload_bytes: Counter[Lane] = Counter()
        self.resent_bytes = 0.0
        """Part of the payload bytes that had been sent before."""
        self.backlog_share = backlog_share
        self._cap_bytes = float(FIRST_BYTES)
        self._growth = FIRST_GROWTH
        self._ratio: dict[Lane, float] = {}
        """Bytes of payload for a byte in the spool."""
        self._on_the_way = 0
        self._new_latency = self._new_rate = True
        self._arrived_s = 0.0
        self._fading_bytes = 0.0
        self._fading_s = 0.0

    @property
    def rate_bytes_s(self) -> float | None:
        """None until a message was large enough to measure it."""
        if self._fading_bytes == 0:
            return None
        return self._fading_bytes / max(self._fading_s, self._fading_bytes / RATE_MAX_BYTES_S)

    def reconnected(self) -> None:
        """Another connection, perhaps over another link: what is known holds until the first measurement."""
        self._on_the_way = 0
        self._new_latency = self._new_rate = True

    def begin(self) -> bool:
        """A message is handed to the connection; tells whether it is alone there."""
        self._on_the_way += 1
        return self._on_the_way == 1

    def end(self, size_bytes: int, began_s: float, now_s: float, *, alone: bool) -> None:
        """The broker acknowledged it; ``alone``: what ``begin`` told."""
        self._on_the_way = max(0, self._on_the_way - 1)
        rate = self.rate_bytes_s
        if size_bytes <= SMALL_BYTES:
            if alone:
                latency_s = max(0.0, now_s - began_s - (size_bytes / rate if rate else 0.0))
                known = None if self._new_latency else self.latency_s
                self._new_latency = False
                self.latency_s = latency_s if known is None else known + SMOOTH * (latency_s - known)
            return
        arrived_s = now_s - (self.latency_s or 0.0)
        # Jitter makes some of these negative: left in, it cancels out.
        carried_s = arrived_s - max(began_s, self._arrived_s)
        self._arrived_s = max(self._arrived_s, arrived_s)
        if self._new_rate:
            self._new_rate = False
            self._fading_bytes = self._fading_s = 0.0
            carried_s = max(carried_s, FIRST_PART * (now_s - began_s))
        self._fading_bytes = (1 - SMOOTH) * self._fading_bytes + size_bytes
        self._fading_s = (1 - SMOOTH) * self._fading_s + carried_s

    def came_through(self, size_bytes: int) -> None:
        """A bundle of that size was acknowledged."""
        if size_bytes >= self._cap_bytes / 2:
            self._cap_bytes = min(self._cap_bytes * self._growth, BUNDLE_BYTES[1])

    def broke(self, size_bytes: int) -> None:
        """The link broke under a bundle of that size; a small one is not what is to blame."""
        if size_bytes >= self._cap_bytes / 4:
            self._cap_bytes = max(self._cap_bytes / 2, BUNDLE_BYTES[0])
            self._growth = GROWTH

    def sent(self, lane: Lane, payload_bytes: int, spool_bytes: int, *, resent: float) -> None:
        """A bundle goes out, of batches that take ``spool_bytes`` in the spool; ``resent``: part of them that
        had gone before.
        """
        self.bundles[lane] += 1
        self.payload_bytes[lane] += payload_bytes
        self.resent_bytes += payload_bytes * resent
        ratio = payload_bytes / max(spool_bytes, 1)
        known = self._ratio.get(lane, ratio)
        self._ratio[lane] = known + SMOOTH * (ratio - known)

    def spool_bytes(self, lane: Lane) -> float:
        """How much of the spool makes a bundle of ``lane`` that the link carries in its time."""
        # A live bundle takes what the backlog's share leaves, so that both find their part of a busy link.
        live_s = LANE_S[Lane.BACKLOG] * (1 - self.backlog_share) / self.backlog_share
        smallest, largest = BUNDLE_BYTES
        goal = (self.rate_bytes_s or RATE_FIRST_BYTES_S) * LANE_S.get(lane, live_s)
        return min(max(goal, smallest), largest, self._cap_bytes) / self._ratio.get(lane, 1.0)
