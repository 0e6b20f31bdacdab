"""The LD2450 driver against a simulated radar on a pty, and its decoder against damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.drivers import Damage, Lines, Observed
from trisense.drivers.hilink import command
from trisense.drivers.ld2450 import Ld2450, Ld2450Config
from trisense.drivers.ld2450.codec import Ld2450Codec, Ld2450Decoder
from trisense.sims.base import Faults, Truth, World, plugged
from trisense.sims.ld2450 import Ld2450 as Radar
from trisense.sims.world import Walker

CODEC = Ld2450Codec()
REPORT = bytes.fromhex("aaff03000e03b186100040010000000000000000000000000000000055cc")
ONE = {"x_mm": -782, "y_mm": 1713, "speed_cm_s": -16, "resolution_mm": 320}


def report(*slots: tuple[int, int, int, int]) -> bytes:
    """A report of raw slot words."""
    body = b"".join(struct.pack("<HHHH", *slot) for slot in slots)
    return b"\xaa\xff\x03\x00" + body.ljust(24, b"\0") + b"\x55\xcc"


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"), [(0x8001, 1), (0x0001, -1), (0x8000, 0), (0x0000, 0), (0x9388, 5000), (0x1388, -5000)]
)
def test_bit_15_set_means_positive(word: int, value: int) -> None:
    (frame,) = CODEC.frames(report((word, 0x8FFF, 0x8010, 360)))
    assert frame["targets"][0]["x_mm"] == value


@pytest.mark.parametrize("at", [0, 1, 2, 3, 28, 29])
def test_a_damaged_head_or_tail_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(REPORT)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


@pytest.mark.parametrize(
    "slot",
    [(0xFFFF, 0x8FFF, 0, 320), (0x8001, 0x0FFF, 0, 320), (0x8001, 0xFFFF, 0, 320), (1, 0x8001, 0xFFFF, 1)],
)
def test_a_target_that_cannot_be_is_refused_with_its_frame(slot: tuple[int, int, int, int]) -> None:
    assert CODEC.frames(report(slot)) == []
    assert CODEC.damaged(report(slot))[0].startswith("implausible")


@pytest.mark.parametrize("size", range(len(REPORT)))
def test_a_cut_report_costs_itself_alone(size: int) -> None:
    assert [frame["targets"] for frame in CODEC.frames(REPORT[:size] + REPORT)] == [[ONE, None, None]]


@given(st.binary(max_size=70), st.lists(st.integers(0, 200), max_size=6))
def test_any_bytes_in_any_split_give_the_same_frames(noise: bytes, cuts: list[int]) -> None:
    data = noise + REPORT + command(0xFE) + noise[:9] + REPORT
    decoder, found = Ld2450Decoder(), []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        found += decoder.feed(data[start:end])
    found += decoder.finish()
    assert [piece for piece in found if not isinstance(piece, Damage)] == CODEC.frames(data)


def test_answers_to_commands_share_the_stream_and_are_no_reading() -> None:
    answer = bytes.fromhex("fdfcfbfa0800ff0100000100400004030201")
    frames = CODEC.frames(REPORT + answer + REPORT)
    assert frames[1] == {"command": 255, "ack": True, "status": 0, "data": "01004000"}
    assert CODEC.observed(frames[1]) == ()


def test_nobody_there_is_a_row_and_each_target_another() -> None:
    (empty,) = CODEC.frames(report())
    assert [row.values for row in CODEC.observed(empty)] == [{"target_count": 0}]
    (one,) = CODEC.frames(REPORT)
    assert [row.values for row in CODEC.observed(one)] == [
        {"target_count": 1},
        {"x": -0.782, "y": 1.713, "radial_speed": -0.16, "distance_resolution": 0.32},
    ]


# --- driver -----------------------------------------------------------------------------------------


class Crowd(World):
    """Two people who walk past, whatever the time."""

    def walkers(self, t_ns: int | None = None) -> list[Walker]:  # noqa: ARG002  # the world's signature
        return [Walker(1, 1.0, 2.0, -0.5, -1.0), Walker(2, -2.0, 3.0, 0.0, 1.0)]


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Truth]:
    with Truth(tmp_path / "truth.jsonl") as log:
        yield log


def radar(truth: Truth, *, faults: str = "") -> Radar:
    plan = Faults.parse(faults, seed=5)
    return Radar(world=Crowd(1), truth=truth, faults=plan, seed=1, name="walkers", period_s=0.005)


def driver(link: Path, **options: Any) -> Ld2450:
    settings = {"name": "walkers", "driver": "ld2450", "line": f"serial://{link}?baud=256000", **options}
    return Ld2450(Ld2450Config.model_validate(settings))


async def observe(device: Ld2450, count: int) -> list[Observed]:
    await device.connect(Lines())
    try:
        rows = []
        async with aclosing(device.observe()) as observed:  # type: ignore[type-var]  # an async generator
            async for row in observed:
                rows.append(row)
                if len(rows) == count:
                    break
        return rows
    finally:
        await device.close()


def told(path: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["measurement"], line["values"]) for line in lines]


async def test_it_reads_what_the_radar_tells(tmp_path: Path, truth: Truth) -> None:
    async with plugged(radar(truth), tmp_path / "tty") as link:
        rows = await observe(driver(link), 9)
    assert [(row.measurement, dict(row.values)) for row in rows] == told(tmp_path / "truth.jsonl")[
        : len(rows)
    ]
    assert [row.measurement for row in rows[:3]] == ["radar_presence", "radar_target", "radar_target"]


async def test_the_rows_fit_the_streams(tmp_path: Path, truth: Truth) -> None:
    async with plugged(radar(truth), tmp_path / "tty") as link:
        device = driver(link)
        rows = await observe(device, 3)
    fields = {stream.measurement: {field.name for field in stream.fields} for stream in device.streams()}
    assert {row.measurement: set(row.values) for row in rows} == fields


async def test_mounting_is_a_setting(tmp_path: Path, truth: Truth) -> None:
    async with plugged(radar(truth), tmp_path / "tty") as link:
        plain = (await observe(driver(link), 2))[1].values
        turned = (await observe(driver(link, mirrored=True, positive_speed="leaving"), 2))[1].values
    assert turned == {**plain, "x": -plain["x"], "radial_speed": -plain["radial_speed"]}  # type: ignore[operator]  # numbers


async def test_what_has_no_check_is_still_refused_when_damaged(tmp_path: Path, truth: Truth) -> None:
    async with plugged(radar(truth, faults="checksum=0.2,cut=0.2,garbage=0.1"), tmp_path / "tty") as link:
        device = driver(link)
        rows = await observe(device, 60)
    known = [values for _, values in told(tmp_path / "truth.jsonl")]
    assert device.damaged_count > 3
    assert [row for row in rows if dict(row.values) not in known] == []


async def test_a_radar_left_in_configuration_mode_reports_again(tmp_path: Path, truth: Truth) -> None:
    sim = radar(truth)
    sim.configuring = True
    async with plugged(sim, tmp_path / "tty") as link:
        assert await observe(driver(link), 1)


async def test_reports_can_be_thinned_out_whole(tmp_path: Path, truth: Truth) -> None:
    async with plugged(radar(truth), tmp_path / "tty") as link:
        device = driver(link, min_period_s=60)
        await device.connect(Lines())
        (frame,) = CODEC.frames(REPORT)
        assert len(device.rows(frame)) == 2
        assert device.rows(frame) == ()
        await device.close()
