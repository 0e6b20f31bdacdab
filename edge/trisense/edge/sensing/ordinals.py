"""Ordinals: what keeps (stream, time, n) unique for ever without ever moving a time."""

from __future__ import annotations

from typing import Final

__all__ = ["NEVER", "Ordinals"]

WINDOW_TICKS: Final = 256
"""Newest ticks of a stream whose use is remembered one by one: what may come out of order cheaply."""
NEVER: Final = -1
"""High-water mark of a stream that has no sample yet."""


class Ordinals:
    """Ordinals of one stream.

    Times above ``horizon`` are remembered one by one, so each gets the lowest free n. At or below
    it only the largest n ever given is known; a time that falls there (the clock stepped back, a
    restart, an old scene) takes numbers above that: one new base for each run of rising times.
    """

    def __init__(self, high_ns: int = NEVER, max_n: int = -1) -> None:
        """Go on after ``high_ns``, the latest time ever used, and ``max_n``, the largest n."""
        self._horizon = high_ns
        self._max_n = max_n
        self._final_ns = high_ns
        self._provisional = 0
        self._next: dict[int, int] = {}
        self._run_time = NEVER
        self._run_end = NEVER
        self._run_base = 0
        self._run_n = 0

    def take(self, time_ns: int, *, final: bool = True) -> int:
        """The ordinal for one more sample at ``time_ns``; not ``final``: it will get another time."""
        if final and self._provisional:
            # Others of the stream are about to move, perhaps to this very time: a number none of them gets.
            n = self._max_n + self._provisional + 1
        else:
            n = self._recent(time_ns) if time_ns > self._horizon else self._rerun(time_ns)
        self._max_n = max(self._max_n, n)
        if final:
            self._final_ns = max(self._final_ns, time_ns)
        else:
            self._provisional += 1
        return n

    def moved(self, time_ns: int, n: int) -> int:
        """The ordinal of a sample that had ``n`` at a provisional time and is final at ``time_ns``.

        To be asked in order, of ordinals that have given none: what moves together keeps its order and
        distance, so ``n`` will do but where there may be others.
        """
        if time_ns <= self._horizon:
            n = self._rerun(time_ns)
            self._max_n = max(self._max_n, n)
        return n

    def resume(self, after_ns: int, max_n: int) -> None:
        """Samples that were not final have moved or will, none beyond ``after_ns``: forget where they were.

        ``max_n`` is the largest n of those that have moved already.
        """
        self._max_n = max(self._max_n, max_n) + self._provisional
        self._provisional = 0
        self._horizon = max(after_ns, self._final_ns)
        self._next.clear()
        self._run_time = self._run_end = NEVER

    @property
    def max_n(self) -> int:
        """The largest n given."""
        return self._max_n

    def _recent(self, time_ns: int) -> int:
        n = self._next.get(time_ns, 0)
        self._next[time_ns] = n + 1
        if len(self._next) > WINDOW_TICKS:
            oldest = next(iter(self._next))  # as a rule the smallest: times rise
            del self._next[oldest]
            self._horizon = max(self._horizon, oldest)
        return n

    def _rerun(self, time_ns: int) -> int:
        if time_ns == self._run_time:
            self._run_n += 1
        else:
            if time_ns < self._run_time or time_ns > self._run_end:
                self._run_base = self._max_n + 1
                self._run_end = self._horizon
            self._run_time = time_ns
            self._run_n = self._run_base
        return self._run_n
