"""The box as a service: READY when it is up, a watchdog that real progress feeds, an orderly goodbye."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trisense.edge.config import load
from trisense.edge.runtime import Box as Runtime
from trisense.edge.sensing.progress import Progress
from trisense.edge.service.notify import Notifier
from trisense.edge.service.watchdog import Watchdog

WATCHDOG_S = 0.6
SHIM = Path(__file__).parents[1] / "stuck_disk.c"

DRIVER = '''
import asyncio, time
from pathlib import Path
from trisense.drivers import DeviceConfig, Field, Layer, Observed, PolledDriver, Stream

class Config(DeviceConfig):
    script: Path

class Scripted(PolledDriver[Config]):
    """Does what a file says: answers, waits for ever, or blocks everybody."""
    name, family, summary, config_model = "scripted", "environment", "for tests", Config

    def streams(self):
        return (Stream(self.config.name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),)),)

    async def connect(self, lines):
        pass

    async def read(self):
        script = self.config.script.read_text()
        if script == "block":
            time.sleep(60)
        if script == "wait":
            self.config.script.with_name("waits").touch()
            await asyncio.Event().wait()
        return [Observed("weather", {"air_temperature": 20.0})]
'''


class Manager:
    """The service manager's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.heard: list[str] = []

    def hear(self, limit_s: float = 20.0) -> str:
        """The next word."""
        self.sock.settimeout(limit_s)
        self.heard.append(self.sock.recv(4096).decode())
        return self.heard[-1]

    def until(self, start: str) -> str:
        while not self.hear().startswith(start):
            pass
        return self.heard[-1]

    def until_silent(self, silent_s: float) -> None:
        """Wait until no feed has come for so long; whatever else was said does not count."""
        for _ in range(100):
            try:
                while self.hear(silent_s) != "WATCHDOG=1":
                    pass
            except TimeoutError:
                return
        pytest.fail("the watchdog is fed on and on")


@pytest.fixture(params=["path", "abstract"])
def any_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@trisense-{os.getpid()}")
    yield made
    made.sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.sock.close()


