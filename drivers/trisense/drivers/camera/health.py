"""Simple image health: numbers of one picture, of two pictures, and what a picture looks like at once.

Formulas: camera sheet, section 4.2. Limits here hold for one picture of an unknown camera; what needs
the camera's own past (frozen, moved, slowly blurred) is in ``watch``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from trisense.drivers import FrameError
from trisense.drivers.camera.picture import Jpeg, Luma, cut, decode, luma

__all__ = ["Look", "Measured", "compare", "compare_luma", "health", "identity", "look", "measure", "share"]

Look = Literal["normal", "black", "overexposed", "corrupt", "noisy", "occluded", "moved", "blurred", "frozen"]
"""States of the sheet's section 4.1 that a picture can show. ``offline`` is no picture at all."""

DARK_BELOW: Final = 16
BRIGHT_FROM: Final = 240
TILE_ROWS: Final = 6
TILE_COLUMNS: Final = 8
FLAT_LAPVAR: Final = 1.0
"""A tile whose Laplacian varies less shows nothing."""
MOTION_STEP: Final = 25
"""Luma step, after exposure is compensated, that counts as motion."""
BINS: Final = 64

BLACK_MEAN: Final = 12.0
BLACK_STD: Final = 6.0
OVEREXPOSED_BRIGHT: Final = 0.85
NOISE_RATIO: Final = 5.0
"""Laplacian variance over variance: white noise has 20, the noisy test picture 16.6, road scenes
0.03 to 0.08."""
OCCLUDED_FLAT: Final = 0.4
"""Share of tiles that show nothing."""
SOFT_LAPVAR: Final = 5.0
"""Laplacian variance of the sharpest tenth of tiles: 18 or more in every sharp test picture, 1.7 blurred."""
LOST_PART_STD: Final = 0.5
"""The lowest quarter of a picture whose tail was lost is one grey: its deviation is 0, a live
sensor's never."""
BLANK_LEVEL: Final = 4
"""Y of a border that was filled, with room for JPEG ringing; a covered lens still gives light and noise."""
BLANK_SHARE: Final = 0.1
"""Border filled on one side only, as part of the picture: the view was shifted behind the sensor."""


def share(value: float) -> float:
    """A share with the digits that mean something: three decimals, six where it is below 0.001."""
    return round(value, 3 if value >= 0.001 else 6)


@dataclass(frozen=True, slots=True)
class Measured:
    """One picture and its numbers under the sheet's names, with two of our own for its tiles."""

    y: Luma
    tile_lapvar: NDArray[np.float64]
    """48 tiles by rows."""
    metrics: dict[str, float | int]

    @property
    def flat(self) -> NDArray[np.bool_]:
        return self.tile_lapvar < FLAT_LAPVAR


def measure(y: Luma) -> Measured:
    """Mean, std, dark, bright, lapvar, tile_lapvar_median, tile_lapvar_p90, tiles_flat_lt_1."""
    tiles = _tile_lapvar(y)
    metrics = {
        "mean": round(float(y.mean()), 3),
        "std": round(math.sqrt(_variance(y)), 3),
        "dark": share(float(np.count_nonzero(y < DARK_BELOW)) / y.size),
        "bright": share(float(np.count_nonzero(y >= BRIGHT_FROM)) / y.size),
        "lapvar": round(_variance(_laplacian(y)), 3),
        "tile_lapvar_median": round(float(np.median(tiles)), 3),
        "tile_lapvar_p90": round(float(np.quantile(tiles, 0.9)), 3),
        "tiles_flat_lt_1": int(np.count_nonzero(tiles < FLAT_LAPVAR)),
    }
    return Measured(y, tiles, metrics)


