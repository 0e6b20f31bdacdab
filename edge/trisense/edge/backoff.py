"""Exponential back-off with jitter, so that many boxes or devices never come back in step."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["Backoff"]

JITTER: Final = 0.25
"""Each wait is moved by up to this part of itself, either way."""


class Backoff:
    """Waits that double from ``first_s`` to ``longest_s`` until ``reset``."""

    def __init__(self, *, first_s: float, longest_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        self.failures = 0

    def next_s(self) -> float:
        """The wait after one more failure."""
        # 2**30 is beyond every longest wait; more would only overflow.
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return wait_s * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def reset(self) -> None:
        self.failures = 0
