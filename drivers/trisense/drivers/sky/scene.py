"""One NDVI scene, read block by block: what it says as a whole, and at points.

A scene is a GeoTIFF with NDVI in band 1 and a cloud mask in band 2 (0 = clear), as the folder's producer
writes it (sky sheet, sections 1 and 3). A scene without a mask is refused: cloud cover of the whole says
nothing of one place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors: warp.transform lets them through as they are
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.warp import transform
from rasterio.windows import Window
from trisense.drivers import FrameError

__all__ = ["Point", "digest", "ndvi", "ndvi_of_file"]

MAGIC: Final = (b"II\x2a\x00", b"II\x2b\x00", b"MM\x00\x2a", b"MM\x00\x2b")
"""Classic and BigTIFF, both byte orders; a login page with status 200 is none of them."""
MAX_PIXELS: Final = 2**28
"""A whole Sentinel-2 tile at 10 m has half of it."""
MAX_BLOCK_PIXELS: Final = 2**22
WGS84: Final = CRS.from_epsg(4326)
NAME_TIME: Final = re.compile(r"(?<!\d)(\d{8}T\d{6})Z?(?!\d)")
SCENE_ERRORS: Final = (
    RasterioError,
    CPLE_BaseError,
    NotGeoreferencedWarning,  # where warnings are errors
    OSError,
    ValueError,
    TypeError,
    ArithmeticError,
)
"""RasterioError covers most of GDAL; hostile tags also surface as what numpy and Python say of them."""
YEARS: Final = (1972, 2100)
"""From the first civil satellite that could tell NDVI to the last time a sample may carry."""
READ_OPTIONS: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no side files: the scene is this one file
    "GDAL_CACHEMAX": 16,  # MB; GDAL takes 5 % of the memory otherwise
    "GDAL_NUM_THREADS": 1,
}
HASH_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """Where to sample, WGS 84 degrees."""

    station: str
    latitude: float
    longitude: float


def ndvi(tif: bytes, points: Sequence[Point] = (), *, name: str = "") -> dict[str, Any]:
    """Read a scene from memory; see ``ndvi_of_file``. ``name`` may carry the sensing time."""
    if tif[:4] not in MAGIC:
        raise FrameError("scene", "expected a TIFF", tif[:16])
    with (
        _only_frame_errors(),
        rasterio.Env(**READ_OPTIONS),
        MemoryFile(tif) as memory,
        memory.open(driver="GTiff") as scene,
    ):
        return _read(scene, points, name)


def ndvi_of_file(path: Path, points: Sequence[Point] = ()) -> dict[str, Any]:
    """Read a scene; gives a frame under the sheet's names.

    crs, width, height, sensing_time, clear_fraction (usable pixels of all), scene_mean_clear,
    scene_mean_all (null where no pixel counts), and points: station, lon, lat, inside and, inside, row, col,
    ndvi, cloud, ndvi_3x3_clear_mean, clear_px, px.

    Raises:
        FrameError: cut off, not yet written everywhere, no georeference, no mask, no time, too large.
    """
    with _only_frame_errors(), path.open("rb") as file:
        head = file.read(4)
    if head not in MAGIC:
        raise FrameError("scene", "expected a TIFF", head)
    with (
        _only_frame_errors(),
        rasterio.Env(**READ_OPTIONS),
        rasterio.open(path, driver="GTiff") as scene,
    ):
        return _read(scene, points, path.name)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: it cannot be read.
    """
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            whole.update(chunk)
    return whole.hexdigest()


@contextmanager
def _only_frame_errors() -> Iterator[None]:
    try:
        yield
    except SCENE_ERRORS as error:
        raise FrameError("scene", f"cannot be read: {error}") from error


def _read(scene: DatasetReader, points: Sequence[Point], name: str) -> dict[str, Any]:
    _check(scene)
    return {
        "crs": scene.crs.to_string(),
        "width": scene.width,
        "height": scene.height,
        "sensing_time": _sensing_time(scene, name).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **_whole(scene),
        "points": [_sample(scene, point) for point in points],
    }


