"""Waits to a fraction of a millisecond.

asyncio waits in ``epoll``, whose grain is a millisecond, rounded up: of a pause of 2.005 ms (T3.5 at
19,200 baud) it makes 3 ms, which is a twelfth of a short exchange. A Linux ``timerfd`` has no such grain
and costs the loop no more than any other file; Python has it in its library from 3.13 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from typing import Final

__all__ = ["FineTimer"]

TFD_TIMER_ABSTIME: Final = 1


class _Timerspec(ctypes.Structure):
    """C's ``struct itimerspec``."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_HAS_TIMERFD: Final = hasattr(_LIBC, "timerfd_create")


class FineTimer:
    """One wait at a time, on one loop at a time. It holds a file from its first wait until ``close``."""

    def __init__(self) -> None:
        self._file = -1
        self._due: asyncio.Future[None] | None = None

    async def wait_until(self, when_s: float) -> None:
        """Wait until this time of the loop's clock, the monotonic one; at once where it is over."""
        loop = asyncio.get_running_loop()
        if loop.time() >= when_s:
            return
        if not _HAS_TIMERFD:
            await asyncio.sleep(when_s - loop.time())
            return
        if self._file < 0:
            self._open(loop)
        self._due = loop.create_future()
        seconds, fraction_s = divmod(when_s, 1.0)
        spec = _Timerspec(0, 0, int(seconds), int(fraction_s * 1e9) + 1)
        if _LIBC.timerfd_settime(self._file, TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await self._due

    def close(self) -> None:
        """Let go of the file; safe twice. A wait in progress ends: there is nothing left to wait for."""
        if self._due is not None and not self._due.done():
            self._due.set_result(None)
        if self._file >= 0:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._file = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._file, self._expired)

    def _expired(self) -> None:
        # Set anew after it had expired, it has nothing to tell yet.
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
            if self._due is not None and not self._due.done():
                self._due.set_result(None)
