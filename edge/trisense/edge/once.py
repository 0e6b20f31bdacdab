"""A fault that lasts, told once: at first, then ever more rarely with a count, and when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Fault"]

AGAIN_S: Final = (60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0)
"""How long a fault has gone untold when it is told again: the first entry once, then the next; the last for
ever. A week makes a dozen lines, whatever happens each second."""
CALM_S: Final = 60.0
"""How long it must have worked for the next failure to be a first one: what fails every other time is one
fault and not thousands."""


class Fault:
    """One thing that can go wrong again and again.

    ``failed`` at each failure, ``recovered`` whenever it works: both are cheap where there is nothing to
    say. What is not told aloud is told at debug level; a recovery is told where the failure was.
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
        self._log = log
        self._event = event
        self._over = over
        self._level = level
        self._forget_s = forget_s
        self._now_s = now_s
        self._times = 0
        self._began_s = 0.0
        self._last_s = 0.0
        self._worked_s: float | None = None
        """When it worked again; None while it fails."""
        self._told_s = 0.0
        self._told = 0
        self._told_failing = False

    @property
    def times(self) -> int:
        """Failures of the episode under way, short times of work between them included; else 0."""
        now_s = self._now_s()
        calm = self._worked_s is not None and now_s - self._worked_s > CALM_S
        forgotten = self._forget_s is not None and now_s - self._last_s > self._forget_s
        return 0 if calm or forgotten else self._times

    def failed(self, *, anew: bool = False, **facts: Any) -> bool:
        """Count one failure. Tells whether it was said aloud, as ``anew`` is in any case."""
        now_s = self._now_s()
        self._times = self.times + 1
        if self._times == 1:
            self._began_s, self._told = now_s, 0
        self._last_s, self._worked_s = now_s, None
        quiet_s = AGAIN_S[min(self._told - 1, len(AGAIN_S) - 1)]
        if self._told and now_s - self._told_s < quiet_s and not anew:
            self._log.debug(self._event, **facts)
            return False
        if self._times > 1:
            facts |= {"times": self._times, "for_s": round(now_s - self._began_s, 1)}
        self._told_s = now_s
        self._told += 1
        self._told_failing = True
        getattr(self._log, self._level)(self._event, **facts)
        return True

    def recovered(self, **facts: Any) -> None:
        """It works: tell it if it did not, with for how long and how often it failed."""
        if not self._times or self._worked_s is not None:
            return
        self._worked_s = self._now_s()
        if self._told_failing and self._over is not None:
            after_s = round(self._worked_s - self._began_s, 1)
            self._log.info(self._over, after_s=after_s, failures=self._times, **facts)
        self._told_failing = False
