"""A Sensirion SPS30, written from the protocol sheet: SHDLC, start and stop, one new reading a second."""

from __future__ import annotations

import struct
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told

__all__ = ["Sps30"]

STUFFING: Final = {0x7E: b"\x7d\x5e", 0x7D: b"\x7d\x5d", 0x11: b"\x7d\x31", 0x13: b"\x7d\x33"}
COUNTS: Final = (("0_5", 6.5), ("1_0", 7.6), ("2_5", 7.85), ("4_0", 7.9), ("10", 7.91))
"""Grains below each size in 1/cm3 for each ug/m3 of PM2.5; a captured frame has about as many."""
NOT_NOW: Final = 0x43
UNKNOWN: Final = 0x02
WRONG_LENGTH: Final = 0x01
HEARD_BYTES: Final = 600


class Sps30(Simulator):
    """SPS30 at 115200 8N1; ``asleep=true`` begins asleep, ``lose_power_after=20`` restarts it once."""

    kind = "sps30"
    baud = 115_200

    def __init__(
        self, *, fresh_s: float = 1.0, asleep: bool = False, lose_power_after: int = 0, **base: Any
    ) -> None:
        super().__init__(**base)
        self.fresh_s = fresh_s
        self.asleep = asleep
        self.lose_power_after = lose_power_after
        self.measuring = False
        self.output = 3
        self._uart_awake_until = 0.0
        self._next_s = 0.0
        self._reads = 0

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-HEARD_BYTES:]
            if self.asleep and b"\xff" in heard:
                self._uart_awake_until = time.monotonic() + 0.1
            while heard.count(b"\x7e") >= 2:
                _, asked, heard = heard.split(b"\x7e", 2)
                if asked:
                    await self._answer(end, self._plain(asked))
                else:  # two flags back to back: the second begins a frame
                    heard = b"\x7e" + heard

    @staticmethod
    def _plain(asked: bytes) -> bytes:
        plain = bytearray()
        rest = iter(asked)
        for byte in rest:
            plain.append(next(rest, 0) ^ 0x20 if byte == 0x7D else byte)
        return bytes(plain)

    async def _answer(self, end: End, asked: bytes) -> None:
        good = len(asked) >= 4 and asked[2] == len(asked) - 4 and sum(asked) % 256 == 0xFF
        if not good or asked[0] != 0:
            return
        command, data = asked[1], asked[3:-1]
        if self.asleep and not (command == 0x11 and time.monotonic() < self._uart_awake_until):
            return
        if command == 0x03:
            await self._read(end)
            return
        await self._reply(end, command, self._do(command, data))

    def _do(self, command: int, data: bytes) -> int:
        """Carry out a command; gives the state of the reply."""
        if command == 0x00:
            if data not in (b"\x01\x03", b"\x01\x05"):
                return WRONG_LENGTH
            state = NOT_NOW if self.measuring else 0
            if not self.measuring:
                self.measuring, self.output, self._next_s = True, data[1], time.monotonic() + self.fresh_s
            return state
        if command == 0x01:
            self.measuring = False
            return 0
        if command == 0x10:
            self.asleep = not self.measuring
            return NOT_NOW if self.measuring else 0
        if command == 0x11:
            state = 0 if self.asleep else NOT_NOW
            self.asleep = False
            return state
        return UNKNOWN

    async def _read(self, end: End) -> None:
        self._reads += 1
        if self._reads == self.lose_power_after:
            self.measuring = False
        if not self.measuring:
            await self._reply(end, 0x03, NOT_NOW)
            return
        now_s = time.monotonic()
        if now_s < self._next_s:
            await self._reply(end, 0x03, 0)
            return
        self._next_s = now_s + self.fresh_s
        told = self._values()
        packed = b"".join(struct.pack(">f", value) for value in told.values())
        if self.output == 5:
            packed = b"".join(round(value).to_bytes(2, "big") for value in told.values())
        shown = {name: float(f"{value:.6g}") for name, value in told.items()}
        await self._reply(end, 0x03, 0, packed, Told("air_quality", shown))

    def _values(self) -> dict[str, float]:
        air = self.world.air_quality(self.now_ns())
        pm4 = air.pm2_5 + 0.6 * (air.pm10 - air.pm2_5)
        told = {"pm1": air.pm1, "pm2_5": air.pm2_5, "pm4": pm4, "pm10": air.pm10}
        told |= {f"pnc_lt_{size}um": air.pm2_5 * share for size, share in COUNTS}
        told["typical_particle_size"] = 0.4 + 0.3 * air.pm2_5 / (air.pm10 + 1)
        return {name: struct.unpack(">f", struct.pack(">f", value))[0] for name, value in told.items()}

    async def _reply(self, end: End, command: int, state: int, data: bytes = b"", *told: Told) -> None:
        body = bytes((0, command, state, len(data))) + data
        body += bytes((0xFF - sum(body) % 256,))
        stuffed = b"".join(STUFFING.get(byte, bytes((byte,))) for byte in body)
        await end.send(b"\x7e" + stuffed + b"\x7e", *told, check=len(stuffed))
