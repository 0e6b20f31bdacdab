"""Ten units on one RS-485 line: a dead or slow one costs its neighbours next to nothing.

Simulated stations and the runtime's own schedule, on a line in memory and in virtual time: two minutes of a
street take a moment, and a busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from trisense.drivers import Line, Lines
from trisense.drivers.modbus import Modbus, finetimer
from trisense.drivers.modbus.driver import Config
from trisense.edge.sensing import supervisor as supervisor_module
from trisense.edge.sensing.supervisor import Supervisor
from trisense.sims.base import End, Faults, Simulator, Truth, World
from trisense.sims.modbus import Answer, ModbusLine

URL = "serial:///dev/street?baud=9600"
BYTE_S = 10 / 9600
SECONDS = 120
UNITS = range(1, 11)
BAD = 10


class VirtualSelector(selectors.DefaultSelector):
    """Waits no time but lets the clock jump over it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now_s


class Wire(End):
    """Both ends of a line in memory: stations on the one, the box on the other."""

    def __init__(self, sim: Simulator, url: str) -> None:
        super().__init__(sim)
        self.url = url
        self._to_stations: asyncio.Queue[bytes] = asyncio.Queue()
        self._to_box: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._to_stations.get()

    async def _put(self, data: bytes) -> None:
        await asyncio.sleep(len(data) * BYTE_S)
        self._to_box.put_nowait(data)


class BoxEnd:
    def __init__(self, wire: Wire) -> None:
        self.url = wire.url
        self._wire = wire

    async def read(self) -> bytes:
        return await self._wire._to_box.get()

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(len(data) * BYTE_S)
        self._wire._to_stations.put_nowait(data)

    async def flush_input(self) -> None:
        while not self._wire._to_box.empty():
            self._wire._to_box.get_nowait()

    async def close(self) -> None:
        """The wire stays."""


class MemoryLines(Lines):
    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    async def open(self, url: str, *, timeout_s: float = 5.0) -> Line:  # noqa: ARG002  # one line for all
        return BoxEnd(self._wire)


class Street(ModbusLine):
    """Stations of which one may take its time."""

    slow_s = 0.0

    def answer(self, unit: int, request: bytes) -> Answer | None:
        self.asked = unit
        return super().answer(unit, request)

    async def _latency(self) -> None:
        await super()._latency()
        if self.asked == BAD:
            await asyncio.sleep(self.slow_s)


def driver(unit: int) -> Modbus:
    table = {"name": f"u{unit}", "driver": "modbus:ecowitt-ws90", "line": URL, "framing": "rtu", "unit": unit}
    return Modbus(Config.model_validate(table))


async def two_minutes(alive: Callable[[int], bool], slow_s: float) -> dict[int, int]:
    """Reads of each unit that came back."""
    units = ",".join(f"{unit}=ecowitt-ws90" for unit in UNITS if alive(unit))
    base: dict[str, Any] = {"world": World(seed=1), "truth": Truth(), "faults": Faults.parse("", seed=1)}
    street = Street(units=units, framing="rtu", seed=1, name="street", **base)
    street.slow_s = slow_s
    wire = Wire(street, URL)
    lines = MemoryLines(wire)
    runs = {unit: Supervisor(driver(unit), lines, lambda _: None, phase=unit / len(UNITS)) for unit in UNITS}
    tasks = [asyncio.create_task(street.talk(wire))]
    tasks += [asyncio.create_task(one.run()) for one in runs.values()]
    await asyncio.sleep(SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {unit: one.health.reads for unit, one in runs.items()}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, dict[int, int]]], dict[int, int]]:
    def virtually(main: Coroutine[Any, Any, dict[int, int]]) -> dict[int, int]:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            clock = SimpleNamespace(monotonic=runner.get_loop().time)
            monkeypatch.setattr(supervisor_module, "time", clock)
            monkeypatch.setattr(finetimer, "_HAS_TIMERFD", False)  # the kernel's clock does not jump
            return runner.run(main)

    return virtually


Run = Callable[[Coroutine[Any, Any, dict[int, int]]], dict[int, int]]


def test_with_all_units_alive_no_sample_is_lost(run: Run) -> None:
    reads = run(two_minutes(lambda _: True, 0.0))
    assert min(reads.values()) >= SECONDS - 2


def test_a_dead_unit_costs_the_others_at_most_one_sample_in_twenty(run: Run) -> None:
    reads = run(two_minutes(lambda unit: unit != BAD, 0.0))
    assert reads.pop(BAD) == 0
    assert min(reads.values()) >= 0.95 * SECONDS


def test_a_slow_unit_is_read_and_costs_the_others_at_most_one_sample_in_twenty(run: Run) -> None:
    reads = run(two_minutes(lambda _: True, 0.45))
    assert reads.pop(BAD) >= SECONDS / 6
    assert min(reads.values()) >= 0.95 * SECONDS


def test_a_unit_that_wakes_up_is_read_again(run: Run) -> None:
    async def later() -> dict[int, int]:
        woken = asyncio.get_running_loop().time() + SECONDS / 3
        answer = Street.answer

        def sleepy(self: Street, unit: int, request: bytes) -> Answer | None:
            awake = unit != BAD or asyncio.get_running_loop().time() >= woken
            return answer(self, unit, request) if awake else None

        Street.answer = sleepy  # type: ignore[method-assign]  # put back below
        try:
            return await two_minutes(lambda _: True, 0.0)
        finally:
            Street.answer = answer  # type: ignore[method-assign]  # as it was

    reads = run(later())
    assert reads.pop(BAD) >= SECONDS / 12
    assert min(reads.values()) >= 0.95 * SECONDS
