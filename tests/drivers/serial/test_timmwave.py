"""The TI mmWave driver against a simulated radar on ptys, a real recording, and damage."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceError, DeviceRefused
from trisense.drivers import Lines
from trisense.drivers.timmwave import TiMmwave, TiMmwaveConfig
from trisense.drivers.timmwave.chirp import limits, words_of
from trisense.drivers.timmwave.codec import MAGIC, TiMmwaveCodec, TiMmwaveDecoder
from trisense.drivers.timmwave.counting import LineCounter
from trisense.drivers.timmwave.driver import RawWatch
from trisense.drivers.timmwave.rows import Tracks
from trisense.sims.base import World, plugged
from trisense.sims.timmwave import TiMmwave as Radar
from trisense.sims.timmwave import TiMmwaveCli
from trisense.sims.world import Vehicle

CODEC = TiMmwaveCodec()
RECORDINGS = Path(__file__).parents[3] / ".." / "shared" / "data" / "radar"
VECTORS = {
    vector["id"]: bytes.fromhex(vector["hex"])
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "radar_vectors.json").read_text())
}
POINT = struct.pack("<4f", 1.0, 20.0, 0.5, -8.0)
TRAFFIC_70M = """
% TI's 70 m traffic configuration, its lines that matter here
profileCfg 0 60 8 7 28 0 0 20 1 256 12500 0 0 30
chirpCfg 0 0 0 0 0 0 0 1
chirpCfg 1 1 0 0 0 0 0 2
chirpCfg 2 2 0 0 0 0 0 4
frameCfg 0 2 40 0 50 1 0
extendedMaxVelocity -1 0
sensorStart
"""


def frame(*tlvs: tuple[int, bytes], number: int = 1, whole: bool = False, padding: bytes = b"") -> bytes:
    """A frame of the out-of-box demo."""
    own = 8 if whole else 0
    body = b"".join(struct.pack("<II", kind, len(value) + own) + value for kind, value in tlvs)
    size = 40 + len(body) + len(padding)
    words = (0x03060000, size, 0x0A6843, number, 0, 1, len(tlvs), 0)
    return MAGIC + struct.pack("<8I", *words) + body + padding


GOOD = frame((1, POINT), (7, struct.pack("<hh", 181, 600)))


def numbers(data: bytes) -> list[int]:
    return [found["frameNumber"] for found in CODEC.frames(data)]


# --- decoder ----------------------------------------------------------------------------------------


def test_the_recording_of_an_iwr6843_decodes_exactly() -> None:
    if not RECORDINGS.is_dir():
        pytest.skip("the shared recordings are not beside the repository")
    expected = json.loads((RECORDINGS / "ti_iwr6843_oob_sdk33_doors.expected.json").read_text())
    data = (RECORDINGS / expected["file"]).read_bytes()
    frames = CODEC.frames(data)
    assert CODEC.damaged(data) == []
    assert [[f["frameNumber"], len(f["points"])] for f in frames] == expected["points_per_frame"]
    assert {(f["version"], f["platform"]) for f in frames} == {(expected["version"], expected["platform"])}
    assert sum(len(f["points"]) for f in frames) == expected["total_points"]
    empty = [f["frameNumber"] for f in frames if not f["points"]]
    assert empty == expected["zero_object_frames"]
    patterns = [str([kind for kind, _ in f["tlvs"]]) for f in frames]
    assert {p: patterns.count(p) for p in patterns} == expected["tlv_type_patterns"]
    fastest = max(abs(point["v"]) for f in frames for point in f["points"])
    assert fastest == pytest.approx(expected["max_abs_doppler_mps"], abs=1e-6)


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("ti-") and "cli" not in name])
def test_any_split_of_any_variant_gives_the_same(name: str, every_split: Callable[..., None]) -> None:
    every_split(TiMmwaveDecoder, b"\x02\x01" + VECTORS[name][:90] + VECTORS[name] + GOOD)


@pytest.mark.parametrize("size", range(1, len(GOOD)))
def test_a_frame_cut_short_costs_itself_alone(size: int) -> None:
    assert numbers(GOOD[:size] + frame((1, POINT), number=2)) == [2]


@pytest.mark.parametrize("at", range(len(GOOD) - 20))
def test_a_lost_byte_never_gives_a_value_that_was_not_there(at: int) -> None:
    found = CODEC.frames(GOOD[:at] + GOOD[at + 1 :] + frame((1, POINT), number=2))
    assert [f["frameNumber"] for f in found] == [2]


@pytest.mark.parametrize("lost", [1, 7, 20])
def test_a_frame_that_lacks_nothing_but_padding_is_good(lost: int) -> None:
    padded = frame((1, POINT), padding=bytes(range(20)))[:-lost]
    found = CODEC.frames(padded + GOOD)
    assert [f["missing_bytes"] for f in found] == [lost, 0]
    assert CODEC.damaged(padded + GOOD) == []


def test_a_magic_in_the_padding_begins_no_frame() -> None:
    assert numbers(frame((1, POINT), padding=bytes(9) + MAGIC + bytes(5)) + frame(number=2)) == [1, 2]


def test_padding_that_looks_like_the_start_of_a_magic_waits_for_what_follows() -> None:
    decoder = TiMmwaveDecoder()
    data = frame((1, POINT), padding=MAGIC[:3])
    assert decoder.feed(data) == []
    assert [f["frameNumber"] for f in decoder.feed(b"\xff\xff\xff\xff\xff")] == [1]  # type: ignore[index]  # a frame


def test_either_convention_of_a_tlvs_length_is_found() -> None:
    by_value, whole = frame((1, POINT), (77, b"skipped")), frame((1, POINT), (77, b"skipped"), whole=True)
    (first,), (second,) = CODEC.frames(by_value), CODEC.frames(whole)
    assert first["points"] == second["points"]
    assert (first["tlvs"], second["tlvs"]) == ([[1, 16], [77, 7]], [[1, 24], [77, 15]])


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<4f", math.nan, 1, 1, 1),
        struct.pack("<4f", 1, 1, 1, math.inf),
        struct.pack("<4f", 1, 5000, 1, 1),
        POINT[:15],
    ],
)
def test_points_that_cannot_be_spoil_their_frame(value: bytes) -> None:
    assert numbers(frame((1, value)) + frame(number=2)) == [2]


def test_a_length_without_measure_takes_no_memory() -> None:
    huge = MAGIC + struct.pack("<8I", 0x03060000, 0xFFFFFFF0, 0x0A6843, 1, 0, 1, 1, 0)
    many = MAGIC + struct.pack("<8I", 0x03060000, 400, 0x0A6843, 1, 0, 1, 5000, 0)
    assert numbers(huge + many + GOOD) == [1]


@pytest.mark.parametrize("at", range(8, 52))
def test_every_damaged_bit_of_a_summed_header_is_noticed(at: int) -> None:
    damaged = bytearray(VECTORS["ti-tm52-1target"])
    for bit in range(8):
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []
        assert [p for p in TiMmwaveDecoder("traffic").feed(bytes(damaged)) if isinstance(p, dict)] == []
        damaged[at] ^= 1 << bit


@given(st.binary(max_size=200))
def test_noise_is_never_a_frame_and_never_hides_one(noise: bytes) -> None:
    assert numbers(noise.replace(MAGIC[:2], b"") + GOOD)[-1:] == [1]


# --- rows -------------------------------------------------------------------------------------------


def test_nothing_seen_is_a_row_in_both_its_forms() -> None:
    for data in (VECTORS["ti-oob33-zero-objects"], VECTORS["ti-empty-frame"]):
        (found,) = CODEC.frames(data)
        (row,) = CODEC.observed(found)
        assert row.values["point_count"] == 0


def test_the_number_of_points_is_that_of_the_points_not_of_the_header() -> None:
    (found,) = CODEC.frames(frame((1, POINT * 3)))
    assert CODEC.observed(found)[0].values["point_count"] == 3


def test_coming_nearer_is_positive() -> None:
    (found,) = CODEC.frames(GOOD)
    assert CODEC.observed(found)[1].values["radial_speed"] == 8.0


def test_side_info_that_fits_no_point_is_left_out() -> None:
    (found,) = CODEC.frames(frame((1, POINT * 2), (7, struct.pack("<hh", 181, 600))))
    assert ["noise_level" in row.values for row in CODEC.observed(found)[1:]] == [False, False]


def test_points_of_a_tracker_become_cartesian() -> None:
    (found,) = CODEC.frames(VECTORS["ti-pc48-people"])
    first = CODEC.observed(found)[1].values
    expected = {"x": 0.9847, "y": 3.8562, "z": -0.3993, "radial_speed": 0.42}
    assert {name: first[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_number_used_again_is_another_track() -> None:
    def seen(number: int, *identities: int) -> dict[str, Any]:
        targets = [{"tid": i, "pos": [0, 1, 0], "vel": [0, 0, 0], "confidence": 1.0} for i in identities]
        return {"frameNumber": number, "targets": targets}

    tracks, keys, missed = Tracks(), [], []
    for one in (seen(5, 1), seen(6, 1), seen(8), seen(9, 1), seen(3, 1)):
        rows = tracks.told(one)
        missed.append(rows[0].values["frames_missed"])
        keys += [(row.values["birth_frame"], row.values["age_frames"]) for row in rows[1:]]
    assert keys == [(5, 1), (5, 2), (9, 1), (3, 1)]
    assert missed == [0, 0, 1, 0, 0]


def test_the_limits_of_a_chirp_configuration_are_those_that_ti_states() -> None:
    found = limits(words_of(TRAFFIC_70M))
    assert found.range_resolution_m == pytest.approx(0.366, abs=0.001)
    assert found.max_range_m == pytest.approx(75, abs=0.1)
    assert found.max_speed_mps == pytest.approx(11.5, abs=0.1)
    assert found.speed_resolution_mps == pytest.approx(0.58, abs=0.005)
    extended = limits(words_of(TRAFFIC_70M.replace("Velocity -1 0", "Velocity -1 1")))
    assert extended.max_speed_mps == 2 * found.max_speed_mps


def test_a_line_that_turns_cr_into_lf_is_noticed() -> None:
    raw, cooked = RawWatch(), RawWatch()
    for _ in range(RawWatch.FRAMES):
        raw.take(b"\x0c\x0d\x0e")
        cooked.take(b"\x0c\x0a\x0e")
    assert (raw.suspects, cooked.suspects) == (False, True)


# --- driver -----------------------------------------------------------------------------------------


class Street(World):
    """Three vehicles in sight, whatever the time."""

    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:  # noqa: ARG002  # the world's signature
        return [
            Vehicle(1, -10.0, 0, 12.0, 4.4),
            Vehicle(2, -30.0, 1, -12.0, 12.0),
            Vehicle(3, 99.0, 0, 9.0, 4.0),
        ]


def device(link: Path, **options: Any) -> TiMmwave:
    settings = {"name": "device", "driver": "ti-mmwave", "line": f"serial://{link}?baud=921600", **options}
    return TiMmwave(TiMmwaveConfig.model_validate(settings))


@pytest.mark.parametrize("firmware", ["out-of-box", "traffic"])
async def test_it_tells_what_the_radar_saw(
    firmware: str, tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    radar = sensor(Radar, firmware=firmware, period_s=0.01)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        rows = await observe(device(link, points=firmware == "out-of-box"), 9)
    assert {row.measurement for row in rows} > {"radar_presence"}
    first = next(
        line for line in told() if line["values"].get("frame_number") == rows[0].values["frame_number"]
    )
    wanted = told()[told().index(first) :][:9]
    for row, line in zip(rows, wanted, strict=True):
        assert row.measurement == line["measurement"]
        assert {name: row.values[name] for name in line["values"]} == line["values"]


async def test_the_rows_fit_the_streams(tmp_path: Path, sensor: Any, observe: Any) -> None:
    radar = sensor(Radar, firmware="traffic", period_s=0.01)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        driver = device(link, firmware="traffic")
        rows = await observe(driver, 6)
    fields = {stream.measurement: {field.name for field in stream.fields} for stream in driver.streams()}
    assert all(set(row.values) <= fields[row.measurement] for row in rows)


async def test_no_damage_gives_a_row_that_was_not_told(
    tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    radar = sensor(Radar, faults="checksum=0.2,cut=0.2,garbage=0.2", period_s=0.002, drop=5)
    radar.world = Street(1)
    async with plugged(radar, tmp_path / "tty") as link:
        driver = device(link)
        rows = await observe(driver, 60)
    known = {(line["measurement"], line["values"].get("frame_number")) for line in told()}
    seen = [row for row in rows if (row.measurement, row.values.get("frame_number")) not in known]
    assert driver.damaged_count > 3
    assert seen == []
    assert {row.values["point_count"] for row in rows if row.measurement == "radar_presence"} == {2}


async def configured(tmp_path: Path, cli: TiMmwaveCli, radar: Radar) -> tuple[TiMmwave, AsyncExitStack]:
    (tmp_path / "radar.cfg").write_text(TRAFFIC_70M)
    stack = AsyncExitStack()
    await stack.enter_async_context(plugged(cli, tmp_path / "cli"))
    await stack.enter_async_context(plugged(radar, tmp_path / "data"))
    cli_line = f"serial://{tmp_path / 'cli'}?baud=115200"
    options = {"cli_line": cli_line, "configuration": tmp_path / "radar.cfg"}
    return device(tmp_path / "data", **options), stack


async def test_it_configures_the_radar_line_by_line_and_knows_its_limit(
    tmp_path: Path, sensor: Any, observe: Any
) -> None:
    cli = sensor(TiMmwaveCli, start_s=0.7)
    driver, stack = await configured(tmp_path, cli, sensor(Radar, period_s=0.01))
    async with stack:
        (row,) = await observe(driver, 1)
    assert cli.commands[:3] == ["sensorStop", "flushCfg", "profileCfg 0 60 8 7 28 0 0 20 1 256 12500 0 0 30"]
    assert cli.commands[-1] == "sensorStart"
    assert cli.started
    assert row.values["speed_limit"] == pytest.approx(11.57, abs=0.01)


async def test_a_refused_command_is_told_and_ends_the_configuration(tmp_path: Path, sensor: Any) -> None:
    cli = sensor(TiMmwaveCli, refuses="frameCfg")
    driver, stack = await configured(tmp_path, cli, sensor(Radar))
    async with stack:
        with pytest.raises(DeviceRefused, match=r"refuses 'frameCfg.*Error -1") as raised:
            await driver.connect(Lines())
    assert raised.value.code == -1
    assert not cli.started


async def test_a_configuration_that_cannot_be_read_is_a_device_error(tmp_path: Path) -> None:
    (tmp_path / "none.cfg").write_text("sensorStart\n")
    with pytest.raises(DeviceError, match="no line profileCfg"):
        await device(tmp_path / "tty", configuration=tmp_path / "none.cfg").connect(Lines())
    with pytest.raises(DeviceError, match="No such file"):
        await device(tmp_path / "tty", configuration=tmp_path / "gone.cfg").connect(Lines())


# --- counting ---------------------------------------------------------------------------------------


def crossing(number: int, *tracks: tuple[int, float, float]) -> dict[str, Any]:
    targets = [
        {"tid": i, "pos": [x, y, 0.0], "vel": [0.0, -12.0, 0.0], "confidence": 1.0} for i, x, y in tracks
    ]
    return {"frameNumber": number, "targets": targets}


def test_a_track_that_crosses_the_line_counts_once_in_its_lane() -> None:
    counter = LineCounter([(-5.0, 0.0), (0.0, 5.0)], line_m=20.0, interval_s=20)
    tracks, began_ns, rows = Tracks(), 1_700_000_040_000_000_000, []
    for number in range(1, 202):
        y = 26.0 - number  # a track that trembles on the line crosses it three times
        one = crossing(
            number, (1, -2.0, y + (number == 7) * 2), (2, 9.0, y), *[(3, 2.0, 60 - y)] * (number > 3)
        )
        seen = tracks.told(one if number < 20 else crossing(number))
        rows += counter.take(seen, began_ns + number * 100_000_000)
    assert {(row.values["lane"], row.values["approaching"]): row.values["vehicle_count"] for row in rows} == {
        (1, 0): 0,
        (1, 1): 1,
        (2, 0): 0,
        (2, 1): 0,
    }
    (counted,) = [row.values for row in rows if row.values["vehicle_count"]]
    assert counted["mean_speed"] == pytest.approx(43.2)


def test_a_track_that_is_too_young_is_not_counted() -> None:
    counter = LineCounter([(-5.0, 5.0)], line_m=20.0, interval_s=20)
    tracks, began_ns, rows = Tracks(), 1_700_000_040_000_000_000, []
    for number in range(1, 202):
        seen = tracks.told(crossing(number, *[(1, 0.0, 21.5 - number)] * (number < 4)))
        rows += counter.take(seen, began_ns + number * 100_000_000)
    assert [row.values["vehicle_count"] for row in rows] == [0, 0]


def test_a_driver_with_lanes_has_a_stream_of_intervals(tmp_path: Path) -> None:
    plain, counting = device(tmp_path), device(tmp_path, lanes=[[-5, 0], [0, 5]], statistics_s=20)
    added = {s.measurement for s in counting.streams()} - {s.measurement for s in plain.streams()}
    assert added == {"traffic_interval"}
