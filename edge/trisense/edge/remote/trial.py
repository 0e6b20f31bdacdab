"""Is the box healthy with a new configuration? What speaks against it, until nothing does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from trisense.edge.config import Device
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.supervisor import Supervisor

__all__ = ["Before", "Trial", "worked"]


def worked(supervisor: Supervisor, device: Device) -> bool:
    """Whether a device works now: connected, no failure since, and, when polled, read at least once."""
    health = supervisor.health
    return health.connected and health.error is None and (health.reads > 0 or device.driver.kind != "polled")


@dataclass(frozen=True, slots=True)
class Before:
    """The devices as they were before the change."""

    devices: Mapping[str, Device]
    reads: Mapping[Supervisor, int]
    worked: frozenset[str]

    @classmethod
    def of(cls, now: DeviceSet) -> Before:
        return cls(
            devices=dict(now.devices),
            reads={supervisor: supervisor.health.reads for supervisor in now.supervisors.values()},
            worked=frozenset(n for n, s in now.supervisors.items() if worked(s, now.devices[n])),
        )


class Trial:
    """Compares the devices at work with those before the change.

    - A device that stayed and worked works, and has been read since, when it is polled often enough.
    - A device that is new, or changed and worked before, has given a row. One that may have nothing to tell
      has come back from a read, or, when it streams, stayed connected for its own time-out without a failure.
    - A device that changed and did not work before is not asked: it is no worse than it was.
    """

    def __init__(self, before: Before, now: DeviceSet, health_s: float) -> None:
        self._before = before
        self._now = now
        self._health_s = health_s
        self._connected_since_s: dict[str, float] = {}

    def complaints(self) -> list[str]:
        """What speaks against the change; look often, for how long a device is connected counts."""
        found = []
        for name, device in self._now.devices.items():
            stayed = self._before.devices.get(name) is device
            if name in self._before.devices and name not in self._before.worked:
                continue
            why = self._stayed(name, device) if stayed else self._changed(name, device)
            if why is not None:
                found.append(f"{name}: {why}")
        return found

    def to_ask(self) -> list[Supervisor]:
        """The polled devices that have to give a row."""
        return [
            self._now.supervisors[name]
            for name, device in self._now.devices.items()
            if device.driver.kind == "polled"
            and self._before.devices.get(name) is not device
            and (name not in self._before.devices or name in self._before.worked)
        ]

    def _stayed(self, name: str, device: Device) -> str | None:
        supervisor = self._now.supervisors[name]
        if not worked(supervisor, device):
            return _why(supervisor, device, "it worked before and does not now")
        often = device.driver.kind == "polled" and device.driver.config.interval_s <= self._health_s / 2
        if often and supervisor.health.reads <= self._before.reads.get(supervisor, 0):
            return "it has not been read since"
        return None

    def _changed(self, name: str, device: Device) -> str | None:
        supervisor = self._now.supervisors[name]
        health = supervisor.health
        if not health.connected or health.error is not None:
            self._connected_since_s.pop(name, None)
            return _why(supervisor, device, "it does not connect")
        if health.reads > 0:
            return None
        since_s = self._connected_since_s.setdefault(name, time.monotonic())
        quiet_s = min(float(device.driver.config.timeout_s), self._health_s / 2)
        if device.driver.kind != "polled" and time.monotonic() - since_s >= quiet_s:
            return None
        return "it has given no row"


def _why(supervisor: Supervisor, device: Device, otherwise: str) -> str:
    error = supervisor.health.error
    return otherwise if error is None else error.removeprefix(f"{device.name}: ")
