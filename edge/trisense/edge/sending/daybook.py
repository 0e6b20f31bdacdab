"""Bytes spent on the link today, kept over restarts, and what live data will still need.

A day is a UTC day while the clock can be trusted. While it cannot, a day is 24 hours of running:
a clock that wakes up in 1970 neither stops a box for ever nor gives it a new budget at each start.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from trisense.edge import durable
from trisense.edge.clocks.clock import Clock
from trisense.edge.sending.hours import DAY_S

__all__ = ["Daybook", "knows_the_day"]

log = structlog.get_logger(__name__)

FADE_S: Final = 3600.0
"""The live rate is a mean over about the last hour."""
MEASURED_S: Final = 60.0
"""Live data must have had the link so long before its rate is believed."""
ERROR_MAX_MS: Final = 60_000
STEPS: Final = 500
"""The file is written so many times in a budget: each time it says one step more than was spent, so that
a crash never makes a box forget what it spent."""


def knows_the_day(clock: Clock) -> bool:
    """Whether the clock is good enough to tell days and hours: it need not be synchronised at this moment."""
    error_ms = clock.state().error_ms
    return error_ms is not None and error_ms <= ERROR_MAX_MS


class Daybook:
    """The books of one day. Only ``save`` touches the disk, in a thread of the caller's choice."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.used_bytes = 0
        self.bulk_bytes = 0
        """Part of it that backlog and pictures took."""
        self._clock = clock
        self._day: int | None = None
        """Days since 1970; None until the clock could be trusted."""
        self._age_s = 0.0
        self._seen_ns = clock.boot_ns()
        self._unsure_bytes = 0
        """Spent in this run while the day was not known."""
        self._saved_bytes = 0
        self._live_bytes = 0.0
        self._live_s = 0.0

    def load(self) -> None:
        """Go on where an earlier run stopped; a file that cannot be read counts as none."""
        try:
            kept = json.loads(self.path.read_text())
            self.used_bytes = self._saved_bytes = int(kept["bytes"])
            self.bulk_bytes = int(kept["bulk_bytes"])
            self._age_s = float(kept["age_s"])
            self._day = None if kept["day"] is None else int(kept["day"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("daybook_unreadable", path=str(self.path), why=str(error))

    def save(self, text: str) -> None:
        """Write what ``to_save`` gave, durably.

        Raises:
            OSError: the disk does not take it.
        """
        durable.replace(self.path, text.encode())

    def to_save(self, daily_bytes: int, *, exactly: bool = False) -> str | None:
        """What must be written before more is spent; None while the file says enough.

        ``exactly`` for the end of a run: what was spent and no step more.
        """
        if not exactly and self.used_bytes < self._saved_bytes:
            return None
        self._saved_bytes = self.used_bytes + (0 if exactly else max(1, daily_bytes // STEPS))
        return json.dumps(
            {
                "day": self._day,
                "age_s": round(self._age_s, 1),
                "bytes": self._saved_bytes,
                "bulk_bytes": self.bulk_bytes,
            }
        )

    def count(self, spent_bytes: int, *, bulk_bytes: int = 0) -> None:
        """That much more went over the link, either way.

        Of that and of what went before, ``bulk_bytes`` turned out to be for backlog and pictures: that is
        known once a bundle has arrived.
        """
        self.used_bytes += spent_bytes
        self.bulk_bytes = min(self.bulk_bytes + bulk_bytes, self.used_bytes)
        self._unsure_bytes += spent_bytes
        self._live_bytes = max(0.0, self._live_bytes + spent_bytes - bulk_bytes)

    def pass_time(self, *, live: bool) -> None:
        """Look at the clock, and begin a new day where there is one; ``live``: live data had the link."""
        boot_ns = self._clock.boot_ns()
        passed_s = (boot_ns - self._seen_ns) / 1e9
        self._seen_ns = boot_ns
        self._age_s += passed_s
        fade = math.exp(-passed_s / FADE_S) if live else 1.0
        self._live_bytes *= fade
        self._live_s = self._live_s * fade + (passed_s if live else 0.0)
        if not knows_the_day(self._clock):
            if self._age_s >= DAY_S:
                self._begin(None, 0)
            return
        today = self._clock.now_ns() // (DAY_S * 1_000_000_000)
        if self._day is None:
            self._day = today
        elif today > self._day:
            self._begin(today, self._unsure_bytes)
        elif today < self._day and self._age_s >= DAY_S:
            # The clock went back for good. At once, a day could be had twice by setting it to and fro.
            self._begin(today, 0)
        self._unsure_bytes = 0

    def rest_s(self) -> float:
        """Seconds until the next day begins."""
        if knows_the_day(self._clock):
            return DAY_S - self._clock.now_ns() / 1e9 % DAY_S
        return max(0.0, DAY_S - self._age_s)

    def live_bytes_s(self) -> float | None:
        """What everything but backlog and pictures costs a second; None before it was measured."""
        return self._live_bytes / self._live_s if self._live_s >= MEASURED_S else None

    def _begin(self, day: int | None, spent_bytes: int) -> None:
        log.info(
            "link_day",
            day=None if day is None else datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat(),
            used_bytes_before=self.used_bytes,
        )
        self._day = day
        self._age_s = 0.0
        self.used_bytes = spent_bytes
        self.bulk_bytes = 0
        self._unsure_bytes = self._saved_bytes = 0
