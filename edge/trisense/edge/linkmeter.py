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
SMOOTH: Final = 0.25
PERIOD_S: Final = 2.0
"""A link that is busy all the time is judged so often."""
RATE_MAX_BYTES_S: Final = 1e9
LANE_S: Final = {Lane.BACKLOG: 0.25, Lane.MEDIA: 0.25, Lane.ALARM: 0.5}
"""Longest time one bundle may keep the link busy: an alarm may have to wait for it."""
BUNDLE_BYTES: Final = (1024, limits.PAYLOAD_BYTES * 3 // 4)
"""Smallest and largest size aimed at: smaller ones would be description of streams for the most part."""


class LinkMeter:
    """Learns from every message that the broker acknowledged. Times are monotonic seconds.

    Several may be on their way at a time, so the rate is that of whole busy periods: bytes acknowledged
    over the time in which something was on its way, less the latency once. Without taking that off, a
    fast link of long latency would look slow, and small bundles would keep it so.
    """

    def __init__(self, *, backlog_share: float) -> None:
        self.latency_s: float | None = None
        """Smoothed time until a small message is acknowledged."""
        self.bundles: Counter[Lane] = Counter()
        self.payload_bytes: Counter[Lane] = Counter()
        self.resent_bytes = 0.0
        """Part of the payload bytes that had been sent before."""
        self.backlog_share = backlog_share
        self._ratio = dict.fromkeys(Lane, 1.0)
        self._on_the_way = 0
        self._began_s = 0.0
        self._period_bytes = 0
        self._messages = 0
        self._goes_on = False
        self._fading_bytes = 0.0
        self._fading_s = 0.0

    @property
    def rate_bytes_s(self) -> float | None:
        """None until a message was large enough to measure it."""
        return min(self._fading_bytes / self._fading_s, RATE_MAX_BYTES_S) if self._fading_s > 0 else None

    def reconnected(self) -> None:
        """Another connection, perhaps over another link: what follows counts more than what was."""
        self._on_the_way = 0
        self._fading_bytes *= SMOOTH
        self._fading_s *= SMOOTH

    def begin(self, now_s: float) -> None:
        """A message is handed to the connection."""
        if self._on_the_way == 0:
            self._began_s, self._period_bytes, self._messages, self._goes_on = now_s, 0, 0, False
        self._on_the_way += 1

    def end(self, size_bytes: int, now_s: float) -> None:
        """The broker acknowledged it."""
        self._on_the_way = max(0, self._on_the_way - 1)
        self._period_bytes += size_bytes
        self._messages += 1
        if self._on_the_way == 0 or now_s - self._began_s > PERIOD_S:
            self._judge(now_s - self._began_s)
            self._began_s, self._period_bytes, self._messages, self._goes_on = now_s, 0, 0, True

    def sent(self, lane: Lane, payload_bytes: int, spool_bytes: int, *, resent: float) -> None:
        """A bundle of batches that take ``spool_bytes`` in the spool; ``resent``: part sent before."""
        self.bundles[lane] += 1
        self.payload_bytes[lane] += payload_bytes
        self.resent_bytes += payload_bytes * resent
        self._ratio[lane] += SMOOTH * (payload_bytes / max(spool_bytes, 1) - self._ratio[lane])

    def spool_bytes(self, lane: Lane) -> float:
        """How much of the spool makes a bundle of ``lane`` that the link carries in its time."""
        # A live bundle takes what the backlog's share leaves, so that both find their part of a busy link.
        live_s = LANE_S[Lane.BACKLOG] * (1 - self.backlog_share) / self.backlog_share
        smallest, largest = BUNDLE_BYTES
        goal = (self.rate_bytes_s or RATE_FIRST_BYTES_S) * LANE_S.get(lane, live_s)
        return min(max(goal, smallest), largest) / self._ratio[lane]

    def _judge(self, took_s: float) -> None:
        latency_s = 0.0 if self._goes_on else (self.latency_s or 0.0)
        if self._period_bytes <= SMALL_BYTES:
            if self._messages == 1 and not self._goes_on:
                known = self.latency_s
                self.latency_s = took_s if known is None else known + SMOOTH * (took_s - known)
            return
        if not self._goes_on and self.latency_s is not None and took_s < self.latency_s:
            self.latency_s = latency_s = took_s * (1 - SMOOTH)
        self._fading_bytes = (1 - SMOOTH) * self._fading_bytes + self._period_bytes
        self._fading_s = (1 - SMOOTH) * self._fading_s + max(took_s - latency_s, 1e-6)
