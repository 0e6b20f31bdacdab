"""What the edge's tests share: a clock they set, streams, spools, and a broker of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from trisense.core.model import BatchClass, ClockState, Field, FieldType, Layer, Sample, Stream
from trisense.edge.config import BoxConfig, load
from trisense.edge.sending import downlink as downlink_module
from trisense.edge.sending import link as link_module
from trisense.edge.sending import outbox as outbox_module
from trisense.edge.sending import uplink as uplink_module
from trisense.edge.spool import Cut, Spool, SpoolOptions
from trisense.edge.spool.thread import SpoolThread

from tests.servers import free_port, stop

from .peers import BOX, Bench, Gateway

T0_NS = 1_780_000_000_000_000_000


@dataclass
class FakeClock:
    """A clock that stands still until told."""

    wall_ns: int = T0_NS
    since_boot_ns: int = 5_000_000_000
    boot_id: str = "boot-1"
    clock_state: ClockState = field(default_factory=lambda: ClockState(True, 3))

    def now_ns(self) -> int:
        return self.wall_ns

    def boot_ns(self) -> int:
        return self.since_boot_ns

    def state(self) -> ClockState:
        return self.clock_state

    def advance(self, seconds: float) -> None:
        self.wall_ns += int(seconds * 1e9)
        self.since_boot_ns += int(seconds * 1e9)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command run inside a test sets up logs for a stderr that is gone after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stream() -> Stream:
    return Stream(
        device="mast",
        measurement="weather",
        layer=Layer.GROUND,
        fields=(
            Field("air_temperature", "Cel", FieldType.FLOAT, 0.1),
            Field("vehicle_count", "{vehicle}", FieldType.INT),
            Field("state", "", FieldType.STR, valid=None),
        ),
    )


@pytest.fixture
def cut(stream: Stream) -> Callable[..., Cut]:
    """Makes a cut whose samples tell its number."""

    def make(
        number: int, *, rows: int = 3, batch_class: BatchClass = BatchClass.DATA, blob: bytes | None = None
    ) -> Cut:
        samples = tuple(
            Sample(
                stream,
                T0_NS + number * 1_000_000_000 + row * 1_000_000,
                (number + row / 10, number, None if row else f"batch {number}"),
                quality=((2, 9),) if row else (),
            )
            for row in range(rows)
        )
        return Cut(batch_class, samples, blob)

    return make


@pytest.fixture
def spool_path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def make_spool(spool_path: Path, clock: FakeClock) -> Callable[..., Spool]:
    """Makes a spool that is not yet open."""

    def make(**options: Any) -> Spool:
        return Spool(spool_path, clock, SpoolOptions(**({"ballast_bytes": 1 << 18} | options)))

    return make


@pytest.fixture
def spool(make_spool: Callable[..., Spool]) -> Iterator[Spool]:
    with make_spool() as opened:
        yield opened


class Broker:
    """A Mosquitto of our own on a free loopback port."""

    def __init__(self, program: str, folder: Path, *, rights: str = "", max_packet: str = "327680") -> None:
        """``rights``: the content of its access rules for everybody; none for no rules."""
        self._program = program
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence false\nmax_packet_size {max_packet}\n"
        )
        if rights:
            rules = folder / "rights.acl"
            rules.write_text(rights + "\n")
            rules.chmod(0o644)
            with self._config.open("a") as config:
                config.write(f"acl_file {rules}\nuser root\n")  # as its own user it cannot read our folder
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(self._config)], stderr=log)
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except ConnectionRefusedError:
                continue

    def kill(self) -> None:
        """SIGKILL, proven to have ended it."""
        assert self._process is not None
        self._process.kill()
        assert self._process.wait() == -9
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)
            self._process = None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def mosquitto() -> str:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    return program


@pytest.fixture
def make_broker(mosquitto: str, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts a broker whose files lie in a folder of that name, with the options of ``Broker``."""
    made: list[Broker] = []

    def make(name: str, **options: str) -> Broker:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Broker(mosquitto, folder, **options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def broker(make_broker: Callable[[str], Broker]) -> Broker:
    return make_broker("broker")


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[Gateway]:
    made = Gateway(broker.port)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def config(tmp_path: Path, broker: Broker) -> BoxConfig:
    file = tmp_path / "box.toml"
    file.write_text(
        f'[box]\nid = "{BOX}"\nsite = "kx"\nlatitude = 48.1\nlongitude = 11.5\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/null?baud=9600"\n'
    )
    return load(file)


@pytest.fixture
async def bench(
    make_spool: Callable[..., Spool], config: BoxConfig, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr(outbox_module, "RESEND_MIN_S", 0.3)
    monkeypatch.setattr(uplink_module, "RECONNECT_S", 0.1)
    monkeypatch.setattr(link_module, "CONNECT_S", 0.5)
    monkeypatch.setattr(downlink_module, "RUSH_S", 0.1)
    async with SpoolThread(make_spool()) as door:
        made = Bench(door, config, clock)
        yield made
        await made.stop()
