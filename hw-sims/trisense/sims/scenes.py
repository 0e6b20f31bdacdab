"""A satellite's ground segment: puts an NDVI scene of the place into a folder every now and then.

The files are laid out like the sheet's samples: band 1 NDVI (int16, 0.0001), band 2 cloud mask, UTM, the
time of sensing in the name and in a tag. Parks are green, streets are not, summers greener than winters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.warp import transform
from trisense.core.model import Value
from trisense.sims.base import Faults, Told, Truth, World

__all__ = ["NdviScenes", "Scene"]

PIXEL_M: Final = 10.0
SCALE: Final = 0.0001
NODATA: Final = -32768
KEEP: Final = 50
"""Scenes left in the folder; the producer clears older ones away."""
NS: Final = 1_000_000_000
LOGIN_PAGE: Final = b"<html><head><title>Sign in</title></head><body>Your session has expired</body></html>\n"
WGS84: Final = CRS.from_epsg(4326)


@dataclass(frozen=True, slots=True)
class Scene:
    """One product and what it says."""

    name: str
    data: bytes
    told: tuple[Told, ...]


class NdviScenes:
    """Publishes a scene every ``every_s`` seconds, sensed at the whole second before.

    Faults: silence publishes nothing, late publishes ``late_s`` later, cut shows the first half under the
    final name and the rest ``late_s`` later, garbage publishes a login page, checksum one that stays cut off,
    stuck the scene before under another name, hangup leaves a ``.part`` file behind.
    """

    kind: ClassVar[str] = "ndvi-scenes"

    def __init__(
        self,
        *,
        world: World,
        truth: Truth,
        faults: Faults,
        seed: int,
        name: str,
        every_s: float = 20.0,
        pixels: int = 300,
        sites: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """``sites`` by name, (latitude, longitude): where the log of the truth says what a scene holds."""
        self.world = world
        self.truth = truth
        self.faults = faults
        self.name = name
        self._seed = seed
        self._every_s = every_s
        self._pixels = pixels
        self._sites = dict(sites or {})
        zone = int((world.longitude + 180) // 6) + 1
        self._crs = CRS.from_epsg((32600 if world.latitude >= 0 else 32700) + zone)
        self._before: Scene | None = None

    async def run(self, folder: Path) -> None:
        """Publish into ``folder`` until cancelled."""
        while True:
            await self.publish(folder, time.time_ns() // NS)
            await asyncio.sleep(self._every_s)

    @asynccontextmanager
    async def writing(self, folder: Path) -> AsyncIterator[Path]:
        """Publish into ``folder`` inside the block; raises at its end what ``run`` raised, if it failed."""
        task = asyncio.create_task(self.run(folder))
        try:
            yield folder
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def publish(self, folder: Path, sensed_s: int) -> Path:
        """Publish the scene of a UTC second with the fault that is due; gives its path."""
        fault = self.faults.draw()
        scene = await asyncio.to_thread(self.scene, sensed_s)
        if fault == "stuck":
            repeated = self._before or scene
            scene = Scene(scene.name, repeated.data, repeated.told)
        if fault in (None, "late", "cut"):
            self._before = scene
        path = folder / scene.name
        if fault == "late":
            await asyncio.sleep(self.faults.late_s)
        sent = await asyncio.to_thread(_publish, path, scene.data, fault)
        if fault == "cut":
            await asyncio.sleep(self.faults.late_s)
            await asyncio.to_thread(_append, path, scene.data[len(sent) :])
            sent = scene.data
        for row in scene.told:
            self.truth.write(self.name, row, fault=fault, sent=sent)
        return path

    def scene(self, sensed_s: int) -> Scene:
        """The scene of a UTC second; the same second gives the same bytes."""
        left, top = self._corner()
        ndvi, cloud = self._ground(left, top, sensed_s), self._clouds(sensed_s)
        sensed = datetime.fromtimestamp(sensed_s, UTC)
        name = f"s2_ndvi_{sensed:%Y%m%dT%H%M%S}Z.tif"
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                width=self._pixels,
                height=self._pixels,
                count=2,
                dtype="int16",
                nodata=NODATA,
                crs=self._crs,
                transform=Affine(PIXEL_M, 0.0, left, 0.0, -PIXEL_M, top),
                compress="deflate",
            ) as file:
                file.write(ndvi, 1)
                file.write(cloud, 2)
                file.scales = (SCALE, 1.0)
                file.descriptions = ("NDVI", "CLOUD_MASK")
                file.update_tags(SENSING_TIME=f"{sensed:%Y-%m-%dT%H:%M:%SZ}", SOURCE="trisense simulator")
            data = memory.read()
        whole: dict[str, Value] = {
            "id": name.removesuffix(".tif"),
            "sha256": hashlib.sha256(data).hexdigest(),
            "width": self._pixels,
            "height": self._pixels,
            "clear_fraction": round(float((cloud == 0).mean()), 4),
        }
        at_sites = [self._at(site, ndvi, cloud, left, top) for site in self._sites]
        return Scene(name, data, (Told("scene", whole), *at_sites))

    def _corner(self) -> tuple[float, float]:
        """Upper left corner in metres, on the grid of the tile, so that the place is in the middle."""
        (x,), (y,) = transform(WGS84, self._crs, [self.world.longitude], [self.world.latitude])[:2]
        half = self._pixels // 2 * PIXEL_M
        return math.floor(x / PIXEL_M) * PIXEL_M - half, math.ceil(y / PIXEL_M) * PIXEL_M + half

    def _ground(self, left: float, top: float, sensed_s: int) -> NDArray[np.int16]:
        """NDVI of the ground: what is where depends on the seed and the metres, so neighbours agree."""
        x = left + PIXEL_M * (np.arange(self._pixels) + 0.5)
        y = top - PIXEL_M * (np.arange(self._pixels)[:, None] + 0.5)
        green = np.zeros((self._pixels, self._pixels))
        for index, length_m in enumerate((2100.0, 760.0, 210.0)):
            own = random.Random(f"{self._seed}/ground/{index}")
            for _ in range(3):
                heading, phase = own.uniform(0, math.pi), own.uniform(0, 2 * math.pi)
                along = x * math.cos(heading) + y * math.sin(heading)
                green += np.sin(2 * math.pi * along / length_m + phase) / (index + 1)
        summer = 0.5 - 0.5 * math.cos(2 * math.pi * (sensed_s / 86_400 / 365.25 - 0.08))
        if self.world.latitude < 0:
            summer = 1 - summer
        leaf = 0.38 + 0.45 * summer
        ndvi = 0.06 + leaf / (1 + np.exp(-2.2 * green))
        return np.asarray(np.rint(ndvi / SCALE), dtype=np.int16)

    def _clouds(self, sensed_s: int) -> NDArray[np.int16]:
        """1 where there is cloud: none in four of ten scenes, anything up to all of it in the others."""
        own = random.Random(f"{self._seed}/clouds/{sensed_s}")
        cover = 0.0 if own.random() < 0.4 else own.uniform(0.1, 1.1)
        line = np.arange(self._pixels) * PIXEL_M
        field = np.zeros((self._pixels, self._pixels))
        for length_m in (1900.0, 900.0, 430.0):
            for _ in range(2):
                heading, phase = own.uniform(0, math.pi), own.uniform(0, 2 * math.pi)
                along = line * math.cos(heading) + line[:, None] * math.sin(heading)
                field += np.sin(2 * math.pi * along / length_m + phase) * length_m
        ranks = np.quantile(field, min(cover, 1.0))
        return np.asarray(field < ranks if cover < 1 else np.ones_like(field), dtype=np.int16)

    def _at(
        self, site: str, ndvi: NDArray[np.int16], cloud: NDArray[np.int16], left: float, top: float
    ) -> Told:
        latitude, longitude = self._sites[site]
        (x,), (y,) = transform(WGS84, self._crs, [longitude], [latitude])[:2]
        column, row = math.floor((x - left) / PIXEL_M), math.floor((top - y) / PIXEL_M)
        values: dict[str, Value] = {"station": site, "latitude": latitude, "longitude": longitude}
        if 0 <= row < self._pixels and 0 <= column < self._pixels:
            clear = not cloud[row, column]
            values["clear"] = int(clear)
            values["ndvi"] = round(int(ndvi[row, column]) * SCALE, 4) if clear else None
        return Told("ndvi", values)


def _publish(path: Path, data: bytes, fault: str | None) -> bytes:
    """Put a scene, or what the fault leaves of it, into the folder and clear old ones away."""
    half = data[: len(data) // 2]
    match fault:
        case "silence":
            data = b""
        case "hangup":
            data = half
            _part(path).write_bytes(half)
        case "cut":
            data = half
            path.write_bytes(half)
        case "checksum":
            data = half
            _put(path, half)
        case "garbage":
            data = LOGIN_PAGE
            _put(path, LOGIN_PAGE)
        case _:
            _put(path, data)
    for old in sorted(path.parent.glob("s2_ndvi_*.tif"))[:-KEEP]:
        old.unlink()
    return data


def _append(path: Path, rest: bytes) -> None:
    with path.open("ab") as file:
        file.write(rest)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _put(path: Path, data: bytes) -> None:
    """Write under another name, then rename: a reader never sees half of it."""
    _part(path).write_bytes(data)
    _part(path).replace(path)