class Box:
    """``trisense edge run`` under a manager, with one device that a script drives."""

    def __init__(self, folder: Path, manager: Manager, environment: Mapping[str, str]) -> None:
        self.script = folder / "script"
        self.script.write_text("answer")
        (folder / "scripted.py").write_text(DRIVER)
        info = folder / "scripted-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[trisense.drivers]\nscripted = scripted:Scripted\n")
        config = folder / "box.toml"
        config.write_text(
            '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n[clock]\nhold_s = 0\n'
            f'[[device]]\nname = "mast"\ndriver = "scripted"\nscript = "{self.script}"\ninterval_s = 0.05\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trisense.core", "edge", "run", str(config)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
                "NOTIFY_SOCKET": manager.address,
                "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: int) -> str:
        """Its log."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.communicate(timeout=20)[1]


Start = Callable[..., Box]


@pytest.fixture
def start(tmp_path: Path, manager: Manager) -> Iterator[Start]:
    boxes = []

    def begin(**environment: str) -> Box:
        boxes.append(Box(tmp_path, manager, environment))
        return boxes[-1]

    yield begin
    for box in boxes:
        box.end(signal.SIGKILL)


def events(log: str, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


# --- a real box ---------------------------------------------------------------------------------------


def test_a_box_says_that_it_is_up_gets_on_while_a_driver_hangs_in_an_await_and_says_that_it_goes(
    start: Start, manager: Manager, tmp_path: Path
) -> None:
    box = start()
    assert manager.hear() == "READY=1"
    assert manager.until("STATUS=").startswith("STATUS=1 devices, none failing; ")
    box.script.write_text("wait")
    while not (tmp_path / "waits").exists():
        manager.until("WATCHDOG=1")
    for _ in range(8):  # more than two intervals
        manager.until("WATCHDOG=1")
    log = box.end(signal.SIGTERM)
    assert box.process.returncode == 0, log
    assert manager.until("STOPPING=1")
    assert events(log, "stuck") == events(log, "loop_blocked") == []


def test_a_driver_that_blocks_the_loop_starves_the_watchdog_and_is_named(
    start: Start, manager: Manager
) -> None:
    box = start()
    manager.until("WATCHDOG=1")
    box.script.write_text("block")
    manager.until_silent(2 * WATCHDOG_S)
    log = box.end(signal.SIGABRT)  # what systemd does then
    (event,) = events(log, "loop_blocked")
    assert event["task"] == "device-mast"
    assert "scripted.py" in str(event["stack"])
    assert "Fatal Python error: Aborted" in log
    assert "scripted.py" in log.split("Fatal Python error")[1]


def test_a_commit_that_hangs_in_the_disk_starves_the_watchdog_until_it_comes_back(
    start: Start, manager: Manager, tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    shim, flag = tmp_path / "stuck_disk.so", tmp_path / "stuck"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(shim), str(SHIM)], check=True)
    box = start(LD_PRELOAD=str(shim), STUCK_DISK=str(flag))
    manager.until("WATCHDOG=1")
    flag.touch()
    manager.until_silent(2 * WATCHDOG_S)
    flag.unlink()
    manager.until("WATCHDOG=1")
    log = box.end(signal.SIGTERM)
    assert box.process.returncode == 0, log
    (event,) = events(log, "stuck")
    assert (event["task"], event["step"]) == ("batcher", "commit")
    assert "queue.py" in str(event["stack"])
    assert events(log, "unstuck")


async def test_a_change_of_configuration_is_told_as_a_reload(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:9"\n'
    )
    stop = asyncio.Event()
    box = Runtime(load(file), notifier=Notifier({"NOTIFY_SOCKET": manager.address}))
    running = asyncio.create_task(box.run(stop))
    await asyncio.to_thread(manager.until, "READY=1")
    await box.apply(load(file))
    await asyncio.to_thread(manager.until, "RELOADING=1")
    await asyncio.to_thread(manager.until, "READY=1")
    stop.set()
    await running
    await asyncio.to_thread(manager.until, "STOPPING=1")


# --- the parts ----------------------------------------------------------------------------------------


def test_words_reach_the_manager_whatever_kind_of_name_its_socket_has(any_manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": any_manager.address, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.status("well")
    notifier.status("well")
    notifier.feed()
    notifier.reloading()
    notifier.stopping()
    words = [any_manager.hear() for _ in range(5)]
    assert words == ["READY=1", "STATUS=well", "WATCHDOG=1", "RELOADING=1", "STOPPING=1"]


def test_without_a_manager_nothing_is_told_and_nothing_fails(tmp_path: Path) -> None:
    Notifier({}).ready()
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with capture_logs() as logs:
        gone.ready()
        gone.stopping()
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["notify_failed"]


@pytest.mark.parametrize(
    ("environment", "expected_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_is_heeded_that_is_meant_for_this_process(
    environment: Mapping[str, str], expected_s: float | None
) -> None:
    assert Notifier(environment).watchdog_s == expected_s


async def test_a_driver_that_will_not_be_cut_starves_the_watchdog_and_is_named(manager: Manager) -> None:
    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    task = asyncio.create_task(stubborn(), name="device-mast")
    progress = Progress()
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000"})
    watching = asyncio.create_task(Watchdog(notifier, lambda: {"device-mast": progress}).run())
    with capture_logs() as logs:
        assert await asyncio.to_thread(manager.hear) == "WATCHDOG=1"
        progress.at("read", limit_s=0.0)
        await asyncio.to_thread(manager.until_silent, 0.2)
        progress.at("wait")
        assert await asyncio.to_thread(manager.hear) == "WATCHDOG=1"
    watching.cancel()
    released.set()
    await asyncio.wait([watching, task])
    stuck, unstuck = (entry for entry in logs if entry["event"] in ("stuck", "unstuck"))
    assert (stuck["task"], stuck["step"], unstuck["task"]) == ("device-mast", "read", "device-mast")
    assert any("stubborn" in line for line in stuck["stack"])


async def test_a_task_of_the_box_that_ended_starves_the_watchdog(manager: Manager) -> None:
    async def end() -> None:
        pass

    task = asyncio.create_task(end(), name="uplink")
    await task
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000"})
    watching = asyncio.create_task(Watchdog(notifier, dict, [task]).run())
    with capture_logs() as logs:
        await asyncio.to_thread(manager.until_silent, 0.2)
    watching.cancel()
    await asyncio.wait([watching])
    assert manager.heard == []
    assert [entry["task"] for entry in logs] == ["uplink"]
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
