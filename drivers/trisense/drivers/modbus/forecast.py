"""What a set of Modbus devices will ask of their lines, before anything is wired. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from trisense.drivers.modbus.driver import Modbus
from trisense.drivers.modbus.framing import Framing
from trisense.drivers.modbus.profile import Request

__all__ = ["FULL", "DeviceLoad", "LineLoad", "forecast"]

FULL: Final = 0.90
"""Most of a line's time that can be planned: the bus reaches this part of the theoretical rate."""


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """One device's part of its line."""

    name: str
    profile: str
    unit: int
    interval_s: float
    requests: tuple[Request, ...]
    read_s: float
    """Bus time of one read, the device's time to answer and the pauses included."""

    @property
    def registers(self) -> int:
        """Registers and bits read, those in holes included."""
        return sum(request.count for request in self.requests)

    @property
    def wanted(self) -> int:
        """Registers and bits that hold a field."""
        return sum(
            len({at for field in request.fields for at in range(field.address, field.end)})
            for request in self.requests
        )

    @property
    def utilisation(self) -> float:
        return self.read_s / self.interval_s


@dataclass(frozen=True, slots=True)
class LineLoad:
    """One line and the devices on it."""

    url: str
    framing: Framing
    devices: tuple[DeviceLoad, ...]
    clashes: tuple[str, ...] = ()
    """Settings on which its devices do not agree."""

    @property
    def assumed(self) -> bool:
        """Whether its speed is a guess: that of the wires behind a converter is not known here."""
        return self.url.startswith("tcp:") and self.framing != "tcp"

    @property
    def utilisation(self) -> float:
        return sum(device.utilisation for device in self.devices)

    @property
    def fits(self) -> bool:
        return self.utilisation <= FULL and not self.clashes

    @property
    def stretch(self) -> float:
        """Factor by which every interval must grow so that the line holds its devices; 1 where it does."""
        return max(1.0, self.utilisation / FULL)


def forecast(drivers: Iterable[Modbus]) -> list[LineLoad]:
    """The load of each line, in order of its URL."""
    lines = []
    ordered = sorted(drivers, key=lambda driver: _port(driver.config.line))
    for _, group in groupby(ordered, key=lambda driver: _port(driver.config.line)):
        devices = list(group)
        first = devices[0].config
        clashes = tuple(
            f"{setting}: {' and '.join(values)}"
            for setting in ("line", "framing", "echo")
            if len(values := list(dict.fromkeys(str(getattr(d.config, setting)) for d in devices))) > 1
        )
        loads = tuple(_load(device) for device in devices)
        lines.append(LineLoad(first.line, first.framing, loads, clashes))
    return lines


def _port(url: str) -> str:
    return url.partition("?")[0]


def _load(driver: Modbus) -> DeviceLoad:
    requests = driver.planned()
    return DeviceLoad(
        name=driver.config.name,
        profile=driver.profile.device.name,
        unit=driver.unit,
        interval_s=driver.config.interval_s,
        requests=requests,
        read_s=sum(driver.cost.ns(request.function, request.count) for request in requests) / 1e9,
    )
