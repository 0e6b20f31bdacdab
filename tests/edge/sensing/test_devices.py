"""Devices of a running box are exchanged one by one; the others notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest
from trisense.drivers import DeviceConfig, Field, FieldType, Layer, Lines, Observed, PolledDriver, Stream
from trisense.edge.config import Device
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.supervisor import Supervisor
from trisense.edge.sensing.treatment import Treatment


class Config(DeviceConfig):
    unit: str = "1"


class Meter(PolledDriver[Config]):
    name = "meter"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.connects = 0
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()

    def streams(self) -> tuple[Stream, ...]:
        field = Field("count", self.config.unit, FieldType.INT)
        return (Stream(self.config.name, "count", Layer.GROUND, (field,)),)

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        self.connects += 1
        self.connected.set()

    async def read(self) -> Sequence[Observed]:
        return [Observed("count", {"count": 1})]

    async def close(self) -> None:
        self.closed.set()


def device(name: str, unit: str = "1") -> Device:
    driver = Meter(Config(name=name, driver="meter", interval_s=0.01, unit=unit))
    return Device(name, driver, Treatment.none(driver.streams()))


def meter(of: Device) -> Meter:
    assert isinstance(of.driver, Meter)
    return of.driver


async def supervise(of: Device, phase: float) -> Supervisor:
    return Supervisor(of.driver, Lines(), lambda _: None, phase=phase)


@pytest.fixture
async def running() -> AsyncIterator[tuple[DeviceSet, list[Device]]]:
    first = [device("a"), device("b")]
    devices = DeviceSet(supervise)
    task = asyncio.create_task(devices.run(first))
    for of in first:
        await meter(of).connected.wait()
    yield devices, first
    task.cancel()
    await asyncio.wait([task])
    assert all(meter(of).closed.is_set() for of in devices.devices.values())


async def test_only_what_changed_is_touched(running: tuple[DeviceSet, list[Device]]) -> None:
    devices, (a, b) = running
    same, other, new = device("a"), device("b", unit="V"), device("c")
    await devices.apply([new, same, other])

    assert list(devices.devices) == ["c", "a", "b"]
    assert devices.devices["a"] is a
    assert not meter(a).closed.is_set()
    assert meter(b).closed.is_set()
    await meter(other).connected.wait()
    await meter(new).connected.wait()


async def test_a_device_that_is_left_out_is_closed(running: tuple[DeviceSet, list[Device]]) -> None:
    devices, (a, b) = running
    await devices.apply([b])

    assert meter(a).closed.is_set()
    assert list(devices.supervisors) == ["b"]
    assert not meter(b).closed.is_set()


async def test_one_device_is_connected_anew_at_its_place(running: tuple[DeviceSet, list[Device]]) -> None:
    devices, (a, b) = running
    meter(a).connected.clear()
    await devices.restart("a")

    await meter(a).connected.wait()
    assert (meter(a).connects, meter(b).connects) == (2, 1)
    assert list(devices.devices) == ["a", "b"]
    with pytest.raises(KeyError):
        await devices.restart("nobody")


async def test_a_broken_supervisor_ends_the_set_with_its_error() -> None:
    class Broken(Supervisor):
        async def run(self) -> None:
            raise ArithmeticError("a bug of ours")

    async def broken(of: Device, phase: float) -> Supervisor:
        return Broken(of.driver, Lines(), lambda _: None, phase=phase)

    with pytest.raises(ArithmeticError):
        await DeviceSet(broken).run([device("a")])
