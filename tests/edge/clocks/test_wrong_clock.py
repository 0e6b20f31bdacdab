"""A real box whose clocks are wrong: steps, 1970, and a restart, through a broker to a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from trisense.core.model import Batch

from tests.edge.conftest import Broker
from tests.edge.peers import Gateway, until

SHIM = Path(__file__).parents[1] / "wrong_clock.c"
CLOCKS = struct.Struct("=qqq")
MS, SECOND, HOUR, DAY = 1_000_000, 1_000_000_000, 3_600_000_000_000, 86_400_000_000_000
TRUE_AT_BOOT_NS = 1_790_000_000 * SECOND
"""2026-09-21, when the box of these tests was switched on."""
SLACK_NS = SECOND
"""Between reading true time in the driver and the stamp, on a machine that has other work too."""

DRIVER = f'''
import os, time
from trisense.drivers import DeviceConfig, Field, FieldType, Layer, Observed, PolledDriver, Stream
from trisense.edge.clocks import clockwatch

clockwatch.TICK_S = 0.1  # how often it looks: what it decides by is the time on its clocks

class Config(DeviceConfig):
    notes: str

class Truthful(PolledDriver[Config]):
    """Each reading is the true time in ms, noted in a file too."""
    name, family, summary, config_model = "truthful", "environment", "for tests", Config

    def streams(self):
        return (Stream(self.config.name, "truth", Layer.GROUND, (Field("true_time", "ms", FieldType.INT),)),)

    async def connect(self, lines):
        self.file = os.open(self.config.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def read(self):
        true_ms = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + {TRUE_AT_BOOT_NS}) // 1_000_000
        os.write(self.file, b"%d\\n" % true_ms)
        return [Observed("truth", {{"true_time": true_ms}})]
'''


class Clocks:
    """What the box believes: written here, read by the shim in it."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(CLOCKS.pack(0, 0, 0))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), CLOCKS.size)
        self._boot_add_ns = 20 * SECOND - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def set(self, wrong_ns: int, *, synced: bool) -> None:
        """Wall time is true time plus ``wrong_ns``."""
        self._wrong_ns, self._synced = wrong_ns, synced
        self._map[:] = CLOCKS.pack(self._boot_add_ns, TRUE_AT_BOOT_NS + wrong_ns, int(synced))

    def forward(self, seconds: int) -> None:
        """Let time jump on, as after a suspend: boot time and wall time alike."""
        self._boot_add_ns += seconds * SECOND
        self.set(self._wrong_ns, synced=self._synced)


