"""Aircraft out of single messages: who is there, where, and what may be believed (sheet 2.4 to 2.6).

No clock and no I/O: the caller gives each message its time of receipt on any monotonic clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from trisense.core.model import Value
from trisense.drivers.adsb.cpr import METRES_PER_NM, Cpr, Place, distance_m, globally, locally
from trisense.drivers.adsb.units import MPS_PER_KNOT, si_values
from trisense.drivers.sdk import Frame

__all__ = ["Positions", "Tracker", "cpr_of", "plausible_velocity"]

PAIR_S: Final = 10.0
"""An even and an odd message older than this apart make no position."""
SURFACE_PAIR_S: Final = 50.0
KEEP_POSITION_S: Final = 60.0
"""A last position older than this is no reference for the next."""
VERIFIED_S: Final = 60.0
"""A reply that shows its address by parity only is believed this long after a checked one."""
FORGET_S: Final = 300.0
RANGE_M: Final = 300 * METRES_PER_NM
MAX_SPEED_MPS: Final = 800 * MPS_PER_KNOT
SPEED_SLACK_M: Final = 1000.0
"""Receipt times jitter by a second or so where a feed is relayed; below this no speed is implied."""
MAX_ACCELERATION_MPS2: Final = 20.0
"""Two g: airliners stay far below, and what a phantom claims is far above."""
VELOCITY_SLACK_MPS: Final = 5.0
VELOCITY_S: Final = 30.0

Vector = tuple[float, float]
"""Speed over ground to east and north, m/s."""


def cpr_of(frame: Frame) -> Cpr | None:
    """The position part of a decoded message."""
    if "cpr_lat" not in frame:
        return None
    return Cpr(bool(frame["cpr_odd"]), frame["cpr_lat"], frame["cpr_lon"], 5 <= frame["tc"] <= 8)


def velocity_of(frame: Mapping[str, float | None]) -> Vector | None:
    speed_kt, track = frame.get("gs_kt"), frame.get("track")
    if speed_kt is None or track is None:
        return None
    course = math.radians(track)
    speed_mps = speed_kt * MPS_PER_KNOT
    return speed_mps * math.sin(course), speed_mps * math.cos(course)


def plausible_velocity(before: Vector, now: Vector, dt_s: float) -> bool:
    """Whether an aircraft can have changed its velocity that much within ``dt_s``."""
    change = math.hypot(now[0] - before[0], now[1] - before[1])
    return change <= MAX_ACCELERATION_MPS2 * max(dt_s, 0.0) + VELOCITY_SLACK_MPS


class Positions:
    """Positions of one aircraft: the first is told once a second one confirms it."""

    def __init__(self) -> None:
        self._halves: dict[bool, tuple[Cpr, float]] = {}
        self._candidate: tuple[Place, float] | None = None
        self._last: tuple[Place, float] | None = None

    def take(self, half: Cpr, now_s: float, receiver: Place | None = None) -> Place | None:
        """Add one message; gives its position where that is known and believable."""
        last = self._last if self._last and now_s - self._last[1] <= KEEP_POSITION_S else None
        place = self.paired(half, now_s, last[0] if last else receiver)
        if place is None and last:
            place = locally(half, last[0])
        if place is None or (receiver and distance_m(receiver, place) > RANGE_M):
            return None
        if last and _reachable(last, place, now_s):
            self._last = (place, now_s)
            return place
        confirmed = self._candidate is not None and _reachable(self._candidate, place, now_s)
        self._candidate = (place, now_s)
        if not confirmed:
            return None
        self._last, self._candidate = self._candidate, None
        return place

    def paired(self, half: Cpr, now_s: float, reference: Place | None) -> Place | None:
        """The position of ``half`` and the last message of the other parity, unchecked."""
        self._halves[half.odd] = (half, now_s)
        other = self._halves.get(not half.odd)
        limit_s = SURFACE_PAIR_S if half.surface else PAIR_S
        if other is None or now_s - other[1] > limit_s:
            return None
        return globally(other[0], half, reference)


def _reachable(before: tuple[Place, float], place: Place, now_s: float) -> bool:
    elapsed_s = max(now_s - before[1], 0.0)
    return distance_m(before[0], place) <= MAX_SPEED_MPS * elapsed_s + SPEED_SLACK_M


@dataclass(slots=True)
class _Aircraft:
    row_s: float
    """Time of its last row; at first when it was first heard, so that the first row says something."""
    positions: Positions = field(default_factory=Positions)
    verified_s: float = -math.inf
    verified_count: int = 0
    heard_s: float = 0.0
    fresh: dict[str, Value] = field(default_factory=dict)
    """Measured since the last row; an old measurement is never told again."""
    known: dict[str, Value] = field(default_factory=dict)
    """What stays true of a flight: callsign, category, squawk."""
    messages: int = 0
    velocity: tuple[Vector, float] | None = None
    doubted: tuple[Vector, float] | None = None


KNOWN: Final = ("callsign", "category", "squawk")


class Tracker:
    """A bounded table of aircraft; each is told at most once per ``interval_s``."""

    def __init__(self, *, interval_s: float, max_aircraft: int, receiver: Place | None = None) -> None:
        self._interval_s = interval_s
        self._max_aircraft = max_aircraft
        self._receiver = receiver
        self._aircraft: OrderedDict[str, _Aircraft] = OrderedDict()
        self.evicted_count = 0
        """Aircraft forgotten to make room for others."""
        self.doubted_count = 0
        """Velocities that were decoded well and not believed."""

    def __len__(self) -> int:
        return len(self._aircraft)

    def take(self, frame: Frame, now_s: float) -> dict[str, Value] | None:
        """Add one message; gives the values of a row when one is due.

        A row comes with a position, so that its time is that of the position; an aircraft that tells none
        has its row an interval later.
        """
        self._forget(now_s)
        icao = frame.get("icao")
        if icao is None:
            return None
        checked = bool(frame.get("crc_ok"))
        if not frame.get("icao_address", True):
            icao = f"~{icao}"
        aircraft = self._aircraft.get(icao)
        if aircraft is None:
            if not checked:
                return None
            aircraft = self._admit(icao, now_s)
        if checked:
            aircraft.verified_s = now_s
            aircraft.verified_count += 1
        elif now_s - aircraft.verified_s > VERIFIED_S:
            return None
        self._aircraft.move_to_end(icao)
        aircraft.heard_s = now_s
        aircraft.messages += 1
        placed = self._learn(aircraft, frame, now_s)
        return self._row(icao, aircraft, now_s, placed=placed)

    def _admit(self, icao: str, now_s: float) -> _Aircraft:
        if len(self._aircraft) >= self._max_aircraft:
            self._aircraft.popitem(last=False)
            self.evicted_count += 1
        aircraft = self._aircraft[icao] = _Aircraft(row_s=now_s)
        return aircraft

    def _forget(self, now_s: float) -> None:
        while self._aircraft:
            icao, longest_silent = next(iter(self._aircraft.items()))
            if now_s - longest_silent.heard_s <= FORGET_S:
                return
            del self._aircraft[icao]

    def _learn(self, aircraft: _Aircraft, frame: Frame, now_s: float) -> bool:
        values = si_values(frame)
        if "bds" in frame:
            # Its register is guessed from its first byte: no name for an aircraft rests on that.
            values.pop("callsign", None)
        velocity = velocity_of(frame) if frame.get("tc") == 19 else None
        if velocity is not None and not self._believed(aircraft, velocity, now_s):
            # A phantom is false as a whole: its vertical rate comes from the same overlap.
            values = {name: values[name] for name in values if name == "rssi"}
            self.doubted_count += 1
        half = cpr_of(frame)
        place = aircraft.positions.take(half, now_s, self._receiver) if half else None
        if place:
            values |= {"latitude": round(place[0], 5), "longitude": round(place[1], 5)}
        aircraft.known |= {name: values.pop(name) for name in KNOWN if values.get(name) is not None}
        aircraft.fresh |= {name: value for name, value in values.items() if value is not None}
        return place is not None

    def _believed(self, aircraft: _Aircraft, velocity: Vector, now_s: float) -> bool:
        """Whether a velocity fits the last one, or the one that was doubted just before."""
        for before in (aircraft.velocity, aircraft.doubted):
            if before is None:
                continue
            if now_s - before[1] <= VELOCITY_S and plausible_velocity(before[0], velocity, now_s - before[1]):
                aircraft.velocity, aircraft.doubted = (velocity, now_s), None
                return True
        first = aircraft.velocity is None or now_s - aircraft.velocity[1] > VELOCITY_S
        if first:
            aircraft.velocity = (velocity, now_s)
        else:
            aircraft.doubted = (velocity, now_s)
        return first

    def _row(self, icao: str, aircraft: _Aircraft, now_s: float, *, placed: bool) -> dict[str, Value] | None:
        # One checked message in 200,000 is noise that passed: a second one makes an address real.
        if aircraft.verified_count < 2:
            return None
        wait_s = self._interval_s if placed else 2 * self._interval_s
        if now_s - aircraft.row_s < wait_s:
            return None
        row: dict[str, Value] = {
            "icao": icao,
            **aircraft.known,
            **aircraft.fresh,
            "messages": aircraft.messages,
        }
        aircraft.row_s, aircraft.messages = now_s, 0
        aircraft.fresh.clear()
        return row
