"""The SPS30 driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, FrameError
from trisense.core.model import Quality
from trisense.drivers import Lines, Observed
from trisense.drivers.sps30 import Sps30, Sps30Config
from trisense.drivers.sps30.codec import STUFFED, ShdlcDecoder, Sps30Codec, request
from trisense.sims.base import plugged
from trisense.sims.sps30 import Sps30 as Sensor

GOOD = bytes.fromhex(
    "7e0003002841051c4c41278b14413d385941418e354256926c4280797c4284931242855cb242857d5dfb3f3e67ea317e"
)
EMPTY = bytes.fromhex("7e00030000fc7e")
CODEC = Sps30Codec()


def reply(*values: float, state: int = 0) -> bytes:
    """A read reply of the sensor; its bytes here never need stuffing."""
    body = bytes((0, 3, state, 4 * len(values))) + struct.pack(f">{len(values)}f", *values)
    body += bytes((~sum(body) & 0xFF,))
    assert not STUFFED & set(body)
    return b"\x7e" + body + b"\x7e"


@asynccontextmanager
async def running(link: Path, **options: Any) -> AsyncIterator[Sps30]:
    """A connected driver."""
    line = f"serial://{link}?baud=115200"
    settings = {"name": "dust", "driver": "sps30", "line": line, "warm_up_s": 0, "timeout_s": 2, **options}
    device = Sps30(Sps30Config.model_validate(settings))
    try:
        await device.connect(Lines())
        yield device
    finally:
        await device.close()


async def read_until(device: Sps30, enough: Callable[[list[Observed]], bool]) -> list[Observed]:
    rows: list[Observed] = []
    while not enough(rows):
        rows += await device.read()
    return rows


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, len(GOOD) - 1))
def test_every_damaged_bit_between_the_flags_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_frame_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(1, len(GOOD)):
        assert [frame["data_length"] for frame in CODEC.frames(GOOD[:size] + GOOD + EMPTY)] == [40, 0]
    every_split(ShdlcDecoder, b"\x01" + GOOD[:9] + GOOD + b"\x7e\x7e" + EMPTY + b"\x7e")


def test_frames_that_share_a_flag_are_damage_at_worst() -> None:
    assert len(CODEC.frames(GOOD + GOOD[1:] + GOOD)) >= 2


@given(st.binary(max_size=255), st.integers(0, 254), st.integers(0, 255))
def test_a_request_never_holds_a_bare_special_byte(data: bytes, address: int, command: int) -> None:
    frame = request(address, command, data)
    assert frame[0] == frame[-1] == 0x7E
    assert not {0x7E, 0x11, 0x13} & set(frame[1:-1])
    assert len(frame) <= ShdlcDecoder.max_frame


@pytest.mark.parametrize(
    "values",
    [
        (8, 7, 9, 10, 50, 60, 61, 62, 63, 0.7),  # more below 1 um than below 2.5 um
        (7, 8, 9, 10, 50, 60, 59, 62, 63, 0.7),
        (7, 8, 9, 10, 50, 60, 61, 62, 63, 70),
        (-1, 8, 9, 10, 50, 60, 61, 62, 63, 0.7),
        (7, 8, 9, float("inf"), 50, 60, 61, 62, 63, 0.7),
        (float("nan"), 8, 9, 10, 50, 60, 61, 62, 63, 0.7),
    ],
)
def test_a_reading_that_cannot_be_true_is_refused_though_its_sum_is_right(values: tuple[float, ...]) -> None:
    assert CODEC.frames(reply(*values)) == []
    assert "implausible" in CODEC.damaged(reply(*values))[0]


def test_a_byte_that_is_never_sent_bare_is_damage() -> None:
    stuffed = bytes.fromhex("7e00030000fc7e7e7d31030000eb7e")
    assert [frame["address"] for frame in CODEC.frames(stuffed)] == [0, 0x11]
    assert [frame["address"] for frame in CODEC.frames(stuffed.replace(b"\x7d\x31", b"\x11"))] == [0]


def test_the_own_question_that_comes_back_is_no_answer() -> None:
    assert CODEC.frames(request(0, 3)) == []


def test_the_sensors_error_flag_makes_a_reading_suspect() -> None:
    (frame,) = CODEC.frames(reply(7, 8, 9, 10, 50, 60, 61, 62, 63, 0.7, state=0x80))
    (row,) = CODEC.observed(frame)
    assert set(row.quality.values()) == {Quality.SUSPECT}


# --- driver -----------------------------------------------------------------------------------------


async def test_it_wakes_starts_and_reads_the_sensor(tmp_path: Path, sensor: Any, told: Any) -> None:
    async with (
        plugged(sensor(Sensor, asleep=True, fresh_s=0.02), tmp_path / "tty"),
        running(tmp_path / "tty") as device,
    ):
        rows = await read_until(device, lambda rows: len(rows) == 3)
        (stream,) = device.streams()
    assert [dict(row.values) for row in rows] == [line["values"] for line in told()]
    assert set(rows[0].values) == {field.name for field in stream.fields}


async def test_a_read_without_anything_new_gives_no_row(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, fresh_s=60), tmp_path / "tty"), running(tmp_path / "tty") as device:
        assert await device.read() == ()


async def test_who_wants_to_see_a_reading_gets_the_first_one_after_the_start(
    tmp_path: Path, sensor: Any
) -> None:
    async with plugged(sensor(Sensor, fresh_s=0.05), tmp_path / "tty"), running(tmp_path / "tty") as device:
        (row,) = await device.peek()
    assert row.values["pm2_5"]


async def test_a_sensor_that_already_measures_is_left_alone(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, fresh_s=0)
    async with plugged(sim, tmp_path / "tty"):
        async with running(tmp_path / "tty", warm_up_s=30) as device:
            (started,) = await device.read()
        async with running(tmp_path / "tty", warm_up_s=30) as device:
            (ran,) = await device.read()
    assert set(started.quality.values()) == {Quality.NOT_EVALUATED}
    assert ran.quality == {}  # it was warm


async def test_a_sensor_that_lost_its_power_is_started_again(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, fresh_s=0, lose_power_after=2)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        await device.read()
        with pytest.raises(DeviceRefused, match="code 67"):
            await device.read()
        assert len(await device.read()) == 1


async def test_a_measurement_that_stands_is_doubted_and_then_started_again(
    tmp_path: Path, sensor: Any
) -> None:
    sim = sensor(Sensor, fresh_s=0, faults="stuck@3,stuck_s=60")  # frames 1 and 2: awake, started
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        rows = [await device.read() for _ in range(11)]
        assert [bool(row.quality) for (row,) in rows[1:]] == [False, *[True] * 9]
        with pytest.raises(DeviceError, match="10 times the same reading"):
            await device.read()
        assert not sim.measuring
        await device.read()
        assert sim.measuring


async def test_an_endless_lack_of_news_is_a_timeout(tmp_path: Path, sensor: Any) -> None:
    async with (
        plugged(sensor(Sensor, fresh_s=60), tmp_path / "tty"),
        running(tmp_path / "tty", timeout_s=0.2) as device,
    ):
        with pytest.raises(DeviceTimeout, match="no new reading"):
            await read_until(device, bool)


async def test_another_output_is_changed_to_floats(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, fresh_s=0)
    sim.measuring, sim.output = True, 5
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        with pytest.raises(DeviceError, match="20 bytes"):
            await device.read()
        assert len(await device.read()) == 1


async def test_damaged_answers_are_never_believed(tmp_path: Path, sensor: Any, told: Any) -> None:
    faults = "checksum=0.1,cut=0.1,garbage=0.1,seed=5"
    rows: list[Observed] = []
    failed = 0
    async with (
        plugged(sensor(Sensor, fresh_s=0, faults=faults), tmp_path / "tty"),
        running(tmp_path / "tty", timeout_s=0.1) as device,
    ):
        while len(rows) < 20:
            try:
                rows += await device.read()
            except (FrameError, DeviceTimeout):
                failed += 1
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert failed > 2
    assert [row for row in rows if dict(row.values) not in good] == []
