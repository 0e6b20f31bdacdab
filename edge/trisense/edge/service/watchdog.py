"""The watchdog of the box: it feeds systemd's only while every part gets on, and names the one that does not.

Who starves it:

- the event loop, because it feeds from there: a driver that blocks the loop stops everything, so only a
  restart helps. A thread outside the loop says where it hangs, before systemd ends the program;
- the batcher, when a commit does not come back from the disk;
- a device whose driver does not even let itself be cut at its deadline. One that merely hangs in an
  ``await`` is cut by it, fails, is tried again, and starves nobody;
- a task of the box that has ended.

A disk, broker or device that fails, and says so, is no reason for a restart: all of them are tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

import structlog
from trisense.edge.sensing.progress import Progress
from trisense.edge.service.notify import Notifier

__all__ = ["Watchdog"]

log = structlog.get_logger(__name__)

UNWATCHED_S: Final = 60.0
"""The interval where no service manager names one: what is stuck is told all the same."""
FEEDS: Final = 3
"""Feeds in one interval: one that comes late costs nothing."""
STACK_LINES: Final = 12


class Watchdog:
    """Watches tasks, and what they call their progress, by the names of the tasks."""

    def __init__(
        self,
        notifier: Notifier,
        progress: Callable[[], Mapping[str, Progress]],
        tasks: Sequence[asyncio.Task[None]] = (),
    ) -> None:
        """``progress`` gives the parts to watch now, by the names of their tasks; ``tasks`` never end."""
        self._notifier = notifier
        self._progress = progress
        self._tasks = tasks
        self._interval_s = notifier.watchdog_s or UNWATCHED_S
        self._turned_s = time.monotonic()
        self._stuck: set[str] = set()

    async def run(self) -> None:
        """Feed until cancelled."""
        with self._outside(asyncio.get_running_loop()):
            while True:
                self._turned_s = time.monotonic()
                stuck = self._overdue() | self._ended()
                if not stuck:
                    self._notifier.feed()
                for name in sorted(self._stuck - stuck):
                    log.info("unstuck", task=name)
                self._stuck = stuck
                await asyncio.sleep(self._interval_s / FEEDS)

    def _overdue(self) -> set[str]:
        found = set()
        for name, progress in self._progress().items():
            limit_s = progress.limit_s(self._interval_s)
            if progress.age_s() <= limit_s:
                continue
            found.add(name)
            if name not in self._stuck:
                log.error(
                    "stuck",
                    task=name,
                    step=progress.step,
                    for_s=round(progress.age_s(), 1),
                    limit_s=round(limit_s, 1),
                    stack=_stack_of_task(name),
                )
        return found

    def _ended(self) -> set[str]:
        found = {task.get_name() for task in self._tasks if task.done()}
        for name in sorted(found - self._stuck):
            log.error("task_ended", task=name)
        return found

    @contextlib.contextmanager
    def _outside(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """A thread that looks at the loop meanwhile, and says where it hangs."""
        ended = threading.Event()
        thread = threading.Thread(
            target=self._look, args=(loop, threading.get_ident(), ended), name="watchdog", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, loop: asyncio.AbstractEventLoop, loops_thread: int, ended: threading.Event) -> None:
        told = False
        # Two thirds of the interval after the last turn: late enough to be no slow step, and before the end.
        limit_s = self._interval_s * 2 / FEEDS
        while not ended.wait(self._interval_s / FEEDS / 2):
            blocked_s = time.monotonic() - self._turned_s
            if blocked_s < limit_s:
                told = False
            elif not told:
                told = True
                task = asyncio.current_task(loop)
                log.error(
                    "loop_blocked",
                    task=None if task is None else task.get_name(),
                    for_s=round(blocked_s, 1),
                    stack=_stack_of_thread(loops_thread),
                )


def _stack_of_task(name: str) -> list[str]:
    """Where a task waits, innermost last, and what the threads do that it may wait for."""
    lines = []
    for task in asyncio.all_tasks():
        if task.get_name() == name:
            waits: Any = task.get_coro()
            while waits is not None:
                frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
                if isinstance(frame, FrameType):
                    lines.append(_line(frame))
                waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    for thread in threading.enumerate():
        if thread.name.startswith(("spool", "asyncio")):
            lines.append(f"thread {thread.name}:")
            lines += _stack_of_thread(thread.ident)
    return lines


def _stack_of_thread(ident: int | None) -> list[str]:
    """Where a thread is, innermost last."""
    frame = sys._current_frames().get(ident or 0)
    if frame is None:
        return []
    return [_line(found) for found, _ in traceback.walk_stack(frame)][:STACK_LINES][::-1]


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
