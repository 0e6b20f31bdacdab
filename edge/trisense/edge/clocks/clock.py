"""The box's clocks: wall time for samples, boot time for ages, and how far wall time can be trusted."""

from __future__ import annotations

import ctypes
import ctypes.util
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from trisense.core.model import ClockState

__all__ = ["PLAUSIBLE_NS", "Clock", "Stamp", "SystemClock", "worst"]

PLAUSIBLE_NS: Final = 1_767_225_600 * 1_000_000_000
"""2026-01-01: a clock before it has never been set since power-on, whatever the kernel says."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
STA_UNSYNC: Final = 0x0040
TIME_ERROR: Final = 5


@dataclass(frozen=True, slots=True)
class Stamp:
    """The time of a sample, and what it is worth."""

    time_ns: int
    clock: ClockState
    offset_ns: int | None = None
    """Not None: the time is provisional, boot time plus this offset."""
    line_ns: int | None = None
    """How far the box's own line of time has got with it; None for a time that says nothing of that."""


def worst(states: Iterable[ClockState]) -> ClockState:
    """What holds for times of all these states together; of none, that nothing is known."""
    all_of = list(states)
    errors = [state.error_ms for state in all_of if state.error_ms is not None]
    known = bool(errors) and len(errors) == len(all_of)
    return ClockState(bool(all_of) and all(state.synced for state in all_of), max(errors) if known else None)


class Clock(Protocol):
    """What the runtime asks of time; tests bring their own."""

    @property
    def boot_id(self) -> str:
        """Names this run of the kernel: boot times of another run mean nothing here."""
        ...

    def now_ns(self) -> int:
        """Wall time, UTC, nanoseconds since 1970; may step."""
        ...

    def boot_ns(self) -> int:
        """Nanoseconds since boot, sleep included; never steps."""
        ...

    def state(self) -> ClockState:
        """How far ``now_ns`` can be trusted now."""
        ...


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), up to what is read here; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    )


class SystemClock:
    """The kernel's clocks; synchronised is what adjtimex(2) says, whoever set it (NTP, PTP, GNSS)."""

    @property
    def boot_id(self) -> str:
        return _boot_id()

    def now_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def state(self) -> ClockState:
        timex = _Timex()
        answer = _adjtimex()(ctypes.byref(timex))
        synced = answer not in (-1, TIME_ERROR) and not timex.status & STA_UNSYNC
        if not synced or self.now_ns() < PLAUSIBLE_NS:
            return ClockState(synced=False)
        return ClockState(synced=True, error_ms=-(-timex.maxerror // 1000))


@cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        # A sandbox may hide /proc/sys: then no boot time of another run can be taken for one of this.
        return str(uuid.uuid4())


@cache
def _adjtimex() -> ctypes._NamedFuncPointer:
    return ctypes.CDLL(None, use_errno=True).adjtimex
