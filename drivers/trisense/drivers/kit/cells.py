"""The tests of the conformance matrix. Each runs a driver against a played device and says what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from trisense.drivers.kit import faults
from trisense.drivers.kit.cancelling import cancel_everywhere
from trisense.drivers.kit.clock import step_clock
from trisense.drivers.kit.contract import CellName
from trisense.drivers.kit.player import Fault, Reply, Spoken
from trisense.drivers.kit.subject import Subject
from trisense.drivers.kit.trial import Broken, Trial, lacks, trial_of
from trisense.drivers.sdk import PolledDriver

__all__ = ["RUNS", "Run"]

Run = Callable[[Subject, Path], Awaitable[str]]
"""Runs one test; gives what there is to tell of a pass, raises Broken where the driver failed."""

STREAMED_FAULTS: Final = 32
ASKED_FAULTS: Final = 6
"""A damaged answer costs a time-out, a damaged frame in a stream does not."""
UNDER_WAY_S: Final = 0.2
"""What a device of its own has said just before comes within this."""
RELAYED_FAULTS: Final = 4
"""A device of its own has its own pace."""
STEPS_S: Final = (0, 86_400, -7_200, 0)


async def examples(subject: Subject, folder: Path) -> str:
    """Every example of every setup, twice round, complete and in order."""
    count = 0
    for setup in subject.setups:
        async with trial_of(subject, setup, folder) as trial:
            for _ in range(2 * setup.examples):
                await trial.play()
            await _caught_up(trial, 0)
            _complete(trial)
        count += setup.examples
    return _count(count, "example")


def _complete(trial: Trial) -> None:
    """All that is due was told, with each value and code."""
    at = 0
    for due in trial.device.told_good:
        end = min(at + 1, len(trial.rows)) if due.optional else len(trial.rows)
        alike = [i for i in range(at, end) if trial.rows[i].measurement == due.measurement]
        place = next((i for i in alike if not lacks(trial.rows[i], due)), None)
        if place is not None:
            at = place + 1
        elif not due.optional:
            raise Broken(lacks(trial.rows[alike[0]], due) if alike else f"no row {due.measurement}")


async def silence(subject: Subject, folder: Path) -> str:
    async with trial_of(subject, subject.setups[0], folder) as trial:
        await trial.play()
        await _caught_up(trial, 0)
        trial.device.mute = True
        if subject.url:
            await asyncio.sleep(UNDER_WAY_S)
        trial.errors.clear()
        rows = len(trial.rows)
        if not await trial.wait(lambda: bool(trial.errors)):
            raise Broken("a silent device is no DeviceError")
        found = type(trial.errors[0]).__name__
        if len(trial.rows) > rows:
            raise Broken("rows came from a silent device")
        trial.device.mute = False
        await _recovers(trial)
    return f"{found}, then read again"


async def _recovers(trial: Trial) -> None:
    """From here on good frames give rows again."""
    trial.rows.clear()
    trial.device.told_good.clear()
    if not await trial.until(lambda: len(trial.rows) > 0):
        raise Broken(f"not one row after the device was good again{trial.hint()}")


async def _caught_up(trial: Trial, allowed: int) -> tuple[int, int]:
    """Wait until all good frames gave their rows but ``allowed``; gives missing rows and due ones.

    A decoder may wait for more bytes after damage, so good examples go on until it has seen enough.
    """

    def done() -> bool:
        missing, wrong = trial.judge()
        return missing <= allowed or bool(wrong)

    if not await trial.wait(done, deadline_s=0.3):
        await trial.until(done)
    missing, wrong = trial.judge()
    if wrong:
        raise Broken(wrong)
    if missing > allowed:
        due = len(trial.device.told_good)
        raise Broken(f"{missing} of {due} rows of good frames never came{trial.hint()}")
    return missing, len(trial.device.told_good)


async def _with(subject: Subject, folder: Path, damage: Sequence[Fault], what: str) -> str:
    """Play each fault once, good examples around it; each may cost one example behind it."""
    setup = subject.setups[0]
    async with trial_of(subject, setup, folder) as trial:
        await trial.play()
        await _caught_up(trial, 0)
        per_example = len(trial.device.player.rows())
        for number, fault in enumerate(damage):
            await trial.play(fault, at=number)
            for _ in range(setup.examples):
                await trial.play()
        missing, _ = await _caught_up(trial, per_example * len(damage))
        await _recovers(trial)
    lost = f", rows lost behind them: {missing}" if missing else ""
    return f"{_count(len(damage), what)}{lost}"


def _faults_for(subject: Subject) -> int:
    if subject.url:
        return RELAYED_FAULTS
    return ASKED_FAULTS if issubclass(subject.cls, PolledDriver) else STREAMED_FAULTS


async def slow_drip(subject: Subject, folder: Path) -> str:
    setup = subject.setups[0]
    async with trial_of(subject, setup, folder) as trial:
        for _ in range(2 * setup.examples):
            await trial.play(faults.drip)
        await _caught_up(trial, 0)
    return ""


async def noise_before(subject: Subject, folder: Path) -> str:
    async with trial_of(subject, subject.setups[0], folder) as trial:
        await trial.play(faults.noise_ahead(subject.name)[3])
        await _caught_up(trial, len(trial.device.told_good))
        await _recovers(trial)
    return ""


async def noise_between(subject: Subject, folder: Path) -> str:
    return await _with(subject, folder, faults.noise_ahead(subject.name), "run")


async def noise_inside(subject: Subject, folder: Path) -> str:
    return await _with(
        subject, folder, faults.insert_noise(subject.name, _faults_for(subject)), "damaged frame"
    )


async def checksum(subject: Subject, folder: Path) -> str:
    return await _with(subject, folder, faults.turn_bit(_faults_for(subject)), "damaged frame")


async def truncated(subject: Subject, folder: Path) -> str:
    return await _with(subject, folder, faults.cut_short(), "frame cut short")


async def duplicates(subject: Subject, folder: Path) -> str:
    setup = subject.setups[0]
    async with trial_of(subject, setup, folder) as trial:
        await trial.play()
        await _caught_up(trial, 0)
        again = 0
        for _ in range(2 * setup.examples):
            before = len(trial.device.told_good)
            await trial.play(faults.doubled)
            if trial.device.player.speaks:  # told twice as it came twice, or once: both are right
                rows = trial.device.told_good[before:]
                trial.device.told_good += rows
                again += len(rows)
        await _caught_up(trial, again)
        await _recovers(trial)
    alone = "" if setup.examples > 1 else " (one example: a stale answer would look like a fresh one)"
    return f"{2 * setup.examples} doubled{alone}"


async def wrong_unit(subject: Subject, folder: Path) -> str:
    setup = subject.setups[0]
    async with trial_of(subject, setup, folder) as trial:
        foreign = trial.device.player.foreign

        def other(reply: Reply) -> Spoken:
            return Spoken([foreign(reply)], good=False)

        await trial.play()
        for _ in range(3):
            await trial.play(other)
            await trial.play()
        await _caught_up(trial, 3 * len(trial.device.player.rows()))
        await _recovers(trial)
    return ""


def _first_half(reply: Reply) -> Spoken:
    return Spoken([reply.data[: len(reply.data) // 2]], good=False)


async def _hang_up(trial: Trial) -> None:
    """The device goes in the middle of a frame, and stays away until the driver has noticed twice."""
    await trial.play()
    await _caught_up(trial, 0)
    trial.errors.clear()
    if trial.device.player.speaks:
        await trial.device.speak(_first_half)
    else:
        trial.device.arm(_first_half)
    await trial.device.stage.unplug()
    trial.device.forget()
    if not await trial.wait(lambda: len(trial.errors) >= 2):
        raise Broken(f"{len(trial.errors)} DeviceErrors while the device was away; each connect() must fail")
    _, wrong = trial.judge()
    if wrong:
        raise Broken(wrong)


async def hang_up(subject: Subject, folder: Path) -> str:
    async with trial_of(subject, subject.setups[0], folder) as trial:
        await _hang_up(trial)
        return f"{type(trial.errors[0]).__name__}: {trial.errors[0].what}"


async def come_back(subject: Subject, folder: Path) -> str:
    async with trial_of(subject, subject.setups[0], folder) as trial:
        for _ in range(2):
            await _hang_up(trial)
            await trial.device.stage.plug()
            await _recovers(trial)
    return (
        "another node under the same name"
        if subject.setups[0].transport == "pty"
        else "a new listener at the port"
    )


async def clock_steps(subject: Subject, folder: Path) -> str:
    setup = subject.setups[0]
    times: list[set[int | None]] = []
    with step_clock() as step:
        async with trial_of(subject, setup, folder) as trial:
            for by_s in STEPS_S:
                step(by_s)
                before = len(trial.rows)
                for _ in range(setup.examples):
                    await trial.play()
                await _caught_up(trial, 0)
                times.append({row.sensed_at_ns for row in trial.rows[before:]})
            if any(seen != times[0] for seen in times):
                raise Broken("sensed_at_ns follows this machine's clock; it is for times of the source alone")
            if trial.errors:
                raise Broken(f"a step of the clock was an error: {trial.errors[0]}")
    return ", ".join(f"{by_s:+d} s" for by_s in STEPS_S[1:-1])


async def cancel(subject: Subject, folder: Path) -> str:
    return await cancel_everywhere(subject, subject.setups[0], folder)


RUNS: Final[Mapping[CellName, Run]] = {
    "examples": examples,
    "silence": silence,
    "slow drip": slow_drip,
    "noise before": noise_before,
    "noise between": noise_between,
    "noise inside": noise_inside,
    "checksum": checksum,
    "truncated": truncated,
    "duplicates": duplicates,
    "wrong unit": wrong_unit,
    "hang-up": hang_up,
    "return": come_back,
    "clock steps": clock_steps,
    "cancel": cancel,
}


def _count(number: int, what: str) -> str:
    head, _, rest = what.partition(" ")
    if number != 1 and head == "frame":
        return f"{number} frames {rest}".strip()
    return f"{number} {what}{'' if number == 1 else 's'}"
