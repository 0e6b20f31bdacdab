"""Serial ports that come, go and change places, looked at once a second by the names of the configuration.

The names live in ``/dev``, which is memory: a look costs some microseconds a port, and unlike a watch on the
folders of udev it works for a name in any folder, also one that is not there yet.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import structlog
from trisense.drivers import Lines
from trisense.drivers.ports import serial_paths
from trisense.edge.config import Device
from trisense.edge.sensing.devices import DeviceSet

__all__ = ["HotPlug"]

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
Appearance = tuple[int, int, int, int]


class HotPlug:
    """Tries a device at once when its port appears; ends a line whose name went to another adapter."""

    def __init__(self, devices: DeviceSet, lines: Lines) -> None:
        self._devices = devices
        self._lines = lines
        self._named: dict[str, tuple[Device, tuple[Path, ...]]] = {}
        self._seen: dict[Path, Appearance | None] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Compare what each name means with what it meant at the last look."""
        for url in self._lines.drop_moved():
            log.warning("port_moved", line=url)
        seen: dict[Path, Appearance | None] = {}
        for name, device in self._devices.devices.items():
            for path in self._paths(device):
                seen[path] = _port(path)
                if seen[path] not in (None, self._seen.get(path, seen[path])):
                    log.info("port_appeared", device=name, port=str(path))
                    self._devices.supervisors[name].wake()
        self._seen = seen
        self._named = {name: self._named[name] for name in self._devices.devices}

    def _paths(self, device: Device) -> tuple[Path, ...]:
        known = self._named.get(device.name)
        if known is None or known[0] is not device:
            known = device, tuple(path for _, path in serial_paths(device.driver.config))
            self._named[device.name] = known
        return known[1]


def _port(path: Path) -> Appearance | None:
    """What tells one appearance of a port from the next: the node, and the link that udev made for it.

    The number alone may be the same again.
    """
    try:
        node, link = os.stat(path), os.lstat(path)  # noqa: PTH116  # the same each second
    except OSError:
        return None
    return node.st_rdev, node.st_ino, link.st_ino, link.st_ctime_ns
