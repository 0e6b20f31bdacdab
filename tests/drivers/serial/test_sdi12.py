"""The SDI-12 driver against simulated sensors behind an adapter, and its decoder against damage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trisense.core.errors import DeviceError, DeviceTimeout, FrameError, LineError
from trisense.drivers import Lines
from trisense.drivers.sdi12 import Sdi12, Sdi12Config
from trisense.drivers.sdi12.codec import Sdi12Codec, Sdi12Decoder
from trisense.drivers.sdi12_crc import checked, crc
from trisense.sims.base import plugged
from trisense.sims.sdi12 import NAMES
from trisense.sims.sdi12 import Sdi12 as Sensor

GOOD = b"0+1.11+2.22+3.33+4.44+5.55+6.66I]q\r\n"
CODEC = Sdi12Codec()
VALUES = [{"name": name} for name in NAMES]


def config(link: Path | str, **options: Any) -> Sdi12Config:
    settings = {"name": "soil", "driver": "sdi12", "line": f"serial://{link}", "values": VALUES, **options}
    return Sdi12Config.model_validate({"timeout_s": 2, **settings})


@asynccontextmanager
async def running(link: Path, lines: Lines | None = None, **options: Any) -> AsyncIterator[Sdi12]:
    """A connected driver."""
    device = Sdi12(config(link, **options))
    try:
        await device.connect(lines or Lines())
        yield device
    finally:
        await device.close()


def merged(told: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for line in told():
        values |= line["values"]
    return values


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(GOOD) - 2))
def test_every_damaged_bit_of_checked_data_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert [frame for frame in CODEC.frames(bytes(damaged)) if frame.get("data")] == []


def test_a_cut_reply_is_no_data_and_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD) - 2):
        assert CODEC.frames(GOOD[:size]) == []
    assert len(CODEC.frames(GOOD[:-2] + b"\r\n" + GOOD)) == 2
    every_split(Sdi12Decoder, b"\x00\xff0M!00036\r\n0\r\n" + GOOD + b"\xf1\r\n" + GOOD[:20])


def test_parity_bits_that_a_port_shows_are_checked_and_taken_away() -> None:
    shown = bytes(byte | byte.bit_count() % 2 << 7 for byte in GOOD)
    assert CODEC.frames(shown) == CODEC.frames(GOOD)
    for at in range(len(shown) - 1):
        damaged = bytearray(shown)
        damaged[at] ^= 0x80
        assert CODEC.damaged(bytes(damaged))[0].startswith("parity")


@pytest.mark.parametrize("front", [b"\x00", b"\xff\xff\x00", b"0D0!", b"\x000D0!", b"xyz"])
def test_what_stands_before_checked_data_is_passed_over(front: bytes) -> None:
    assert CODEC.frames(front + GOOD) == CODEC.frames(GOOD)


@pytest.mark.parametrize(
    "reply", [b"0+", b"0+12345678", b"0+1..2", b"00", b"000", b"0000366", b"0+1.2+", b"*"]
)
def test_a_reply_of_another_form_is_refused(reply: bytes) -> None:
    assert CODEC.frames(reply + b"\r\n") == []


def test_the_crc_is_three_letters() -> None:
    assert crc(b"0+3.14") == b"OqZ"
    assert checked(b"0+3.14OqZ") == b"0+3.14"
    assert checked(b"0+3.15OqZ") is None
    assert checked(b"OqZ") is None


def test_a_reply_without_an_end_does_not_hold_up_memory() -> None:
    decoder = Sdi12Decoder()
    for _ in range(200):
        decoder.feed(b"0+1.11" * 10)
    assert len(decoder._rest) < Sdi12Decoder.max_frame


# --- configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"command": "M0"},
        {"command": "R"},
        {"command": "D0"},
        {"address": "10"},
        {"values": [{"name": "fluffiness"}]},
        {"values": [{"name": "-"}]},
        {"values": [{"name": "soil_moisture"}, {"name": "soil_moisture"}]},
    ],
)
def test_what_cannot_be_is_a_mistake(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config("/dev/null", **options)


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["M", "C2", "R0"])
@pytest.mark.parametrize("with_crc", [True, False])
async def test_it_reads_what_the_sensor_tells(
    command: str, with_crc: bool, tmp_path: Path, sensor: Any, told: Any
) -> None:
    async with (
        plugged(sensor(Sensor), tmp_path / "tty"),
        running(tmp_path / "tty", command=command, crc=with_crc) as device,
    ):
        (row,) = await device.read()
        (stream,) = device.streams()
    assert row.measurement == stream.measurement == "environment"
    assert dict(row.values) == merged(told)
    assert list(row.values) == [field.name for field in stream.fields] == list(NAMES)


@pytest.mark.parametrize("adapter", [{"echo": True}, {"parity": True}])
async def test_adapters_that_echo_or_show_parity_bits_do_no_harm(
    adapter: dict[str, bool], tmp_path: Path, sensor: Any, told: Any
) -> None:
    async with plugged(sensor(Sensor, **adapter), tmp_path / "tty"), running(tmp_path / "tty") as device:
        (row,) = await device.read()
    assert dict(row.values) == merged(told)


async def test_it_goes_on_when_the_sensor_says_that_it_is_ready(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, ready_s=50, takes_s=0.05)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        async with asyncio.timeout(10):
            (row,) = await device.read()
    assert len(row.values) == len(NAMES)


async def test_a_reading_of_another_sensor_is_not_ours(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor)
    sim.answers_as = "1"
    options: dict[str, Any] = {"command": "R0", "timeout_s": 0.2}
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", **options) as device:
        with pytest.raises(DeviceTimeout):
            await device.read()


async def test_a_service_request_that_is_lost_costs_time_and_no_data(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, ready_s=1, requests=False)
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty") as device:
        (row,) = await device.read()
    assert len(row.values) == len(NAMES)


async def test_a_measuring_time_beyond_belief_is_not_waited_for(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, ready_s=900), tmp_path / "tty"), running(tmp_path / "tty") as device:
        with pytest.raises(DeviceError, match="wants 900 s"):
            await device.read()


async def test_fewer_values_than_announced_give_no_row(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, fewer=2), tmp_path / "tty"), running(tmp_path / "tty") as device:
        with pytest.raises(DeviceError, match="7 values announced, 5 came"):
            await device.read()


async def test_more_values_than_the_configuration_names_give_no_row(tmp_path: Path, sensor: Any) -> None:
    async with (
        plugged(sensor(Sensor), tmp_path / "tty"),
        running(tmp_path / "tty", values=VALUES[:3]) as device,
    ):
        with pytest.raises(DeviceError, match="7 values, the configuration names 3"):
            await device.read()


@pytest.mark.parametrize("wet", [False, True])
async def test_values_are_scaled_left_out_or_null(wet: bool, tmp_path: Path, sensor: Any, told: Any) -> None:
    values = [
        {"name": "kelvins", "unit": "K", "offset": 273.15},
        *({"name": "-"} for _ in NAMES[2:]),
        {"name": "hundredths", "unit": "1", "scale": 0.01, "missing": [-9999]},
    ]
    async with (
        plugged(sensor(Sensor, wet=wet), tmp_path / "tty"),
        running(tmp_path / "tty", values=values) as device,
    ):
        (row,) = await device.read()
    expected = {"kelvins": merged(told)["air_temperature"] + 273.15}
    if not wet:
        expected["hundredths"] = merged(told)["dew_point"] / 100
    assert dict(row.values) == pytest.approx(expected)


async def test_damage_and_silence_are_errors_and_the_next_read_is_good(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, faults="checksum@1,cut@2,silence@3")
    options: dict[str, Any] = {"command": "R0", "timeout_s": 0.2}
    async with plugged(sim, tmp_path / "tty"), running(tmp_path / "tty", **options) as device:
        for expected in (FrameError, FrameError, DeviceTimeout):
            with pytest.raises(expected):
                await device.read()
        (row,) = await device.read()
    assert len(row.values) == len(NAMES)


async def test_sensors_of_one_bus_take_turns(tmp_path: Path, sensor: Any) -> None:
    sim, lines, link = sensor(Sensor, addresses="01"), Lines(), tmp_path / "tty"
    async with (
        plugged(sim, link),
        running(link, lines, address="0") as first,
        running(link, lines, address="1", command="C") as second,
    ):
        for _ in range(3):
            rows = await asyncio.gather(first.read(), second.read())
            assert [len(row.values) for (row,) in rows] == [len(NAMES)] * 2
        await first.close()
        (row,) = await second.read()
    assert len(row.values) == len(NAMES)
    zero = [command[1:] for command in sim.commands if command.startswith("0")]
    assert zero[:3] == ["MC!", "D0!", "D1!"]


async def test_a_line_that_is_lost_is_opened_again_by_whoever_connects_first(
    tmp_path: Path, sensor: Any
) -> None:
    sim, lines, link = sensor(Sensor, addresses="01", faults="hangup@3"), Lines(), tmp_path / "tty"
    async with (
        plugged(sim, link),
        running(link, lines, address="0", command="R0") as first,
        running(link, lines, address="1", command="R0") as second,
    ):
        await first.read()
        await second.read()
        for device in (first, second):
            with pytest.raises(LineError):
                await device.read()
        for device in (first, second):
            await device.connect(lines)
            (row,) = await device.read()
            assert len(row.values) == len(NAMES)
