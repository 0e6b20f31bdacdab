"""The SS125 driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceError, DeviceRefused
from trisense.drivers import Lines
from trisense.drivers.lines import ReplayLine
from trisense.drivers.ss125 import Ss125, Ss125Config
from trisense.drivers.ss125.codec import Ss125Codec, Ss125Decoder, crc8, message, query_interval
from trisense.sims.base import plugged
from trisense.sims.ss125 import Ss125 as Sensor

CODEC = Ss125Codec()
QUERY = query_interval(7)


def interval(volume: int, *, occupancy: int = 50, speed: bytes = b"\x80\x37\x5e") -> bytes:
    """An answer for one lane."""
    body = b"\x71\x01\x00" + bytes(3) + bytes.fromhex("000fc192058d0939") + speed
    body += (
        volume.to_bytes(3, "big") + occupancy.to_bytes(2, "big") + bytes(12) + speed + bytes(6) + b"\x01\x01"
    )
    return message(body, destination=0, source=7, sequence=1)


def row(frame: bytes) -> Any:
    (found,) = CODEC.frames(frame)
    return CODEC.observed(found)[0].values


def device(link: Path, **options: Any) -> Ss125:
    line = f"serial://{link}?baud=115200"
    settings = {"name": "device", "driver": "ss125", "line": line, "timeout_s": 0.5, "sensor": 7, **options}
    return Ss125(Ss125Config.model_validate(settings))


def test_the_crc_has_the_check_value_of_its_kind() -> None:
    assert crc8(b"123456789") == 0xBC


@pytest.mark.parametrize("at", range(len(QUERY)))
def test_every_damaged_bit_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(QUERY)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_any_split_gives_the_same(every_split: Callable[..., None]) -> None:
    every_split(Ss125Decoder, b"Z" + QUERY[:7] + QUERY + b"Z1" + bytes(20) + interval(5) + QUERY)


def test_an_error_in_place_of_the_occupancy_is_no_occupancy() -> None:
    assert row(interval(5, occupancy=74))["occupancy"] == 7.4
    assert "occupancy" not in row(interval(5, occupancy=0x8001))


def test_without_vehicles_or_without_a_valid_speed_there_is_none() -> None:
    assert row(interval(5))["mean_speed"] == pytest.approx(55.3671875 * 1.609344)
    assert "mean_speed" not in row(interval(0))
    assert row(interval(0))["vehicle_count"] == 0
    assert "mean_speed" not in row(interval(5, speed=bytes(3)))


async def test_each_lane_of_an_interval_is_told_once(tmp_path: Path, sensor: Any, told: Any) -> None:
    async with plugged(sensor(Sensor, lanes=3, duration_s=3600), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        rows = [*await driver.read(), *await driver.read()]
        await driver.close()
    expected = [line["values"] for line in told()][:3]
    assert [dict(one.values) for one in rows] == [pytest.approx(values) for values in expected]
    assert set(rows[0].values) == {field.name for field in driver.streams()[0].fields}


async def test_a_damaged_packet_spoils_its_interval(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, faults="checksum@2", duration_s=3600), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        assert await driver.read() == ()
        assert len(await driver.read()) == 2  # it comes again whole
        await driver.close()


async def test_another_sensors_answer_is_not_ours(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, sensor=9), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        with pytest.raises(DeviceError):
            await driver.read()
        await driver.close()


async def test_a_refusal_carries_the_sensors_code() -> None:
    class Refusing(Lines):
        async def open(self, url: str, *, timeout_s: float = 5.0) -> Any:  # noqa: ARG002  # the signature
            line = ReplayLine(url, message(b"\x71\x00\x02\x00\x0f", destination=0, source=7, sequence=1))

            async def keep() -> None:
                """What is recorded came after the question."""

            line.flush_input = keep  # type: ignore[method-assign]
            return line

    driver = device(Path("/dev/none"))
    await driver.connect(Refusing())
    with pytest.raises(DeviceRefused) as refused:
        await driver.read()
    assert refused.value.code == 15
