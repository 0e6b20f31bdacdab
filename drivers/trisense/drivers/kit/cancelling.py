"""Cancelling a driver at each of its awaits in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Generator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from trisense.core.errors import DeviceError
from trisense.drivers.kit.player import Device
from trisense.drivers.kit.subject import Setup, Subject
from trisense.drivers.kit.trial import PAUSE_S, Broken, Trial, close, trial_of
from trisense.drivers.lines import Line, Lines
from trisense.drivers.sdk import Driver, PolledDriver, StreamingDriver

__all__ = ["cancel_everywhere"]

MOST_AWAITS: Final = 64
SETTLE_S: Final = 2.0
"""In which what a closed driver began may end: on a busy machine also closing a port takes its time."""


class CancelAt:
    """Awaits something, and cancels the task at its ``number``-th await, as a shutdown would."""

    def __init__(self, inner: Awaitable[None], number: int) -> None:
        self._inner = inner
        self._number = number
        self.struck = False

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        steps = self._inner.__await__()
        assert task is not None  # noqa: S101  # it is awaited by a task
        seen = 0
        sent: BaseException | None = None
        while True:
            try:
                waits_for = steps.throw(sent) if sent is not None else next(steps)
            except StopIteration:
                return
            sent = None
            seen += 1
            if seen == self._number:
                self.struck = True
                task.cancel()
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001  # handed on to the driver, whatever it is
                sent = error


class WatchedLines(Lines):
    """Lines that know which of them are open."""

    def __init__(self) -> None:
        super().__init__()
        self.left: set[Line] = set()

    async def open(self, url: str, *, timeout_s: float = 5.0) -> Line:
        line = WatchedLine(await super().open(url, timeout_s=timeout_s), self.left)
        self.left.add(line)
        return line


class WatchedLine:
    """A line that says when it is closed."""

    def __init__(self, line: Line, left: set[Line]) -> None:
        self.url = line.url
        self.read, self.write, self.flush_input = line.read, line.write, line.flush_input
        self._line = line
        self._left = left

    async def close(self) -> None:
        self._left.discard(self)
        await self._line.close()


async def _first_row(driver: Driver[Any], lines: Lines, *, patient: bool) -> None:
    """Connect and read until a row comes."""
    await driver.connect(lines)
    if isinstance(driver, StreamingDriver):
        async with aclosing(driver.observe()) as rows:  # type: ignore[type-var]  # always an async generator
            await anext(rows)
        return
    assert isinstance(driver, PolledDriver)  # noqa: S101  # there are two shapes
    while True:
        try:
            await driver.read()
        except DeviceError:
            if not patient:
                raise
            await asyncio.sleep(PAUSE_S)
        else:
            return


async def _speaking(device: Device) -> None:
    while True:
        if device.player.speaks:
            await device.speak()
        await asyncio.sleep(PAUSE_S)


async def cancel_everywhere(subject: Subject, setup: Setup, folder: Path) -> str:
    """Cancel at await 1, 2, 3, ... of connecting and reading, then of closing, until one run gets through.

    Raises:
        Broken: a cancel was swallowed, close() failed or left the line open, a task stayed, or the next
            driver cannot read.
    """
    async with trial_of(subject, setup, folder, run=False) as trial, asyncio.TaskGroup() as group:
        speaking = group.create_task(_speaking(trial.device), name="kit: speaking")
        mine = asyncio.all_tasks()
        for number in range(1, MOST_AWAITS + 1):
            if not await _cancelled(trial.driver(), number, 2 * trial.patience_s):
                break
            await _settled(mine, f"await {number}")
            trial.device.forget()
        for close_number in range(1, MOST_AWAITS + 1):
            if not await _close_cancelled(trial, close_number):
                break
            await _settled(mine, f"await {close_number} of close()")
        driver = trial.driver()
        try:
            async with asyncio.timeout(2 * trial.patience_s):
                await _first_row(driver, Lines(), patient=True)
        except (DeviceError, TimeoutError) as error:
            raise Broken(f"after {number} cancelled runs the device cannot be read: {error!r}") from error
        finally:
            await close(driver)
            speaking.cancel()
    return f"{number - 1} awaits"


async def _cancelled(driver: Driver[Any], number: int, deadline_s: float) -> bool:
    """Whether there was an await of that number."""
    wrapped = CancelAt(_first_row(driver, Lines(), patient=False), number)
    task = await _over(wrapped, deadline_s, f"await {number}")
    error = None if task.cancelled() else task.exception()
    await close(driver)
    if error is not None and not isinstance(error, DeviceError):
        raise Broken(f"cancelled at await {number}: {type(error).__name__} {error}") from error
    if wrapped.struck and not task.cancelled() and error is None:
        raise Broken(f"a cancel at await {number} is swallowed")
    return wrapped.struck


async def _close_cancelled(trial: Trial, number: int) -> bool:
    """Whether closing has an await of that number."""
    lines = WatchedLines()
    driver = trial.driver()
    try:
        async with asyncio.timeout(2 * trial.patience_s):
            await _first_row(driver, lines, patient=True)
        wrapped = CancelAt(driver.close(), number)
        await _over(wrapped, 2 * trial.patience_s, f"await {number} of close()")
        if lines.left:
            raise Broken(f"cancelled at await {number} of close(), it leaves its line open")
    except (DeviceError, TimeoutError):
        return False  # whether it can be read is judged by the run behind this one
    finally:
        await close(driver)
        for line in tuple(lines.left):
            await line.close()
        trial.device.forget()
    return wrapped.struck


async def _over(wrapped: CancelAt, deadline_s: float, where: str) -> asyncio.Task[None]:
    """Run it to its end."""

    async def run() -> None:
        await wrapped

    task = asyncio.create_task(run())
    done, _ = await asyncio.wait([task], timeout=deadline_s)
    if not done:
        task.cancel()
        raise Broken(f"cancelled at {where}, it goes on")
    return task


async def _settled(mine: set[asyncio.Task[Any]], where: str) -> None:
    until_s = time.monotonic() + SETTLE_S
    while left := [task for task in asyncio.all_tasks() - mine if not task.get_name().startswith("kit:")]:
        if time.monotonic() > until_s:
            raise Broken(f"cancelled at {where}, it leaves a task: {left[0].get_coro()}")
        await asyncio.sleep(PAUSE_S)
