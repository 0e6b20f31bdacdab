"""The simulated ground segment: files as the sheet's samples have them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from trisense.sims.base import Faults, Truth, World
from trisense.sims.scenes import KEEP, NdviScenes

JULY_S, JANUARY_S = 1_784_286_000, 1_768_474_800


def scenes(faults: str = "", *, truth: Truth | None = None, world: World | None = None) -> NdviScenes:
    world = world or World(3)
    return NdviScenes(
        world=world,
        truth=truth or Truth(),
        faults=Faults.parse(faults),
        seed=3,
        name="sky",
        every_s=0.01,
        pixels=64,
        sites={"here": (world.latitude, world.longitude), "away": (world.latitude + 1, world.longitude)},
    )


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def bands(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with rasterio.open(path) as scene:
        ndvi, cloud = scene.read()
        return ndvi * scene.scales[0], cloud


async def test_a_scene_is_laid_out_like_the_sheets_samples(tmp_path: Path) -> None:
    path = await scenes().publish(tmp_path, JULY_S)

    assert path.name == "s2_ndvi_20260717T110000Z.tif"
    with rasterio.open(path) as scene:
        assert scene.crs.to_epsg() == 32632
        assert (scene.count, scene.dtypes, scene.scales[0]) == (2, ("int16", "int16"), 0.0001)
        assert scene.tags()["SENSING_TIME"] == "2026-07-17T11:00:00Z"
        assert scene.res == (10, 10)


async def test_the_place_is_in_the_middle_and_told_as_the_file_has_it(tmp_path: Path) -> None:
    sim = scenes()
    path = await sim.publish(tmp_path, JULY_S)

    _, here, away = sim.scene(JULY_S).told

    ndvi, cloud = bands(path)
    clear = not cloud[32, 32]
    assert here.values["clear"] == int(clear)
    assert here.values["ndvi"] == (pytest.approx(ndvi[32, 32], abs=1e-4) if clear else None)
    assert dict(away.values).keys() == {"station", "latitude", "longitude"}


def test_the_southern_hemisphere_has_its_own_zones(tmp_path: Path) -> None:
    data = scenes(world=World(3, -33.87, 151.21)).scene(JULY_S).data
    (tmp_path / "s.tif").write_bytes(data)

    with rasterio.open(tmp_path / "s.tif") as scene:
        assert scene.crs.to_epsg() == 32756


async def test_values_are_plausible_and_greener_in_summer(tmp_path: Path) -> None:
    summer, _ = bands(await scenes().publish(tmp_path, JULY_S))
    winter, _ = bands(await scenes().publish(tmp_path, JANUARY_S))

    assert summer.min() >= 0
    assert summer.max() < 0.95
    assert summer.mean() > winter.mean()


def test_clouds_come_in_every_amount() -> None:
    fractions = [scenes().scene(JULY_S + day * 86_400).told[0].values["clear_fraction"] for day in range(40)]

    assert 1.0 in fractions
    assert min(float(each or 0) for each in fractions) < 0.3


def test_the_same_second_gives_the_same_bytes() -> None:
    assert scenes().scene(JULY_S).data == scenes().scene(JULY_S).data
    assert scenes().scene(JULY_S).data != scenes().scene(JULY_S + 1).data


@pytest.mark.parametrize(
    ("fault", "files"),
    [("silence", []), ("hangup", [".s2_ndvi_20260717T110000Z.tif.part"])],
)
async def test_what_is_not_published_is_not_there(tmp_path: Path, fault: str, files: list[str]) -> None:
    await scenes(f"{fault}@1").publish(tmp_path, JULY_S)

    assert names(tmp_path) == files


async def test_a_cut_scene_is_completed_later(tmp_path: Path) -> None:
    sim = scenes("cut@1,late_s=0")

    path = await sim.publish(tmp_path, JULY_S)

    assert path.read_bytes() == sim.scene(JULY_S).data


async def test_garbage_is_a_web_page_and_checksum_stays_cut_off(tmp_path: Path) -> None:
    sim = scenes("garbage@1,checksum@2")

    page, broken = await sim.publish(tmp_path, JULY_S), await sim.publish(tmp_path, JULY_S + 1)

    assert page.read_bytes().startswith(b"<html>")
    assert broken.read_bytes() == sim.scene(JULY_S + 1).data[: broken.stat().st_size]
    assert broken.stat().st_size < len(sim.scene(JULY_S + 1).data)


async def test_a_stuck_producer_repeats_the_scene_before_under_a_new_name(tmp_path: Path) -> None:
    sim = scenes("stuck@2")

    first, second = await sim.publish(tmp_path, JULY_S), await sim.publish(tmp_path, JULY_S + 1)

    assert first.name != second.name
    assert first.read_bytes() == second.read_bytes()


async def test_old_scenes_are_cleared_away(tmp_path: Path) -> None:
    for number in range(KEEP + 3):
        (tmp_path / f"s2_ndvi_2020{number:04}T000000Z.tif").touch()

    await scenes().publish(tmp_path, JULY_S)

    assert len(names(tmp_path)) == KEEP


async def test_the_log_of_the_truth_tells_scene_and_sites(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with Truth(path) as truth:
        await scenes("late@1,late_s=0", truth=truth).publish(tmp_path, JULY_S)

    told: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["measurement"] for line in told] == ["scene", "ndvi", "ndvi"]
    assert {line["fault"] for line in told} == {"late"}
    assert told[0]["bytes"] == f"sha256:{told[0]['values']['sha256']}"


async def test_it_publishes_again_and_again_inside_the_block(tmp_path: Path) -> None:
    sim = scenes()
    seen: list[int] = []

    async def note(folder: Path, sensed_s: int) -> Path:
        seen.append(sensed_s)
        if len(seen) == 3:
            done.set()
        return folder

    done = asyncio.Event()
    sim.publish = note  # type: ignore[method-assign]  # the loop alone is under test
    async with sim.writing(tmp_path):
        await done.wait()

    assert len(seen) >= 3
