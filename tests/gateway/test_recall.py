"""What was raised before a gateway started, of a box that is away and that the broker has forgotten."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from trisense.core.alarms import ALARM
from trisense.core.model import BatchClass, Sample
from trisense.gateway.config import load
from trisense.gateway.intake import Intake
from trisense.gateway.quarantine import Quarantine
from trisense.gateway.service import Gateway
from trisense.gateway.stores.duck import DuckStore


@pytest.mark.peer
async def test_an_alarm_of_a_box_without_a_birth_is_recalled_when_the_store_is_tended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Any, duck: DuckStore, box: Any
) -> None:
    said: dict[str, str | int] = {"rule": "hot", "source": "mast", "state": "raised", "occurrence": 1}
    raised = Sample(
        ALARM, time.time_ns() // 10**6 * 10**6, tuple(said.get(field.name) for field in ALARM.fields)
    )
    quarantine = Quarantine(tmp_path / "quarantine", max_bytes=1_000_000)
    intake = Intake(duck, quarantine)
    intake.commit(intake.judge([box.send(box.cut([raised], batch_class=BatchClass.ALARM))]))
    duck.close()
    monkeypatch.setattr("trisense.gateway.service.TEND_EVERY_S", 0.05)
    file = tmp_path / "gateway.toml"
    store = 'kind = "duckdb"\npath = "t.duckdb"\nfree_floor_bytes = 0'
    file.write_text(f"[mqtt]\nport = {broker.port}\n[store]\n{store}\n[http]\nport = 0\n")
    gateway = Gateway(load(file))
    running = asyncio.create_task(gateway.run())
    async with asyncio.timeout(30):
        alarm = await anext(aiter(gateway.live.alarms(after=0)))
        gateway._stop.set()
        await running
    assert (alarm.box, alarm.values["rule"]) == (box.name, "hot")
