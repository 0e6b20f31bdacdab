"""An R200 UHF RFID module, written from the protocol sheet: commands, notices of tags, empty rounds."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together
from trisense.sims.llrp_bytes import gen2_crc, tag_number

__all__ = ["R200Module"]

IN_SIGHT_S: Final = 8.0
NO_TAG: Final = b"\x15"
BAD_COMMAND: Final = b"\x17"
SETTINGS: Final = (0x07, 0xB6)


class R200Module(Simulator):
    """R200 or M100 at 115200 8N1; ``tags_per_hour`` pass its antenna, each for eight seconds."""

    kind = "r200"
    baud = 115_200

    def __init__(
        self, *, dialect: str = "bb", round_s: float = 0.05, tags_per_hour: float = 1200.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if dialect not in ("aa", "bb"):
            raise ValueError(f"dialect {dialect!r}: aa or bb")
        self.head, self.end = (0xAA, 0xDD) if dialect == "aa" else (0xBB, 0x7E)
        self.round_s = round_s
        self.tags_per_hour = tags_per_hour
        self.settings: dict[int, bytes] = {}
        """What the host has set, by command."""
        self.rounds_left = 0
        self._polled = asyncio.Event()

    async def talk(self, end: End) -> None:
        await together(self._poll(end), self._obey(end))

    async def _poll(self, end: End) -> None:
        while True:
            if not self.rounds_left:
                self._polled.clear()
                await self._polled.wait()
            await asyncio.sleep(self.round_s)
            if self.rounds_left:
                self.rounds_left -= 1
                await self._round(end)

    async def _round(self, end: End) -> None:
        """One inventory round: a notice per tag, or the error that says there is none."""
        passing = self.world.passing(
            "tag", self.now_ns(), per_hour=lambda _: self.tags_per_hour, lasts_s=IN_SIGHT_S
        )
        seen = [(tag_number(tag.random), tag.progress) for tag in passing]
        for epc, progress in seen:
            rssi = round(-45 - 40 * abs(progress - 0.5) + self.random.gauss(0, 1.5))
            numbered = (len(epc) // 2 << 11).to_bytes(2, "big") + epc
            parameter = rssi.to_bytes(1, signed=True) + numbered + gen2_crc(numbered).to_bytes(2, "big")
            told = Told("tag_sighting", {"epc": epc.hex(), "rssi": rssi})
            await end.send(self._frame(2, 0x22, parameter), told, check=-2)
        if not seen:
            await end.send(self._frame(1, 0xFF, NO_TAG), check=-2)

    def _frame(self, kind: int, command: int, parameter: bytes) -> bytes:
        body = bytes((kind, command)) + len(parameter).to_bytes(2, "big") + parameter
        return bytes((self.head,)) + body + bytes((sum(body) % 256, self.end))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard += await end.read()
            while (at := heard.find(self.head)) >= 0 and len(heard) >= at + 7:
                size = int.from_bytes(heard[at + 3 : at + 5], "big") + 7
                if len(heard) < at + size:
                    break
                frame = heard[at : at + size]
                good = frame[-1] == self.end and sum(frame[1:-2]) % 256 == frame[-2] and frame[1] == 0
                heard = heard[at + (size if good else 1) :]
                if good:
                    await self._do(end, frame[2], frame[5:-2])

    async def _do(self, end: End, command: int, parameter: bytes) -> None:
        if self.rounds_left and command != 0x28:  # while it polls it hears nothing but stop
            return
        if command == 0x28:
            self.rounds_left = 0
            await end.send(self._frame(1, 0x28, b"\0"), check=-2)
        elif command == 0x22:
            await self._round(end)
        elif command == 0x27 and len(parameter) == 3:
            self.rounds_left = int.from_bytes(parameter[1:], "big")
            self._polled.set()
        elif command == 0x03 and parameter == b"\0":
            await end.send(self._frame(1, 0x03, b"\0R200 26dBm V1.0"), check=-2)
        elif command in SETTINGS:
            self.settings[command] = parameter
            await end.send(self._frame(1, command, b"\0"), check=-2)
        else:
            await end.send(self._frame(1, 0xFF, BAD_COMMAND), check=-2)
