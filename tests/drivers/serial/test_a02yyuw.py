"""The A02YYUW driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout, LineError
from trisense.drivers.a02yyuw import A02yyuw, A02yyuwCodec, A02yyuwConfig, A02yyuwDecoder
from trisense.sims.a02yyuw import A02yyuw as Sensor
from trisense.sims.base import plugged

GOOD = bytes.fromhex("ff07a1a7")
CODEC = A02yyuwCodec("a02yyuw", "frame")


def summed(distance_mm: int) -> bytes:
    body = b"\xff" + distance_mm.to_bytes(2, "big")
    return body + bytes((sum(body) & 0xFF,))


def driver(link: Path, **options: Any) -> A02yyuw:
    settings = {"name": "gauge", "driver": "a02yyuw", "line": f"serial://{link}", **options}
    return A02yyuw(A02yyuwConfig.model_validate(settings))


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_damaged_bit_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_frame_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD)):
        assert CODEC.frames(GOOD[:size] + GOOD)[-1] == {"values": {"distance": 1.953}}
    every_split(lambda: A02yyuwDecoder(30, "frame"), b"\x07\xff\xff" + GOOD[:3] + GOOD + summed(0x00FF))


@pytest.mark.parametrize(
    ("model", "distance_mm", "distance_m"),
    [("a02yyuw", 30, None), ("a02yyuw", 31, 0.031), ("a01nyub", 280, None), ("a01nyub", 281, 0.281)],
)
def test_an_echo_inside_the_blind_zone_is_no_distance(
    model: str, distance_mm: int, distance_m: float | None
) -> None:
    (frame,) = A02yyuwCodec(model, "frame").frames(summed(distance_mm))
    assert frame["values"] == {"distance": distance_m}


def test_what_no_model_can_hear_is_damage() -> None:
    assert CODEC.frames(summed(10_001)) == []


def test_the_other_sum_is_believed_only_where_it_is_configured() -> None:
    other = bytes.fromhex("ff07a1a8")
    assert CODEC.frames(other) == []
    assert len(A02yyuwCodec("a02yyuw", "distance").frames(other)) == 1
    assert A02yyuwCodec("a02yyuw", "distance").frames(GOOD) == []


@pytest.mark.parametrize("sum_of", ["frame", "distance"])
async def test_it_reads_what_the_sensor_tells(
    sum_of: str, tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty", sum_of=sum_of)
    async with plugged(sensor(Sensor, period_s=0.01, sum_of=sum_of), tmp_path / "tty"):
        rows = await observe(device, 3)
    assert [dict(row.values) for row in rows] == [line["values"] for line in told()[:3]]
    (stream,) = device.streams()
    assert {field.name for field in stream.fields} == set(rows[0].values)


async def test_damaged_frames_are_counted_and_never_believed(
    tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    faults = "checksum=0.15,cut=0.15,garbage=0.1,silence=0.1"
    async with plugged(sensor(Sensor, faults=faults, period_s=0.01), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        rows = await observe(device, 30)
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert device.damaged_count > 3
    assert [row for row in rows if dict(row.values) not in good] == []


async def test_a_silent_sensor_is_a_timeout(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, period_s=60), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="gauge: no good frame"):
            await observe(driver(tmp_path / "tty", timeout_s=0.1), 1)


async def test_a_sensor_that_was_unplugged_is_read_again(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, faults="hangup@4", period_s=0.01), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        with pytest.raises(LineError):
            await observe(device, 20)
        assert len(await observe(device, 3)) == 3
