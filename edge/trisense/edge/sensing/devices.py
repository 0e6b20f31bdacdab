"""The devices of a box at work: each in a task of its own, exchanged one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from trisense.edge.config import Device
from trisense.edge.sensing.supervisor import Supervisor

__all__ = ["DeviceSet"]

SPREAD: Final = 0.618_033_988_75
"""The golden ratio: any run of its multiples, modulo 1, lies apart, so that devices that are listed
together because they share a bus do not all ask for it at once."""
PHASES: Final = 16
"""Phases are multiples of this part of the interval: a box that wakes up for four devices at once takes a
fifth less CPU than one that wakes up for each (64 Modbus TCP devices at 1 Hz)."""
STOP_S: Final = 1.5
"""Longest wait for devices to end; a driver that does not is left behind."""


class DeviceSet:
    """Runs one supervisor per device; only ``run`` gives them time, so call the rest while it runs."""

    def __init__(self, supervise: Callable[[Device, float], Awaitable[Supervisor]]) -> None:
        """``supervise`` makes a supervisor, given the device and its phase in [0, 1)."""
        self.devices: dict[str, Device] = {}
        self.supervisors: dict[str, Supervisor] = {}
        self._supervise = supervise
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._polled = 0
        self._broken = asyncio.Event()
        self.started = asyncio.Event()
        """Set once all devices have been started; whether they work is another matter."""
        self._changing = asyncio.Lock()

    async def run(self, devices: Iterable[Device]) -> None:
        """Start ``devices`` and work until cancelled.

        Raises:
            Exception: a supervisor itself failed, which is a bug: it lets through no driver's error.
        """
        try:
            await self.apply(devices)
            self.started.set()
            await self._broken.wait()
            for task in self._tasks.values():
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await _end(self._tasks.values())

    async def apply(self, devices: Iterable[Device]) -> None:
        """Make ``devices`` the ones at work; those that stay as they are notice nothing."""
        wanted = {device.name: device for device in devices}
        async with self._changing:
            gone = [n for n, now in self.devices.items() if n not in wanted or not now.alike(wanted[n])]
            await self._stop(gone)
            for name, device in wanted.items():
                if name not in self.devices:
                    await self._start(device)
            self.devices = {name: self.devices[name] for name in wanted}  # in their listed order

    async def restart(self, name: str) -> None:
        """Close a device and connect it anew.

        Raises:
            KeyError: no such device.
        """
        async with self._changing:
            device = self.devices[name]
            await _end([self._tasks[name]])
            await self._start(device)

    async def _start(self, device: Device) -> None:
        phase = 0.0
        if device.driver.kind == "polled":
            phase = int(self._polled * SPREAD % 1 * PHASES) / PHASES
            self._polled += 1
        supervisor = await self._supervise(device, phase)
        task = asyncio.create_task(supervisor.run(), name=f"device-{device.name}")
        task.add_done_callback(self._ended)
        self.devices[device.name] = device
        self.supervisors[device.name] = supervisor
        self._tasks[device.name] = task

    async def _stop(self, names: Iterable[str]) -> None:
        tasks = []
        for name in names:
            del self.devices[name], self.supervisors[name]
            tasks.append(self._tasks.pop(name))
        await _end(tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._broken.set()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending, timeout=STOP_S)
