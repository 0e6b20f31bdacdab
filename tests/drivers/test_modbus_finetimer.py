"""The timer of a bus never ends a pause early."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from trisense.drivers.modbus import finetimer
from trisense.drivers.modbus.finetimer import FineTimer


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("has_timerfd", [True, False])
async def test_a_wait_ends_no_earlier_than_asked_for(
    has_timerfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetimer, "_HAS_TIMERFD", has_timerfd)
    loop = asyncio.get_running_loop()
    timer = FineTimer()
    for pause_s in (0.000_1, 0.001_75, 0.004, 0.0, -1.0):
        when_s = loop.time() + pause_s
        await timer.wait_until(when_s)
        assert loop.time() >= when_s
    timer.close()


async def test_a_wait_that_was_cancelled_leaves_nothing_for_the_next() -> None:
    loop = asyncio.get_running_loop()
    timer = FineTimer()
    for _ in range(20):
        waiting = asyncio.create_task(timer.wait_until(loop.time() + 0.000_2))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        when_s = loop.time() + 0.001
        await timer.wait_until(when_s)
        assert loop.time() >= when_s
    timer.close()


async def test_its_file_is_closed_and_it_can_be_used_again() -> None:
    loop = asyncio.get_running_loop()
    before = open_files()
    timer = FineTimer()
    timer.close()
    for _ in range(2):
        await timer.wait_until(loop.time() + 0.000_5)
        assert open_files() == before + 1
        timer.close()
        timer.close()
    assert open_files() == before


async def test_nobody_is_left_waiting_when_it_is_closed() -> None:
    timer = FineTimer()
    waiting = asyncio.create_task(timer.wait_until(asyncio.get_running_loop().time() + 3600))
    await asyncio.sleep(0)
    timer.close()
    async with asyncio.timeout(5):
        await waiting