def _check(scene: DatasetReader) -> None:
    if scene.count < 2:
        raise FrameError("scene", f"expected NDVI and a cloud mask, got {scene.count} band")
    if not 0 < scene.width * scene.height <= MAX_PIXELS:
        raise FrameError("scene", f"{scene.width}x{scene.height} pixels, at most {MAX_PIXELS}")
    if any(rows * columns > MAX_BLOCK_PIXELS for rows, columns in scene.block_shapes):
        raise FrameError("scene", f"blocks of {scene.block_shapes[0]}, at most {MAX_BLOCK_PIXELS} pixels")
    if scene.crs is None or scene.transform.is_identity:
        raise FrameError("scene", "no georeference")


def _sensing_time(scene: DatasetReader, name: str) -> datetime:
    """The time in the file's tag ``SENSING_TIME``, else the one in its name.

    Raises:
        FrameError: neither has one.
    """
    text = scene.tags().get("SENSING_TIME")
    if text is None:
        found = NAME_TIME.search(name)
        if found is None:
            raise FrameError("scene", "no sensing time in its tags or name")
        text = found[1]
    time = datetime.fromisoformat(text)
    time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    if not YEARS[0] <= time.year < YEARS[1]:
        raise FrameError("scene", f"sensed in {time.year}, expected {YEARS[0]} to {YEARS[1]}")
    return time


def _whole(scene: DatasetReader) -> dict[str, float | None]:
    """Statistics over all blocks; a block that no producer wrote yet reads as nothing, so it is refused."""
    clear_sum = all_sum = 0.0
    clear_count = all_count = 0
    for (row, column), window in scene.block_windows(1):
        if any(scene.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=b) is None for b in (1, 2)):
            raise FrameError("scene", f"block {row},{column} is not written")
        values, valid, cloud = _window(scene, window)
        clear = valid & ~cloud
        all_sum += float(values[valid].sum())
        all_count += int(np.count_nonzero(valid))
        clear_sum += float(values[clear].sum())
        clear_count += int(np.count_nonzero(clear))
    return {
        "clear_fraction": round(clear_count / (scene.width * scene.height), 4),
        "scene_mean_clear": round(clear_sum / clear_count, 4) if clear_count else None,
        "scene_mean_all": round(all_sum / all_count, 4) if all_count else None,
    }


def _window(scene: DatasetReader, window: Window) -> tuple[Any, Any, Any]:
    """NDVI in physical units, where it is valid, where it is cloudy: three arrays of the window's shape."""
    raw, mask = scene.read([1, 2], window=window)
    values = raw.astype(np.float64) * scene.scales[0] + scene.offsets[0]
    valid = np.isfinite(values)
    nodata = scene.nodatavals[0]
    if nodata is not None:
        valid &= raw != nodata
    return values, valid, mask != 0


def _sample(scene: DatasetReader, point: Point) -> dict[str, Any]:
    """The pixel that holds a point, and the clear ones of the 3x3 around it."""
    found: dict[str, Any] = {"station": point.station, "lon": point.longitude, "lat": point.latitude}
    # Always longitude first here, whatever the axis order of either system (traditional GIS order).
    (x,), (y,) = transform(WGS84, scene.crs, [point.longitude], [point.latitude])[:2]
    to_pixel = ~scene.transform
    column = to_pixel.a * x + to_pixel.b * y + to_pixel.c
    row = to_pixel.d * x + to_pixel.e * y + to_pixel.f
    # A point that the projection cannot show is infinitely far away.
    if not (0 <= column < scene.width and 0 <= row < scene.height):
        return {**found, "inside": False, "value": None}
    row, column = int(row), int(column)
    top, left = max(0, row - 1), max(0, column - 1)
    window = Window(left, top, min(column + 2, scene.width) - left, min(row + 2, scene.height) - top)
    values, valid, cloud = _window(scene, window)
    clear = valid & ~cloud
    here = (row - top, column - left)
    return {
        **found,
        "inside": True,
        "row": row,
        "col": column,
        "ndvi": round(float(values[here]), 4) if valid[here] else None,
        "cloud": int(cloud[here]),
        "ndvi_3x3_clear_mean": round(float(values[clear].mean()), 4) if clear.any() else None,
        "clear_px": int(np.count_nonzero(clear)),
        "px": int(clear.size),
    }
