"""A Wavetronix SmartSensor HD, written from the protocol sheet: intervals of each lane when asked."""

from __future__ import annotations

import time
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told

__all__ = ["Ss125"]

KMH_PER_MPH: Final = 1.609344
BODY_CRC_AT: Final = -1
NS: Final = 1_000_000_000


class Ss125(Simulator):
    """SS125 set to mph; ``sensor`` is its id, ``lanes`` how many it watches, in one approach."""

    kind = "ss125"

    def __init__(self, *, sensor: int = 7, lanes: int = 2, duration_s: float = 30.0, **base: Any) -> None:
        super().__init__(**base)
        self.sensor = sensor
        self.lanes = lanes
        self.duration_s = duration_s

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-300:]
            while (at := heard.find(b"Z1")) >= 0 and len(heard) - at >= 12:
                size = 12 + heard[at + 9]
                if len(heard) - at < size:
                    break
                query, heard = heard[at : at + size], heard[at + size :]
                known = int.from_bytes(query[3:5], "big") in (0, self.sensor)
                if known and not _crc(query[:11]) and not _crc(query[11:]) and query[11] == 0x71:
                    await self._tell(end, query)

    async def _tell(self, end: End, query: bytes) -> None:
        number = int(self.now_ns() / NS // self.duration_s)
        ended_ns = int(number * self.duration_s * NS)
        for index in range(1, self.lanes + 2):
            volume = round((10 + 20 * self.world.traffic(ended_ns)) / index)
            speed_mph, occupancy = 30 + index, volume * 5
            words = (volume, volume - 1, 1, 0, 0)
            body = bytes((0x71, index, 0)) + number.to_bytes(4, "big")[1:] + _clock(ended_ns)
            body += (
                bytes((0x80, speed_mph, 0x80)) + words[0].to_bytes(3, "big") + occupancy.to_bytes(2, "big")
            )
            body += b"".join(word.to_bytes(3, "big") for word in words[1:])
            body += bytes((0x80, speed_mph + 4, 0)) + (2500).to_bytes(3, "big") + (2100).to_bytes(3, "big")
            body += bytes((self.lanes, 1))
            head = b"Z1\0" + query[6:8] + b"\0" + self.sensor.to_bytes(2, "big")
            head += bytes(((query[8] + index) % 256, len(body)))
            frame = head + bytes((_crc(head),)) + body + bytes((_crc(body),))
            told: dict[str, Value] = {"lane": index, "interval": number & 0xFFFFFF, "vehicle_count": volume}
            told |= {"occupancy": occupancy / 10, "headway": 2.5, "gap": 2.1}
            told["mean_speed"] = (speed_mph + 0.5) * KMH_PER_MPH
            told["speed_85th"] = (speed_mph + 4) * KMH_PER_MPH
            told |= {f"class_{n}_count": word for n, word in enumerate(words[1:], 1)}
            rows = (Told("traffic_interval", told),) if index <= self.lanes else ()
            await end.send(frame, *rows, check=BODY_CRC_AT)


def _clock(t_ns: int) -> bytes:
    at = time.gmtime(t_ns // NS)
    date = at.tm_year << 9 | at.tm_mon << 5 | at.tm_mday
    day = at.tm_hour << 22 | at.tm_min << 16 | at.tm_sec << 10
    return date.to_bytes(4, "big") + day.to_bytes(4, "big")


def _crc(data: bytes) -> int:
    crc = 0
    for byte in data:
        for bit in range(7, -1, -1):
            top = crc >> 7 ^ byte >> bit & 1
            crc = crc << 1 & 0xFF ^ (0x1C if top else 0)
    return crc
