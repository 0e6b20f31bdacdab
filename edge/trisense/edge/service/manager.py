"""The box as a service: says that it is up and how it is, and feeds the watchdog while it gets on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from trisense.core.errors import SpoolError
from trisense.edge.sending.uplink import Uplink
from trisense.edge.sensing.batcher import Batcher
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.progress import Progress
from trisense.edge.service.notify import Notifier
from trisense.edge.service.watchdog import Watchdog
from trisense.edge.spool import Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import together

__all__ = ["Service"]

STATUS_S: Final = 15.0
"""How often the line of ``systemctl status`` is made anew."""
NAMES: Final = 5
"""Most failing devices named in it."""


class Service:
    """What the service manager sees of a box."""

    def __init__(
        self, notifier: Notifier, devices: DeviceSet, batcher: Batcher, uplink: Uplink, door: SpoolThread
    ) -> None:
        self._notifier = notifier
        self._devices = devices
        self._batcher = batcher
        self._uplink = uplink
        self._door = door

    async def run(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Serve from when the devices have been started until cancelled; ``tasks`` never end meanwhile."""
        await self._devices.started.wait()
        self._notifier.ready()
        watchdog = Watchdog(self._notifier, self._progress, tasks)
        await together({"watchdog": watchdog.run(), "status": self._tell()})

    def _progress(self) -> Mapping[str, Progress]:
        devices = {f"device-{name}": s.progress for name, s in self._devices.supervisors.items()}
        return devices | {"batcher": self._batcher.progress}

    async def _tell(self) -> None:
        while True:
            try:
                waiting = f"{await self._door.run(Spool.waiting)} batches wait"
            except SpoolError as error:
                waiting = f"spool: {error}"
            link = "link up" if self._uplink.connected else "link down"
            self._notifier.status(f"{self._devices_line()}; {waiting}; {link}")
            await asyncio.sleep(STATUS_S)

    def _devices_line(self) -> str:
        supervisors = self._devices.supervisors
        failing = [name for name, s in supervisors.items() if s.health.error is not None]
        if not failing:
            return f"{len(supervisors)} devices, none failing"
        more = ", ..." if len(failing) > NAMES else ""
        return f"{len(supervisors)} devices, {len(failing)} failing ({', '.join(failing[:NAMES])}{more})"
