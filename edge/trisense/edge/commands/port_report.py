"""Serial ports against a configuration: who uses which, who else holds it, and which names will not last."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trisense.core.errors import Mistake
from trisense.drivers import ports
from trisense.drivers.ports import Machine, Port, device_number, serial_paths
from trisense.edge.config import BoxConfig

__all__ = ["Holder", "PortUse", "absent_ports", "holders", "named_ports", "survey", "unstable_names"]

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a port open."""

    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class PortUse:
    """One port, with the devices that use it and the processes that hold it."""

    port: Port
    best_name: Path
    """The name to write into a configuration."""
    ambiguous: bool
    """Its name in by-id is shared with other ports."""
    used_by: tuple[str, ...]
    held_by: tuple[Holder, ...]


def named_ports(config: BoxConfig) -> Iterator[tuple[str, str, Path]]:
    """(key path, who uses it, port) of each port that a configuration names."""
    for index, device in enumerate(config.devices):
        for option, path in serial_paths(device.driver.config):
            yield f"device[{index}].{option}", device.name, path
    for option, path in serial_paths(config.clock):
        yield f"clock.{option}", "clock", path


def survey(config: BoxConfig | None, machine: Machine | None = None) -> list[PortUse]:
    """Every port of this machine."""
    machine = machine or ports.THIS
    users = defaultdict(list)
    for _, device, path in named_ports(config) if config is not None else ():
        users[device_number(path)].append(device)
    return [
        PortUse(
            port,
            machine.best_name(port),
            ambiguous=len(machine.twins(port)) > 1,
            used_by=tuple(users[number]) if (number := device_number(port.node)) is not None else (),
            held_by=tuple(holders(port.node)),
        )
        for port in machine.ports()
    ]


def unstable_names(config: BoxConfig, machine: Machine | None = None) -> list[Mistake]:
    """Names of ports that will mean another one some day, and ports that have two names in the file."""
    machine = machine or ports.THIS
    found = []
    first: dict[int, tuple[str, Path]] = {}
    for where, _, path in named_ports(config):
        advice = machine.advice(path)
        if advice is not None:
            what, better = advice
            expected = "a name below /dev/serial/by-id or by-path" if better is None else f"serial://{better}"
            found.append(Mistake(where, expected, f"{path}: {what}"))
        number = device_number(path)
        if number is not None:
            before = first.setdefault(number, (where, path))
            if before[1] != path:
                expected = f"one name for one port, as at {before[0]}: {before[1]}"
                found.append(Mistake(where, expected, str(path)))
    return found


def absent_ports(config: BoxConfig) -> list[Mistake]:
    """Ports that the configuration names and this machine does not have now."""
    return [
        Mistake(where, "a port that is plugged in", f"nothing at {path}")
        for where, _, path in named_ports(config)
        if device_number(path) is None
    ]


def holders(node: Path) -> list[Holder]:
    """The other processes that have a node or a file open, as far as they may be seen."""
    try:
        status = node.stat()
    except OSError:
        return []
    pids = {pid for pid in _processes() if _holds(pid, status)} | _lockers(status)
    return [Holder(pid, _command(pid)) for pid in sorted(pids - {os.getpid()})]


def _processes() -> Sequence[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def _holds(pid: int, status: os.stat_result) -> bool:
    """A device may have several nodes, so its number counts; of a file its inode."""
    try:
        entries = list((PROC / str(pid) / "fd").iterdir())
    except OSError:  # gone, or another user's
        return False
    for entry in entries:
        with contextlib.suppress(OSError):  # closed meanwhile
            found = entry.stat()
            if found.st_rdev == status.st_rdev if status.st_rdev else os.path.samestat(found, status):
                return True
    return False


def _lockers(status: os.stat_result) -> set[int]:
    """Who has locked a file: everybody may see that, unlike who has it open."""
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = (PROC / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    return {int(fields[4]) for line in lines if (fields := line.split())[5:6] == [name] and fields[4] != "-1"}


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"
