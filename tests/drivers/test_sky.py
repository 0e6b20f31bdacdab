"""The scene driver on real folders of real and simulated scenes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pydantic import ValidationError
from rasterio import Affine
from trisense.core.model import check_value
from trisense.drivers import FrameError, LineError, Lines, Observed, Quality
from trisense.drivers.sky import Config, NdviScenes, ledger
from trisense.drivers.sky.codec import GeotiffNdvi, rows
from trisense.drivers.sky.scene import MAX_PIXELS, Point, ndvi, ndvi_of_file
from trisense.sims.base import Faults, Truth, World
from trisense.sims.scenes import NdviScenes as Simulated

SCENES = Path(__file__).parent / "vectors" / "data" / "sky"
CLEAR = SCENES / "s2_ndvi_20150830T100547Z.tif"
CLOUDY = SCENES / "s2_ndvi_20150919T100543Z.tif"
MIXED = SCENES / "s2_ndvi_20160317T100659Z.tif"
SITES = (
    {"name": "st_a", "latitude": 45.870912, "longitude": 14.558059},
    {"name": "st_c", "latitude": 45.866074, "longitude": 14.563895},
    {"name": "away", "latitude": 45.870951, "longitude": 14.568366},
)


def driver_of(folder: Path, **config: Any) -> NdviScenes:
    options = {"settle_s": 0, "sites": SITES, **config}
    return NdviScenes(Config(name="green", driver="ndvi-scenes", folder=folder, **options))


async def looking(folder: Path, **config: Any) -> NdviScenes:
    driver = driver_of(folder, **config)
    await driver.connect(Lines())
    return driver


def kinds(observed: Iterable[Observed]) -> list[str]:
    return [each.measurement for each in observed]


def scene_ids(observed: Iterable[Observed]) -> list[Any]:
    return [each.values["id"] for each in observed if each.measurement == "scene"]


def write_scene(path: Path, **profile: Any) -> Path:
    options = {
        "driver": "GTiff",
        "width": 40,
        "height": 30,
        "count": 2,
        "dtype": "int16",
        "crs": "EPSG:32633",
        "transform": Affine(10, 0, 465_000, 0, -10, 5_080_000),
        **profile,
    }
    with rasterio.open(path, "w", **options) as file:
        file.write(np.full((options["height"], options["width"]), 5000, options["dtype"]), 1)
        if options["count"] > 1:
            file.write(np.zeros((options["height"], options["width"]), options["dtype"]), 2)
        file.scales = (0.0001,) + (1.0,) * (options["count"] - 1)
    return path


# --- one scene --------------------------------------------------------------------------------


def test_rows_carry_the_time_of_sensing_and_only_clear_sites_a_value() -> None:
    points = [Point(str(s["name"]), float(s["latitude"]), float(s["longitude"])) for s in SITES]  # type: ignore[arg-type]  # a table of mixed values

    scene, a, c, away = rows(ndvi_of_file(MIXED, points), scene=MIXED.stem)

    sensed = datetime(2016, 3, 17, 10, 6, 59, tzinfo=UTC)
    assert {each.sensed_at_ns for each in (scene, a, c, away)} == {int(sensed.timestamp()) * 10**9}
    assert scene.values["clear_fraction"] == 0.4957
    assert (a.values["reason"], a.values["clear"], a.quality["ndvi"]) == ("cloud", 0, Quality.MISSING)
    assert (c.values["ndvi"], c.values["ndvi_mean"], c.values["clear"]) == (0.3915, 0.42, 1)
    assert (away.values["reason"], away.quality["ndvi"]) == ("outside", Quality.MISSING)
    assert "ndvi" not in a.values


def test_a_cloudy_scene_tells_only_of_itself() -> None:
    observed = GeotiffNdvi().observed(GeotiffNdvi().frames(CLOUDY.read_bytes())[0])

    assert kinds(observed) == ["scene"]
    assert observed[0].values["ndvi_mean_clear"] is None
    assert observed[0].quality == {"ndvi_mean_clear": Quality.MISSING}


@pytest.mark.parametrize(("clear_px", "quality"), [(5, {}), (4, {"ndvi": 3, "ndvi_mean": 9})])
def test_a_value_with_few_clear_neighbours_is_suspect(clear_px: int, quality: dict[str, int]) -> None:
    point = {"station": "s", "lat": 1.0, "lon": 2.0, "inside": True, "ndvi": 0.5, "cloud": 0, "px": 9}
    frame = {
        **ndvi(CLEAR.read_bytes()),
        "points": [{**point, "clear_px": clear_px, "ndvi_3x3_clear_mean": 0.4}],
    }

    row = rows(frame)[1]

    assert row.values["ndvi"] == 0.5
    assert row.quality == quality


def test_a_corner_pixel_has_fewer_neighbours(tmp_path: Path) -> None:
    scene = write_scene(
        tmp_path / "s2_20200101T000000Z.tif", crs="EPSG:4326", transform=Affine(1, 0, 10, 0, -1, 50)
    )

    (corner,) = ndvi_of_file(scene, [Point("corner", 49.5, 10.5)])["points"]

    assert (corner["row"], corner["col"], corner["px"], corner["ndvi"]) == (0, 0, 4, 0.5)


def test_cloud_and_missing_pixels_are_left_out_of_every_mean(tmp_path: Path) -> None:
    path = write_scene(
        tmp_path / "s2_20200101T000000Z.tif",
        nodata=-1,
        crs="EPSG:4326",
        transform=Affine(1, 0, 10, 0, -1, 50),
    )
    with rasterio.open(path, "r+") as file:
        ndvi_band, cloud = file.read()
        ndvi_band[0, :3] = (1000, 2000, -1)
        cloud[1, :3] = (1, 1, 0)
        file.write(np.stack([ndvi_band, cloud]))

    points = [Point("middle", 48.5, 11.5), Point("missing", 49.5, 12.5)]
    frame = ndvi_of_file(path, points)
    middle, missing = frame["points"]

    assert (middle["cloud"], middle["clear_px"], middle["px"]) == (1, 6, 9)
    assert middle["ndvi_3x3_clear_mean"] == pytest.approx((0.1 + 0.2 + 4 * 0.5) / 6, abs=1e-4)
    assert missing["ndvi"] is None
    assert rows(frame)[2].values["reason"] == "nodata"
    assert frame["clear_fraction"] == round(1 - 3 / 1200, 4)
    assert frame["scene_mean_all"] == round((0.3 + 1197 * 0.5 - 0.0) / 1199, 4)


def test_a_file_beside_the_scene_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / MIXED.name
    shutil.copy(MIXED, path)
    before = ndvi_of_file(path)
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Scale>1</Scale></PAMRasterBand></PAMDataset>'
    )

    assert ndvi_of_file(path) == before


def test_the_time_comes_from_the_name_where_no_tag_has_it(tmp_path: Path) -> None:
    named = write_scene(tmp_path / "s2_ndvi_20200229T235959Z.tif")
    nameless = write_scene(tmp_path / "scene.tif")

    assert ndvi_of_file(named)["sensing_time"] == "2020-02-29T23:59:59Z"
    with pytest.raises(FrameError, match="no sensing time"):
        ndvi_of_file(nameless)


@pytest.mark.parametrize(
    ("name", "profile", "what"),
    [
        ("s_20200101T000000Z.tif", {"count": 1}, "got 1 band"),
        ("s_20200101T000000Z.tif", {"crs": None}, "no georeference"),
        ("s_20201301T000000Z.tif", {}, "cannot be read"),
        ("s_18500101T000000Z.tif", {}, "sensed in 1850"),
    ],
)
def test_a_scene_that_lacks_what_it_needs_is_refused(
    tmp_path: Path, name: str, profile: dict[str, Any], what: str
) -> None:
    path = write_scene(tmp_path / name, **profile)

    with pytest.raises(FrameError, match=what):
        ndvi_of_file(path)


def test_a_scene_too_large_to_read_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s_20200101T000000Z.tif"
    side = int(MAX_PIXELS**0.5) + 1
    options = {"width": side, "height": side, "count": 2, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", sparse_ok=True, tiled=True, transform=Affine(1, 0, 1, 0, -1, 1), **options
    ):
        pass

    with pytest.raises(FrameError, match="at most"):
        ndvi_of_file(path)


def test_a_block_that_nobody_wrote_yet_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "s_20200101T000000Z.tif"
    options = {"width": 64, "height": 64, "count": 2, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", sparse_ok=True, transform=Affine(1, 0, 1, 0, -1, 1), **options
    ):
        pass

    with pytest.raises(FrameError, match="is not written"):
        ndvi_of_file(path)


def test_a_scene_cut_anywhere_is_refused() -> None:
    whole = CLEAR.read_bytes()
    for end in range(0, len(whole) - 1, 499):
        with pytest.raises(FrameError):
            ndvi(whole[:end])
    assert len(GeotiffNdvi().damaged(whole[:-100])) == 1


# rasterio's hook for GDAL's log cannot decode every message, and says so where nobody can catch it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hostile_bytes_raise_nothing_but_frame_errors() -> None:
    chance = random.Random(2)
    whole = CLEAR.read_bytes()
    points = [Point("st_a", 45.870912, 14.558059)]
    survived = 0
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 5)):
            # The directory and its tags lie in the first bytes.
            damaged[chance.randrange(900)] = chance.randrange(256)
        try:
            ndvi(bytes(damaged), points)
        except FrameError:
            continue
        survived += 1
    assert 0 < survived < 250


# --- a folder ---------------------------------------------------------------------------------


async def test_each_scene_is_read_once(tmp_path: Path) -> None:
    for scene in (CLEAR, MIXED):
        shutil.copy(scene, tmp_path)
    driver = await looking(tmp_path)

    first = await driver.read()

    assert kinds(first) == ["scene", "ndvi", "ndvi", "ndvi"] * 2
    assert scene_ids(first) == [CLEAR.stem, MIXED.stem]
    assert await driver.read() == []
    shutil.copy(CLOUDY, tmp_path)
    assert scene_ids(await driver.read()) == [CLOUDY.stem]


async def test_rows_hold_what_the_streams_promise(tmp_path: Path) -> None:
    shutil.copy(MIXED, tmp_path)
    driver = await looking(tmp_path)

    streams = {stream.measurement: stream for stream in driver.streams()}

    for each in await driver.read():
        fields = {field.name: field.type for field in streams[each.measurement].fields}
        assert set(each.values) <= set(fields)
        for name, value in each.values.items():
            check_value(value, fields[name])


async def test_a_peek_shows_the_newest_scene_and_takes_nothing(tmp_path: Path) -> None:
    assert await (await looking(tmp_path)).peek() == []
    for scene in (CLEAR, MIXED):
        shutil.copy(scene, tmp_path)
    driver = await looking(tmp_path)

    assert scene_ids(await driver.peek()) == [MIXED.stem]
    assert scene_ids(await driver.read()) == [CLEAR.stem, MIXED.stem]
    assert scene_ids(await driver.peek()) == [MIXED.stem]


async def test_a_restart_reads_nothing_twice(tmp_path: Path) -> None:
    shutil.copy(CLEAR, tmp_path)
    assert await (await looking(tmp_path)).read()

    again = await looking(tmp_path)

    assert await again.read() == []


async def test_a_scene_counts_as_read_before_its_rows_are_handed_over(tmp_path: Path) -> None:
    shutil.copy(CLEAR, tmp_path)
    driver = await looking(tmp_path)

    assert await driver.read()  # the box dies here: the rows never reach the spool

    assert await (await looking(tmp_path)).read() == []


async def test_rows_of_a_look_that_was_cancelled_come_with_the_next(tmp_path: Path) -> None:
    shutil.copy(CLEAR, tmp_path)
    driver = await looking(tmp_path)
    reading = asyncio.ensure_future(driver.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert scene_ids(await driver.read()) == [CLEAR.stem]


async def test_the_same_bytes_under_another_name_are_the_same_scene(tmp_path: Path) -> None:
    shutil.copy(CLEAR, tmp_path)
    driver = await looking(tmp_path)
    await driver.read()

    shutil.copy(CLEAR, tmp_path / "copy_20200101T000000Z.tif")
    os.utime(tmp_path / CLEAR.name, (0, 0))

    assert await driver.read() == []


async def test_two_copies_that_come_together_are_one_scene(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        shutil.copy(CLEAR, tmp_path / name)

    assert scene_ids(await (await looking(tmp_path)).read()) == ["a"]


async def test_the_oldest_of_too_many_scenes_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEEP", 2)
    scenes = ledger.Scenes.load(tmp_path / "state.json")
    for number in range(3):
        scenes.note({str(number): ledger.Read(size_bytes=1, mtime_ns=1, sha256=str(number))})

    known = ledger.Scenes.load(tmp_path / "state.json")

    assert [known.has_content(str(number)) for number in range(3)] == [False, True, True]


async def test_other_content_under_an_old_name_is_a_new_edition(tmp_path: Path) -> None:
    shutil.copy(CLEAR, tmp_path / "s.tif")
    driver = await looking(tmp_path)
    await driver.read()

    shutil.copy(MIXED, tmp_path / "s.tif")

    assert scene_ids(await driver.read()) == ["s"]


async def test_damaged_scenes_block_no_other_and_are_told_once_each(tmp_path: Path) -> None:
    (tmp_path / "a_20200101T000000Z.tif").write_bytes(CLEAR.read_bytes()[:9000])
    (tmp_path / "b_20200101T000000Z.tif").write_bytes(b"<html>Sign in</html>")
    shutil.copy(CLEAR, tmp_path)
    driver = await looking(tmp_path)

    assert scene_ids(await driver.read()) == [CLEAR.stem]
    with pytest.raises(FrameError, match="a_2020"):
        await driver.read()
    with pytest.raises(FrameError, match="b_2020"):
        await driver.read()
    assert await driver.read() == []


async def test_a_scene_that_was_completed_later_is_read_then(tmp_path: Path) -> None:
    whole = CLEAR.read_bytes()
    path = tmp_path / CLEAR.name
    path.write_bytes(whole[:9000])
    driver = await looking(tmp_path)
    with pytest.raises(FrameError):
        await driver.read()

    path.write_bytes(whole)

    assert scene_ids(await driver.read()) == [CLEAR.stem]


async def test_a_scene_that_may_still_grow_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / CLEAR.name
    path.write_bytes(CLEAR.read_bytes()[:9000])
    driver = await looking(tmp_path, settle_s=60)

    assert await driver.read() == []
    path.write_bytes(CLEAR.read_bytes())
    settled_s = time.time() - 61
    os.utime(path, (settled_s, settled_s))
    assert scene_ids(await driver.read()) == [CLEAR.stem]


async def test_what_is_no_scene_by_its_name_is_not_touched(tmp_path: Path) -> None:
    for name in (".s.tif", "s.tif.part", "s.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()

    assert await (await looking(tmp_path)).read() == []


async def test_a_missing_folder_and_a_damaged_state_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(LineError, match="no such folder"):
        await looking(tmp_path / "none")
    (tmp_path / ".green.read.json").write_text('{"version": 1, "scenes": {"a": 1}}')
    with pytest.raises(LineError, match="is damaged"):
        await looking(tmp_path)


async def test_a_state_file_that_cannot_be_written_gives_no_rows_until_it_can(tmp_path: Path) -> None:
    scenes, state = tmp_path / "scenes", tmp_path / "state"
    scenes.mkdir()
    shutil.copy(CLEAR, scenes)
    driver = await looking(scenes, state_file=state / "green.json")

    with pytest.raises(LineError, match="cannot be written"):
        await driver.read()
    state.mkdir()

    assert scene_ids(await driver.read()) == [CLEAR.stem]
    assert await driver.read() == []


async def test_a_scene_that_changes_while_it_is_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CLEAR.name
    shutil.copy(CLEAR, path)

    def read_slowly(scene: Path, points: Any) -> dict[str, Any]:
        frame = ndvi_of_file(scene, points)
        with path.open("ab") as file:
            file.write(b"more")
        return frame

    driver = await looking(tmp_path)
    with monkeypatch.context() as patch:
        # The change has to come between two steps of one look: nothing else can time it.
        patch.setattr("trisense.drivers.sky.driver.ndvi_of_file", read_slowly)
        with pytest.raises(FrameError, match="changed while it was read"):
            await driver.read()

    assert scene_ids(await driver.read()) == [CLEAR.stem]


async def test_simulated_scenes_are_read_as_they_were_told(tmp_path: Path) -> None:
    world = World(3)
    sites = {"here": (world.latitude, world.longitude), "there": (world.latitude + 0.005, world.longitude)}
    faults = Faults.parse("garbage@2,checksum@3,stuck@4,silence@5,hangup@6")
    sim = Simulated(world=world, truth=Truth(), faults=faults, seed=1, name="green", pixels=150, sites=sites)
    driver = await looking(
        tmp_path,
        sites=[{"name": name, "latitude": at[0], "longitude": at[1]} for name, at in sites.items()],
    )

    seen: list[Observed] = []
    damaged = 0
    for second in range(1_700_000_000, 1_700_000_008):
        await sim.publish(tmp_path, second)
        try:
            seen += await driver.read()
        except FrameError:
            damaged += 1

    told = [row for second in (0, 6, 7) for row in sim.scene(1_700_000_000 + second).told]
    assert damaged == 2
    assert len(seen) == len(told) == 9
    for row, truth in zip(seen, told, strict=True):
        got = {key: row.values.get(key) for key in truth.values}
        assert got == dict(truth.values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": []},
        {"sites": [SITES[0], SITES[0]]},
        {"sites": [{"name": "a", "latitude": 91, "longitude": 0}]},
        {"sites": [{"name": "a", "latitude": 1, "longitude": 0, "buffer": 1}]},
        {"settle_s": -1},
    ],
)
def test_a_wrong_option_is_refused(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "name": "green",
        "driver": "ndvi-scenes",
        "folder": "/x",
        "sites": SITES,
        **wrong,
    }
    with pytest.raises(ValidationError):
        Config.model_validate(options)
