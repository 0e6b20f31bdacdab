"""One task per device: connect, read on schedule, back off, recover; nobody else notices."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import AsyncGeneratorType, TracebackType
from typing import Any, Final

import structlog
from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.drivers import Lines, Observed
from trisense.drivers.sdk import Driver, PolledDriver, StreamingDriver
from trisense.edge.backoff import Backoff
from trisense.edge.once import Fault
from trisense.edge.sensing.progress import Progress

__all__ = ["REASONS", "Deadline", "DeviceHealth", "Schedule", "Supervisor", "deadline_s"]

log = structlog.get_logger(__name__)

CLOSE_S: Final = 2.0
"""Longest wait for a driver to let go of its line."""
CUT_S: Final = 10.0
"""How much later than its deadline a driver that was cut may end before it counts as stuck."""
QUIET: Final = 1.5
"""Times the longest silence of a streaming device, after which its driver would have complained."""
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0


@dataclass(slots=True)
class DeviceHealth:
    """What the runtime knows of one device."""

    reads: int = 0
    """Reads that came back, of a polled device; rows, of a streaming one."""
    rows: int = 0
    failures: int = 0
    missed: int = 0
    """Scheduled reads left out because the one before took too long."""
    connected: bool = False
    error: str | None = None
    """Why it does not work now; None while it does."""
    last_row_s: float | None = None
    """Monotonic time of its last row."""
    failing_since_s: float | None = None
    """Monotonic time of the first failure since it last worked; None while it works."""
    next_try_s: float | None = None
    """Monotonic time of the next try of a device that fails."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Failures by kind, one of ``REASONS``."""

    def age_s(self) -> float | None:
        """Seconds since its last row."""
        return None if self.last_row_s is None else time.monotonic() - self.last_row_s


class Hung(DeviceTimeout):
    """A driver did not come back: its line is closed and opened again."""


KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (Hung, "hung"),
    (DeviceTimeout, "timeout"),
    (FrameError, "damaged"),
    (DeviceRefused, "refused"),
    (LineError, "line"),
    (DeviceError, "device"),
    (Exception, "bug"),
)
REASONS: Final = tuple(name for _, name in KINDS)
"""Kinds of failure, for counters."""


def _reason(error: Exception) -> str:
    return next(name for kind, name in KINDS if isinstance(error, kind))


