"""A whole box in this process: neighbours of bad devices, the end, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from trisense.core.messages import CALIBRATION
from trisense.core.model import BatchClass, ClockState
from trisense.drivers import (
    DeviceConfig,
    Field,
    FieldType,
    Layer,
    LineError,
    Lines,
    Observed,
    PolledDriver,
    Stream,
    StreamingDriver,
)
from trisense.edge import config as config_module
from trisense.edge.clocks.clock import PLAUSIBLE_NS, SystemClock
from trisense.edge.config import load
from trisense.edge.runtime import Box
from trisense.edge.spool import Spool

from .conftest import FakeClock


class Counter(PolledDriver[DeviceConfig]):
    """Counts its reads: a gap would show."""

    name = "counter"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig
    enough: ClassVar[asyncio.Event]
    read_count = 0

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "count", Layer.GROUND, (Field("count", "1", FieldType.INT),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def read(self) -> Sequence[Observed]:
        self.read_count += 1
        if self.read_count == 30:
            self.enough.set()
        return [Observed("count", {"count": self.read_count})]


class Dead(Counter):
    name = "dead"

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        raise LineError(self.config.name, "nobody there")


class Buggy(Counter):
    name = "buggy"

    async def read(self) -> Sequence[Observed]:
        raise RuntimeError("a bug")


class Hanging(Counter):
    name = "hanging"

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        await asyncio.Event().wait()


class Gate(StreamingDriver[DeviceConfig]):
    name = "gate"
    family = "rfid"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "alarm", Layer.GROUND, (Field("door", "1", FieldType.INT),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def observe(self) -> AsyncIterator[Observed]:
        yield Observed("alarm", {"door": 1}, batch_class=BatchClass.ALARM)
        await asyncio.Event().wait()


DRIVERS: dict[str, Any] = {d.name: d for d in (Counter, Dead, Buggy, Hanging, Gate)}


@pytest.fixture
async def box_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config_module, "driver_class", DRIVERS.__getitem__)
    Counter.enough = asyncio.Event()
    file = tmp_path / "box.toml"
    text = '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n[clock]\nhold_s = 0\n'
    for name in DRIVERS:
        text += f'[[device]]\nname = "{name}"\ndriver = "{name}"\ninterval_s = 0.01\n'
    file.write_text(text)
    return file


async def test_bad_neighbours_cost_nothing_and_nothing_is_left_when_it_ends(box_file: Path) -> None:
    before = asyncio.all_tasks()
    box = Box(load(box_file))
    stop = asyncio.Event()
    running = asyncio.create_task(box.run(stop))
    await asyncio.wait_for(Counter.enough.wait(), 20)
    stop.set()
    await asyncio.wait_for(running, 5)

    assert asyncio.all_tasks() == before
    assert box.devices.supervisors["counter"].health.failures == 0
    assert all(box.devices.supervisors[name].health.failures >= 1 for name in ("dead", "buggy"))
    with Spool(box_file.with_name("spool.db"), SystemClock()) as spool:
        heads = [h for of in BatchClass for h in spool.heads(of)]
        batches = [batch for _, batch in spool.load([h.id for h in heads])]
    counted = [s.values[0] for b in batches for s in b.samples if s.stream.device == "counter"]
    assert counted == list(range(1, len(counted) + 1))
    assert len(counted) >= 30
    (alarm,) = [b for b in batches if b.batch_class is BatchClass.ALARM]
    assert [s.stream.device for s in alarm.samples] == ["gate"]


@pytest.fixture
def calibrated_file(box_file: Path) -> Path:
    """The first device alone, its counts doubled by a certificate."""
    box_file.with_name("double.toml").write_text(
        'device = "counter"\nfield = "count"\nunit = "1"\npolynomial = [0, 2]\nrange = [0, 1e6]\n'
        "valid_from = 2020-01-01T00:00:00Z\nvalid_to = 2099-01-01T00:00:00Z\n"
        'by = "a laboratory"\nuncertainty = 1.0\nversion = "C-1"\n'
    )
    text = box_file.read_text().split("[[device]]")
    box_file.write_text(f'{text[0]}[[device]]{text[1]}calibration = ["double.toml"]\nkeep_raw = true\n')
    return box_file


async def test_the_store_learns_by_which_certificate_values_are_made(calibrated_file: Path) -> None:
    box = Box(load(calibrated_file))
    stop = asyncio.Event()
    running = asyncio.create_task(box.run(stop))
    await asyncio.wait_for(Counter.enough.wait(), 20)
    stop.set()
    await asyncio.wait_for(running, 5)

    with Spool(calibrated_file.with_name("spool.db"), SystemClock()) as spool:
        heads = [h for of in BatchClass for h in spool.heads(of)]
        samples = [s for _, batch in spool.load([h.id for h in heads]) for s in batch.samples]
    counted = [s for s in samples if s.stream.device == "counter"]
    assert [f.name for f in counted[0].stream.fields] == ["count", "count_raw"]
    assert [s.values for s in counted] == [(2 * n, n) for n in range(1, len(counted) + 1)]
    (told,) = [s for s in samples if s.stream == CALIBRATION]
    said = dict(zip((f.name for f in CALIBRATION.fields), told.values, strict=True))
    (certificate,) = box.config.devices[0].treatment.columns["count"][0].certificates
    assert (said["source"], said["field"], said["version"]) == ("counter", "count.count", "C-1")
    assert (said["hash"], said["state"]) == (certificate.hash, "valid")


def test_a_box_is_online_since_it_began_and_offline_since_now(box_file: Path, clock: FakeClock) -> None:
    box = Box(load(box_file), clock)
    began_ns, hour_ns = clock.wall_ns, 3600 * 10**9
    clock.wall_ns += hour_ns
    clock.since_boot_ns += hour_ns

    def since_ns(online: bool) -> int:
        return int(datetime.fromisoformat(box.state(online).since).timestamp()) * 10**9

    assert (since_ns(True), since_ns(False)) == (began_ns, began_ns + hour_ns)


def test_the_systems_clock_knows_whether_it_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    assert clock.boot_ns() <= clock.boot_ns()
    assert clock.boot_id == SystemClock().boot_id
    assert isinstance(clock.state(), ClockState)
    monkeypatch.setattr(SystemClock, "now_ns", lambda _: PLAUSIBLE_NS - 1)
    assert clock.state() == ClockState(synced=False)
