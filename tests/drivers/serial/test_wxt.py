"""The WXT driver against a simulated station on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceError, DeviceTimeout, FrameError
from trisense.drivers import Lines
from trisense.drivers.wxt import Wxt, WxtConfig
from trisense.drivers.wxt.codec import WxtCodec, WxtDecoder
from trisense.sims.base import plugged
from trisense.sims.wxt import Wxt as Station

CHECKED = b"0r2,Ta=22.7C,Ua=55.5P,Pa=1004.7H@Fn\r\n"
PLAIN = b"0R1,Dn=160D,Dm=182D,Dx=197D,Sn=3.0M,Sm=4.1M,Sx=5.8M\r\n"
CODEC = WxtCodec()


@asynccontextmanager
async def running(link: Path, **options: Any) -> AsyncIterator[Wxt]:
    """A connected driver."""
    settings = {"name": "weather", "driver": "wxt", "line": f"serial://{link}", "timeout_s": 2, **options}
    device = Wxt(WxtConfig.model_validate(settings))
    try:
        await device.connect(Lines())
        yield device
    finally:
        await device.close()


def values_of(line: bytes) -> dict[str, float]:
    (frame,) = CODEC.frames(line + b"\r\n")
    values: dict[str, float] = frame["values"]
    return values


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(CHECKED) - 2))
def test_every_damaged_byte_of_a_line_with_crc_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(CHECKED)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_line_gives_nothing_and_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for line in (CHECKED, PLAIN):
        for size in range(len(line) - 2):
            assert CODEC.frames(line[:size]) == []
            assert len(CODEC.frames(line[:size] + line)) == 1
    every_split(WxtDecoder, b"\xff\x00\r\ndud line\r\n" + PLAIN[:30] + CHECKED + PLAIN[:20])


@pytest.mark.parametrize(
    "line",
    [
        b"0R1,Dn=0m=032D,Sm=0.1M",  # two fields fused
        b"0R1,Dn=361D",
        b"0R1,Sn=3.0M,Sm=2.9M",
        b"0R1,Sn=3.0M,Sn=3.0M",
        b"0R2,Ta=22.7P",  # a unit that temperatures do not have
        b"0R2,Tq=22.7C",
        b"0R2,Ta=22.7C,",
        b"0R5,Vh=0.0C",
        b"0R2,Ta=2\xb2.7C",
    ],
)
def test_a_line_of_another_form_is_refused(line: bytes) -> None:
    assert CODEC.frames(line + b"\r\n") == []
    assert len(CODEC.damaged(line + b"\r\n")) == 1


def test_each_line_says_its_units() -> None:
    assert values_of(b"0R1,Sn=36.0K,Sm=36.1K,Sx=72.0K")["wind_speed_max"] == 20
    assert values_of(b"0R1,Sm=10.0N")["wind_speed"] == pytest.approx(5.1444)
    assert values_of(b"0R1,Sm=10.0S")["wind_speed"] == pytest.approx(4.4704)
    assert values_of(b"0R2,Ta=-40.0F,Pa=29.92I") == pytest.approx(
        {"air_temperature": -40, "barometric_pressure": 1013.2}, abs=0.1
    )
    assert values_of(b"0R2,Pa=750.1M")["barometric_pressure"] == pytest.approx(1000.05, abs=0.01)
    assert values_of(b"0R2,Pa=1.0132B")["barometric_pressure"] == pytest.approx(1013.2)
    assert values_of(b"0R2,Pa=101320P")["barometric_pressure"] == pytest.approx(1013.2)
    assert values_of(b"0R3,Rc=0.10I,Hc=6.5I") == pytest.approx({"rain_amount": 2.54, "hail_amount": 1.0075})


def test_what_the_station_calls_invalid_is_no_value() -> None:
    (frame,) = CODEC.frames(b"0R1,Dm=106#,Sm=4.0#\r\n")
    assert frame["invalid"] == ["wind_direction", "wind_speed"]
    (row,) = CODEC.observed(frame)
    assert (row.measurement, dict(row.values)) == ("weather", {})


def test_hail_counted_on_the_whole_head_is_no_amount_per_area() -> None:
    (frame,) = CODEC.frames(b"0R3,Rc=0.00M,Hc=3.0H\r\n")
    assert (frame["values"], frame["invalid"]) == ({"rain_amount": 0.0}, ["hail_amount"])


def test_a_line_without_an_end_does_not_hold_up_memory() -> None:
    decoder = WxtDecoder()
    for _ in range(200):
        decoder.feed(b"0R1,Dn=160D," * 3)
    assert len(decoder._rest) < WxtDecoder.max_frame


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("crc", [True, False])
async def test_it_reads_what_the_station_tells(crc: bool, tmp_path: Path, sensor: Any, told: Any) -> None:
    async with (
        plugged(sensor(Station, fahrenheit=True), tmp_path / "tty"),
        running(tmp_path / "tty", crc=crc) as device,
    ):
        weather, supervisor = await device.read()
        streams = {stream.measurement: {field.name for field in stream.fields} for stream in device.streams()}
    wanted: dict[str, dict[str, Any]] = {"weather": {}, "supervisor": {}}
    for line in told():
        wanted[line["measurement"]] |= line["values"]
    assert {key: weather.values[key] for key in wanted["weather"]} == pytest.approx(
        wanted["weather"], abs=1e-3
    )
    assert {**wanted["supervisor"], "heating_state": "off"} == dict(supervisor.values)
    assert set(weather.values) <= streams["weather"]
    assert set(supervisor.values) <= streams["supervisor"]


async def test_the_composite_message_is_all_in_one_line(tmp_path: Path, sensor: Any) -> None:
    async with (
        plugged(sensor(Station), tmp_path / "tty"),
        running(tmp_path / "tty", messages=["composite"]) as device,
    ):
        weather, supervisor = await device.read()
    assert {"wind_speed", "air_temperature", "rain_rate"} <= set(weather.values)
    assert supervisor.values["info"] == "street"


async def test_rain_is_the_rise_of_the_counter_so_a_lost_answer_loses_none(
    tmp_path: Path, sensor: Any
) -> None:
    sim = sensor(Station, drizzle_mm=0.5, faults="silence@2,cut@3,checksum@4")
    options = {"messages": ["rain"], "timeout_s": 0.2}
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", **options) as device:
        (first,) = await device.read()
        for expected in (DeviceTimeout, FrameError, FrameError):
            with pytest.raises(expected):
                await device.read()
        (row,) = await device.read()
        sim.power_up()
        (restarted,) = await device.read()
    assert "rain_amount" not in first.values
    assert row.values["rain_amount"] == pytest.approx(2.0)
    assert restarted.values["rain_amount"] == pytest.approx(0.5)


async def test_a_counter_that_each_message_clears_is_rain_as_it_stands(tmp_path: Path, sensor: Any) -> None:
    options = {"messages": ["rain"], "rain_counter": "cleared"}
    async with (
        plugged(sensor(Station, drizzle_mm=0.5), tmp_path / "tty"),
        running(tmp_path / "tty", **options) as device,
    ):
        (row,) = await device.read()
        (stream,) = device.streams()
    assert row.values["rain_amount"] == 0.5
    assert set(row.values) <= {field.name for field in stream.fields}


async def test_wind_that_cannot_be_measured_is_null(tmp_path: Path, sensor: Any) -> None:
    async with (
        plugged(sensor(Station, blocked=True), tmp_path / "tty"),
        running(tmp_path / "tty", messages=["wind"]) as device,
    ):
        (row,) = await device.read()
    assert row.values == {}


async def test_a_message_that_the_station_does_not_have_is_an_error_in_its_words(
    tmp_path: Path, sensor: Any
) -> None:
    sim = sensor(Station)
    del sim._messages["2"]
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", messages=["ptu"]) as device:
        with pytest.raises(DeviceError, match="says 'Unknown cmd error'"):
            await device.read()


async def test_another_station_is_never_taken_for_ours(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Station)
    sim.answers_as = "1"
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", timeout_s=0.2) as device:
        with pytest.raises(DeviceTimeout):
            await device.read()
