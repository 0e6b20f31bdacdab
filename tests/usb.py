"""Serial adapters on ptys, in a tree of their own that looks like /sys and /dev do to ``Machine``."""

from __future__ import annotations

import contextlib
import os
import shutil
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trisense.drivers.ports import Machine


@dataclass
class Adapter:
    """One adapter; the test is the sensor at the master."""

    master: int
    slave: int
    name: str
    by_id: Path
    by_path: Path
    folder: Path

    @property
    def slave_path(self) -> str:
        return os.ttyname(self.slave)


@dataclass
class Usb:
    """Sockets that adapters are plugged into and pulled from, as udev shows it."""

    root: Path
    plugged: list[Adapter] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        return Machine(self.root / "sys", self.root / "dev")

    def plug(self, name: str, socket: str, *, serial: str | None = None) -> Adapter:
        """An FT232R becomes ``/dev/NAME``; where its name in by-id is taken it gets it, as with udev."""
        master, slave = os.openpty()
        tty.setraw(slave)
        device = self.root / "sys/devices/usb1" / socket
        interface = device / f"{socket}:1.0"
        port = interface / name
        node = port / "tty" / name
        node.mkdir(parents=True)
        words = {
            "idVendor": "0403",
            "idProduct": "6001",
            "manufacturer": "FTDI",
            "product": "FT232R USB UART",
        }
        for file, word in (words | ({"serial": serial} if serial else {})).items():
            (device / file).write_text(word + "\n")
        (interface / "bInterfaceNumber").write_text("00\n")
        (port / "port_number").write_text("0\n")
        driver = self.root / "sys/bus/usb-serial/drivers/ftdi_sio"
        driver.mkdir(parents=True, exist_ok=True)
        self._link(port / "driver", driver)
        self._link(node / "device", port)
        self._link(self.root / "sys/class/tty" / name, node)
        self._link(self.root / "dev" / name, Path(os.ttyname(slave)))
        mark = f"_{serial}" if serial else ""
        by_id = self.root / f"dev/serial/by-id/usb-FTDI_FT232R_USB_UART{mark}-if00-port0"
        by_path = self.root / f"dev/serial/by-path/pci-0000:00:14.0-usb-0:{socket}:1.0-port0"
        for link in (by_id, by_path):
            self._link(link, self.root / "dev" / name)
        adapter = Adapter(master, slave, name, by_id, by_path, device)
        self.plugged.append(adapter)
        return adapter

    def pull(self, adapter: Adapter) -> None:
        """Its line hangs up, its names go; udev gives the one in by-id to an equal adapter."""
        self.plugged.remove(adapter)
        os.close(adapter.slave)
        os.close(adapter.master)
        for link in (adapter.by_id, adapter.by_path, self.root / "sys/class/tty" / adapter.name):
            link.unlink(missing_ok=True)
        (self.root / "dev" / adapter.name).unlink()
        shutil.rmtree(adapter.folder)
        for other in self.plugged:
            if other.by_id == adapter.by_id:
                self._link(other.by_id, self.root / "dev" / other.name)

    @staticmethod
    def _link(link: Path, to: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(link.name + ".new")
        fresh.symlink_to(to)
        fresh.rename(link)  # at once, as udev does


@contextlib.contextmanager
def usb_at(root: Path) -> Iterator[Usb]:
    made = Usb(root)
    yield made
    for adapter in list(made.plugged):
        made.pull(adapter)
