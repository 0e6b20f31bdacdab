"""Which batches go next, on which lane, and when they go again. No I/O; times are monotonic seconds."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from trisense.core.model import BatchClass
from trisense.core.topics import Lane
from trisense.edge.spool import Head

__all__ = ["Outbox", "Pick"]

LIVE_S: Final = 10.0
"""Data younger than this when it is sent travels as live, older as backlog."""
RESEND_MIN_S: Final = 5.0
RESEND_MAX_S: Final = 300.0
RESEND_ROUND_TRIPS: Final = 4
RTT_WEIGHT: Final = 0.125
"""Part of a new measurement in the smoothed round trip, as in TCP."""
JITTER: Final = 0.2
BUNDLE_SAMPLES: Final = 15_000
"""Rows of a bundle: twice as many would pack a tenth faster, take 10 MB more memory, and hold up a
commit while they load."""
ON_THE_WAY: Final = 2_000
"""Batches without a receipt that are remembered; beyond it the oldest live ones count as never sent."""
SENT_AGAIN: Final = 256
"""Batches in a bundle that is sent for the first time again; a quarter of it each time after that, so
that a batch which no bundle survives ends up alone and holds up nobody."""


@dataclass(frozen=True, slots=True)
class Pick:
    lane: Lane
    ids: tuple[int, ...]


@dataclass(slots=True)
class _Attempt:
    lane: Lane
    tries: int
    sent_s: float
    wait_s: float
    """How long its receipt is waited for, from the broker's answer on: a slow link is no lost bundle."""
    due_s: float = math.inf
    acknowledged: bool = False
    """The broker has it: that says nothing about the gateway."""


