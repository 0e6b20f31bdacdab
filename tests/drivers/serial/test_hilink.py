"""The LD2410 and LD2451 drivers against simulated radars on a pty, and their decoders against damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout
from trisense.core.model import Quality
from trisense.drivers.hilink import command
from trisense.drivers.ld2410 import Ld2410, Ld2410Config
from trisense.drivers.ld2410.codec import Ld2410Codec, Ld2410Decoder
from trisense.drivers.ld2451 import Ld2451, Ld2451Config
from trisense.drivers.ld2451 import driver as ld2451_driver
from trisense.drivers.ld2451.codec import Ld2451Codec, Ld2451Decoder
from trisense.sims import hilink
from trisense.sims.base import World, plugged
from trisense.sims.world import Vehicle, Walker

BOTH = bytes.fromhex("f4f3f2f10d0002aa0346003400003c00005500f8f7f6f5")
STALE = bytes.fromhex("f4f3f2f10d0002aa0045003e00003a00005500f8f7f6f5")
ONE = bytes.fromhex("f4f3f2f1070001018a2601340cf8f7f6f5")
NONE = bytes.fromhex("f4f3f2f10000f8f7f6f5")
PRESENCE, ROAD = Ld2410Codec(), Ld2451Codec()


class Street(World):
    """One walker and two vehicles, whatever the time."""

    def walkers(self, t_ns: int | None = None) -> list[Walker]:  # noqa: ARG002  # the world's signature
        return [Walker(1, 1.0, 2.0, -0.5, -1.0)]

    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return [Vehicle(1, -10.0, 0, 12.0, 4.4), Vehicle(2, 30.0, 1, -14.0, 12.0)]


class Desert(World):
    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return []


def settings(driver: str, link: Path, **options: Any) -> dict[str, Any]:
    return {
        "name": "device",
        "driver": driver,
        "line": f"serial://{link}?baud=115200",
        "timeout_s": 2,
        **options,
    }


# --- decoders ---------------------------------------------------------------------------------------


def test_a_distance_that_the_state_does_not_vouch_for_is_not_told() -> None:
    (frame,) = PRESENCE.frames(STALE)
    (row,) = PRESENCE.observed(frame)
    assert not {"moving_distance", "stationary_distance"} & set(row.values)
    assert row.values["presence"] == 0


@pytest.mark.parametrize("state", [4, 6, 255])
def test_a_state_that_nobody_knows_is_no_presence(state: int) -> None:
    (frame,) = PRESENCE.frames(BOTH[:8] + bytes((state,)) + BOTH[9:])
    (row,) = PRESENCE.observed(frame)
    assert "presence" not in row.values
    assert row.quality["presence"] is Quality.MISSING


@pytest.mark.parametrize("good", [BOTH, ONE])
def test_a_cut_report_costs_itself_alone(good: bytes) -> None:
    codec = PRESENCE if good is BOTH else ROAD
    for size in range(len(good)):
        assert codec.frames(good[:size] + good) == codec.frames(good)


@pytest.mark.parametrize("at", [*range(8), -1, -2, -3, -4, -5, -6])
def test_damage_to_what_frames_a_presence_report_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(BOTH)
        damaged[at] ^= 1 << bit
        assert PRESENCE.frames(bytes(damaged)) == []


@pytest.mark.parametrize(
    ("at", "byte"), [(6, 2), (6, 0), (8, 0x80 + 91), (8, 0), (10, 2), (4, 6), (4, 8), (5, 1)]
)
def test_a_vehicle_report_that_cannot_be_is_refused(at: int, byte: int) -> None:
    assert ROAD.frames(ONE[:at] + bytes((byte,)) + ONE[at + 1 :]) == []


def test_any_split_gives_the_same(every_split: Callable[..., None]) -> None:
    every_split(Ld2410Decoder, b"\xf4\xf3" + BOTH[:9] + BOTH + command(0xFE) + STALE)
    every_split(Ld2451Decoder, b"\xf4\xf3" + ONE[:9] + ONE + command(0xFE) + NONE)


# --- drivers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engineering", [False, True])
async def test_it_tells_who_is_there(
    engineering: bool, tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    radar = sensor(hilink.Ld2410, period_s=0.005)
    radar.world, radar.configuring = Street(1), True  # as a host that died has left it
    async with plugged(radar, tmp_path / "tty") as link:
        device = Ld2410(Ld2410Config.model_validate(settings("ld2410", link, engineering=engineering)))
        rows = await observe(device, 3)
    fields = {field.name for field in device.streams()[0].fields}
    assert all(set(row.values) <= fields for row in rows)
    assert dict(rows[-1].values) in [line["values"] for line in told()]
    assert ("light" in rows[-1].values) is engineering


async def test_it_tells_the_vehicles_on_the_road(tmp_path: Path, sensor: Any, observe: Any) -> None:
    radar = sensor(hilink.Ld2451, period_s=0.005)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        device = Ld2451(Ld2451Config.model_validate(settings("ld2451", link)))
        rows = await observe(device, 3)
    assert [dict(row.values) for row in rows] == [
        {"target_count": 2, "alarm": 1},
        {"angle": -4, "distance": 50, "approaching": 0, "vehicle_speed": 43, "signal_to_noise": 12},
        {"angle": 4, "distance": 90, "approaching": 1, "vehicle_speed": 50, "signal_to_noise": 12},
    ]
    fields = {stream.measurement: {field.name for field in stream.fields} for stream in device.streams()}
    assert all(set(row.values) == fields[row.measurement] for row in rows)


@pytest.mark.parametrize("mute", [False, True])
async def test_silence_is_an_empty_road_only_where_the_radar_answers(
    mute: bool, tmp_path: Path, sensor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ld2451_driver, "QUIET_S", 0.1)
    radar = sensor(hilink.Ld2451, silent=True, faults="silence=1" if mute else "")
    radar.world = Desert(1)
    async with plugged(radar, tmp_path / "tty") as link:
        device = Ld2451(Ld2451Config.model_validate(settings("ld2451", link, timeout_s=0.3)))
        if mute:
            with pytest.raises(DeviceTimeout):
                await observe(device, 1)
            return
        rows = await observe(device, 2)
    assert [dict(row.values) for row in rows] == [{"target_count": 0, "alarm": 0}] * 2


async def test_no_damage_gives_a_row_that_was_not_told(
    tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    radar = sensor(hilink.Ld2451, faults="checksum=0.2,cut=0.2,garbage=0.2", period_s=0.002)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        device = Ld2451(Ld2451Config.model_validate(settings("ld2451", link)))
        rows = await observe(device, 90)
    known = [line["values"] for line in told()]
    assert device.damaged_count > 3
    assert [row for row in rows if dict(row.values) not in known] == []
