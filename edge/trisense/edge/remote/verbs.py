"""What each command does on the box. Nothing is found by name: a verb that is not here does not exist."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar, assert_never

from pydantic import JsonValue
from trisense.core import limits, logs
from trisense.core.errors import RemoteError
from trisense.core.model import Sample
from trisense.core.remote import (
    Command,
    LogLevel,
    Read,
    Reload,
    Replay,
    Restart,
    ShowConfig,
    Snapshot,
    TellStatus,
    content_hash,
)
from trisense.drivers import Picturing
from trisense.edge.commands.checking import row_of
from trisense.edge.config import BoxConfig, Device
from trisense.edge.remote.changes import Changes
from trisense.edge.sending.uplink import Uplink
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.spool import Spool
from trisense.edge.spool.thread import SpoolThread

__all__ = ["Hands", "Verbs"]

T = TypeVar("T")

SAMPLES_MAX: Final = 50
"""Of one read, the last; a reader may see hundreds of tags at once."""
NAMES_MAX: Final = 50


class Hands(Protocol):
    """What commands need of a box."""

    config: BoxConfig
    devices: DeviceSet
    door: SpoolThread
    uplink: Uplink
    listeners: list[Callable[[Sample], None]]

    async def told(self) -> dict[str, JsonValue]:
        """How the box is, in a form that fits into a reply."""
        ...


class Verbs:
    """Does commands that have been let in."""

    def __init__(self, box: Hands, changes: Changes) -> None:
        self._box = box
        self._changes = changes
        self._level_back: asyncio.TimerHandle | None = None
        self._going: set[asyncio.Task[Any]] = set()

    async def do(self, command: Command) -> dict[str, JsonValue]:
        """The result of one command.

        Raises:
            RemoteError: it cannot be done.
            DeviceError: the device failed.
            SpoolError: the disk did.
        """
        result: dict[str, JsonValue] = {}
        match command:
            case Read():
                result = await self._read(command.arguments.device)
            case Snapshot():
                result = await self._snapshot(command.arguments.device)
            case Restart():
                await self._whole(self._box.devices.restart(self._device(command.arguments.device).name))
            case LogLevel():
                result = self._log_level(command.arguments.level, command.arguments.minutes)
            case Replay():
                result = await self._replay(command.arguments.since, command.arguments.until)
            case Reload():
                result = {"changed": await self._whole(self._changes.reload())}
            case ShowConfig():
                text = self._box.config.text
                result = {"content": text, "hash": content_hash(text)}
            case TellStatus():
                result = await self._box.told()
            case _:
                assert_never(command)
        return result

    async def end(self) -> None:
        """End what still goes on."""
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what must not stop half-way: when the wait is given up, it goes on.

        A device that was closed for a restart would never be opened again.
        """
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        return await asyncio.shield(task)

    def _device(self, name: str) -> Device:
        devices = self._box.devices.devices
        if name not in devices:
            known = ", ".join(list(devices)[:NAMES_MAX])
            raise RemoteError("no_such_device", f"expected one of {known}, got {name}")
        return devices[name]

    async def _read(self, name: str) -> dict[str, JsonValue]:
        samples = await self._samples(self._device(name))
        return {"samples": [row_of(sample) for sample in samples]}

    async def _snapshot(self, name: str) -> dict[str, JsonValue]:
        device = self._device(name)
        if not isinstance(device.driver, Picturing):
            raise RemoteError("cannot", f"expected a camera, got {name}, a {device.driver.config.driver}")
        device.driver.picture_next()
        rows = [row_of(sample) for sample in await self._samples(device)]
        pictures = [row for row in rows if row["measurement"] == "image"]
        if not pictures:
            raise RemoteError("cannot", f"{name} gave no picture that may travel: {rows}")
        return {"image": pictures[-1]}

    async def _samples(self, device: Device) -> list[Sample]:
        """The samples of a read that begins now; they are on their way to the gateway as well."""
        found: deque[Sample] = deque(maxlen=SAMPLES_MAX)

        def listen(sample: Sample) -> None:
            if sample.stream.device == device.name:
                found.append(sample)

        self._box.listeners.append(listen)
        try:
            await self._box.devices.supervisors[device.name].ask()
        finally:
            self._box.listeners.remove(listen)
        return list(found)

    def _log_level(self, level: logs.Level, minutes: float) -> dict[str, JsonValue]:
        if self._level_back is not None:
            self._level_back.cancel()
        logs.set_level(level)
        loop = asyncio.get_running_loop()
        self._level_back = loop.call_later(minutes * 60, lambda: logs.set_level(self._box.config.log.level))
        return {"level": level, "minutes": minutes, "then": self._box.config.log.level}

    async def _replay(self, since: datetime | None, until: datetime | None) -> dict[str, JsonValue]:
        since_ns = limits.TIME_MIN_NS if since is None else _ns(since)
        until_ns = limits.TIME_MAX_NS if until is None else _ns(until)
        horizon_ns = await self._box.door.run(Spool.horizon_ns)  # before: what is replayed counts no more
        batches = await self._box.door.replay(since_ns, until_ns)
        self._box.uplink.committed(())  # what waits now is not news to the spool alone
        horizon = None if horizon_ns is None else datetime.fromtimestamp(horizon_ns / 1e9, UTC).isoformat()
        return {"batches": batches, "horizon": horizon}


def _ns(time: datetime) -> int:
    return min(max(int(time.timestamp() * 1e9), limits.TIME_MIN_NS), limits.TIME_MAX_NS)
