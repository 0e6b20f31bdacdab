"""Whether the gateway answers, and what is the likely cause when it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import structlog
from trisense.core.messages import GatewayState
from trisense.core.topics import Lane
from trisense.edge.once import Fault

__all__ = ["Answers"]

log = structlog.get_logger(__name__)

UNANSWERED: Final = 5
"""Bundles in a row without a receipt before it is said aloud,"""
SILENCE_S: Final = 10.0
"""and so long at least: on a slow link a receipt takes its time."""
STUCK_S: Final = 450.0
"""A batch that was not sent again for so long is stuck no more: it waits at most 360 s."""
TRIES: Final = 5
"""A single batch sent so often while others are answered: something is wrong with its kind."""


class Answers:
    """Watches publishes and receipts of one box. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._trouble: str | None = None
        self._stuck_trouble: str | None = None
        self._stuck_s = 0.0
        self._unanswered = 0
        self._since_s = 0.0
        self._fault = Fault(log, "no_receipts", "receipts_again", level="error")
        self._stuck = Fault(log, "bundle_unanswered", level="error", forget_s=STUCK_S)
        self._lately: Counter[str] = Counter()
        self._answered_bytes = 0

    def reason(self, name: str) -> None:
        """What the broker (MQTT 5) said beside its acknowledgement of a bundle."""
        self._lately[name] += 1

    def published(self, now_s: float, workers: Iterable[GatewayState]) -> None:
        """The broker acknowledged a bundle."""
        if self._unanswered == 0:
            self._since_s = now_s
        self._unanswered += 1
        if self._unanswered >= UNANSWERED and now_s - self._since_s >= SILENCE_S:
            self._trouble = self._cause(list(workers))
            self._fault.failed(bundles=self._unanswered, cause=self._trouble)

    def receipted(self) -> None:
        """The gateway answered something."""
        self._unanswered = 0
        self._lately.clear()
        self._fault.recovered()
        self._trouble = None

    def answered(self, size_bytes: int) -> None:
        """A whole bundle of that size had its receipt."""
        self._answered_bytes = max(self._answered_bytes, size_bytes)

    def sent_again(self, lane: Lane, size_bytes: int, tries: int, now_s: float) -> None:
        """A bundle goes out for the ``tries``-th time."""
        if tries < TRIES or self._trouble is not None:
            return
        cause = f"something drops what goes to up/{lane.value} without a word: rights to that topic?"
        if size_bytes > self._answered_bytes > 0:
            cause = f"larger than any answered so far ({self._answered_bytes} bytes): a limit of the broker?"
        self._stuck_trouble = f"{lane.value} bundle of {size_bytes} bytes unanswered: {cause}"
        self._stuck_s = now_s
        self._stuck.failed(lane=lane.value, size_bytes=size_bytes, tries=tries, cause=cause)

    def trouble(self, now_s: float) -> str | None:
        """The likely cause in words, while bundles stay without a receipt."""
        stuck = now_s - self._stuck_s < STUCK_S
        return self._trouble or (self._stuck_trouble if stuck else None)

    def trouble_s(self, now_s: float) -> float | None:
        """How long no receipt has come, once that is a trouble."""
        return None if self._trouble is None else now_s - self._since_s

    def _cause(self, workers: list[GatewayState]) -> str:
        """The most telling thing known: what the broker said, then what the gateway said."""
        for name, meaning in REASONS.items():
            if self._lately[name]:
                return f"the broker says {name!r}: {meaning}"
        if not workers:
            return "no gateway worker has spoken: is one running, on this broker, and may this box hear it?"
        if not any(worker.online for worker in workers):
            return "no gateway worker is online"
        return (
            "a gateway worker is online but receipts nothing that the broker acknowledges: the rights to"
            " tri/v1/BOX/up/#, the gateway's queue at the broker, or a store that does not commit"
        )


REASONS: Final = {
    "Not authorized": "the box may not publish there (access rules of the broker)",
    "Quota exceeded": "a queue of the broker is full",
    "Packet too large": "a size limit of the broker",
    "No matching subscribers": "no gateway worker is subscribed",
}
"""Reason codes of MQTT 5 by paho's names, the most telling first."""