class Schedule:
    """Slots at a fixed distance: no drift, and no burst after a slow read.

    They lie on one grid for all devices: those of one interval and phase are due together, and the box wakes
    up once for all of them.
    """

    def __init__(self, interval_s: float, phase: float, now_s: float) -> None:
        self._interval_s = interval_s
        self._start_s = (math.ceil(now_s / interval_s - phase) + phase) * interval_s
        self._slot = -1

    def next(self, now_s: float) -> tuple[float, int]:
        """(time of the next slot, slots left out since the last one)."""
        due = max(0, -int(-(now_s - self._start_s) // self._interval_s))
        slot = max(self._slot + 1, due)
        missed = slot - self._slot - 1
        self._slot = slot
        return self._start_s + slot * self._interval_s, missed


class Supervisor:
    """Runs one device until cancelled."""

    def __init__(
        self,
        driver: Driver[Any],
        lines: Lines,
        take: Callable[[Sequence[Observed]], None],
        *,
        phase: float = 0.0,
        rng: random.Random | None = None,
    ) -> None:
        """``take`` is given the rows; ``phase`` in [0, 1) spreads polled devices over their interval."""
        self.health = DeviceHealth()
        self.progress = Progress()
        self._driver = driver
        self._lines = lines
        self._take = take
        self._phase = phase
        self._backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=LONGEST_WAIT_S, rng=rng)
        self._log = log.bind(device=driver.config.name, driver=driver.config.driver)
        self._asked = False
        self._woken = asyncio.Event()
        self._ended = False
        self._asking: list[asyncio.Future[None]] = []
        self._answering: list[asyncio.Future[None]] = []
        self._fault = Fault(self._log, "device_failed", "device_recovered")
        self._told_kinds: set[str] = set()
        self._close_fault = Fault(self._log, "close_failed", "close_recovered")

    async def run(self) -> None:
        """Keep the device working; only being cancelled ends it."""
        try:
            await self._sessions()
        finally:
            self._ended = True
            self._answer(self._stopped())

    def _stopped(self) -> DeviceError:
        return DeviceError(self._driver.config.name, "stopped meanwhile")

    async def _sessions(self) -> None:
        while True:
            try:
                await self._session()
            except DeviceError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001  # the edge that keeps one driver's bug from its neighbours
                self._failed(error, traceback=True)
            _end_if_told()
            await self._rest()

    async def ask(self) -> None:
        """Wait for the rows of a read that begins now; for the next row of a streaming device.

        They go the way of all rows, and have been taken when this returns. A device that rests after a
        failure is tried at once.

        Raises:
            DeviceError: the device failed.
        """
        if self._ended:
            raise self._stopped()
        answer = asyncio.get_running_loop().create_future()
        self._asking.append(answer)
        self._wake()
        await answer

    def wake(self) -> None:
        """What it failed for may be over: where it rests, it is tried at once, and soon again."""
        if self.health.error is not None:
            self._backoff.reset()
            self._wake()

    def _wake(self) -> None:
        self._asked = True
        self._woken.set()

    async def _session(self) -> None:
        """From connect to the loss of the line."""
        try:
            self.progress.at("connect", limit_s=deadline_s(self._driver) + CUT_S)
            async with Deadline(self._driver, "connect"):
                await self._driver.connect(self._lines)
            self.health.connected = True
            if isinstance(self._driver, PolledDriver):
                await self._poll(self._driver)
            elif isinstance(self._driver, StreamingDriver):
                await self._follow(self._driver)
        finally:
            self.health.connected = False
            await self._close()

    async def _poll(self, driver: PolledDriver[Any]) -> None:
        schedule = Schedule(driver.config.interval_s, self._phase, time.monotonic())
        while True:
            slot_s, missed = schedule.next(time.monotonic())
            self.health.missed += missed
            self.progress.at("wait")
            while await self._asked_within(slot_s - time.monotonic()):
                await self._read(driver)
                self.progress.at("wait")
            await self._read(driver)

    async def _read(self, driver: PolledDriver[Any]) -> None:
        self._hear()
        self.progress.at("read", limit_s=deadline_s(driver) + CUT_S)
        try:
            async with Deadline(driver, "read"):
                rows = await driver.read()
        except (LineError, Hung):
            raise
        except DeviceError as error:
            # The line is still good: keep it, and leave the device alone for a while.
            self._failed(error)
            await self._rest()
        else:
            self.health.reads += 1
            self._worked(rows)

    async def _follow(self, driver: StreamingDriver[Any]) -> None:
        # How long silence may last is the driver's to say: it alone knows keep-alives from rows. One that has
        # let that time pass without a complaint works, though there may be no tag or car all night.
        self.progress.at("follow")
        quiet = asyncio.get_running_loop().call_later(QUIET * driver.silence_s(), self._well)
        rows = driver.observe()
        try:
            async for row in rows:
                _end_if_told()
                self._hear()
                self.health.reads += 1
                self._worked((row,))
        finally:
            quiet.cancel()
            if isinstance(rows, AsyncGeneratorType):
                await rows.aclose()
        raise LineError(driver.config.name, "the stream ended")

    async def _rest(self) -> None:
        """Leave the device alone for a while, unless somebody asks."""
        self.progress.at("back off")
        wait_s = self._backoff.next_s()
        self.health.next_try_s = time.monotonic() + wait_s
        await self._asked_within(wait_s)

    async def _asked_within(self, wait_s: float) -> bool:
        """Wait; True, and at once, when somebody asks for a read meanwhile."""
        if not self._asked:
            # No time-out: that would be an exception at each slot of each device.
            timer = asyncio.get_running_loop().call_later(wait_s, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
                self._woken.clear()
        return self._asked

    def _hear(self) -> None:
        """Whoever asked up to now is answered by what begins now."""
        self._answering += self._asking
        self._asking = []
        self._asked = False
        self._woken.clear()

    def _answer(self, error: DeviceError | None = None) -> None:
        if error is not None:
            self._hear()
        for answer in self._answering:
            if answer.done():
                continue  # who asked has gone
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
        self._answering = []

    async def _close(self) -> None:
        self.progress.at("close", limit_s=CLOSE_S + CUT_S)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._driver.close()
        except TimeoutError:
            self._close_fault.failed(why="hung", waited_s=CLOSE_S)
        except Exception as error:  # noqa: BLE001  # as above: a driver's bug stays with its device
            self._close_fault.failed(why=repr(error))
        else:
            self._close_fault.recovered()

    def _worked(self, rows: Sequence[Observed]) -> None:
        self.health.rows += len(rows)
        if rows:
            self.health.last_row_s = time.monotonic()
        self._take(rows)
        self._well()
        self._answer()

    def _well(self) -> None:
        """It does not fail, or no more."""
        if self.health.failing_since_s is not None:
            self._fault.recovered()
            self.health.failing_since_s = self.health.next_try_s = None
            self.health.error = None
        self._backoff.reset()

    def _failed(self, error: Exception, *, traceback: bool = False) -> None:
        """Count a failure; each kind of error is told aloud once, and ever more rarely again."""
        why = str(error) if isinstance(error, DeviceError) else repr(error)
        self.health.failures += 1
        self.health.reasons[_reason(error)] += 1
        if self.health.failing_since_s is None:
            self.health.failing_since_s = time.monotonic()
        kind = type(error).__name__
        if not self._fault.times:
            self._told_kinds.clear()
        anew = kind not in self._told_kinds
        self._told_kinds.add(kind)
        self._fault.failed(why=why, error=kind, exc_info=error if traceback else None, anew=anew)
        self.health.error = why
        self._answer(error if isinstance(error, DeviceError) else DeviceError(self._driver.config.name, why))


def deadline_s(driver: Driver[Any]) -> float:
    """When a ``connect`` or ``read`` that does not come back is cut.

    The driver keeps its own time-outs, several in one read and some spent waiting for a bus; this
    one is for a driver that hangs.
    """
    return 30.0 + 4.0 * float(driver.config.timeout_s)


class Deadline:
    """Cuts its block after ``deadline_s``, each with an object of its own.

    Raises:
        Hung: it was cut.
    """

    def __init__(self, driver: Driver[Any], what: str) -> None:
        self._device = driver.config.name
        self._what = what
        self._limit_s = deadline_s(driver)

    async def __aenter__(self) -> None:
        self._timer = asyncio.timeout(self._limit_s)
        await self._timer.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise Hung(self._device, f"{self._what} hung", timeout_s=self._limit_s) from late
        if kind is None:
            _end_if_told()


def _end_if_told() -> None:
    """End the task that was told to end while a driver swallowed it.

    By an error of its own on the way out, or without knowing: ``asyncio.wait_for`` before Python 3.12 does so
    when the answer comes in that moment (python/cpython#86296). It would be read on beside its successor.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
