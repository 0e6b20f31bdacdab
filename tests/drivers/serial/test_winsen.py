"""The Winsen driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout, FrameError
from trisense.core.model import Quality
from trisense.drivers import Lines, Observed
from trisense.drivers.winsen import Winsen, WinsenConfig
from trisense.drivers.winsen.codec import MODELS, WinsenCodec, WinsenDecoder, command
from trisense.sims.base import plugged
from trisense.sims.winsen import Winsen as Sensor

GOOD = bytes.fromhex("ff86027c42000000ba")
CO_UPLOAD = bytes.fromhex("ff04030100251388") + bytes((0x100 - 0xC8,))
CODECS = {name: WinsenCodec(model) for name, model in MODELS.items()}
CODEC = CODECS["mhz19"]


def summed(hexadecimal: str) -> bytes:
    body = bytes.fromhex(hexadecimal)
    return b"\xff" + body + bytes((-sum(body) & 0xFF,))


@asynccontextmanager
async def running(link: Path, **options: Any) -> AsyncIterator[Winsen]:
    """A connected driver."""
    settings = {"name": "gas", "driver": "winsen", "line": f"serial://{link}", "warm_up_s": 0, **options}
    device = Winsen(WinsenConfig.model_validate(settings))
    try:
        await device.connect(Lines())
        yield device
    finally:
        await device.close()


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_damaged_bit_of_a_reply_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_reply_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD)):
        assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1
    every_split(
        lambda: WinsenDecoder(MODELS["mhz19"]), b"\x00\xff" + GOOD[:5] + GOOD + command("read") + GOOD
    )


@pytest.mark.parametrize(
    ("model", "body", "why"),
    [
        ("mhz19", "86000000000000", "empty"),
        ("mhz19", "86271142000000", "implausible"),  # 10,001 ppm
        ("ze07-ch2o", "86002a00000050", "implausible"),  # 42 ug/m3 are no 80 ppb
        ("ze07-co", "86138900000000", "implausible"),  # 500.1 ppm
        ("ze07-co", "04030113891388", "implausible"),  # above its own full scale
        ("ze07-co", "04040100251388", "implausible"),  # not its unit
    ],
)
def test_what_cannot_be_true_is_refused_though_its_sum_is_right(model: str, body: str, why: str) -> None:
    assert CODECS[model].frames(summed(body)) == []
    assert why in " ".join(CODECS[model].damaged(summed(body)))


def test_clean_air_of_a_gas_module_is_a_reading() -> None:
    (frame,) = CODECS["ze07-co"].frames(summed("86000000000000"))
    assert frame["values"] == {"co": 0}


def test_an_upload_tells_its_unit_and_decimals() -> None:
    (frame,) = CODECS["ze07-co"].frames(CO_UPLOAD)  # the maker's example, 3.7 ppm
    assert frame["values"] == {"co": 3700}
    assert CODEC.frames(CO_UPLOAD) == []


def test_a_temperature_that_is_not_provided_is_none() -> None:
    (frame,) = CODEC.frames(bytes.fromhex("ff8601f40000000085"))
    (row,) = CODEC.observed(frame)
    assert row.values == {"co2": 500}


def test_a_reading_of_a_sensor_that_says_it_starts_is_no_value() -> None:
    (frame,) = CODEC.frames(summed("8602583d003a98"))
    assert [row.values for row in CODEC.observed(frame)] == [{}]


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_it_reads_what_the_sensor_tells(model: str, tmp_path: Path, sensor: Any, told: Any) -> None:
    sim = sensor(Sensor, model=model, boot_s=0)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", model=model) as device:
        (row,) = await device.read()
        (stream,) = device.streams()
    assert dict(row.values) == told()[0]["values"]
    assert set(row.values) == {field.name for field in stream.fields}


async def test_nothing_is_calibrated_unless_it_was_asked_for(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor)
    async with plugged(sim, tmp_path / "tty"):
        async with running(tmp_path / "tty") as device:
            await device.read()
        assert sim.commands == []
        async with running(tmp_path / "tty", self_calibration="off") as device:
            await device.read()
    assert sim.commands == [0x79]


async def test_the_placeholder_of_a_sensor_that_starts_is_no_value(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", warm_up_s=30) as device:
        (row,) = await device.read()
        assert row.values == {}
        sim.tells_boot = False
        (row,) = await device.read()
        assert row.values == {}
        sim.boot_s = 0
        (row,) = await device.read()
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}


async def test_a_sensor_that_was_just_connected_may_be_cold(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, boot_s=0)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", warm_up_s=30) as device:
        (row,) = await device.read()
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}


async def test_a_restart_that_the_sensor_tells_begins_the_warm_up_anew(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, boot_s=0)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", warm_up_s=30) as device:
        device._warm_up._ends = 0.0  # warm
        assert (await device.read())[0].quality == {}
        sim.boot_s = 60
        sim.boot()
        await device.read()
        sim.boot_s = 0
        (row,) = await device.read()
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}


async def test_a_sensor_that_was_gone_warms_up_again(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, boot_s=0, faults="silence@1,silence@2")
    async with (
        plugged(sim, tmp_path / "tty"),
        running(tmp_path / "tty", warm_up_s=30, timeout_s=0.05) as device,
    ):
        device._warm_up._ends = 0.0  # warm
        for _ in range(2):
            with pytest.raises(DeviceTimeout, match="gas: no answer"):
                await device.read()
        device.config = device.config.model_copy(update={"timeout_s": 2.0})
        (row,) = await device.read()
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}


async def test_a_module_that_sends_by_itself_again_is_set_back(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, model="ze07-co", upload_s=0.01)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", model="ze07-co") as device:
        await device.read()
        assert not sim.uploads
        sim.boot()
        (row,) = await device.read()
        assert row.values.keys() == {"co"}
        await device.read()
        assert not sim.uploads


async def test_damaged_answers_are_never_believed(tmp_path: Path, sensor: Any, told: Any) -> None:
    sim = sensor(Sensor, boot_s=0, faults="checksum=0.1,cut=0.1,garbage=0.1")
    rows: list[Observed] = []
    failed = 0
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", timeout_s=0.1) as device:
        while len(rows) < 20:
            try:
                rows += await device.read()
            except (FrameError, DeviceTimeout):
                failed += 1
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert failed > 2
    assert [row for row in rows if dict(row.values) not in good] == []
