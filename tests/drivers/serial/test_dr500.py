"""The DR500 driver against a simulated radar on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceError, DeviceRefused
from trisense.drivers import Lines, Observed
from trisense.drivers.dr500 import Dr500, Dr500Config
from trisense.drivers.dr500.codec import Dr500Codec, Dr500Decoder, message
from trisense.sims.base import World, plugged
from trisense.sims.dr500 import Dr500 as Radar
from trisense.sims.world import Vehicle

SPEED = bytes.fromhex("f3322f7ab6fc")
CODEC = Dr500Codec(1)


class Street(World):
    """One vehicle, whatever the time."""

    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return [Vehicle(7, -10.0, 1, -12.5, 4.4)]


class Desert(World):
    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return []


@given(st.binary(min_size=1, max_size=40))
def test_any_body_comes_back_and_holds_no_bare_mark(body: bytes) -> None:
    framed = message(body)
    assert not {0xF3, 0xFC} & set(framed[1:-1])
    (frame,) = CODEC.frames(framed)
    assert (frame["msg"], frame["data"]) == (body[0], body[1:].hex())


@pytest.mark.parametrize("at", range(len(SPEED)))
def test_every_damaged_bit_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(SPEED)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


@pytest.mark.parametrize("size", range(len(SPEED)))
def test_a_frame_that_lost_its_end_costs_itself_alone(size: int) -> None:
    assert [frame["avg_speed"] for frame in CODEC.frames(SPEED[:size] + SPEED)] == [47]


def test_any_split_gives_the_same(every_split: Callable[..., None]) -> None:
    data = (
        b"\xf3" + bytes(120) + SPEED[:4] + SPEED + message(b"\x19\xfa\xf3\xfc") + b"\xf3\xfa\x01\xfc" + SPEED
    )
    every_split(Dr500Decoder, data)
    assert len(CODEC.frames(data)) == 3


async def read(link: Path, count: int = 1, **options: Any) -> list[Observed]:
    settings = {"name": "device", "driver": "dr500", "line": f"serial://{link}?baud=115200", **options}
    device = Dr500(Dr500Config.model_validate(settings))
    rows: list[Observed] = []
    try:
        await device.connect(Lines())
        while len(rows) < count:
            rows += await device.read()
    finally:
        await device.close()
    return rows


@pytest.mark.parametrize(("unit", "kmh"), [(0, 28 * 1.609344), (1, 45), (2, 41 * 1.09728), (3, 12 * 3.6)])
async def test_the_radars_own_unit_is_asked_for(
    unit: int, kmh: float, tmp_path: Path, sensor: Any, told: Any
) -> None:
    radar = sensor(Radar, unit=unit)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        (row,) = await read(link)
    assert row.values == {"presence": 1, "vehicle_speed": pytest.approx(kmh)} == told()[0]["values"]


async def test_no_vehicle_is_no_speed(tmp_path: Path, sensor: Any) -> None:
    radar = sensor(Radar)
    radar.world = Desert(1)
    async with plugged(radar, tmp_path / "tty") as link:
        (row,) = await read(link)
    assert row.values == {"presence": 0}


async def test_a_unit_that_nobody_knows_is_refused(tmp_path: Path, sensor: Any) -> None:
    async with plugged(sensor(Radar, unit=9), tmp_path / "tty") as link:
        with pytest.raises(DeviceRefused):
            await read(link)


async def test_a_damaged_answer_is_a_device_error_and_no_row(tmp_path: Path, sensor: Any) -> None:
    radar = sensor(Radar, unit=1, faults="checksum@2")
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        with pytest.raises(DeviceError):
            await read(link, timeout_s=0.5)
