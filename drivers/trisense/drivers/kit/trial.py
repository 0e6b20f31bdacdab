"""One driver against one played device: what the edge runtime does with it, without its schedule."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from trisense.core.errors import DeviceError, LineError, TrisenseError
from trisense.core.model import Value
from trisense.drivers.kit.contract import Row
from trisense.drivers.kit.player import Device, Fault, as_it_is
from trisense.drivers.kit.stage import Stage
from trisense.drivers.kit.subject import Setup, Subject, stage_of
from trisense.drivers.lines import Lines
from trisense.drivers.sdk import Driver, Observed, PolledDriver, StreamingDriver

__all__ = ["Broken", "Trial", "trial_of"]

RECOVERY_S: Final = 5.0
"""Longest time until a good device must be read again; in real time, for a busy machine needs some."""
PAUSE_S: Final = 0.005
CLOSE_S: Final = 3.0


class Broken(TrisenseError):
    """The driver did what no driver may; the text says what."""


class Trial:
    """Runs the driver and keeps what it tells."""

    patience_s: float = RECOVERY_S
    """Longest time until a good device must be read again."""

    def __init__(self, subject: Subject, setup: Setup, device: Device) -> None:
        self.subject = subject
        self.setup = setup
        self.device = device
        self.rows: list[Observed] = []
        self.errors: list[DeviceError] = []
        self.connected = asyncio.Event()
        self._news = asyncio.Event()
        self._running: Driver[Any] | None = None

    def driver(self) -> Driver[Any]:
        """A fresh driver for the device."""
        return self.subject.driver(self.device.stage.line(self.subject.template), self.setup)

    async def run(self) -> None:
        """Connect and observe for ever, as the runtime does. For a polled driver only ``connect`` is here.

        Raises:
            Broken: an error came that is no DeviceError, or close() hangs.
        """
        driver = self._running = self.driver()
        while True:
            try:
                await self._session(driver)
            except DeviceError as error:
                self.errors.append(error)
                self._news.set()
            except Exception as error:
                raise Broken(f"{type(error).__name__} instead of a DeviceError: {error}") from error
            finally:
                self.connected.clear()
                await close(driver)
            await asyncio.sleep(PAUSE_S)

    async def _session(self, driver: Driver[Any]) -> None:
        await driver.connect(Lines())
        self.device.settling = self.device.player.settle
        self.connected.set()
        if isinstance(driver, StreamingDriver):
            async with aclosing(driver.observe()) as observed:  # type: ignore[type-var]  # an async generator
                async for row in observed:
                    self._take(row)
            raise Broken("observe() ended without an error")
        assert isinstance(driver, PolledDriver)  # noqa: S101  # there are two shapes
        while True:
            self.device.turn()
            rows = await self._read(driver)
            if self.device.good:
                self.device.due()
            for row in rows:
                self._take(row)
            self.device.served.set()
            self._news.set()
            await asyncio.sleep(PAUSE_S)

    async def _read(self, driver: PolledDriver[Any]) -> Sequence[Observed]:
        try:
            return await driver.read()
        except LineError:
            raise
        except DeviceError as error:
            self.errors.append(error)
            return ()

    def _take(self, row: Observed) -> None:
        self.rows.append(row)
        self._news.set()

    async def play(self, fault: Fault = as_it_is, *, at: int = 0) -> None:
        """Let the device tell one more example, with ``fault`` done to a reply or all its frames."""
        if self.device.player.speaks:
            await self.connected.wait()  # what a device says before is for nobody
            await self.device.speak(fault)
            await asyncio.sleep(PAUSE_S)
            return
        self.device.served.clear()
        if fault is not as_it_is:
            self.device.arm(fault, at=at)
        await self.device.served.wait()

    async def until(self, done: Callable[[], bool], *, deadline_s: float | None = None) -> bool:
        """Go on with good examples until ``done``; False where that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s if deadline_s is None else deadline_s):
                while not done():
                    await self.play()
        return done()

    async def wait(self, done: Callable[[], bool], *, deadline_s: float | None = None) -> bool:
        """Wait for ``done`` while the device is left alone; False where that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s if deadline_s is None else deadline_s):
                while not done():
                    self._news.clear()
                    await self._news.wait()
        return done()

    def hint(self) -> str:
        """What the driver itself says of rows that do not come."""
        damaged = getattr(self._running, "damaged_count", 0)
        found = [f"it counted {damaged} damaged frames"] if damaged else []
        found += [f"last error: {self.errors[-1]}"] if self.errors else []
        return "".join(f"; {one}" for one in found)

    # --- what was told against what is right -----------------------------------------------------------

    def judge(self) -> tuple[int, str]:
        """How many rows of good frames are missing, and what is wrong with those that came ("": nothing).

        Rows come in the order of the good frames; one may be left out, none may be added or changed.
        """
        due = self.device.told_good
        at = missing = 0
        for row in self.rows:
            place = next((i for i in range(at, len(due)) if agrees(row, due[i])), None)
            if place is None:
                return missing, self._wrong(row, due[at:])
            missing += sum(not one.optional for one in due[at:place])
            at = place + 1
        return missing + sum(not one.optional for one in due[at:]), ""

    def _wrong(self, row: Observed, rest: Sequence[Row]) -> str:
        shown = f"{row.measurement} {dict(row.values)}"
        if any(agrees(row, one) for one in self.device.told_good):
            return f"a row that no good frame stands for, told again or too late: {shown}"
        expected = next((one for one in rest if one.measurement == row.measurement), None)
        return f"a row of no good frame: {shown}" + (f", next is {dict(expected.values)}" if expected else "")


def agrees(row: Observed, due: Row) -> bool:
    """The row says nothing else than ``due``; fields may be null."""
    return row.measurement == due.measurement and all(
        row.values.get(name) is None or same(row.values[name], value) for name, value in due.values.items()
    )


def lacks(row: Observed, due: Row) -> str:
    """What of ``due`` the row does not say, for a person."""
    for name, value in due.values.items():
        if not same(row.values.get(name), value):
            return f"{row.measurement}.{name}: {value!r} expected, {row.values.get(name)!r} told"
    for name, code in due.quality.items():
        if row.quality.get(name, 9 if row.values.get(name) is None else 1) != code:
            return f"{row.measurement}.{name}: quality {int(code)} expected, {row.quality.get(name)!r} told"
    return ""


def same(told: Value, expected: Value) -> bool:
    """Equal, floats within rounding."""
    if isinstance(told, int | float) and isinstance(expected, int | float):
        return math.isclose(told, expected, rel_tol=1e-9, abs_tol=1e-9)
    return told == expected


async def close(driver: Driver[Any]) -> None:
    """Close a driver.

    Raises:
        Broken: it does not return, or fails.
    """
    try:
        async with asyncio.timeout(CLOSE_S):
            await driver.close()
    except TimeoutError as error:
        raise Broken(f"close() does not return within {CLOSE_S:g} s") from error
    except DeviceError as error:
        raise Broken(f"close() fails: {error}") from error


@asynccontextmanager
async def trial_of(subject: Subject, setup: Setup, folder: Path, *, run: bool = True) -> AsyncIterator[Trial]:
    """A device that is plugged in, and the driver that reads it, inside the block.

    Raises:
        Broken: what the driver did wrong, at the end of the block at the latest.
    """
    stage = stage_of(setup, folder)
    await stage.plug()
    trial = _trial(subject, setup, stage)
    device = trial.device
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(device.answer(), name="kit: device")]
            if run:
                tasks.append(group.create_task(trial.run(), name="kit: runtime"))
                if device.player.speaks:
                    await _first(trial)
            yield trial
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        # No except*: before Python 3.11.4 that wraps what is raised in it into a group of its own.
        if (broken := errors.subgroup(Broken)) is None:
            raise
        raise _first_of(broken) from None
    finally:
        await stage.unplug()


def _trial(subject: Subject, setup: Setup, stage: Stage) -> Trial:
    if subject.url:
        from trisense.drivers.kit.relay import RelayDevice, RelayTrial  # noqa: PLC0415  # it builds on this module

        return RelayTrial(subject, setup, RelayDevice(stage, subject.url))
    player = setup.player()
    goes_on = issubclass(subject.cls, StreamingDriver) and not player.speaks
    return Trial(subject, setup, Device(stage, player, goes_on=goes_on))


def _first_of(group: BaseExceptionGroup[Broken]) -> Broken:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Broken)  # noqa: S101  # the group has nothing else
    return error


async def _first(trial: Trial) -> None:
    """Wait until the driver listens."""
    try:
        async with asyncio.timeout(RECOVERY_S):
            await trial.connected.wait()
    except TimeoutError as error:
        why = f": {trial.errors[-1]}" if trial.errors else ""
        raise Broken(f"does not connect within {RECOVERY_S:g} s{why}") from error
