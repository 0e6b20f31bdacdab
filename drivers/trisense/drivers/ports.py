"""Serial ports of this machine: what udev and the kernel call them, and which of those names can be trusted.

A ``/dev/ttyUSB0`` is whoever came first. ``/dev/serial/by-id`` names the adapter, by its maker, product,
serial number and interface; adapters without a serial number, or with one that their maker gave to all of
them, share that name, and udev gives it to the one that came last. ``/dev/serial/by-path`` names the
socket, whatever is plugged in there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["THIS", "Adapter", "Machine", "Port", "serial_paths"]

NUMBERED: Final = re.compile(r"tty(USB|ACM)\d+")
"""Nodes whose number says nothing but the order of plugging in."""
NO_UART: Final = "0"
"""``type`` of a ttyS without hardware behind it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a USB adapter tells of one of its ports. Two that are equal have one name in by-id."""

    maker: str
    product: str
    serial: str | None
    interface: str
    """``bInterfaceNumber``, two hex digits."""
    port_number: str
    """Of an interface with several ports; else 0."""


@dataclass(frozen=True, slots=True)
class Port:
    """One serial port."""

    node: Path
    """What the kernel calls it now."""
    driver: str | None
    """Its kernel driver."""
    adapter: Adapter | None = None
    """None: not on USB, its node stays."""
    usb_id: str | None = None
    """``VID:PID``, in hex."""
    by_id: tuple[Path, ...] = ()
    by_path: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the kernel and udev show what there is."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    _shared: dict[Path, str] = field(default_factory=dict, compare=False)
    """Names in by-id that several adapters were seen to share, and what was said of it."""

    def ports(self) -> list[Port]:
        """Every serial port with hardware behind it, in the order of their nodes."""
        links = self._links()
        return [
            self._port(tty.resolve(), links)
            for tty in sorted((self.sys / "class/tty").glob("*"), key=_natural)
            if (tty / "device").exists() and _text(tty / "type") != NO_UART
        ]

    def find(self, path: Path) -> Port | None:
        """The port that a node or link means now."""
        number = device_number(path)
        return next((port for port in self.ports() if number == device_number(port.node) is not None), None)

    def twins(self, port: Port) -> list[Port]:
        """The ports, itself included, that share its name in by-id."""
        if port.adapter is None:
            return [port]
        return [other for other in self.ports() if other.adapter == port.adapter]

    def shared_name(self, path: Path) -> str | None:
        """Why a name in by-id cannot be trusted: several adapters answer to it, or have done so before.

        When one of them is pulled the name means the other one, so what was shared once stays refused.
        """
        port = self.find(path) if path.parent.name == "by-id" else None
        if port is not None and len(twins := self.twins(port)) > 1:
            why = "no serial number" if port.adapter and port.adapter.serial is None else "one serial number"
            names = ", ".join(str(self.best_name(twin)) for twin in twins)
            what = f"{len(twins)} adapters with {why} share this name; name one by its socket: {names}"
            self._shared[path] = what
        return self._shared.get(path)

    def sockets(self) -> Sequence[str]:
        """The sockets that hold an adapter now, by name."""
        try:
            return sorted(os.listdir(self.dev / "serial/by-path"))  # noqa: PTH208  # looked at each second
        except OSError:
            return ()

    def best_name(self, port: Port) -> Path:
        """The name to write into a configuration."""
        if port.adapter is None:
            return port.node
        named = port.adapter.serial is not None and len(self.twins(port)) == 1
        return next(iter(port.by_id if named else ()), next(iter(port.by_path), port.node))

    def advice(self, path: Path) -> tuple[str, Path | None] | None:
        """(what is wrong with naming a port so, a better name where one is known); None: nothing is."""
        port = self.find(path)
        better = None if port is None else self.best_name(port)
        if NUMBERED.fullmatch(path.name) and path.parent == self.dev:
            return "a number that changes with the order of plugging in", better if better != path else None
        if port is None or port.adapter is None or path.parent.name != "by-id":
            return None
        if (shared := self.shared_name(path)) is not None:
            return shared, None
        if port.adapter.serial is None:
            what = "a name without a serial number, which any adapter of its kind answers to"
            return what, better if better != path else None
        return None

    def _port(self, tty: Path, links: Sequence[tuple[int, Path]]) -> Port:
        node = self.dev / tty.name
        number = device_number(node)
        mine = [link for of, link in links if of == number]
        interface = _above(tty, "bInterfaceNumber")
        usb = _above(tty, "idVendor")
        adapter = None
        if usb is not None:
            adapter = Adapter(
                maker=_text(usb / "manufacturer") or _text(usb / "idVendor") or "",
                product=_text(usb / "product") or _text(usb / "idProduct") or "",
                serial=_text(usb / "serial"),
                interface=_text(interface / "bInterfaceNumber") or "" if interface is not None else "",
                port_number=_text(tty / "device/port_number") or "0",
            )
        driver = tty / "device/driver"
        return Port(
            node,
            driver.resolve().name if driver.exists() else None,
            adapter,
            None if usb is None else f"{_text(usb / 'idVendor')}:{_text(usb / 'idProduct')}",
            by_id=tuple(link for link in mine if link.parent.name == "by-id"),
            by_path=tuple(link for link in mine if link.parent.name == "by-path"),
        )

    def _links(self) -> list[tuple[int, Path]]:
        found = []
        for folder in ("by-id", "by-path"):
            for link in sorted((self.dev / "serial" / folder).glob("*")):
                number = device_number(link)
                if number is not None:
                    found.append((number, link))
        return found


THIS: Final = Machine()
"""The machine that runs this."""


def device_number(path: Path) -> int | None:
    """Of the node that a path means now; None: there is none."""
    try:
        return os.stat(path).st_rdev  # noqa: PTH116  # a hot path: looked at each second
    except OSError:
        return None


def serial_paths(config: Any) -> Iterator[tuple[str, Path]]:
    """(option, path) of each serial port that a driver's configuration names."""
    for option in type(config).model_fields:
        value = getattr(config, option)
        if isinstance(value, str) and value.startswith("serial:///"):
            yield option, Path(urlsplit(value).path)


def _above(tty: Path, file: str) -> Path | None:
    """The nearest folder above that holds ``file``."""
    return next((folder for folder in tty.parents if (folder / file).exists()), None)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _natural(path: Path) -> tuple[str, int]:
    """ttyUSB10 after ttyUSB9."""
    digits = re.search(r"\d*$", path.name)
    number = digits.group() if digits else ""
    return path.name.removesuffix(number), int(number or 0)
