"""A box tells its health: one row a minute, small, and null where it cannot know."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from trisense.core.model import Batch, BatchClass, ClockState, Counters, Sample, batch_hash
from trisense.core.wire import Header, pack
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.config import load
from trisense.edge.runtime import Box
from trisense.edge.spool import Spool
from trisense.edge.status.model import Status
from trisense.edge.telling import health as health_module
from trisense.edge.telling.health import HEALTH, health_values

from tests.edge.status.conftest import BOX, device, failing


@pytest.fixture
def box_file(tmp_path: Path) -> Path:
    file = tmp_path / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n[clock]\nhold_s = 0\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/no-such-port"\n'
        '[[alarm]]\nname = "failing"\nkind = "threshold"\ndevice = "box"\nfield = "devices_failing"\n'
        'unit = "{device}"\nabove = 0\n'
    )
    return file


async def test_a_box_tells_its_health_and_rules_may_watch_it(
    box_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "HEALTH_S", 0.05)
    box, stop = Box(load(box_file)), asyncio.Event()

    def heard(sample: Sample) -> None:
        if sample.stream.measurement == "alarm" and "raised" in sample.values:
            stop.set()

    box.listeners.append(heard)
    await asyncio.wait_for(box.run(stop), 20)
    with Spool(box_file.with_name("spool.db"), SystemClock()) as spool:
        batches = [b for _, b in spool.load([h.id for h in spool.heads(BatchClass.DATA)])]
    rows = [s.values for b in batches for s in b.samples if s.stream == HEALTH]
    row = dict(zip([f.name for f in HEALTH.fields], rows[-1], strict=True))
    assert (row["devices_good"], row["devices_failing"]) == (0, 1)
    assert row["bus_load"] is None
    assert isinstance(row["memory"], int)
    assert row["memory"] > 10e6
    assert isinstance(row["disk_free"], int)
    assert row["disk_free"] > 0


def test_the_row_says_what_the_picture_shows() -> None:
    queues = {
        "data": {"batches": 4, "size_bytes": 4000, "samples": 40, "oldest_s": 30.0},
        "alarm": {"batches": 1, "size_bytes": 100, "samples": 1, "oldest_s": 70.0},
    }
    told = BOX | {"devices": [device("dust"), device("mast"), failing("gate")]}
    told["spool"] = BOX["spool"] | {"waiting": queues, "dropped": 7}
    bus = {"framing": "rtu", "devices": [], "planned": 0.1, "waiting": 0, "answers": 1, "troubles": {}}
    told["buses"] = [bus | {"line": f"line {load}", "measured": load} for load in (None, 0.25, 0.5)]
    values = health_values(Status.model_validate(told), alarms_held=2, link_today_bytes=9)
    assert values.keys() == {field.name for field in HEALTH.fields}
    assert (values["devices_good"], values["devices_failing"]) == (2, 1)
    assert (values["spool_waiting"], values["spool_oldest"]) == (5, 70)
    assert (values["samples_committed"], values["samples_dropped"]) == (1000, 7)
    assert (values["cpu_load"], values["cpu_temperature"], values["bus_load"]) == (3.0, 54.3, 50.0)
    assert (values["clock_synchronised"], values["clock_error"]) == (1, 3)
    assert (values["alarms_held"], values["link_today"]) == (2, 9)


async def picture(box_file: Path) -> Status:
    box = Box(load(box_file))
    async with box.door:
        return await box._outside.gatherer.status()


async def test_an_hour_of_health_takes_little(box_file: Path) -> None:
    values = health_values(await picture(box_file), alarms_held=0, link_today_bytes=0)
    samples = tuple(
        Sample(
            HEALTH,
            (1_780_000_000 + 60 * minute) * 10**9,
            tuple(
                v + 7919 * minute % 10_000 if isinstance(v := values[f.name], int) and v > 10_000 else v
                for f in HEALTH.fields
            ),
            quality=tuple((i, 9) for i, f in enumerate(HEALTH.fields) if values[f.name] is None),
        )
        for minute in range(60)
    )
    batch = Batch(1, 0, BatchClass.DATA, ClockState(), samples, batch_hash(samples))
    payload = pack(Header("kx-001", "kx", Counters(1, 1, 0, 60)), [batch])
    assert len(payload) / 60 < 25
