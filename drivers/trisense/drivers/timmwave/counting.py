"""Counting tracks that cross a line: one vehicle each, into the statistics of its lane and direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trisense.core.model import Value
from trisense.drivers.sdk import Observed
from trisense.drivers.traffic import LaneStatistics, Vehicle

__all__ = ["LineCounter"]

KMH_PER_MPS: Final = 3.6
OLD_ENOUGH_FRAMES: Final = 5
"""A track that is younger when it crosses the line may be a ghost."""


@dataclass(frozen=True, slots=True)
class _Place:
    x: float
    y: float


class LineCounter:
    """Counts each track once, when it crosses ``line_m`` within a lane.

    ``lanes`` are ranges of x in metres; the first one is lane 1.
    """

    def __init__(self, lanes: Sequence[tuple[float, float]], *, line_m: float, interval_s: int) -> None:
        self._lanes = tuple(lanes)
        self._line_m = line_m
        self._statistics = {
            (lane, approaching): LaneStatistics(lane, approaching=approaching, interval_s=interval_s)
            for lane in range(1, len(self._lanes) + 1)
            for approaching in (0, 1)
        }
        self._places: dict[tuple[Value, Value], _Place] = {}
        self._counted: set[tuple[Value, Value]] = set()

    def take(self, rows: Sequence[Observed], now_ns: int) -> list[Observed]:
        """Take the rows of one frame, told at a UTC time; gives the rows of intervals that are over."""
        told = [row for lane in self._statistics.values() for row in lane.at(now_ns)]
        places: dict[tuple[Value, Value], _Place] = {}
        for row in rows:
            x, y = row.values.get("x"), row.values.get("y")
            if row.measurement != "radar_track" or not isinstance(x, float) or not isinstance(y, float):
                continue
            key = (row.values["track"], row.values["birth_frame"])
            places[key] = _Place(x, y)
            if key in self._counted:
                continue
            before = self._places.get(key)
            if before is not None and (before.y < self._line_m) != (y < self._line_m):
                told += self._cross(key, row, now_ns, approaching=int(y < before.y))
        self._places = places
        self._counted &= set(places)
        return told

    def _cross(
        self, key: tuple[Value, Value], row: Observed, now_ns: int, *, approaching: int
    ) -> list[Observed]:
        age, x = row.values["age_frames"], row.values["x"]
        if not isinstance(age, int) or not isinstance(x, float) or age < OLD_ENOUGH_FRAMES:
            return []
        lane = next((n for n, (low, high) in enumerate(self._lanes, 1) if low <= x < high), None)
        if lane is None:
            return []
        self._counted.add(key)
        ways = (row.values.get("velocity_x"), row.values.get("velocity_y"))
        speed = KMH_PER_MPS * math.hypot(*(way for way in ways if isinstance(way, float)))
        return self._statistics[lane, approaching].add(Vehicle(now_ns, speed))
