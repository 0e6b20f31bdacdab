"""Whose turn it is on a bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from trisense.drivers.modbus.turns import SHARE, Turns

Hold = Callable[..., Awaitable[None]]


class Bus:
    """Turns whose holders and their order can be watched."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.order: list[str] = []
        self.leave = asyncio.Event()

    async def hold(self, name: str, unit: int | None = None, *, due_s: float) -> None:
        async with self.turns.turn(unit, due_s=due_s):
            self.order.append(name)
            await self.leave.wait()

    async def queue(self, *holders: tuple[str, int, float]) -> list[asyncio.Task[None]]:
        tasks = []
        for name, unit, due_s in holders:
            tasks.append(asyncio.create_task(self.hold(name, unit, due_s=due_s)))
            await asyncio.sleep(0)
        return tasks


async def test_the_most_urgent_one_that_waits_is_next() -> None:
    bus = Bus()
    tasks = await bus.queue(("first", 1, 9.0), ("late", 2, 3.0), ("soon", 3, 1.0), ("later", 4, 7.0))
    bus.leave.set()
    await asyncio.gather(*tasks)
    assert bus.order == ["first", "soon", "late", "later"]


async def test_one_holds_it_at_a_time_and_an_error_gives_it_back() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(1, due_s=1.0):
            raise ZeroDivisionError
    async with asyncio.timeout(5), turns.turn(2, due_s=1.0):
        pass


async def test_whoever_is_cancelled_while_waiting_is_passed_over() -> None:
    bus = Bus()
    tasks = await bus.queue(("first", 1, 1.0), ("gone", 2, 2.0), ("last", 3, 3.0))
    tasks[1].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[1]
    bus.leave.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert bus.order == ["first", "last"]


async def test_whoever_is_cancelled_at_the_moment_it_is_called_passes_it_on() -> None:
    bus = Bus()
    tasks = await bus.queue(("first", 1, 1.0), ("gone", 2, 2.0), ("last", 3, 3.0))
    bus.leave.set()
    await tasks[0]  # "gone" has been called, and has not run yet
    tasks[1].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert bus.order[-1] == "last"


async def test_when_all_are_cancelled_at_once_the_bus_is_free_again() -> None:
    bus = Bus()
    tasks = await bus.queue(("first", 1, 1.0), ("second", 2, 2.0), ("third", 3, 3.0))
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with asyncio.timeout(5), bus.turns.turn(4, due_s=1.0):
        pass


async def test_a_slow_unit_that_always_is_the_most_urgent_gets_a_bounded_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    now_s = 0.0
    monkeypatch.setattr(loop, "time", lambda: now_s)
    turns = Turns()
    held = dict.fromkeys((1, 2, 3), 0.0)

    async def reader(unit: int, takes_s: float, due_s: float) -> None:
        nonlocal now_s
        while now_s < 100.0:
            async with turns.turn(unit, due_s=due_s):
                await asyncio.sleep(0)
                now_s += takes_s
                held[unit] += takes_s

    await asyncio.gather(reader(1, 0.4, -1.0), reader(2, 0.03, 1.0), reader(3, 0.03, 1.0))
    assert held[1] / sum(held.values()) == pytest.approx(SHARE, abs=0.02)


async def test_a_slow_unit_gets_all_of_a_bus_that_nobody_else_wants() -> None:
    turns = Turns()
    async with asyncio.timeout(5):
        for _ in range(3):
            async with turns.turn(1, due_s=1.0):
                await asyncio.sleep(0)


async def test_the_time_that_units_hold_it_is_summed_up_and_the_buss_own_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns()
    now_s = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    async with turns.turn(1):
        now_s += 2.5
    async with turns.turn():
        now_s += 10
    async with turns.turn(2):
        now_s += 0.5
    assert turns.taken_s == 3.0
