"""A wall clock that can be stepped for the code of one context, without touching the machine's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["step_clock"]

_ahead_s: ContextVar[list[int]] = ContextVar("ahead_s")
_lock: Final = threading.Lock()
_users = 0
_time, _time_ns = time.time, time.time_ns


def _ahead() -> int:
    cell = _ahead_s.get(None)
    return cell[0] if cell else 0


@contextmanager
def step_clock() -> Iterator[Callable[[int], None]]:
    """Inside the block ``time.time`` and ``time.time_ns`` are ahead by what the given function was told last.

    Only the tasks and threads begun inside see it. A clock read in C (``datetime.now``) is not moved.
    """
    global _users  # noqa: PLW0603  # one patch for however many drivers are tested at once
    cell = [0]
    token = _ahead_s.set(cell)
    with _lock:
        _users += 1
        time.time = lambda: _time() + _ahead()
        time.time_ns = lambda: _time_ns() + _ahead() * 1_000_000_000
    try:
        yield lambda by_s: cell.__setitem__(0, by_s)
    finally:
        _ahead_s.reset(token)
        with _lock:
            _users -= 1
            if not _users:
                time.time, time.time_ns = _time, _time_ns