class Outbox:
    """Chooses batches; the caller sends them and says what became of them."""

    def __init__(self, *, media_share: float, rng: random.Random | None = None) -> None:
        self.round_trip_s: float | None = None
        """Smoothed time from publishing to receipt."""
        self._attempts: dict[int, _Attempt] = {}
        self._lapsed: OrderedDict[int, None] = OrderedDict()
        """The latest of those that are no longer waited for: to know what is sent again."""
        self._fresh: deque[tuple[float, int]] = deque()
        self.media_share = media_share
        self._sent_bytes = {Lane.BACKLOG: 0.0, Lane.MEDIA: 0.0}
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret

    # --- what the caller tells ---

    def committed(self, heads: Iterable[Head], now_s: float) -> None:
        """Batches that the spool has just committed."""
        data = (h.id for h in heads if h.batch_class is BatchClass.DATA and not h.preview)
        self._fresh.extend((now_s, identity) for identity in data)
        self.live_after(now_s)  # forgets what is no longer live, with or without a link

    def sent(self, pick: Pick, now_s: float) -> float:
        """They are being published now. Gives the part of them that had been sent before."""
        again = 0
        for identity in pick.ids:
            known = self._attempts.pop(identity, None)
            again += known is not None or identity in self._lapsed
            tries = 1 if known is None else known.tries + 1
            wait_s = min(self.resend_s() * 2.0 ** min(tries - 1, 16), RESEND_MAX_S)
            wait_s *= self._rng.uniform(1.0, 1.0 + JITTER)
            self._attempts[identity] = _Attempt(pick.lane, tries, now_s, wait_s)
        self._forget_oldest_live()
        return again / len(pick.ids)

    def acknowledged(self, ids: Iterable[int], now_s: float) -> None:
        """The broker has taken them: from now on a receipt is waited for."""
        for identity in ids:
            attempt = self._attempts.get(identity)
            if attempt is not None:
                attempt.acknowledged = True
                attempt.due_s = now_s + attempt.wait_s

    def settled(self, ids: Iterable[int], now_s: float) -> None:
        """The gateway's receipt came, or they were given up."""
        for identity in ids:
            attempt = self._attempts.pop(identity, None)
            self._lapsed.pop(identity, None)
            # A batch sent twice cannot say which sending its receipt answers (Karn).
            if attempt is not None and attempt.tries == 1:
                self._measure(now_s - attempt.sent_s)

    def send_again(self, now_s: float) -> None:
        """The link broke, or a gateway came back: what is on its way is due now.

        But for what the broker did not even take, twice: that may be what breaks the link.
        """
        for attempt in self._attempts.values():
            if attempt.acknowledged or attempt.tries == 1:
                attempt.due_s = now_s
            elif attempt.due_s == math.inf:
                attempt.due_s = now_s + attempt.wait_s

    def bulk_sent(self, lane: Lane, size_bytes: int) -> None:
        """Account for the shares of backlog and media; old bytes fade."""
        for key in self._sent_bytes:
            self._sent_bytes[key] *= 0.9
        self._sent_bytes[lane] += size_bytes

    # --- what the caller asks ---

    def resend_s(self) -> float:
        """How long a receipt is waited for."""
        return max(RESEND_MIN_S, RESEND_ROUND_TRIPS * (self.round_trip_s or 0.0))

    def has_room(self) -> bool:
        """Whether more bulk may go out before receipts come."""
        return len(self._attempts) < ON_THE_WAY

    def forget_due(self, lanes: Iterable[Lane], now_s: float) -> bool:
        """Drop those of ``lanes`` that are due but were not ready: gone from the spool, or no longer live.

        Tells whether there were any.
        """
        of = frozenset(lanes)
        gone = [i for i, a in self._attempts.items() if a.lane in of and a.due_s <= now_s]
        self._forget(gone)
        return bool(gone)

    def next_backlog_s(self) -> float | None:
        """When the oldest live data becomes backlog."""
        return self._fresh[0][0] + LIVE_S if self._fresh else None

    def counts(self) -> Counter[Lane]:
        """Batches on their way, by lane."""
        return Counter(attempt.lane for attempt in self._attempts.values())

    def tries(self, pick: Pick) -> int:
        """How often its first batch has been sent."""
        attempt = self._attempts.get(pick.ids[0])
        return 0 if attempt is None else attempt.tries

    def on_the_way(self, ids: Iterable[int]) -> bool:
        return any(identity in self._attempts for identity in ids)

    def next_due_s(self, lanes: Iterable[Lane]) -> float | None:
        """When the first batch of ``lanes`` must go again."""
        of = frozenset(lanes)
        return min((a.due_s for a in self._attempts.values() if a.lane in of), default=None)

    def live_after(self, now_s: float) -> int | None:
        """Waiting data with a larger id is live; None when none is."""
        while self._fresh and self._fresh[0][0] < now_s - LIVE_S:
            self._fresh.popleft()
        return self._fresh[0][1] - 1 if self._fresh else None

    def bulk_order(self) -> tuple[Lane, Lane]:
        """Backlog and media, whichever is behind its share first."""
        sent = self._sent_bytes[Lane.BACKLOG] + self._sent_bytes[Lane.MEDIA]
        behind = self._sent_bytes[Lane.MEDIA] < self.media_share * sent
        return (Lane.MEDIA, Lane.BACKLOG) if behind else (Lane.BACKLOG, Lane.MEDIA)

    def ready(self, heads: Iterable[Head], now_s: float) -> list[Head]:
        """Those that are not on their way, or must go again."""
        return [
            head for head in heads if (known := self._attempts.get(head.id)) is None or known.due_s <= now_s
        ]

    def pick(self, lane: Lane, ready: Sequence[Head], *, limit_bytes: float) -> Pick:
        """The first of ``ready`` and as many behind it as the limits allow; at least one.

        ``limit_bytes`` counts bytes as they lie in the spool.
        """
        tries = self._tries(ready[0])
        batches = len(ready) if not tries else max(1, SENT_AGAIN >> 2 * min(tries, 8))
        ids: list[int] = []
        samples = size_bytes = 0
        for head in ready:
            samples += head.samples
            size_bytes += head.size_bytes
            full = samples > BUNDLE_SAMPLES or size_bytes > limit_bytes
            if ids and (full or len(ids) == batches or self._tries(head) != tries):
                break
            ids.append(head.id)
        return Pick(lane, tuple(sorted(ids)))  # rows in the order of time pack best

    def _tries(self, head: Head) -> int:
        attempt = self._attempts.get(head.id)
        return 0 if attempt is None else attempt.tries

    def _measure(self, round_trip_s: float) -> None:
        known = self.round_trip_s
        self.round_trip_s = round_trip_s if known is None else known + RTT_WEIGHT * (round_trip_s - known)

    def _forget_oldest_live(self) -> None:
        excess = len(self._attempts) - ON_THE_WAY
        if excess > 0:
            self._forget([i for i, a in self._attempts.items() if a.lane is Lane.LIVE][:excess])

    def _forget(self, ids: Iterable[int]) -> None:
        for identity in ids:
            del self._attempts[identity]
            self._lapsed[identity] = None
        while len(self._lapsed) > ON_THE_WAY:
            self._lapsed.popitem(last=False)
