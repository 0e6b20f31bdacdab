"""After a start of the gateway: what the rules of its boxes said before it, from the store.

A box says once that an alarm is raised. A gateway that starts later must not show that all is well.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from trisense.core.alarms import ALARM
from trisense.core.errors import StoreUnavailable
from trisense.core.model import BOX_DEVICE
from trisense.gateway.alarms import Alarm, RuleWords
from trisense.gateway.live import LiveState
from trisense.gateway.stores.base import History, NotSupported, Span, StreamRef

__all__ = ["Recall"]

log = structlog.get_logger(__name__)

DAY_NS: Final = 86_400 * 10**9
HORIZON_NS: Final = 90 * DAY_NS
"""An alarm older than that stays unknown until its box restarts."""
ROWS: Final = 10_000
PAGES: Final = 20
"""A box that chattered all the time, once a minute, fills 13 of them."""
RETRY_S: Final = 2.0
BOXES_KEPT: Final = 10_000


class Recall:
    """Asks for each box once, when it is first heard of; one after the other."""

    def __init__(self, history: History, live: LiveState) -> None:
        self._history = history
        self._live = live
        self._known: set[str] = set()
        self._boxes: asyncio.Queue[str] = asyncio.Queue()

    def heard_of(self, box: str) -> None:
        """A birth of ``box`` has come, or the ledger knows it."""
        if box not in self._known and len(self._known) < BOXES_KEPT:
            self._known.add(box)
            self._boxes.put_nowait(box)

    async def run(self) -> None:
        """Tell again what is still raised, until cancelled or the store can tell no history."""
        while True:
            box = await self._boxes.get()
            try:
                words = await self._words(box)
            except NotSupported as error:
                log.info("alarms_not_recalled", why=str(error))
                return
            except StoreUnavailable:
                self._boxes.put_nowait(box)
                await asyncio.sleep(RETRY_S)
                continue
            for alarm in words.raised():
                self._live.note_recalled(alarm)

    async def _words(self, box: str) -> RuleWords:
        words, stream = RuleWords(), StreamRef(box, BOX_DEVICE, ALARM.measurement)
        now_ns = time.time_ns()
        span = Span(now_ns - HORIZON_NS, now_ns + DAY_NS)
        for _ in range(PAGES):
            table = await self._history.range(stream, (), span, limit=ROWS)
            for row in table.rows:
                cells = dict(zip(table.columns, row, strict=True))
                time_ns = int(cells["time_ns"] or 0)
                values = {field.name: cells.get(field.name) for field in ALARM.fields}
                words.note(Alarm(0, time_ns // 1_000_000, box, BOX_DEVICE, ALARM.measurement, values))
                span = Span(time_ns, span.t1_ns)
            if not table.truncated:
                break
        return words
