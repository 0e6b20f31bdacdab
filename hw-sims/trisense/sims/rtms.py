"""An EIS RTMS G4, written from the protocol sheet: statistics when asked, heartbeats in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told, together

__all__ = ["RtmsG4"]

KMH_PER_MPH: Final = 1.609344
NS: Final = 1_000_000_000
POLL_BYTES: Final = 9
HEARTBEAT_S: Final = 0.1
MPH, STAMPED = 0x01, 0x04
ALL_OPTIONS: Final = 0xFF
"""Composition: gap, headway, 85th speed and six classes."""


class RtmsG4(Simulator):
    """RTMS G4 set to mph; ``sensor`` is its id, ``lanes`` how many zones it watches."""

    kind = "rtms-g4"

    def __init__(self, *, sensor: int = 1, lanes: int = 2, duration_s: float = 30.0, **base: Any) -> None:
        super().__init__(**base)
        self.sensor = sensor
        self.lanes = lanes
        self.duration_s = duration_s

    async def talk(self, end: End) -> None:
        await together(self._answer(end), self._live(end))

    async def _live(self, end: End) -> None:
        while True:
            await end.write(self._message(0x5F, b"\0"))
            await asyncio.sleep(HEARTBEAT_S)

    async def _answer(self, end: End) -> None:
        poll = self._message(0x53, b"\0")
        heard = b""
        while True:
            heard += await end.read()
            while poll in heard:
                heard = heard.partition(poll)[2]
                await self._tell(end)
            heard = heard[-POLL_BYTES:]

    async def _tell(self, end: End) -> None:
        number = int(self.now_ns() / NS // self.duration_s)
        ended_ns = int(number * self.duration_s * NS)
        lanes = [self._lane(lane, ended_ns) for lane in range(1, self.lanes + 1)]
        header = bytes((number % 256, 0, 0, MPH | STAMPED)) + _stamp(ended_ns)
        header += bytes((self.lanes, ALL_OPTIONS)) + int(self.duration_s).to_bytes(2, "big")
        await end.send(self._message(0x80, header + bytes((126, 0x10)) + bytes(5)), check=-1)
        for qualifier, words in _columns(lanes):
            await end.send(self._message(qualifier, words), check=-1)
        told = [
            Told("traffic_interval", _truth(lane) | {"interval": number % 256, "duration": self.duration_s})
            for lane in lanes
        ]
        status = Told("radar_status", {"supply_voltage": 12.6})
        await end.send(self._message(0x81, bytes((number % 256,))), *told, status, check=-1)

    def _lane(self, lane: int, ended_ns: int) -> dict[str, int]:
        volume = round((10 + 20 * self.world.traffic(ended_ns)) / lane) + 5
        return {
            "lane": lane,
            "volume": volume,
            "occupancy": volume * 5,
            "speed": 30 + lane,
            "gap": 21,
            **{f"class_{n}": 1 for n in range(1, 6)},
            "headway": 25,
            "speed_85th": 34 + lane,
        }

    def _message(self, qualifier: int, data: bytes) -> bytes:
        body = self.sensor.to_bytes(2, "big") + data
        return bytes((0xFF, 0xAA, qualifier, len(body))) + body + (sum(body) & 0xFFFF).to_bytes(2, "big")


def _columns(lanes: list[dict[str, int]]) -> Iterator[tuple[int, bytes]]:
    """Each statistic of all zones, in the order in which they are sent."""
    names = ["volume", "occupancy", "speed", "gap", *(f"class_{n}" for n in range(1, 6))]
    for qualifier, name in (*enumerate(names, 0x10), (0x1E, "headway"), (0x1F, "speed_85th")):
        yield qualifier, b"".join(lane[name].to_bytes(2, "big") for lane in lanes)


def _truth(lane: dict[str, int]) -> dict[str, Value]:
    told: dict[str, Value] = {"lane": lane["lane"], "vehicle_count": lane["volume"]}
    told |= {"occupancy": lane["occupancy"] / 10, "headway": lane["headway"] / 10, "gap": lane["gap"] / 10}
    told |= {"mean_speed": lane["speed"] * KMH_PER_MPH, "speed_85th": lane["speed_85th"] * KMH_PER_MPH}
    told |= {f"class_{n + 1}_count": lane[f"class_{n}"] for n in range(1, 6)}
    return told | {"class_1_count": lane["volume"] - 5}


def _stamp(t_ns: int) -> bytes:
    at = time.gmtime(t_ns // NS)
    parts = (at.tm_sec, at.tm_min, at.tm_hour, at.tm_wday + 1, at.tm_mday, at.tm_mon, at.tm_year % 100)
    return bytes(part // 10 << 4 | part % 10 for part in parts)
