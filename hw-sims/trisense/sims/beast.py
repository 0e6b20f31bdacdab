"""A Mode S receiver with a Beast output (dump1090, readsb), written from the protocol sheet.

Aircraft of the world tell position, velocity, identity and replies at about the rates of real ones; the
receiver loses some, hears noise, and says nothing of aircraft below its horizon.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told
from trisense.sims.world import Aircraft

__all__ = ["BeastFeed"]

ROUND_S: Final = 0.05
HEARTBEAT_S: Final = 30.0
TICKS_PER_S: Final = 12_000_000
FEET_PER_METRE: Final = 1 / 0.3048
KNOTS_PER_MPS: Final = 3600 / 1852
EARTH_RADIUS_KM: Final = 6371.0
# What is sent how often, in seconds: DO-260B squitter rates, and a radar that asks every few seconds.
PERIODS_S: Final = {
    "position": 0.5,
    "velocity": 0.5,
    "identity": 5.0,
    "all_call": 1.0,
    "altitude": 4.0,
    "squawk": 6.0,
}
LETTERS: Final = "#ABCDEFGHIJKLMNOPQRSTUVWXYZ##### ###############0123456789######"

Values = dict[str, Value]


@dataclass(slots=True)
class Airframe:
    """What the feed remembers of one aircraft."""

    due_s: dict[str, float]
    odd: bool = False


class BeastFeed(Simulator):
    """TCP server side of a Beast feed; it listens to nobody."""

    kind = "adsb"

    def __init__(
        self,
        *,
        heard_share: float = 0.8,
        noise_per_s: float = 0.5,
        range_km: float = 150.0,
        pace: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.pace = pace
        """How many times as often as in the air an aircraft sends."""
        self.heard_share = heard_share
        self.noise_per_s = noise_per_s
        self.range_km = range_km
        self._began_s = time.monotonic()

    async def talk(self, end: End) -> None:
        airframes: dict[int, Airframe] = {}
        heartbeat_s = time.monotonic() + HEARTBEAT_S
        while True:
            now_s = time.monotonic()
            heard = {
                a.icao: a for a in self.world.aircraft(self.now_ns()) if self._distance_km(a) < self.range_km
            }
            airframes = {icao: airframes.get(icao) or Airframe(self._phases(now_s)) for icao in heard}
            for icao, airframe in airframes.items():
                await self._tell(end, heard[icao], airframe, now_s)
            if self.random.random() < self.noise_per_s * ROUND_S:
                await end.write(self._beast(b"\x8d" + self.random.randbytes(13), signal=3))
            if now_s >= heartbeat_s:
                heartbeat_s = now_s + HEARTBEAT_S
                await end.write(b"\x1a1" + bytes(9))
            await asyncio.sleep(ROUND_S)

    def _phases(self, now_s: float) -> dict[str, float]:
        return {
            what: now_s + self.random.random() * period_s / self.pace for what, period_s in PERIODS_S.items()
        }

    async def _tell(self, end: End, aircraft: Aircraft, airframe: Airframe, now_s: float) -> None:
        for what, due_s in airframe.due_s.items():
            if now_s < due_s:
                continue
            airframe.due_s[what] = now_s + PERIODS_S[what] * self.random.uniform(0.9, 1.1) / self.pace
            if what == "position":
                airframe.odd = not airframe.odd
            if self.random.random() > self.heard_share:
                continue
            message, values = MESSAGES[what](aircraft, airframe)
            signal = self._signal(aircraft)
            told = {
                "icao": f"{aircraft.icao:06X}",
                "on_ground": 0,
                **values,
                "rssi": round(20 * math.log10(signal / 255), 2),
            }
            # A flip in the last byte of an all-call would only make another interrogator code of it.
            await end.send(self._beast(message, signal=signal), Told("aircraft", told), check=-3)

    def _beast(self, message: bytes, *, signal: int) -> bytes:
        ticks = int((time.monotonic() - self._began_s) * TICKS_PER_S) + 1
        body = ticks.to_bytes(6, "big") + bytes([signal]) + message
        kind = b"2" if len(message) == 7 else b"3"
        return b"\x1a" + kind + body.replace(b"\x1a", b"\x1a\x1a")

    def _distance_km(self, aircraft: Aircraft) -> float:
        north = math.radians(aircraft.latitude - self.world.latitude)
        east = math.radians(aircraft.longitude - self.world.longitude) * math.cos(
            math.radians(self.world.latitude)
        )
        return EARTH_RADIUS_KM * math.hypot(north, east)

    def _signal(self, aircraft: Aircraft) -> int:
        loss = 900 / (5 + self._distance_km(aircraft))
        return max(2, min(250, round(loss * self.random.uniform(0.8, 1.2))))


# --- messages: each with what it tells --------------------------------------------------------------


def _parity(data: bytes) -> int:
    value = int.from_bytes(data, "big") << 24
    for bit in range(len(data) * 8 + 23, 23, -1):
        if value >> bit & 1:
            value ^= 0x1FFF409 << (bit - 24)
    return value


def _squitter(icao: int, me: int) -> bytes:
    """DF17 of an airborne aircraft around the 56 bits of ``me``."""
    data = bytes([17 << 3 | 5]) + icao.to_bytes(3, "big") + me.to_bytes(7, "big")
    return data + _parity(data).to_bytes(3, "big")


def _reply(head: bytes, icao: int) -> bytes:
    """A surveillance reply: its parity is overlaid with the address."""
    return head + (_parity(head) ^ icao).to_bytes(3, "big")


def _altitude_steps(aircraft: Aircraft) -> int:
    """Pressure altitude in steps of 25 ft above -1000 ft."""
    return max(0, min(2047, round((aircraft.altitude_m * FEET_PER_METRE + 1000) / 25)))


def _altitude_m(steps: int) -> float:
    return round((25 * steps - 1000) / FEET_PER_METRE, 2)


def _zones(latitude: float) -> int:
    if abs(latitude) > 87:
        return 1
    part = (1 - math.cos(math.pi / 30)) / math.cos(math.radians(latitude)) ** 2
    return math.floor(2 * math.pi / math.acos(max(-1.0, 1 - part)))


def _cpr(value: float, width: float) -> tuple[int, float]:
    """17 bits of a coordinate in zones of ``width`` degrees, and the coordinate that they mean."""
    part = math.floor((value % width) / width * 2**17 + 0.5)
    return part % 2**17, width * (part / 2**17 + math.floor(value / width))


def _position(aircraft: Aircraft, airframe: Airframe) -> tuple[bytes, Values]:
    odd = int(airframe.odd)
    y, latitude = _cpr(aircraft.latitude, 360 / (60 - odd))
    x, longitude = _cpr(aircraft.longitude, 360 / max(_zones(latitude) - odd, 1))
    steps = _altitude_steps(aircraft)
    altitude = (steps & 0x7F0) << 1 | 0x10 | steps & 0xF
    me = 11 << 51 | altitude << 36 | odd << 34 | y << 17 | x
    return _squitter(aircraft.icao, me), {
        "latitude": round(latitude, 5),
        "longitude": round(longitude, 5),
        "pressure_altitude": _altitude_m(steps),
    }


def _velocity(aircraft: Aircraft, _: Airframe) -> tuple[bytes, Values]:
    course = math.radians(aircraft.track_deg)
    speed_kt = aircraft.ground_speed_mps * KNOTS_PER_MPS
    east, north = round(speed_kt * math.sin(course)), round(speed_kt * math.cos(course))
    climb = round(aircraft.vertical_rate_mps * FEET_PER_METRE * 60 / 64)
    me = 19 << 51 | 1 << 48
    me |= (east < 0) << 42 | (abs(east) + 1) << 32 | (north < 0) << 31 | (abs(north) + 1) << 21
    me |= 1 << 20 | (climb < 0) << 19 | (abs(climb) + 1) << 10
    return _squitter(aircraft.icao, me), {
        "ground_speed": round(math.hypot(east, north) / KNOTS_PER_MPS, 2),
        "track": round(math.degrees(math.atan2(east, north)) % 360, 2),
        "vertical_rate": round(climb * 64 / FEET_PER_METRE / 60, 2),
    }


def _identity(aircraft: Aircraft, _: Airframe) -> tuple[bytes, Values]:
    category = aircraft.icao % 5 + 1
    me = 4 << 51 | category << 48
    for place, letter in enumerate(f"{aircraft.callsign:8.8}"):
        me |= LETTERS.index(letter) << (42 - 6 * place)
    return _squitter(aircraft.icao, me), {"callsign": aircraft.callsign, "category": f"A{category}"}


def _all_call(aircraft: Aircraft, _: Airframe) -> tuple[bytes, Values]:
    head = bytes([11 << 3 | 5]) + aircraft.icao.to_bytes(3, "big")
    interrogator = aircraft.icao % 16
    return head + (_parity(head) ^ interrogator).to_bytes(3, "big"), {}


def _altitude(aircraft: Aircraft, _: Airframe) -> tuple[bytes, Values]:
    steps = _altitude_steps(aircraft)
    code = (steps & 0x7E0) << 2 | (steps & 0x10) << 1 | 0x10 | steps & 0xF
    head = (4 << 27 | code).to_bytes(4, "big")
    return _reply(head, aircraft.icao), {"pressure_altitude": _altitude_m(steps)}


def _squawk(aircraft: Aircraft, _: Airframe) -> tuple[bytes, Values]:
    digits = [aircraft.icao >> shift & 7 for shift in (0, 3, 6, 9)]
    # From the top: C1 A1 C2 A2 C4 A4 X B1 D1 B2 D2 B4 D4.
    places = ((11, 9, 7), (5, 3, 1), (12, 10, 8), (4, 2, 0))
    code = sum(
        (digit >> i & 1) << place
        for digit, row in zip(digits, places, strict=True)
        for i, place in enumerate(row)
    )
    head = (5 << 27 | code).to_bytes(4, "big")
    return _reply(head, aircraft.icao), {"squawk": "".join(map(str, digits))}


MESSAGES: Final = {
    "position": _position,
    "velocity": _velocity,
    "identity": _identity,
    "all_call": _all_call,
    "altitude": _altitude,
    "squawk": _squawk,
}
