"""The RG-15 driver against a simulated rain gauge on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout, FrameError
from trisense.core.model import Quality
from trisense.drivers import Lines
from trisense.drivers.rg15 import Rg15, Rg15Config
from trisense.drivers.rg15.codec import Rg15Codec, Rg15Decoder
from trisense.sims.base import plugged
from trisense.sims.rg15 import Rg15 as Gauge

GOOD = b"Acc 0.01 mm, EventAcc 0.40 mm, TotalAcc 12.60 mm, RInt 2.40 mmph\r\n"
CODEC = Rg15Codec()


@asynccontextmanager
async def running(link: Path, **options: Any) -> AsyncIterator[Rg15]:
    """A connected driver."""
    settings = {"name": "rain", "driver": "rg15", "line": f"serial://{link}", "timeout_s": 2, **options}
    device = Rg15(Rg15Config.model_validate(settings))
    try:
        await device.connect(Lines())
        yield device
    finally:
        await device.close()


# --- decoder ----------------------------------------------------------------------------------------


def test_a_cut_line_gives_nothing_and_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD) - 2):
        assert CODEC.frames(GOOD[:size]) == []
        assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1
    every_split(Rg15Decoder, b"\x00p\r\nh\r\n; SW 1.000\r\n" + GOOD[:30] + GOOD + b"\r\n" + GOOD[:20])


@pytest.mark.parametrize(
    "line",
    [
        b"Acc 0.01 mm, EventAcc 0.40 in, TotalAcc 12.60 mm, RInt 2.40 mmph\r\n",  # mixed units
        b"Acc 0.01 mm, EventAcc 0.40 mm, TotalAcc 12.60 mm, RInt 2.40 iph\r\n",
        b"Acc 13.01 mm, EventAcc 0.40 mm, TotalAcc 12.60 mm, RInt 2.40 mmph\r\n",  # more than ever fell
        b"Acc 0.01 mm, EventAcc 13.40 mm, TotalAcc 12.60 mm, RInt 2.40 mmph\r\n",
        b"Acc 0.01 mm, EventAcc 0.40 mm, TotalAcc 1260 mm, RInt 2.40 mmph\r\n",
        b"Acc 0.01 mm, EventAcc 0.40 mm, TotalAcc 12.60 mm, RInt 2.40 mmph Acc\r\n",
        b"Acc 0.01 mm, EventAcc 0.40 mm, TotalAcc 12.6\xb0 mm, RInt 2.40 mmph\r\n",
        b"Acc -0.01 mm, EventAcc 0.40 mm, TotalAcc 12.60 mm, RInt 2.40 mmph\r\n",
    ],
)
def test_a_line_of_another_form_is_refused(line: bytes) -> None:
    assert CODEC.frames(line) == []
    assert len(CODEC.damaged(line)) == 1


def test_a_line_without_an_end_does_not_hold_up_memory() -> None:
    decoder = Rg15Decoder()
    for _ in range(1000):
        decoder.feed(b"Acc " * 10)
    assert len(decoder._rest) < Rg15Decoder.max_frame


def test_several_flags_are_told_and_doubted() -> None:
    (frame,) = CODEC.frames(GOOD.replace(b"mmph", b"mmph LensBad, TooCold"))
    assert frame["flags"] == ["lens_bad", "too_cold"]
    (row,) = CODEC.observed(frame)
    assert row.values["flags"] == "lens_bad,too_cold"
    assert row.quality["rain_rate"] is Quality.SUSPECT


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inches", [False, True])
async def test_it_counts_rain_by_the_total_in_millimetres(inches: bool, tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Gauge, drizzle_mm=0.254, inches=inches)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        rows = [(await device.read())[0] for _ in range(4)]
        (stream,) = device.streams()
    assert "rain_amount" not in rows[0].values  # since when, nobody knows
    assert set(rows[1].values) == {field.name for field in stream.fields}
    assert [row.values["rain_amount_total"] for row in rows] == pytest.approx(
        [0.254, 0.508, 0.762, 1.016], abs=0.01
    )
    assert [row.values["rain_amount"] for row in rows[1:]] == pytest.approx([0.254] * 3, abs=0.02)
    assert [row.quality for row in rows] == [{}] * 4
    assert sim.settings == ["P"]


async def test_an_answer_that_is_lost_loses_no_rain(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Gauge, drizzle_mm=0.5, faults="silence@2,cut@3")
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", timeout_s=0.2) as device:
        await device.read()
        for expected in (DeviceTimeout, FrameError):
            with pytest.raises(expected):
                await device.read()
        (row,) = await device.read()
    assert row.values["rain_amount"] == pytest.approx(1.5)
    assert row.quality == {}
    assert sim.settings == ["P", "P", "P"]  # it is set again after each failure: it may have restarted


async def test_a_gauge_that_lost_its_power_counts_from_nothing(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Gauge, drizzle_mm=0.5)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        for _ in range(3):
            await device.read()
        sim.power_up()
        (row,) = await device.read()
    assert row.values["rain_amount"] == pytest.approx(0.5)
    assert row.quality == {}


async def test_a_total_that_disagrees_with_the_gauges_own_count_is_doubted(
    tmp_path: Path, sensor: Any
) -> None:
    sim = sensor(Gauge, drizzle_mm=0.5)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        await device.read()
        sim.total_mm += 80.0  # one digit hit by noise
        (row,) = await device.read()
    assert row.values["rain_amount"] == pytest.approx(80.5)
    assert row.quality == {"rain_amount": Quality.SUSPECT, "rain_amount_total": Quality.SUSPECT}


async def test_the_resolution_is_set_where_it_is_asked_for(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Gauge)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", resolution="high") as device:
        await device.read()
    assert sim.settings == ["P", "H"]


async def test_flags_of_the_gauge_are_told(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Gauge, flags="EmSat"), tmp_path / "tty"), running(tmp_path / "tty") as device:
        (row,) = await device.read()
    assert row.values["flags"] == "em_sat"
