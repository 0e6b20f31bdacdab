"""A fault that lasts, told once: at first, then ever more rarely with a count, and when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Fault"]

AGAIN_S: Final = (60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0)
"""How long a fault has gone untold when it is told again: the first entry once, then the next; the last for
ever. A week makes a dozen lines, whatever happens each second."""


class Fault:
    """One thing that can go wrong again and again.

    ``failed`` at each failure, ``recovered`` whenever it works: both are cheap where there is nothing to
    say. What is not told aloud is told at debug level.
    """

    def __init__(
        self,
        log: Any,
        event: str,
        over: str | None = None,
        *,
        level: str = "warning",
        forget_s: float | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``log`` is a structlog logger; ``event`` and ``over`` are what it is told.

        ``forget_s``: for what nothing tells the end of. A failure after that much quiet is a first one.
        """
        self.times = 0
        """Failures since it began; 0 while all is well."""
        self._log = log
        self._event = event
        self._over = over
        self._level = level
        self._forget_s = forget_s
        self._now_s = now_s
        self._began_s = 0.0
        self._last_s = 0.0
        self._told_s = 0.0
        self._told = 0

    def failed(self, **facts: Any) -> bool:
        """Count one failure. Tells whether it was said aloud."""
        now_s = self._now_s()
        if self._forget_s is not None and now_s - self._last_s > self._forget_s:
            self.times = 0
        if not self.times:
            self._began_s, self._told = now_s, 0
        self.times += 1
        self._last_s = now_s
        quiet_s = AGAIN_S[min(self._told - 1, len(AGAIN_S) - 1)]
        if self._told and now_s - self._told_s < quiet_s:
            self._log.debug(self._event, **facts)
            return False
        if self._told:
            facts |= {"times": self.times, "for_s": round(now_s - self._began_s, 1)}
        self._told_s = now_s
        self._told += 1
        getattr(self._log, self._level)(self._event, **facts)
        return True

    def recovered(self, **facts: Any) -> None:
        """It works: tell it if it did not, with for how long and how often it failed."""
        if not self.times:
            return
        if self._over is not None:
            after_s = round(self._now_s() - self._began_s, 1)
            self._log.info(self._over, after_s=after_s, failures=self.times, **facts)
        self.times = 0
