"""Compact position reporting: aircraft positions out of 17-bit halves (sheet 2.5).

Latitudes and longitudes are WGS 84 degrees. A position needs an even and an odd message, or one message and
a reference less than half a zone away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["METRES_PER_NM", "Cpr", "distance_m", "globally", "locally"]

METRES_PER_NM: Final = 1852.0
EARTH_RADIUS_M: Final = 6_371_009.0
STEPS: Final = 131_072
AIRBORNE_SPAN_DEG: Final = 360.0
SURFACE_SPAN_DEG: Final = 90.0

Place = tuple[float, float]
"""Latitude, longitude."""


@dataclass(frozen=True, slots=True)
class Cpr:
    """The position part of one message."""

    odd: bool
    lat: int
    lon: int
    surface: bool = False


def zones(latitude: float) -> int:
    """NL: number of longitude zones at a latitude, 59 at the equator down to 1 at the poles."""
    if abs(latitude) >= 87:
        return 2 if abs(latitude) == 87 else 1
    if latitude == 0:
        return 59
    ratio = (1 - math.cos(math.pi / 30)) / math.cos(math.radians(latitude)) ** 2
    return math.floor(2 * math.pi / math.acos(1 - ratio))


def globally(first: Cpr, latest: Cpr, reference: Place | None = None) -> Place | None:
    """Position of the latest of an even and an odd message, or None where they make none.

    Surface messages leave four quadrants open, so they need a reference to choose by.
    """
    if first.odd == latest.odd or first.surface != latest.surface:
        return None
    if latest.surface and reference is None:
        return None
    even, odd = (first, latest) if latest.odd else (latest, first)
    span = SURFACE_SPAN_DEG if latest.surface else AIRBORNE_SPAN_DEG
    y_even, y_odd = even.lat / STEPS, odd.lat / STEPS
    index = math.floor(59 * y_even - 60 * y_odd + 0.5)
    latitudes = [
        _nearest_latitude(span / 60 * (index % 60 + y_even), latest, reference),
        _nearest_latitude(span / 59 * (index % 59 + y_odd), latest, reference),
    ]
    if any(abs(latitude) > 90 for latitude in latitudes) or zones(latitudes[0]) != zones(latitudes[1]):
        return None
    latitude = latitudes[latest.odd]
    count = zones(latitude)
    width = max(count - latest.odd, 1)
    shift = math.floor(even.lon / STEPS * (count - 1) - odd.lon / STEPS * count + 0.5)
    longitude = span / width * (shift % width + latest.lon / STEPS)
    if latest.surface and reference is not None:
        longitude += 90 * round((reference[1] - longitude) / 90)
    return latitude, _wrapped(longitude)


def _nearest_latitude(latitude: float, latest: Cpr, reference: Place | None) -> float:
    if not latest.surface:
        return latitude - 360 if latitude >= 270 else latitude
    assert reference is not None  # noqa: S101  # globally() has checked it
    return min(latitude, latitude - 90, key=lambda value: abs(value - reference[0]))


def locally(message: Cpr, reference: Place) -> Place | None:
    """Position of one message within half a zone of ``reference``: 180 NM airborne, 45 NM on the ground."""
    span = SURFACE_SPAN_DEG if message.surface else AIRBORNE_SPAN_DEG
    latitude = _in_zone(span / (60 - message.odd), message.lat / STEPS, reference[0])
    if abs(latitude) > 90:
        return None
    width = span / max(zones(latitude) - message.odd, 1)
    return latitude, _wrapped(_in_zone(width, message.lon / STEPS, reference[1]))


def _in_zone(width: float, part: float, reference: float) -> float:
    # The sheet's two floors as one: apart, their roundings disagree where a zone begins at -180 degrees.
    return width * (math.floor(reference / width - part + 0.5) + part)


def _wrapped(longitude: float) -> float:
    return (longitude + 180) % 360 - 180


def distance_m(a: Place, b: Place) -> float:
    """Great-circle distance."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    half = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin(math.radians(b[1] - a[1]) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))
