"""A device is read when somebody asks, beside its schedule, and whoever asked hears what came of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
from trisense.core.errors import DeviceError, DeviceTimeout, LineError
from trisense.drivers import (
    DeviceConfig,
    Field,
    Layer,
    Lines,
    Observed,
    PolledDriver,
    Stream,
    StreamingDriver,
)
from trisense.edge.sensing import supervisor as module
from trisense.edge.sensing.supervisor import Supervisor

ROW = Observed("weather", {"air_temperature": 20.0})


class Station(PolledDriver[DeviceConfig]):
    """Answers by script, once an hour when nobody asks."""

    name = "station"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def __init__(self, script: Sequence[Any]) -> None:
        super().__init__(DeviceConfig(name="mast", driver="station", interval_s=3600))
        self.script = list(script)
        self.connects = 0

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),)),)

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        self.connects += 1

    async def read(self) -> Sequence[Observed]:
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return [step]


class Gate(StreamingDriver[DeviceConfig]):
    name = "gate"
    family = "rfid"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def __init__(self) -> None:
        super().__init__(DeviceConfig(name="gate", driver="gate"))
        self.rows: asyncio.Queue[Observed] = asyncio.Queue()

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def observe(self) -> AsyncIterator[Observed]:
        while True:
            yield await self.rows.get()


@contextlib.asynccontextmanager
async def supervised(driver: Any) -> AsyncIterator[tuple[Supervisor, list[Observed]]]:
    rows: list[Observed] = []
    supervisor = Supervisor(driver, Lines(), rows.extend, phase=0.5)
    async with asyncio.timeout(10):
        task = asyncio.create_task(supervisor.run())
        yield supervisor, rows
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_device_is_read_at_once_when_asked_and_its_rows_were_taken_before_the_answer() -> None:
    async with supervised(Station([ROW, ROW])) as (supervisor, rows):
        await supervisor.ask()
        assert rows == [ROW]
        await supervisor.ask()
        assert rows == [ROW, ROW]


async def test_two_who_ask_at_once_are_answered_by_one_read() -> None:
    async with supervised(Station([ROW])) as (supervisor, rows):
        await asyncio.gather(supervisor.ask(), supervisor.ask())
        assert rows == [ROW]


async def test_a_read_that_fails_is_told_to_whoever_asked() -> None:
    silent = DeviceTimeout("mast", "no answer", timeout_s=1)
    async with supervised(Station([silent, LineError("mast", "gone"), RuntimeError("a bug")])) as (one, _):
        for why in ("no answer", "gone", "a bug"):
            with pytest.raises(DeviceError, match=why):
                await one.ask()


async def test_who_asks_does_not_wait_for_a_device_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 3600.0)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 3600.0)
    station = Station([LineError("mast", "gone"), ROW])
    async with supervised(station) as (supervisor, rows):
        with pytest.raises(DeviceError, match="gone"):
            await supervisor.ask()
        await supervisor.ask()
        assert rows == [ROW]
        assert station.connects == 2


async def test_of_a_streaming_device_the_next_row_is_the_answer() -> None:
    gate = Gate()
    async with supervised(gate) as (supervisor, rows):
        asking = asyncio.create_task(supervisor.ask())
        await asyncio.sleep(0)
        assert not asking.done()
        gate.rows.put_nowait(ROW)
        await asking
        assert rows == [ROW]


async def test_who_asked_a_device_that_is_stopped_hears_so() -> None:
    async with supervised(Gate()) as (supervisor, _):
        asking = asyncio.create_task(supervisor.ask())
        await asyncio.sleep(0)
    with pytest.raises(DeviceError, match="stopped meanwhile"):
        await asking
    with pytest.raises(DeviceError, match="stopped meanwhile"):
        await supervisor.ask()
