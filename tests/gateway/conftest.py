"""Real servers on free loopback ports, and boxes made of core's own words."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from trisense.core.model import (
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Sample,
    Stream,
    Value,
    batch_hash,
)
from trisense.core.topics import Lane
from trisense.core.wire import Header, pack
from trisense.gateway.config import DuckDbConfig
from trisense.gateway.intake import Delivery, Intake
from trisense.gateway.quarantine import Quarantine
from trisense.gateway.stores.base import Store
from trisense.gateway.stores.duck import DuckStore

from tests.servers import free_port, stop

T0_NS = 1_795_392_000_000_000_000
"""2026-11-23 00:00 UTC."""
WEATHER = Stream(
    "mast",
    "weather",
    Layer.GROUND,
    (
        Field("air_temperature", "Cel"),
        Field("relative_humidity", "%"),
        Field("vehicle_count", "{vehicle}", FieldType.INT),
        Field("note", "", FieldType.STR),
    ),
)


@dataclass
class Box:
    """A box that cuts batches as the edge would, without a spool behind it."""

    name: str = "kx-001"
    epoch: int = 0x1234567890ABCDEF
    seq: int = 0
    committed: int = 0
    batches: list[Batch] = field(default_factory=list)
    t0_ns: int = T0_NS

    def cut(
        self,
        samples: Sequence[Sample],
        *,
        batch_class: BatchClass = BatchClass.DATA,
        blob: bytes | None = None,
        seq: int | None = None,
        clock: ClockState | None = None,
    ) -> Batch:
        """A new batch; with ``seq`` one that pretends to be another."""
        number = self.seq if seq is None else seq
        batch = Batch(
            self.epoch,
            number,
            batch_class,
            clock or ClockState(),
            tuple(samples),
            batch_hash(samples),
            blob,
        )
        if seq is None:
            self.seq += 1
            self.committed += len(samples)
            self.batches.append(batch)
        return batch

    def weather(
        self, rows: int = 3, *, stream: Stream = WEATHER, values: Sequence[Value] | None = None
    ) -> Batch:
        """A batch of ``rows`` samples, a second apart, no time used twice."""
        start = T0_NS + self.committed * 1_000_000_000
        cells = tuple(values) if values is not None else (21.5, 60.0, 7, "fine")
        return self.cut([Sample(stream, start + i * 1_000_000_000, cells) for i in range(rows)])

    @property
    def counters(self) -> Counters:
        return Counters(self.epoch, self.seq, 0, self.committed)

    def bundle(self, *batches: Batch, counters: Counters | None = None) -> bytes:
        return pack(Header(self.name, "kx", counters or self.counters), batches)

    def send(self, *batches: Batch, lane: Lane = Lane.LIVE, topic_box: str | None = None) -> Delivery:
        return Delivery(topic_box or self.name, lane, self.bundle(*batches))


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def make_box() -> type[Box]:
    return Box


@pytest.fixture
def weather() -> Stream:
    return WEATHER


@pytest.fixture
def t0_ns() -> int:
    return T0_NS


@pytest.fixture
def duck(tmp_path: Path) -> Iterator[DuckStore]:
    store = DuckStore(DuckDbConfig(kind="duckdb", path=tmp_path / "t.duckdb", free_floor_bytes=0))
    store.open()
    yield store
    store.close()


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    folder = Quarantine(tmp_path / "quarantine", max_bytes=10_000_000)
    folder.open()
    return folder


@pytest.fixture
def intake(duck: DuckStore, quarantine: Quarantine) -> Intake:
    return Intake(duck, quarantine)


@pytest.fixture
def make_intake(quarantine: Quarantine) -> Callable[[Store], Intake]:
    return lambda store: Intake(store, quarantine)


def _needs(program: str) -> str:
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin:/bin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _until(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Wait for a server of ours to answer; poll, for none of them says so by itself."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        if ready():
            return
        time.sleep(0.02)
    pytest.fail(f"{what} did not answer")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code < 500
    except httpx.HTTPError:
        return False


class Broker:
    """A mosquitto of our own, that may be ended and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "message_size_limit 327680\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [_needs("mosquitto"), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: _listens(self.port), self.process, "mosquitto")

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            stop(self.process)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    ours = Broker(tmp_path)
    yield ours
    ours.stop()


@pytest.fixture
def amqtt_port() -> Iterator[int]:
    """The demo's own broker, which speaks MQTT 3.1.1 only; its port."""
    pytest.importorskip("amqtt")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "trisense.sims.broker", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _until(lambda: _listens(port), process, "amqtt")
    yield port
    stop(process)


@pytest.fixture(scope="session")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """InfluxDB 1.6 of our own; its URL."""
    folder = tmp_path_factory.mktemp("influxd")
    program, port, rpc = _needs("influxd"), free_port(), free_port()
    (folder / "influx.conf").write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:{rpc}"\n'
        f'[meta]\ndir = "{folder}/meta"\n'
        f'[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\n'
        'index-version = "tsi1"\nquery-log-enabled = false\n'
        f'[http]\nbind-address = "127.0.0.1:{port}"\nlog-enabled = false\nmax-body-size = 25000000\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "run", "-config", str(folder / "influx.conf")], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    _until(lambda: _answers(f"{url}/ping"), process, "influxd")
    yield url
    stop(process)


@pytest.fixture
def database(influxd: str, request: pytest.FixtureRequest) -> str:
    """A fresh database in it."""
    name = f"t{abs(hash(request.node.nodeid)):x}"
    httpx.post(f"{influxd}/query", data={"q": f'CREATE DATABASE "{name}"'}).raise_for_status()
    return name


@pytest.fixture(scope="session")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """VictoriaMetrics of our own; its URL."""
    folder = tmp_path_factory.mktemp("victoria")
    program, port = _needs("victoria-metrics"), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"-storageDataPath={folder}/data",
                f"-httpListenAddr=127.0.0.1:{port}",
                "-retentionPeriod=100y",
                "-search.latencyOffset=0s",
                "-search.disableCache",
                "-loggerLevel=WARN",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    _until(lambda: _answers(f"{url}/health"), process, "victoria-metrics")
    yield url
    stop(process)
