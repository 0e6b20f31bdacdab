"""Hi-Link's LD24xx radars, written from the protocol sheet: what they share, the LD2410 and the LD2451."""

from __future__ import annotations

import asyncio
import struct
from abc import abstractmethod
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told, together

__all__ = ["HiLink", "Ld2410", "Ld2451"]

PERIOD_S: Final = 0.1
COMMAND_HEAD: Final = b"\xfd\xfc\xfb\xfa"
COMMAND_TAIL: Final = b"\x04\x03\x02\x01"
REPORT_HEAD: Final = b"\xf4\xf3\xf2\xf1"
REPORT_TAIL: Final = b"\xf8\xf7\xf6\xf5"
TAIL_AT: Final = -2
"""Reports have no check; their tail is what a flipped bit is noticed by."""


class HiLink(Simulator):
    """A radar that reports by itself and stops while it is configured."""

    def __init__(self, *, period_s: float = PERIOD_S, **base: Any) -> None:
        super().__init__(**base)
        self.period_s = period_s
        self.configuring = False

    @abstractmethod
    async def report(self, end: End) -> None:
        """Send one report."""

    def set(self, word: int) -> None:
        """A setting that this model knows."""

    async def talk(self, end: End) -> None:
        await together(self._tell(end), self._obey(end))

    async def _tell(self, end: End) -> None:
        while True:
            if not self.configuring:
                await self.report(end)
            await asyncio.sleep(self.period_s)

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-256:]
            while (at := heard.find(COMMAND_HEAD)) >= 0 and (stop := heard.find(COMMAND_TAIL, at)) >= 0:
                payload, heard = heard[at + 6 : stop], heard[stop + 4 :]
                await self._do(end, payload)

    async def _do(self, end: End, payload: bytes) -> None:
        (word,) = struct.unpack_from("<H", payload)
        if word == 0xFF:
            self.configuring = True
            answer = b"\x00\x00\x01\x00\x40\x00"
        elif not self.configuring:
            answer = b"\x01\x00"  # refused: outside of configuration mode
        else:
            self.configuring = word != 0xFE
            self.set(word)
            answer = b"\x00\x00"
        body = struct.pack("<H", word | 0x0100) + answer
        await end.send(COMMAND_HEAD + struct.pack("<H", len(body)) + body + COMMAND_TAIL)


class Ld2410(HiLink):
    """LD2410 at 256000 8N1; the nearest walker is who it sees. Distances are never cleared."""

    kind = "ld2410"
    baud = 256_000

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.engineering = False
        self._last_cm = 0

    def set(self, word: int) -> None:
        if word in (0x62, 0x63):
            self.engineering = word == 0x62

    async def report(self, end: End) -> None:
        near = min((w.x_m**2 + w.y_m**2 for w in self.world.walkers(self.now_ns())), default=36.0) ** 0.5
        seen = near < 6.0
        if seen:
            self._last_cm = round(near * 100)
        state, energy, still = int(seen), 60 if seen else 0, 37
        told: dict[str, Value] = {"presence": state, "moving": state, "stationary": 0}
        told |= {"moving_energy": energy, "stationary_energy": still}
        if seen:
            told["moving_distance"] = self._last_cm / 100
        body = struct.pack("<BHBHBH", state, self._last_cm, energy, 0, still, 0)
        if self.engineering:
            gates = [10 * gate for gate in range(9)]
            body += bytes((8, 8, *gates, *gates, 96, state))
            told |= {
                f"{what}_energy_{n}": gate
                for what in ("moving", "stationary")
                for n, gate in enumerate(gates)
            }
            told |= {"light": 96, "out_pin": state}
        payload = bytes((1 if self.engineering else 2, 0xAA)) + body + b"\x55\x00"
        await end.send(_enveloped(payload), Told("radar_presence", told), check=TAIL_AT)


class Ld2451(HiLink):
    """LD2451 at 115200 8N1; ``silent=true`` is a unit that says nothing when it sees nothing."""

    kind = "ld2451"
    baud = 115_200

    def __init__(self, *, silent: bool = False, **base: Any) -> None:
        super().__init__(**base)
        self.silent = silent

    async def report(self, end: End) -> None:
        vehicles = [v for v in self.world.vehicles(self.now_ns()) if v.x_m > -55][:12]
        if not vehicles and self.silent:
            return
        payload, rows = b"", []
        for vehicle in vehicles:
            distance, toward = round(vehicle.x_m + 60), int(vehicle.speed_mps < 0)
            angle, speed = (-4, 4)[vehicle.lane % 2], round(abs(vehicle.speed_mps) * 3.6)
            payload += bytes((angle + 0x80, distance, toward, speed, 12))
            values: dict[str, Value] = {"angle": angle, "distance": distance, "approaching": toward}
            rows.append(Told("radar_vehicle", {**values, "vehicle_speed": speed, "signal_to_noise": 12}))
        if vehicles:
            payload = bytes((len(vehicles), 1)) + payload
        counts = Told("radar_presence", {"target_count": len(vehicles), "alarm": int(bool(vehicles))})
        await end.send(_enveloped(payload), counts, *rows, check=TAIL_AT)


def _enveloped(payload: bytes) -> bytes:
    return REPORT_HEAD + struct.pack("<H", len(payload)) + payload + REPORT_TAIL
