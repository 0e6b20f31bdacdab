"""Adapters are pulled and plugged in again under other names: every reading stays with its sensor."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trisense.core.model import BatchClass
from trisense.drivers import Lines
from trisense.drivers.framing import FramedConfig
from trisense.edge.sensing.hotplug import HotPlug
from trisense.edge.spool import Spool

from tests.usb import Adapter, Usb, usb_at

HERE_MM, THERE_MM = 500, 4000
SITE = """
from pathlib import Path
from trisense.drivers import ports
from trisense.edge.sensing import supervisor
supervisor.FIRST_WAIT_S = supervisor.LONGEST_WAIT_S = {rest_s}
root = Path({root!r})
ports.THIS = ports.Machine(root / "sys", root / "dev")
"""


class Gauge:
    """A range finder that tells one distance for ever, on whatever adapter it hangs."""

    def __init__(self, distance_mm: int) -> None:
        self._frame = b"R%04d\r" % distance_mm
        self.adapter: Adapter | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def hang_on(self, adapter: Adapter | None) -> None:
        with self._lock:
            self.adapter = adapter

    def _talk(self) -> None:
        while not self._ended.wait(0.05):
            with self._lock:
                if self.adapter is not None:
                    os.set_blocking(self.adapter.master, False)
                    with contextlib.suppress(BlockingIOError):  # nobody reads it now
                        os.write(self.adapter.master, self._frame)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


class Street:
    """Two gauges on adapters, and a real box that reads them."""

    def __init__(self, folder: Path, usb: Usb) -> None:
        self.folder = folder
        self.usb = usb
        self.here, self.there = Gauge(HERE_MM), Gauge(THERE_MM)
        self.box: subprocess.Popen[bytes] | None = None

    def start(self, here: Path, there: Path, *, rest_s: float) -> None:
        """``rest_s``: how long a device is left alone after a failure."""
        config = self.folder / "box.toml"
        config.write_text(
            '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n[clock]\nhold_s = 0\n'
            '[log]\nlevel = "debug"\n'
            + "".join(
                f'[[device]]\nname = "{name}"\ndriver = "maxbotix"\ntimeout_s = 60\nline = "serial://{path}"\n'
                for name, path in (("here", here), ("there", there))
            )
        )
        (self.folder / "sitecustomize.py").write_text(SITE.format(root=str(self.usb.root), rest_s=rest_s))
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        with (self.folder / "log").open("wb") as log:
            self.box = subprocess.Popen(
                [sys.executable, "-m", "trisense.core", "edge", "run", str(config)],
                env={**os.environ, "PYTHONPATH": path},
                stderr=log,
            )

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, ready: Callable[[], bool]) -> None:
        for _ in range(1000):
            if ready():
                return
            threading.Event().wait(0.02)
        pytest.fail(self.log())

    def kept(self) -> set[str]:
        """Devices of which a sample is on disk by now."""
        with contextlib.suppress(sqlite3.OperationalError):
            db = sqlite3.connect(f"file:{self.folder / 'spool.db'}?mode=ro", uri=True)
            try:
                rows = db.execute("SELECT description FROM stream").fetchall()
            finally:
                db.close()
            return {name for name in ("here", "there") if any(name.encode() in row for (row,) in rows)}
        return set()

    def stop(self) -> None:
        if self.box is not None and self.box.poll() is None:
            self.box.send_signal(signal.SIGTERM)
            try:
                self.box.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.box.kill()
                self.box.wait()
                pytest.fail(f"the box did not end:\n{self.log()}")

    def distances(self, open_spool: Callable[[], Spool]) -> dict[str, list[object]]:
        """What the stopped box has kept, by device."""
        found: dict[str, list[object]] = {"here": [], "there": []}
        with open_spool() as spool:
            heads = spool.heads(BatchClass.DATA, limit=10_000)
            for _, batch in spool.load(head.id for head in heads):
                for sample in batch.samples:
                    found[sample.stream.device].append(sample.values[0])
        return found


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    # A gauge that nobody ends keeps the whole run from ending: whatever else fails, both are ended.
    with usb_at(tmp_path / "machine") as usb, contextlib.ExitStack() as stack:
        made = Street(tmp_path, usb)
        stack.callback(made.here.end)
        stack.callback(made.there.end)
        stack.callback(made.stop)
        yield made


def test_adapters_that_come_back_under_each_others_names_keep_their_sensors(
    street: Street, make_spool: Callable[..., Spool]
) -> None:
    usb = street.usb
    first = [usb.plug("ttyUSB0", "1-1", serial="A"), usb.plug("ttyUSB1", "1-2", serial="B")]
    street.here.hang_on(first[0])
    street.there.hang_on(first[1])
    street.start(first[0].by_id, first[1].by_id, rest_s=3600)  # only being woken ends such a rest
    street.until(lambda: street.kept() == {"here", "there"})
    for gauge, adapter in zip((street.here, street.there), first, strict=True):
        gauge.hang_on(None)
        usb.pull(adapter)
    street.until(lambda: street.log().count("device_failed") == 2)

    second = usb.plug("ttyUSB0", "1-2", serial="B"), usb.plug("ttyUSB1", "1-1", serial="A")
    street.there.hang_on(second[0])
    street.here.hang_on(second[1])
    street.until(lambda: street.log().count("device_recovered") == 2)
    assert street.log().count("port_appeared") == 2
    street.stop()
    distances = street.distances(make_spool)
    assert {*distances["here"]} == {HERE_MM / 1000}
    assert {*distances["there"]} == {THERE_MM / 1000}


def test_a_name_that_two_equal_adapters_share_is_read_from_neither(
    street: Street, make_spool: Callable[..., Spool]
) -> None:
    usb = street.usb
    one = usb.plug("ttyUSB0", "1-1")
    street.here.hang_on(one)
    street.start(one.by_id, usb.root / "dev/none", rest_s=0.1)
    street.until(lambda: street.kept() == {"here"})

    other = usb.plug("ttyUSB1", "1-2")
    street.there.hang_on(other)
    street.until(lambda: "port_moved" in street.log())
    street.until(lambda: not opened(street, one))
    street.here.hang_on(None)
    usb.pull(one)  # now the name means the other one alone
    street.until(lambda: "share this name" in street.log())
    street.stop()
    assert {*street.distances(make_spool)["here"]} == {HERE_MM / 1000}


def test_a_port_that_comes_back_with_its_number_between_two_looks_is_seen(street: Street) -> None:
    adapter = street.usb.plug("ttyUSB0", "1-1", serial="A")
    woken: list[str] = []
    config = FramedConfig(name="dust", driver="plantower", line=f"serial://{adapter.by_id}")
    devices: Any = SimpleNamespace(
        devices={"dust": SimpleNamespace(name="dust", driver=SimpleNamespace(config=config))},
        supervisors={"dust": SimpleNamespace(wake=lambda: woken.append("dust"))},
    )
    hotplug = HotPlug(devices, Lines())
    hotplug.look()
    hotplug.look()
    assert woken == []
    adapter.by_id.unlink()
    hotplug.look()
    assert woken == []
    adapter.by_id.symlink_to(street.usb.root / "dev" / adapter.name)
    hotplug.look()
    assert woken == ["dust"]
    adapter.by_id.unlink()
    adapter.by_id.symlink_to(street.usb.root / "dev" / adapter.name)
    hotplug.look()
    assert woken == ["dust", "dust"]

    other = street.usb.plug("ttyUSB1", "1-2", serial="B")
    config = FramedConfig(name="dust", driver="plantower", line=f"serial://{other.by_id}")
    devices.devices = {"dust": SimpleNamespace(name="dust", driver=SimpleNamespace(config=config))}
    hotplug.look()
    other.by_id.unlink()
    hotplug.look()
    other.by_id.symlink_to(street.usb.root / "dev" / other.name)
    hotplug.look()
    assert woken == ["dust", "dust", "dust"], "a device that was changed is looked for where it is now"


def opened(street: Street, adapter: Adapter) -> bool:
    """Whether the box holds the port of an adapter open."""
    assert street.box is not None
    for entry in Path(f"/proc/{street.box.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it closes others while we look
            if os.readlink(entry) == adapter.slave_path:  # noqa: PTH115  # of text, not of a file
                return True
    return False
