"""The Plantower driver against a simulated sensor on a pty, and its decoder against damage."""

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
from trisense.core.errors import DeviceTimeout, LineError
from trisense.core.model import Quality
from trisense.drivers import Damage, Lines, Observed
from trisense.drivers.plantower import Plantower, PlantowerConfig
from trisense.drivers.plantower.codec import COMMANDS, MODELS, PlantowerCodec, PlantowerDecoder, command
from trisense.sims.base import Faults, Truth, World, plugged
from trisense.sims.plantower import Plantower as Sensor

GOOD = bytes.fromhex("424d001c00000008000800000008000800d20046002d001e00000000970002c5")
CODEC = PlantowerCodec(MODELS["pmsx003"])


def summed(*words: int, length: int | None = None) -> bytes:
    """A frame of these payload words with a right sum."""
    body = b"\x42\x4d" + struct.pack(f">{len(words) + 1}H", length or 2 * len(words) + 2, *words)
    return body + struct.pack(">H", sum(body) & 0xFFFF)


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_damaged_byte_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_cut_frame_is_refused_and_the_next_one_is_not_lost(size: int) -> None:
    assert CODEC.frames(GOOD[:size]) == []
    assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1


@given(st.binary(max_size=80), st.binary(max_size=8), st.lists(st.integers(0, 200), max_size=6))
def test_any_bytes_in_any_split_give_the_same_frames(noise: bytes, tail: bytes, cuts: list[int]) -> None:
    data = noise + GOOD + tail + GOOD
    decoder, found = PlantowerDecoder(MODELS["pmsx003"]), []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        found += decoder.feed(data[start:end])
    found += decoder.finish()
    frames = [piece for piece in found if not isinstance(piece, Damage)]
    assert frames == CODEC.frames(data)
    assert len(frames) >= 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((0,) * 13, "empty"),
        ((1, 2, 3, 9, 2, 3, 90, 80, 70, 60, 50, 40, 0x9700), "implausible"),
        ((9, 2, 3, 1, 2, 3, 90, 80, 70, 60, 50, 40, 0x9700), "implausible"),
        ((1, 2, 3, 1, 2, 3, 80, 90, 70, 60, 50, 40, 0x9700), "implausible"),
        ((1, 2, 3, 1, 2, 3, 0, 0, 0x51), "length 20"),
    ],
)
def test_a_right_sum_is_not_enough(words: tuple[int, ...], why: str) -> None:
    assert CODEC.frames(summed(*words)) == []
    assert CODEC.damaged(summed(*words))[0].startswith(why)


def test_the_model_is_a_setting_and_never_a_guess() -> None:
    words = (1, 2, 3, 1, 2, 3, 90, 80, 70, 60, 0xFFF6, 555, 0x9700)
    (warm,) = PlantowerCodec(MODELS["pms5003t"]).frames(summed(*words))
    assert warm["values"]["air_temperature"] == -1.0
    assert warm["values"]["relative_humidity"] == 55.5
    assert CODEC.frames(summed(*words)) == []  # as counts these would rise with size


def test_formaldehyde_models_tell_their_mass() -> None:
    dust = (1, 2, 3, 1, 2, 3, 90, 80, 70, 60, 50, 40)
    (s,) = PlantowerCodec(MODELS["pms5003s"]).frames(summed(*dust, 31))
    (st_,) = PlantowerCodec(MODELS["pms5003st"]).frames(summed(*dust, 31, 215, 480, 0, 0))
    assert s["values"]["hcho_mass"] == st_["values"]["hcho_mass"] == 31
    assert (st_["values"]["air_temperature"], st_["values"]["relative_humidity"]) == (21.5, 48.0)


def test_an_answer_to_a_command_is_no_reading() -> None:
    (ack,) = CODEC.frames(bytes.fromhex("424d0004e4010178"))
    assert ack == {"command": "wake", "ack": True}
    assert CODEC.observed(ack) == ()


def test_mass_without_a_single_grain_is_suspect() -> None:
    (frame,) = CODEC.frames(summed(1, 2, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0x9700))
    (row,) = CODEC.observed(frame)
    assert row.quality["pm2_5"] is Quality.SUSPECT


