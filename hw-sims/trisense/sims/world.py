"""The simulated street: what a place is like at a UTC time.

Every value is a smooth function of (seed, place, time) and nothing else, so two stations that stand
near each other agree, any process gives the same answer, and a test can ask for yesterday. Weather comes
in fronts some hundred kilometres wide; people and traffic follow the clock on the wall.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

__all__ = ["AirQuality", "Aircraft", "Passage", "Vehicle", "Walker", "Weather", "World"]

DAY_S: Final = 86_400
YEAR_S: Final = 365.25 * DAY_S
NS: Final = 1_000_000_000
KM_PER_DEGREE: Final = 111.2
QUARTER_NS: Final = 900 * NS
RAIN_QUARTERS: Final = 32 * 96
"""Length of the rain counter's period."""
FRONT_KM: Final = 300.0
"""Distance over which the weather turns into another one."""
WAVES: Final = (1.0, 0.43, 0.19)
"""Periods that a smooth quantity is made of, as parts of its main period; amplitude falls likewise."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Weather under the vocabulary's names and units."""

    air_temperature: float
    relative_humidity: float
    barometric_pressure: float
    wind_speed: float
    wind_gust: float
    wind_direction: float
    rain_rate: float
    rain_amount_total: float
    """mm since the counter began; it begins again every 32 days."""
    illuminance: float
    solar_irradiance: float
    uv_index: float
    dew_point: float


@dataclass(frozen=True, slots=True)
class AirQuality:
    """Dust, gases and noise under the vocabulary's names and units."""

    pm1: float
    pm2_5: float
    pm10: float
    co2: float
    no2: float
    laeq: float


@dataclass(frozen=True, slots=True)
class Passage:
    """Something that passes the place; the same ``number`` is the same thing for ever."""

    number: int
    progress: float
    """0 where it comes into sight, 1 where it leaves."""
    random: random.Random
    """Its own, always in the same state: draw its features from it in a fixed order."""


@dataclass(frozen=True, slots=True)
class Vehicle:
    number: int
    x_m: float
    """Along the road, -60 to 60; 0 is the place."""
    lane: int
    speed_mps: float
    """Signed: positive towards rising ``x_m``."""
    length_m: float


@dataclass(frozen=True, slots=True)
class Walker:
    number: int
    x_m: float
    """Across the view of a sensor on the wall, -4 to 4."""
    y_m: float
    """Away from the wall, 0.5 to 6."""
    vx_mps: float
    vy_mps: float


@dataclass(frozen=True, slots=True)
class Aircraft:
    icao: int
    """24-bit address."""
    callsign: str
    latitude: float
    longitude: float
    altitude_m: float
    ground_speed_mps: float
    track_deg: float
    vertical_rate_mps: float


