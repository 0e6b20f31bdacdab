"""A reader with the UHFReader18 protocol, written from the sheet: inventories, pushed tags, heartbeats."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together
from trisense.sims.llrp_bytes import tag_number

__all__ = ["UhfReader18"]

IN_SIGHT_S: Final = 8.0
PUSHED_BYTES: Final = 12
HEARTBEAT: Final = bytes.fromhex("560000000000")
TAGS_PER_FRAME: Final = 4
DONE, MORE, NO_TAG, ILLEGAL = 0x01, 0x03, 0xFB, 0xFE


def crc16(data: bytes) -> int:
    """CRC-16/MCRF4XX."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0x8408 if value & 1 else value >> 1
    return value


class UhfReader18(Simulator):
    """UHFReader18 at 57600 8N1; with ``push_s`` it scans and sends a tag so often, answering nothing."""

    kind = "uhfreader18"
    baud = 57_600

    def __init__(
        self,
        *,
        address: int = 0,
        push_s: float | None = None,
        heartbeat_s: float = 0.0,
        scan_s: float = 0.3,
        tags_per_hour: float = 1200.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.address = address
        self.push_s = push_s
        self.heartbeat_s = heartbeat_s
        self.scan_s = scan_s
        self.tags_per_hour = tags_per_hour

    async def talk(self, end: End) -> None:
        await together(self._obey(end), self._push(end), self._beat(end))

    def _in_sight(self) -> list[bytes]:
        passing = self.world.passing(
            "tag", self.now_ns(), per_hour=lambda _: self.tags_per_hour, lasts_s=IN_SIGHT_S
        )
        return [tag_number(tag.random) for tag in passing]

    async def _beat(self, end: End) -> None:
        while self.heartbeat_s:
            await asyncio.sleep(self.heartbeat_s)
            await end.write(HEARTBEAT)
        await asyncio.Event().wait()

    async def _push(self, end: End) -> None:
        while self.push_s is not None:
            await asyncio.sleep(self.push_s)
            for epc in self._in_sight():
                told = Told("tag_sighting", {"epc": epc.rstrip(b"\0").hex()})
                await end.send(self._frame(0xEE, 0, epc.ljust(PUSHED_BYTES, b"\0")), told)
        await asyncio.Event().wait()

    def _frame(self, command: int, status: int, data: bytes = b"") -> bytes:
        body = bytes((5 + len(data), self.address, command, status)) + data
        return body + struct.pack("<H", crc16(body))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard += await end.read()
            while heard and len(heard) > heard[0]:
                frame = heard[: heard[0] + 1]
                good = len(frame) >= 5 and crc16(frame) == 0
                heard = heard[len(frame) if good else 1 :]
                if good and frame[1] in (self.address, 0xFF) and self.push_s is None:
                    await self._do(end, frame[2])

    async def _do(self, end: End, command: int) -> None:
        if command == 0x21:
            info = bytes((3, 1, 9, 3, 0x31, 0x80, 26, round(self.scan_s * 10)))
            await end.send(self._frame(command, 0, info))
        elif command == 0x01:
            await self._inventory(end)
        else:
            await end.send(self._frame(command, ILLEGAL))

    async def _inventory(self, end: End) -> None:
        await asyncio.sleep(self.scan_s / 4)
        tags = self._in_sight()
        if not tags:
            await end.send(self._frame(0x01, NO_TAG))
        for start in range(0, len(tags), TAGS_PER_FRAME):
            some = tags[start : start + TAGS_PER_FRAME]
            data = bytes((len(some),)) + b"".join(bytes((len(epc),)) + epc for epc in some)
            status = MORE if tags[start + TAGS_PER_FRAME :] else DONE
            told = (Told("tag_sighting", {"epc": epc.hex()}) for epc in some)
            await end.send(self._frame(0x01, status, data), *told)