def test_each_command_has_its_seven_bytes() -> None:
    assert {name: command(name).hex() for name in COMMANDS} == {
        "passive mode": "424de100000170",
        "active mode": "424de100010171",
        "read in passive mode": "424de200000171",
        "sleep": "424de400000173",
        "wake": "424de400010174",
    }


# --- driver -----------------------------------------------------------------------------------------


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Truth]:
    with Truth(tmp_path / "truth.jsonl") as log:
        yield log


def sensor(truth: Truth, *, faults: str = "", **options: Any) -> Sensor:
    quick = {"fan_start_s": 0.0, "period_s": 0.01, **options}
    sim = Sensor(
        world=World(1), truth=truth, faults=Faults.parse(faults, seed=3), seed=1, name="dust", **quick
    )
    sim.baud = 115_200  # forty frames at 9600 baud would take a second and a half
    return sim


def driver(link: Path, **options: Any) -> Plantower:
    settings = {"name": "dust", "driver": "plantower", "line": f"serial://{link}", "warm_up_s": 0, **options}
    return Plantower(PlantowerConfig.model_validate(settings))


async def observe(device: Plantower, count: int) -> list[Observed]:
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


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("model", ["pmsx003", "pms5003t", "pms3003"])
async def test_it_reads_what_the_sensor_tells(model: str, tmp_path: Path, truth: Truth) -> None:
    async with plugged(sensor(truth, model=model), tmp_path / "tty") as link:
        rows = await observe(driver(link, model=model), 3)
    values = [line["values"] for line in told(tmp_path / "truth.jsonl")]
    assert [dict(row.values) for row in rows] == values[: len(rows)]


async def test_the_rows_fit_the_streams(tmp_path: Path, truth: Truth) -> None:
    for model in ("pmsx003", "pms5003t", "pms3003"):
        async with plugged(sensor(truth, model=model), tmp_path / model) as link:
            device = driver(link, model=model)
            (row,) = await observe(device, 1)
        (stream,) = device.streams()
        assert row.measurement == stream.measurement
        assert set(row.values) == {field.name for field in stream.fields}


async def test_damaged_frames_are_counted_and_never_believed(tmp_path: Path, truth: Truth) -> None:
    faults = "checksum=0.15,cut=0.15,garbage=0.1,silence=0.1"
    async with plugged(sensor(truth, faults=faults), tmp_path / "tty") as link:
        device = driver(link)
        rows = await observe(device, 40)
    good = [line["values"] for line in told(tmp_path / "truth.jsonl") if line["fault"] in (None, "garbage")]
    seen = [dict(row.values) for row in rows]
    assert device.damaged_count > 5
    assert [values for values in seen if values not in good] == []


async def test_zeros_while_it_warms_up_are_no_clean_air(tmp_path: Path, truth: Truth) -> None:
    async with plugged(sensor(truth, fan_start_s=60), tmp_path / "tty") as link:
        (row,) = await observe(driver(link, warm_up_s=30), 1)
    assert row.values == {}  # every field missing


async def test_other_readings_while_it_warms_up_are_not_evaluated(tmp_path: Path, truth: Truth) -> None:
    async with plugged(sensor(truth), tmp_path / "tty") as link:
        (row,) = await observe(driver(link, warm_up_s=30), 1)
    assert row.values["pm2_5"]
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}


async def test_a_sleeping_sensor_in_passive_mode_is_woken(tmp_path: Path, truth: Truth) -> None:
    sim = sensor(truth)
    sim.asleep, sim.active = True, False
    async with plugged(sim, tmp_path / "tty") as link:
        await observe(driver(link), 1)
    assert (sim.asleep, sim.active) == (False, True)


async def test_a_sensor_that_says_nothing_is_a_timeout(tmp_path: Path, truth: Truth) -> None:
    sim = sensor(truth)
    sim.asleep = True
    async with plugged(sim, tmp_path / "tty") as link:
        with pytest.raises(DeviceTimeout, match="dust: no good frame"):
            await observe(driver(link, wake=False, timeout_s=0.2), 1)


async def test_a_sensor_that_hangs_up_is_read_again_after_connecting_again(
    tmp_path: Path, truth: Truth
) -> None:
    async with plugged(sensor(truth, faults="hangup@5"), tmp_path / "tty") as link:
        device = driver(link)
        with pytest.raises(LineError):
            await observe(device, 20)
        assert len(await observe(device, 5)) == 5