def look(seen: Measured) -> Look:
    """What one picture of an unknown camera looks like; the first sign that fits."""
    number = seen.metrics
    y = seen.y
    signs: tuple[tuple[Look, Callable[[], bool]], ...] = (
        ("black", lambda: number["mean"] < BLACK_MEAN and number["std"] < BLACK_STD),
        ("overexposed", lambda: number["bright"] > OVEREXPOSED_BRIGHT),
        ("corrupt", lambda: bool(y[y.shape[0] * 3 // 4 :].std() < LOST_PART_STD)),
        ("noisy", lambda: number["lapvar"] > NOISE_RATIO * number["std"] ** 2),
        ("moved", lambda: _blank_border(y) > BLANK_SHARE),
        ("blurred", lambda: number["tile_lapvar_p90"] < SOFT_LAPVAR),
        ("occluded", lambda: number["tiles_flat_lt_1"] > OCCLUDED_FLAT * seen.tile_lapvar.size),
    )
    return next((name for name, shows in signs if shows()), "normal")


def health(jpeg: bytes) -> dict[str, Any]:
    """Size, digest, metrics and first look of one JPEG, under the sheet's names.

    Raises:
        FrameError: the JPEG is damaged or too large.
    """
    whole = cut(jpeg)
    seen = measure(luma(decode(whole)))
    return {**identity(whole, jpeg), **seen.metrics, "class": look(seen)}


def identity(jpeg: Jpeg, data: bytes) -> dict[str, Any]:
    """Size of the picture, and size and digest of the bytes as they came."""
    return {
        "width": jpeg.width,
        "height": jpeg.height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }


def compare(first: bytes, second: bytes) -> dict[str, Any]:
    """What changed between two JPEGs, under the sheet's names.

    Raises:
        FrameError: one is damaged, or their sizes differ.
    """
    a, b = luma(decode(cut(first))), luma(decode(cut(second)))
    if a.shape != b.shape:
        raise FrameError("jpeg", f"pictures of one size, got {a.shape} and {b.shape}")
    return {**compare_luma(a, b), "bytes_equal": first == second}


def compare_luma(a: Luma, b: Luma) -> dict[str, float]:
    """mad, med, mad_c, frac, hist_intersection and ncc of two pictures of one size."""
    # All but two numbers follow from how often each of the 511 possible steps occurs.
    counts = np.bincount((b.astype(np.int16) - a + 255).ravel(), minlength=511)
    steps = np.arange(-255, 256)
    middle = np.searchsorted(np.cumsum(counts), [(a.size + 1) // 2, a.size // 2 + 1])
    median = float(steps[middle].mean())
    change = np.abs(steps - median)
    return {
        "mad": round(float(np.abs(steps) @ counts) / a.size, 3),
        "med": median,
        "mad_c": round(float(change @ counts) / a.size, 3),
        "frac": share(float(counts[change > MOTION_STEP].sum()) / a.size),
        "hist_intersection": round(float(np.minimum(_histogram(a), _histogram(b)).sum()), 4),
        "ncc": round(_correlation(a, b), 4),
    }


def _laplacian(y: Luma) -> NDArray[np.int16]:
    wide = y.astype(np.int16)
    inner: NDArray[np.int16] = (
        wide[1:-1, :-2] + wide[1:-1, 2:] + wide[:-2, 1:-1] + wide[2:, 1:-1] - 4 * wide[1:-1, 1:-1]
    )
    return inner


def _tile_lapvar(y: Luma) -> NDArray[np.float64]:
    """Laplacian variance of each tile on a grid of 6 rows, 8 columns; 0 where a tile has no inner pixels."""
    height, width = y.shape
    found = np.zeros(TILE_ROWS * TILE_COLUMNS)
    for index in range(found.size):
        row, column = divmod(index, TILE_COLUMNS)
        tile = y[
            row * height // TILE_ROWS : (row + 1) * height // TILE_ROWS,
            column * width // TILE_COLUMNS : (column + 1) * width // TILE_COLUMNS,
        ]
        found[index] = _variance(_laplacian(tile))
    return found


def _blank_border(y: Luma) -> float:
    """Share of the picture in whole black rows and columns along its edges, one side per axis only.

    Bars on both sides belong to the format (letterbox), not to a shift.
    """
    kept = 1.0
    for axis in (0, 1):
        lines = y.max(axis=1 - axis) <= BLANK_LEVEL
        if lines.all():
            return 1.0
        before, after = int(np.argmin(lines)), int(np.argmin(lines[::-1]))
        if not (before and after):
            kept *= 1 - (before + after) / lines.size
    return 1 - kept


def _histogram(y: Luma) -> NDArray[np.float64]:
    counts = np.bincount((y >> 2).ravel(), minlength=BINS)
    return counts / y.size


def _correlation(a: Luma, b: Luma) -> float:
    """Pearson correlation; a flat picture correlates with nothing but a flat one."""
    sum_a, sum_b = int(a.sum(dtype=np.int64)), int(b.sum(dtype=np.int64))
    covariance = a.size * _products(a, b) - sum_a * sum_b
    spread_a = a.size * _products(a, a) - sum_a**2
    spread_b = a.size * _products(b, b) - sum_b**2
    if not (spread_a and spread_b):
        return float(spread_a == spread_b)
    return covariance / math.sqrt(spread_a * spread_b)


def _products(a: NDArray[np.integer[Any]], b: NDArray[np.integer[Any]]) -> int:
    """Exact sum of products. No matrix product: its threads would spin on a small box's cores."""
    return int((a.astype(np.int32) * b).sum(dtype=np.int64))


def _variance(values: NDArray[np.integer[Any]]) -> float:
    """Population variance of small integers, without a copy in floating point."""
    if not values.size:
        return 0.0
    total = int(values.sum(dtype=np.int64))
    return (values.size * _products(values, values) - total**2) / values.size**2
