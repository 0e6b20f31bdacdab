"""Traffic statistics of one lane and direction, by clock-aligned intervals stamped with their end.

No I/O and no clock: a driver tells each vehicle and, with ``at``, how late it is. A value that nobody can
know is absent, never 0; an interval without vehicles has volume 0 and no speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trisense.core import vocabulary
from trisense.core.model import Field, FieldType, Quality, Value
from trisense.drivers.sdk import Observed

__all__ = ["CLASSES", "INTERVAL", "MEASUREMENT", "LaneStatistics", "Vehicle", "percentile"]

NS: Final = 1_000_000_000
MEASUREMENT: Final = "traffic_interval"
CLASSES: Final = (("motorcycle", 0.0), ("short", 2.13), ("medium", 6.10), ("long", 13.11))
"""Name and least length in metres; 7, 20 and 43 ft, as traffic centres draw the lines."""
LENGTHS_M: Final = (0.5, 30.0)
"""Outside it a length, which a false speed makes false, is none."""
ALIVE_S: Final = 2.0
"""A sensor that was heard of less than so long ago has been watching ever since."""
WATCHED: Final = 0.95
"""Counts of an interval of which less was watched are suspect."""
INTERVAL: Final = (
    Field("lane", "1", FieldType.INT),
    Field("approaching", "1", FieldType.INT, valid=(0, 1)),
    Field("duration", "s"),
    Field("coverage", "%", valid=(0.0, 100.0)),
    vocabulary.field("vehicle_count"),
    Field("flow", "/h", valid=(0.0, 3600.0)),
    vocabulary.field("occupancy"),
    Field("mean_speed", "km/h", valid=(0.0, 300.0)),
    Field("space_mean_speed", "km/h", valid=(0.0, 300.0)),
    Field("speed_85th", "km/h", valid=(0.0, 300.0)),
    Field("headway", "s"),
    Field("gap", "s"),
    Field("density", "/km"),
    *(Field(f"{name}_count", "{vehicle}", FieldType.INT) for name, _ in CLASSES),
)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """One vehicle at the moment when its front reaches the zone."""

    at_ns: int
    speed_kmh: float | None = None
    length_m: float | None = None
    covers_s: float | None = None
    """How long it covers the zone; None: from speed, length and the zone's own length."""


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` (0 to 1) of a non-empty sequence lies, by linear interpolation."""
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class LaneStatistics:
    """Statistics of one lane, in one direction."""

    def __init__(
        self, lane: int, *, approaching: int | None = None, interval_s: int = 60, zone_m: float | None = None
    ) -> None:
        """``zone_m`` is the length of the zone that a vehicle covers; without one, occupancy is what each
        vehicle says of itself.
        """
        self._key: dict[str, Value] = {"lane": lane, "approaching": approaching}
        self._interval_ns = interval_s * NS
        self._zone_m = zone_m
        self._end_ns = 0
        self._heard_ns: int | None = None
        self._leader: Vehicle | None = None
        self._begin(0)

    def _begin(self, end_ns: int) -> None:
        self._end_ns = end_ns
        self._alive_ns = 0
        self._vehicles: list[Vehicle] = []
        self._covered_ns: int | None = 0
        self._headways: list[float] = []
        self._gaps: list[float] = []

    def at(self, now_ns: int) -> list[Observed]:
        """The sensor is alive at this UTC time; gives the interval that is over by now.

        Of intervals in which nothing was heard there are no rows. When the clock went back, the interval
        that was open is dropped.
        """
        rows = []
        if self._heard_ns is None or now_ns < self._heard_ns or now_ns < self._end_ns - self._interval_ns:
            self._leader = None
            self._begin(self._end_of(now_ns))
        else:
            watched = now_ns - self._heard_ns <= ALIVE_S * NS
            if watched:
                self._alive_ns += min(now_ns, self._end_ns) - min(self._heard_ns, self._end_ns)
            if now_ns >= self._end_ns:
                rows = [self._row()]
                over_ns = self._over_ns
                ended_ns = self._end_ns
                self._begin(self._end_of(now_ns))
                if watched:
                    self._alive_ns = now_ns - ended_ns
                    self._covered_ns = min(over_ns, self._interval_ns)
                else:
                    self._leader = None
        self._heard_ns = now_ns
        return rows

    def _end_of(self, now_ns: int) -> int:
        return (now_ns // self._interval_ns + 1) * self._interval_ns

    def add(self, vehicle: Vehicle) -> list[Observed]:
        """Count a vehicle; gives the interval that its time ends."""
        rows = self.at(vehicle.at_ns)
        length = vehicle.length_m
        if length is not None and not LENGTHS_M[0] <= length <= LENGTHS_M[1]:
            length = None
        speed = vehicle.speed_kmh if vehicle.speed_kmh is not None and vehicle.speed_kmh > 0 else None
        covers_s = vehicle.covers_s
        if covers_s is None and None not in (length, speed, self._zone_m):
            covers_s = (length + self._zone_m) / (speed / 3.6)  # type: ignore[operator]  # none of them is None
        self._follow(vehicle.at_ns)
        self._leader = Vehicle(vehicle.at_ns, speed, length, covers_s)
        self._vehicles.append(self._leader)
        if covers_s is None or self._covered_ns is None:
            self._covered_ns = None
        else:
            self._covered_ns += round(covers_s * NS)
        return rows

    def _follow(self, at_ns: int) -> None:
        if self._leader is None:
            return
        headway_s = (at_ns - self._leader.at_ns) / NS
        self._headways.append(headway_s)
        if self._leader.speed_kmh and self._leader.length_m:
            self._gaps.append(headway_s - self._leader.length_m / (self._leader.speed_kmh / 3.6))

    @property
    def _over_ns(self) -> int:
        """How far the last vehicle covers the zone beyond the end of its interval."""
        if not self._vehicles or self._vehicles[-1].covers_s is None:
            return 0
        last = self._vehicles[-1]
        return max(0, last.at_ns + round((last.covers_s or 0.0) * NS) - self._end_ns)

    def _row(self) -> Observed:
        duration_s = self._interval_ns / NS
        watched = self._alive_ns / self._interval_ns
        count = len(self._vehicles)
        values: dict[str, Value] = {
            **self._key,
            "duration": duration_s,
            "coverage": 100 * watched,
            "vehicle_count": count,
            "flow": 3600 * count / duration_s,
            **self._speeds(3600 * count / duration_s),
            **self._lengths(),
        }
        if self._covered_ns is not None and (count or self._zone_m is not None):
            covered = self._covered_ns - self._over_ns
            values["occupancy"] = min(100.0, 100 * covered / self._interval_ns)
        if self._headways:
            values["headway"] = sum(self._headways) / len(self._headways)
        if self._gaps:
            values["gap"] = sum(self._gaps) / len(self._gaps)
        doubted = ("vehicle_count", "flow", "occupancy") if watched < WATCHED else ()
        quality = dict.fromkeys((name for name in doubted if name in values), Quality.SUSPECT)
        return Observed(MEASUREMENT, values, quality, sensed_at_ns=self._end_ns)

    def _speeds(self, flow: float) -> dict[str, Value]:
        speeds = [vehicle.speed_kmh for vehicle in self._vehicles if vehicle.speed_kmh is not None]
        if not speeds:
            return {}
        harmonic = len(speeds) / sum(1 / speed for speed in speeds)
        return {
            "mean_speed": sum(speeds) / len(speeds),
            "space_mean_speed": harmonic,
            "speed_85th": percentile(speeds, 0.85),
            "density": flow / harmonic,
        }

    def _lengths(self) -> dict[str, Value]:
        """How many of each class; absent where the sensor tells no lengths."""
        lengths = [vehicle.length_m for vehicle in self._vehicles if vehicle.length_m is not None]
        if not lengths:
            return {}
        limits = [least for _, least in CLASSES] + [math.inf]
        return {
            f"{name}_count": sum(limits[i] <= length < limits[i + 1] for length in lengths)
            for i, (name, _) in enumerate(CLASSES)
        }
