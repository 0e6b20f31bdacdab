"""What a part of the box does now, and by when it must have gone on to something else."""

from __future__ import annotations

import math
import time

__all__ = ["Progress"]


class Progress:
    """The step that one task is in. A task that passes its limit is stuck: the watchdog starves."""

    def __init__(self) -> None:
        self.step = "begin"
        self._since_s = time.monotonic()
        self._limit_s: float | None = math.inf

    def at(self, step: str, *, limit_s: float | None = math.inf) -> None:
        """A new step begins, also where it has the name of the last one.

        ``limit_s``: how long it may take; infinite for a wait whose end is not ours, None for as long
        as the watchdog grants to a part that has no limit of its own.
        """
        self.step = step
        self._since_s = time.monotonic()
        self._limit_s = limit_s

    def age_s(self) -> float:
        """How long the step has lasted."""
        return time.monotonic() - self._since_s

    def limit_s(self, granted_s: float) -> float:
        """How long the step may last."""
        return granted_s if self._limit_s is None else self._limit_s
