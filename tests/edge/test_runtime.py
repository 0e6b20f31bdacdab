"""A whole box in this process: neighbours of bad devices, the end, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
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
from trisense.edge.clock import PLAUSIBLE_NS, SystemClock
from trisense.edge.config import load
from trisense.edge.runtime import Box
from trisense.edge.spool import Spool


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
    text = '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'
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


def test_the_systems_clock_knows_whether_it_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    assert clock.boot_ns() <= clock.boot_ns()
    assert clock.boot_id == SystemClock().boot_id
    assert isinstance(clock.state(), ClockState)
    monkeypatch.setattr(SystemClock, "now_ns", lambda _: PLAUSIBLE_NS - 1)
    assert clock.state() == ClockState(synced=False)