class World:
    """The world as seen from one place."""

    def __init__(self, seed: int = 0, latitude: float = 48.137, longitude: float = 11.575) -> None:
        self.seed = seed
        self.latitude = latitude
        self.longitude = longitude
        self._north_km = latitude * KM_PER_DEGREE
        self._east_km = longitude * KM_PER_DEGREE * math.cos(math.radians(latitude))
        self._quirk = random.Random(f"{seed}/{latitude:.5f}/{longitude:.5f}").uniform(-1.0, 1.0)
        self._rain = (-1, 0.0)
        self._place = f"{latitude:.4f}/{longitude:.4f}"

    # --- clocks -------------------------------------------------------------------------------

    def local_hour(self, t_ns: int) -> float:
        """Mean solar time, 0 to 24."""
        return (t_ns / NS / 3600 + self.longitude / 15) % 24

    def is_weekend(self, t_ns: int) -> bool:
        day = int(t_ns / NS + self.longitude * 240) // DAY_S
        return (day + 3) % 7 >= 5  # 1 January 1970 was a Thursday

    def sun_height(self, t_ns: int) -> float:
        """Sine of the sun's height above the horizon."""
        year = 2 * math.pi * (t_ns / NS) / YEAR_S
        declination = math.radians(-23.44) * math.cos(year + 0.172)
        hour_angle = math.radians((self.local_hour(t_ns) - 12) * 15)
        place = math.radians(self.latitude)
        return math.sin(place) * math.sin(declination) + math.cos(place) * math.cos(declination) * math.cos(
            hour_angle
        )

    # --- air ----------------------------------------------------------------------------------

    def weather(self, t_ns: int | None = None) -> Weather:
        """Weather at a UTC time, by default now."""
        now = time.time_ns() if t_ns is None else t_ns
        sun = max(0.0, self.sun_height(now))
        cloud = self._cloud(now)
        rain_rate = self._rain_rate(now)
        temperature = self._temperature(now, cloud)
        humidity = self._humidity(now, temperature, rain_rate)
        wind = max(0.0, 3.2 + 2.6 * self._smooth("wind", now, 30) + 0.9 * self._smooth("puff", now, 0.02))
        irradiance = 1080 * math.pow(sun, 1.15) * (1 - 0.72 * cloud)
        gamma = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
        return Weather(
            air_temperature=temperature,
            relative_humidity=humidity,
            barometric_pressure=1006.0 + 11.0 * self._smooth("pressure", now, 90) + 0.2 * self._quirk,
            wind_speed=wind,
            wind_gust=wind * (1.35 + 0.2 * self._smooth("gust", now, 0.05)),
            wind_direction=(
                250 + 80 * self._smooth("bearing", now, 40) + 12 * self._smooth("sway", now, 0.03)
            )
            % 360,
            rain_rate=rain_rate,
            rain_amount_total=self._rain_total(now),
            illuminance=irradiance * 120 + 8 * self._street_lamps(now),
            solar_irradiance=irradiance,
            uv_index=11.5 * math.pow(sun, 1.6) * (1 - 0.6 * cloud),
            dew_point=243.12 * gamma / (17.62 - gamma),
        )

    def air_quality(self, t_ns: int | None = None) -> AirQuality:
        """Street air: dust follows traffic, wind blows it away, rain washes it out."""
        now = time.time_ns() if t_ns is None else t_ns
        weather = self.weather(now)
        traffic = self.traffic(now)
        background = 9 + 6 * self._smooth("haze", now, 70)
        thinning = 1 / (0.6 + 0.22 * weather.wind_speed + 0.15 * weather.rain_rate)
        fine = max(1.0, (background + 16 * traffic) * thinning + 0.6 * self._smooth("soot", now, 0.05))
        coarse = fine * (1.45 + 0.12 * self._smooth("grit", now, 3) + 0.2 * traffic)
        return AirQuality(
            pm1=fine * 0.68,
            pm2_5=fine,
            pm10=coarse,
            co2=428 + 60 * traffic * thinning + 10 * self._smooth("co2", now, 12),
            no2=6 + 45 * traffic * thinning,
            laeq=44 + 26 * math.sqrt(traffic) + 1.5 * self._smooth("noise", now, 0.02),
        )

    # --- traffic ------------------------------------------------------------------------------

    def traffic(self, t_ns: int | None = None) -> float:
        """Intensity 0.02 to 1: two rush hours on working days, one broad hump at weekends."""
        now = time.time_ns() if t_ns is None else t_ns
        hour = self.local_hour(now)
        if self.is_weekend(now):
            level = 0.12 + 0.45 * _hump(hour, 15, 4.5)
        else:
            level = (
                0.1 + 0.8 * _hump(hour, 8, 1.4) + 0.75 * _hump(hour, 17.3, 1.9) + 0.35 * _hump(hour, 13, 3)
            )
        return min(1.0, max(0.02, level * (1 + 0.1 * self._smooth("flow", now, 1))))

    def passing(
        self, what: str, t_ns: int, *, per_hour: Callable[[int], float], lasts_s: float
    ) -> Iterator[Passage]:
        """What is in sight at ``t_ns`` of things that pass at random, on average ``per_hour(time)`` of them.

        Each is in sight for ``lasts_s``. At most one comes into sight per ``lasts_s / 8``.
        """
        slot_ns = int(lasts_s / 8 * NS)
        current = t_ns // slot_ns
        for number in range(current - 8, current + 1):
            own = random.Random(f"{self.seed}/{self._place}/{what}/{number}")
            slot_began_ns = number * slot_ns
            if own.random() < per_hour(slot_began_ns) * lasts_s / 8 / 3600:
                began_ns = slot_began_ns + int(own.random() * slot_ns)
                progress = (t_ns - began_ns) / (lasts_s * NS)
                if 0 <= progress < 1:
                    yield Passage(number, progress, own)

    def vehicles(self, t_ns: int | None = None) -> list[Vehicle]:
        """Vehicles within 60 m along the road."""
        now = time.time_ns() if t_ns is None else t_ns
        found = []
        for passage in self.passing("vehicle", now, per_hour=lambda t: 900 * self.traffic(t), lasts_s=10):
            lane = passage.random.randrange(2)
            way = 1 if lane == 0 else -1
            length_m = passage.random.choice((4.2, 4.4, 4.7, 5.1, 7.5, 12.0))
            found.append(
                Vehicle(passage.number, way * (120 * passage.progress - 60), lane, way * 12.0, length_m)
            )
        return found

    def walkers(self, t_ns: int | None = None) -> list[Walker]:
        """People within 6 m of a wall, each on a straight way past it."""
        now = time.time_ns() if t_ns is None else t_ns
        found = []
        for passage in self.passing("walker", now, per_hour=lambda t: 120 + 900 * self.traffic(t), lasts_s=6):
            way = passage.random.choice((-1, 1))
            near, far = passage.random.uniform(0.8, 5.0), passage.random.uniform(0.8, 5.0)
            found.append(
                Walker(
                    passage.number,
                    x_m=way * (7 * passage.progress - 3.5),
                    y_m=near + (far - near) * passage.progress,
                    vx_mps=way * 7 / 6,
                    vy_mps=(far - near) / 6,
                )
            )
        return found

    def aircraft(self, t_ns: int | None = None) -> list[Aircraft]:
        """Aircraft within about 100 km, on straight tracks past the place."""
        now = time.time_ns() if t_ns is None else t_ns
        found = []
        for passage in self.passing("aircraft", now, per_hour=lambda _: 40.0, lasts_s=900):
            own = passage.random
            track_deg, speed_mps = own.uniform(0, 360), own.uniform(120, 250)
            aside_km, climb_mps = own.uniform(-60, 60), own.choice((0.0, 0.0, 6.0, -6.0))
            along_km = speed_mps * 0.9 * (passage.progress - 0.5)
            course = math.radians(track_deg)
            north = along_km * math.cos(course) - aside_km * math.sin(course)
            east = along_km * math.sin(course) + aside_km * math.cos(course)
            found.append(
                Aircraft(
                    icao=0x3C0000 + own.randrange(0x40000),
                    callsign=f"{own.choice(('DLH', 'EZY', 'AFR', 'SWR'))}{own.randrange(10, 9999)}",
                    latitude=self.latitude + north / KM_PER_DEGREE,
                    longitude=self.longitude + east / (KM_PER_DEGREE * math.cos(math.radians(self.latitude))),
                    altitude_m=max(
                        300.0, own.uniform(1500, 11_500) + climb_mps * 900 * (passage.progress - 0.5)
                    ),
                    ground_speed_mps=speed_mps,
                    track_deg=track_deg,
                    vertical_rate_mps=climb_mps,
                )
            )
        return found

    # --- inside -------------------------------------------------------------------------------

    def _smooth(self, what: str, t_ns: int, period_h: float) -> float:
        """A wandering quantity between about -1 and 1, the same at near places.

        Three sines whose phases come from the seed; fast ones belong to the street, slow ones move over
        the country with the fronts.
        """
        hours = t_ns / NS / 3600
        total = 0.0
        for index, part in enumerate(WAVES):
            phase, heading = _phases(self.seed, what, index)
            way_km = self._north_km * math.cos(heading) + self._east_km * math.sin(heading)
            total += part * math.sin(2 * math.pi * (hours / (period_h * part) + way_km / FRONT_KM) + phase)
        return total / sum(WAVES)

    def _cloud(self, now: int) -> float:
        return min(1.0, max(0.0, 0.5 + 0.9 * self._smooth("cloud", now, 26)))

    def _rain_rate(self, now: int) -> float:
        wet = self._smooth("cloud", now, 26) - 0.4
        return max(0.0, wet * (6 + 3 * self._smooth("shower", now, 0.6)))

    def _rain_total(self, now: int) -> float:
        """The rate summed over quarters of an hour since the counter began, so that it never falls."""
        quarter, part_ns = divmod(now, QUARTER_NS)
        began = quarter - quarter % RAIN_QUARTERS
        first = began
        if self._rain[0] in range(began, quarter + 1):
            first, total = self._rain
        else:
            total = 0.0
        for index in range(first, quarter):
            total += self._rain_rate(index * QUARTER_NS + QUARTER_NS // 2) / 4
        self._rain = (quarter, total)
        current = self._rain_rate(quarter * QUARTER_NS + QUARTER_NS // 2)
        return total + current / 4 * part_ns / QUARTER_NS

    def _temperature(self, now: int, cloud: float) -> float:
        year = 2 * math.pi * (now / NS) / YEAR_S
        season = (
            -9.5 * math.cos(year - 0.35) * math.copysign(min(1.0, abs(self.latitude) / 40), self.latitude)
        )
        swing = 5.5 * (1 - 0.55 * cloud) * math.cos(2 * math.pi * (self.local_hour(now) - 15) / 24)
        base = 27 - 0.33 * abs(self.latitude)
        return base + season + swing + 3.5 * self._smooth("air", now, 110) + 0.25 * self._quirk

    def _humidity(self, now: int, temperature: float, rain_rate: float) -> float:
        swing = -14 * math.cos(2 * math.pi * (self.local_hour(now) - 15) / 24)
        wet = 66 + swing + 12 * self._smooth("moist", now, 60) + 6 * min(rain_rate, 3) - 0.2 * temperature
        return min(99.5, max(14.0, wet))

    def _street_lamps(self, now: int) -> float:
        return 1.0 if self.sun_height(now) < -0.03 else 0.0


@cache
def _phases(seed: int, what: str, index: int) -> tuple[float, float]:
    digest = hashlib.blake2b(f"{seed}/{what}/{index}".encode(), digest_size=8).digest()
    return (
        int.from_bytes(digest[:4], "big") / 2**32 * 2 * math.pi,
        int.from_bytes(digest[4:], "big") / 2**32 * 2 * math.pi,
    )


def _hump(hour: float, centre: float, width_h: float) -> float:
    away = (hour - centre + 12) % 24 - 12
    return math.exp(-0.5 * (away / width_h) ** 2)