class Box:
    """``trisense edge run`` with the shim and one device."""

    def __init__(self, folder: Path, port: int, shim: Path) -> None:
        self.notes = folder / "notes"
        self.notes.touch()
        self.clocks = Clocks(folder / "clocks")
        self._log = folder / "log"
        (folder / "truthful.py").write_text(DRIVER)
        info = folder / "truthful-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: truthful\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[trisense.drivers]\ntruthful = truthful:Truthful\n")
        self._config = folder / "box.toml"
        self._config.write_text(
            f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
            f'[spool]\ncommit_s = 0.1\n[[device]]\nname = "mast"\ndriver = "truthful"\ninterval_s = 0.01\n'
            f'notes = "{self.notes}"\n'
        )
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            "LD_PRELOAD": str(shim),
            "WRONG_CLOCK": str(folder / "clocks"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trisense.core", "edge", "run", str(self._config)],
                env=self._environment,
                stderr=log,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(20) == 0, self.log()
            self._process = None

    def log(self) -> str:
        return self._log.read_text()

    def sensed(self) -> list[int]:
        """True times of all readings, ms."""
        return [int(line) for line in self.notes.read_text().split()]

    async def senses(self, more: int = 25) -> None:
        """Wait for that many more readings."""
        goal = len(self.sensed()) + more
        await until(lambda: len(self.sensed()) >= goal)

    async def becomes(self, state: str, *, jump_s: int) -> None:
        """Let time jump on after each look at its clock until that has come into a state."""
        before = self.log().count(f'"state": "{state}"')
        while self.log().count(f'"state": "{state}"') == before:
            self.clocks.forward(jump_s)
            await self.senses()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the shim that steps the clock")
    made = tmp_path_factory.mktemp("shim") / "wrong_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SHIM)], check=True)
    return made


@pytest.fixture
def box(tmp_path: Path, broker: Broker, shim: Path) -> Box:
    return Box(tmp_path, broker.port, shim)


@contextlib.asynccontextmanager
async def listening(broker: Broker) -> AsyncIterator[Gateway]:
    gateway = Gateway(broker.port)
    task = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    yield gateway
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def rows(batches: list[Batch]) -> list[tuple[int, int, int, Batch]]:
    """(true ms, time ns, n, batch) of each reading."""
    return [
        (int(sample.values[0] or 0), sample.time_ns, sample.n, batch)
        for batch in batches
        for sample in batch.samples
        if sample.stream.measurement == "truth"
    ]


def of_epoch(gateway: Gateway, epoch: int) -> list[Batch]:
    """Batches with readings that have come of a run of the box."""
    return [batch for *_, batch in rows(list(gateway.stored.values())) if batch.epoch == epoch]


async def delivered(box: Box, gateway: Gateway) -> list[tuple[int, int, int, Batch]]:
    """All that the box sensed, in the order it was committed; nothing lost, nothing doubled, no lie."""
    sensed = box.sensed()
    await gateway.until(lambda: {row[0] for row in rows(list(gateway.stored.values()))} >= set(sensed))
    box.stop()
    first = {epoch: min(r[0] for r in rows([b for (e, _), b in gateway.stored.items() if e == epoch]))
             for epoch, _ in gateway.stored}  # fmt: skip
    order = sorted(gateway.stored, key=lambda identity: (first[identity[0]], identity[1]))
    found = rows([gateway.stored[identity] for identity in order])
    found = [row for row in found if row[0] <= sensed[-1]]
    assert sorted(row[0] for row in found) == sensed, "lost or doubled"
    for true_ms, time_ns, _, batch in found:
        error_ms = batch.clock.error_ms
        if batch.clock.synced or error_ms is not None:
            off_ns = abs(time_ns - true_ms * MS)
            assert off_ns <= (error_ms or 0) * MS + SLACK_NS, f"{off_ns} ns off and flagged {batch.clock}"
    return found


def rises(found: list[tuple[int, int, int, Batch]]) -> bool:
    times = [(time_ns, n) for _, time_ns, n, _ in found]
    return all(a < b for a, b in pairwise(times))


async def test_steps_of_an_hour_back_and_a_day_ahead_leave_no_trace(box: Box, broker: Broker) -> None:
    async with listening(broker) as gateway:
        box.clocks.set(0, synced=True)
        box.start()
        await box.senses()
        for times, wrong_ns in enumerate((-HOUR, DAY)):
            box.clocks.set(wrong_ns, synced=False)
            await until(lambda times=times: box.log().count("clock_stepped") > times)  # type: ignore[misc]
            await box.senses()
            box.clocks.set(0, synced=True)
            await box.becomes("anchored", jump_s=20)
            await box.senses()
        found = await delivered(box, gateway)
    assert rises(found)
    assert all(batch.clock.synced for *_, batch in found)


async def test_a_box_that_wakes_up_in_1970_waits_for_the_time_or_goes_on_flagged(
    box: Box, broker: Broker
) -> None:
    async with listening(broker) as gateway:
        box.clocks.set(-TRUE_AT_BOOT_NS, synced=False)
        box.start()
        await box.senses()
        box.clocks.set(0, synced=True)
        await box.becomes("anchored", jump_s=0)
        await box.senses()
        box.stop()
        box.clocks.set(-HOUR, synced=False)
        box.start()
        await box.senses()
        await box.becomes("unsynchronised", jump_s=200)
        await box.senses()
        box.clocks.set(0, synced=True)
        await box.becomes("anchored", jump_s=0)
        epoch = gateway.said["birth"]["counters"][-1]["epoch"]
        await gateway.until(lambda: any(batch.clock.synced for batch in of_epoch(gateway, epoch)))
        found = await delivered(box, gateway)
    assert rises(found)
    flags = [batch.clock.synced for *_, batch in found]
    assert flags.index(False) > 25, "the first run was not re-timed"
    assert [flag for flag, _ in groupby(flags)] == [True, False, True]
    assert box.log().count("clock_stepped") == 0
