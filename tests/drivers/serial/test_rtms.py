"""The RTMS G4 driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceRefused, DeviceTimeout, FrameError
from trisense.drivers import Lines
from trisense.drivers.lines import ReplayLine
from trisense.drivers.rtms import RtmsG4, RtmsG4Config
from trisense.drivers.rtms.codec import RtmsG4Codec, RtmsG4Decoder, message, poll
from trisense.sims.base import plugged
from trisense.sims.rtms import RtmsG4 as Sensor

CODEC = RtmsG4Codec()
STAMP = bytes.fromhex("09301406170524")
MPH = 1


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def answer(
    columns: dict[int, bytes], *, composition: int = 0, flags: int = 0, zones: int = 1, ends: int = 5
) -> bytes:
    """The fifth message of sensor 1, ended by the footer of number ``ends``."""
    header = bytes((5, 0, 0, flags)) + STAMP + bytes((zones, composition, 0, 30, 126, 0x10)) + bytes(5)
    told = b"".join(message(qualifier, 1, data) for qualifier, data in columns.items())
    return message(0x80, 1, header) + told + message(0x81, 1, bytes((ends,)))


def columns(volume: int = 9, occupancy: int = 74, speed: int = 50) -> dict[int, bytes]:
    return {0x10: words(volume), 0x11: words(occupancy), 0x12: words(speed)}


def rows(data: bytes) -> list[Any]:
    return [row.values for frame in CODEC.frames(data) for row in CODEC.observed(frame)]


def device(link: Path, **options: Any) -> RtmsG4:
    line = f"serial://{link}?baud=115200"
    settings = {"name": "device", "driver": "rtms-g4", "line": line, "timeout_s": 0.5, **options}
    return RtmsG4(RtmsG4Config.model_validate(settings))


def answering(data: bytes) -> Lines:
    """Lines on which ``data`` come after the question."""

    class Answering(Lines):
        async def open(self, url: str, *, timeout_s: float = 5.0) -> Any:  # noqa: ARG002  # the signature
            line = ReplayLine(url, data)

            async def keep() -> None:
                """What is recorded came after the question."""

            line.flush_input = keep  # type: ignore[method-assign]
            return line

    return Answering()


@pytest.mark.parametrize("at", [index for index in range(len(poll(1))) if index != 2])
def test_every_damaged_bit_but_those_of_the_qualifier_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(poll(1))
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_damaged_qualifier_spoils_the_interval() -> None:
    good = answer(columns(), composition=0)
    assert len(rows(good)) == 2
    starts = [at for at in range(len(good)) if good.startswith(b"\xff\xaa", at)]
    assert len(starts) == 5
    for start in starts:
        for bit in range(8):
            damaged = bytearray(good)
            damaged[start + 2] ^= 1 << bit
            assert rows(bytes(damaged)) == []


def test_any_split_gives_the_same(every_split: Callable[..., None]) -> None:
    every_split(RtmsG4Decoder, b"\xff" + poll(1)[:5] + b"\xff\xaa\x10\x05" + bytes(9) + answer(columns()))


def test_speeds_are_in_the_unit_that_the_sensor_tells() -> None:
    assert rows(answer(columns(speed=50)))[0]["mean_speed"] == 50
    assert rows(answer(columns(speed=50), flags=MPH))[0]["mean_speed"] == pytest.approx(80.4672)


def test_what_is_missing_is_absent() -> None:
    assert "occupancy" not in rows(answer(columns(occupancy=1001)))[0]
    assert "mean_speed" not in rows(answer(columns(speed=201)))[0]
    assert "mean_speed" not in rows(answer(columns(volume=0)))[0]
    assert rows(answer(columns(volume=0)))[0]["vehicle_count"] == 0
    assert "vehicle_count" not in rows(answer(columns(volume=0xFFFF)))[0]


def test_the_smallest_class_is_the_rest_where_all_others_are_known() -> None:
    assert rows(answer({**columns(9), 0x14: words(2)}, composition=0x08))[0] == {
        "lane": 1,
        "interval": 5,
        "duration": 30,
        "vehicle_count": 9,
        "occupancy": pytest.approx(7.4),
        "mean_speed": 50,
        "class_1_count": 7,
        "class_2_count": 2,
    }
    for other in (0xFFFF, 10):
        row = rows(answer({**columns(9), 0x14: words(other)}, composition=0x08))[0]
        assert "class_1_count" not in row


@pytest.mark.parametrize(
    "spoilt",
    [
        answer(columns(), composition=0x40),  # no headway
        answer(columns(), composition=0x38),  # no classes
        answer(columns(), zones=2),
        answer(columns(), ends=6),
    ],
)
async def test_an_answer_that_is_not_whole_is_refused(spoilt: bytes) -> None:
    driver = device(Path("/dev/none"))
    await driver.connect(answering(spoilt))
    with pytest.raises(FrameError, match="not whole"):
        await driver.read()


async def test_a_refusal_is_told() -> None:
    driver = device(Path("/dev/none"))
    await driver.connect(answering(message(0x5F, 1, b"\0") + message(0x1A, 1, b"\0")))
    with pytest.raises(DeviceRefused):
        await driver.read()


async def test_each_lane_of_an_interval_is_told_once(tmp_path: Path, sensor: Any, told: Any) -> None:
    async with plugged(sensor(Sensor, lanes=3, duration_s=3600), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        found = [*await driver.read(), *await driver.read()]
        await driver.close()
    expected = [line["values"] for line in told()][:4]
    assert [dict(one.values) for one in found] == [pytest.approx(values) for values in expected]
    for row, stream in zip(found[2:], driver.streams(), strict=True):
        assert row.measurement == stream.measurement
        assert set(row.values) == {field.name for field in stream.fields}


async def test_a_damaged_message_spoils_its_interval_which_comes_again(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, faults="checksum@2", duration_s=3600), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        with pytest.raises(FrameError):
            await driver.read()
        assert len(await driver.read()) == 3
        await driver.close()


async def test_another_sensors_answer_is_not_ours(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Sensor, sensor=9), tmp_path / "tty") as link:
        driver = device(link)
        await driver.connect(Lines())
        with pytest.raises(DeviceTimeout):
            await driver.read()
        await driver.close()
