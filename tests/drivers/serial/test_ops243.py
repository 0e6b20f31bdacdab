"""The OPS243 driver against a simulated radar on a pty, and its lines against damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceTimeout
from trisense.drivers.ops243 import Ops243, Ops243Config
from trisense.drivers.ops243.codec import JsonDecoder, Ops243Codec, OpsDecoder
from trisense.sims.base import World, plugged
from trisense.sims.ops243 import Ops243 as Radar
from trisense.sims.world import Vehicle

CODEC = Ops243Codec()


class Street(World):
    """One vehicle going away, whatever the time."""

    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return [Vehicle(7, -10.0, 1, -12.5, 4.4)]


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\r\n"


def speeds(data: bytes) -> list[float]:
    rows = [row for frame in CODEC.frames(data) for row in CODEC.observed(frame)]
    return [row.values["radial_speed"] for row in rows]  # type: ignore[misc]  # numbers


@pytest.mark.parametrize(
    ("unit", "mps"), [("m/s", 10.0), ("mph", 4.4704), ("kmph", 2.7778), ("cm/s", 0.1), ("ft/s", 3.048)]
)
def test_any_unit_becomes_metres_per_second(unit: str, mps: float) -> None:
    assert speeds(line(unit=unit, speed="10.0")) == [pytest.approx(mps, rel=1e-4)]


def test_a_speed_whose_unit_is_not_known_is_not_told() -> None:
    assert speeds(line(speed=10) + line(unit="furlong", speed=10)) == []


def test_the_direction_gives_its_sign_to_a_speed_without_one() -> None:
    assert speeds(line(unit="m/s", speed=3, direction="outbound") + line(unit="m/s", speed=-3)) == [-3, -3]


def test_several_speeds_of_one_cycle_are_a_row_each() -> None:
    (frame,) = CODEC.frames(line(unit="m/s", speed=["3.5", "-2"], magnitude=["60", "20"]))
    rows = [dict(row.values) for row in CODEC.observed(frame)]
    assert rows == [{"radial_speed": 3.5, "magnitude": 60}, {"radial_speed": -2, "magnitude": 20}]


@pytest.mark.parametrize(
    "text",
    [
        b'{"speed":1e999}',
        b'{"speed":NaN}',
        b'{"speed":true}',
        b'{"speed":"fast"}',
        b'{"speed":[1,2],"magnitude":[1]}',
        b'{"speed":1,"direction":"up"}',
        b'{"sp\x01eed":1}',
        b'{"speed":1',
        b".45",
        b"3.6.1",
        b"[[[[",
    ],
)
def test_a_line_that_is_no_reading_is_damage(text: bytes) -> None:
    assert CODEC.frames(text + b"\r\n") == []
    assert CODEC.damaged(text + b"\r\n")[0].startswith("no reading")


def test_the_tail_of_a_line_is_no_reading_where_json_was_set() -> None:
    good = line(unit="m/s", speed="-23.4")
    for start in range(1, len(good) - 2):
        found = JsonDecoder().feed(good[start:] + good)
        assert [piece for piece in found if isinstance(piece, dict)] == CODEC.frames(good)
    assert [p for p in JsonDecoder().feed(b"3.6\r\n") if isinstance(p, dict)] == []


@given(st.binary(max_size=80))
def test_noise_costs_no_line_behind_it(noise: bytes) -> None:
    good = line(unit="m/s", speed=4)
    assert CODEC.frames(noise + b"\n" + good)[-1:] == CODEC.frames(good)


def test_any_split_gives_the_same(every_split: Callable[..., None]) -> None:
    every_split(OpsDecoder, b'6\r\n{"spe' + line(unit="m/s", speed=4) + b"3.6\r\n\r\nnoise\r\n")


# --- driver -----------------------------------------------------------------------------------------


def device(link: Path, **options: Any) -> Ops243:
    settings = {"name": "device", "driver": "ops243", "line": f"serial://{link}?baud=19200", **options}
    return Ops243(Ops243Config.model_validate(settings))


@pytest.mark.parametrize("units", ["US", "UM", "UK"])
async def test_it_sets_the_output_and_tells_the_speed(
    units: str, tmp_path: Path, sensor: Any, observe: Any
) -> None:
    radar = sensor(Radar, units=units, period_s=0.01)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        driver = device(link, min_speed=2, min_magnitude=15)
        (row,) = await observe(driver, 1)
    assert row.values == {"radial_speed": pytest.approx(-12.5, abs=0.03), "magnitude": 47}
    assert radar.commands == ["\x03", "PI", "OJ", "OU", "OM", "R>2", "M>15", "?U", "PA"]
    fields = {stream.measurement: {field.name for field in stream.fields} for stream in driver.streams()}
    assert set(row.values) == fields[row.measurement]


@pytest.mark.parametrize("mute", [False, True])
async def test_a_quiet_radar_has_seen_nothing_only_if_it_answers(
    mute: bool, tmp_path: Path, sensor: Any, observe: Any
) -> None:
    radar = sensor(Radar, quiet=True, faults="silence=1" if mute else "")
    async with plugged(radar, tmp_path / "tty") as link:
        driver = device(link, quiet_s=0.1, timeout_s=0.3)
        if mute:
            with pytest.raises(DeviceTimeout):
                await observe(driver, 1)
            return
        (row,) = await observe(driver, 1)
    assert row.values == {"target_count": 0}


async def test_no_damage_gives_a_row_that_was_not_told(
    tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    radar = sensor(Radar, faults="checksum=0.2,cut=0.2,garbage=0.2", period_s=0.002, units="UM")
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        driver = device(link)
        rows = await observe(driver, 40)
    known = [row["values"] for row in told()]
    assert driver.damaged_count > 3
    assert [row for row in rows if dict(row.values) not in known] == []
