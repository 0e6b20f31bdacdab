"""What may go over the link now: hours, bytes of the day, and the part of them that a backlog may take."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import structlog
from trisense.edge.clocks.clock import Clock
from trisense.edge.config import LinkTable
from trisense.edge.sending.daybook import Daybook, knows_the_day
from trisense.edge.sending.hours import Hours

__all__ = ["Allowance", "Allowed", "cost_bytes"]

log = structlog.get_logger(__name__)

SEGMENT_BYTES: Final = 1360
"""Payload of a TCP segment on a mobile link."""
HEADERS_BYTES: Final = 80
"""IP and TCP headers of a segment and half of those of its acknowledgement."""
PUBLISH_BYTES: Final = 300
"""TLS records, the broker's answer, the receipt and their headers, for one bundle."""


class Allowed(IntEnum):
    """What may go; each includes those before it."""

    NOTHING = 0
    """No connection either."""
    ALARMS = 1
    LIVE = 2
    EVERYTHING = 3


OF_NAME: Final = {"nothing": Allowed.NOTHING, "alarms": Allowed.ALARMS, "live": Allowed.LIVE}


def cost_bytes(payload_bytes: int) -> int:
    """What a bundle will about cost on the link, both ways; what it did cost is counted."""
    return payload_bytes + -(-payload_bytes // SEGMENT_BYTES) * HEADERS_BYTES + PUBLISH_BYTES


class Allowance:
    """Applies one link table. ``look`` at least every few seconds; the rest answers from that."""

    def __init__(self, table: LinkTable, clock: Clock, book: Daybook) -> None:
        self.table = table
        self.book = book
        self.now = Allowed.EVERYTHING
        self.why: str | None = None
        """The option that holds something back now."""
        self._hours = Hours.parse(table.hours)
        self._clock = clock
        self._bulk_rests = False

    def use(self, table: LinkTable) -> None:
        """Apply another table from now on."""
        self.table = table
        self._hours = Hours.parse(table.hours)

    def look(self, *, live: bool) -> bool:
        """Judge anew; tells whether something changed. ``live``: live data had the link since the last."""
        self.book.pass_time(live=live)
        allowed, why = Allowed.EVERYTHING, None
        if not self.hours_open():
            allowed, why = OF_NAME[self.table.outside_hours], "hours"
        if self.left_bytes() == 0 and OF_NAME[self.table.at_limit] < allowed:
            allowed, why = OF_NAME[self.table.at_limit], "daily_bytes"
        if (allowed, why) == (self.now, self.why):
            return False
        self.now, self.why = allowed, why
        if why is None:
            log.info("link_open")
        else:
            log.warning("link_limited", by=why, goes_on=allowed.name.lower(), used_bytes=self.book.used_bytes)
        return True

    def hours_open(self) -> bool:
        """Whether it is one of the hours; always where the clock cannot be trusted.

        The other way round, a box whose clock nobody sets would keep its readings until they are
        dropped for want of room.
        """
        return not knows_the_day(self._clock) or self._hours.open_at(self._clock.now_ns())

    def left_bytes(self) -> int | None:
        """What is left of the day; None without a limit."""
        if self.table.daily_bytes is None:
            return None
        return max(0, self.table.daily_bytes - self.book.used_bytes)

    def bulk_left_bytes(self) -> float | None:
        """What backlog and pictures may take of it now; None without a limit.

        The rest of the day's live data goes before, but for the backlog's own share of the day. Until the
        live rate is known, half of what is left stays.
        """
        left = self.left_bytes()
        if left is None or self.table.daily_bytes is None:
            return None
        rate = self.book.live_bytes_s()
        reserve = left / 2 if rate is None else rate * self.book.rest_s()
        own = self.table.daily_bytes * self.table.backlog_share - self.book.bulk_bytes
        return min(left, max(left - reserve, own, 0.0))

    def bulk_may_go(self, payload_bytes: float) -> bool:
        """Whether a bundle of backlog or pictures of that size may go now."""
        left = self.bulk_left_bytes()
        rests = left is not None and cost_bytes(int(payload_bytes)) > left
        if rests and not self._bulk_rests:
            log.info("backlog_rests", why="the rest of the day's bytes is kept for live data")
        self._bulk_rests = rests
        return self.now is Allowed.EVERYTHING and not rests
