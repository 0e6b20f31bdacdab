"""A Modbus slave that answers from a register image; the kit's own, so that it shares no mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from trisense.drivers.kit.contract import Row
from trisense.drivers.kit.player import Player, Reply

__all__ = ["Image", "ModbusSlave", "SlaveFraming"]

READS: Final = (1, 2, 3, 4)
EXCEPTION: Final = 0x80
ILLEGAL_ADDRESS: Final = 2
RTU_BYTES: Final = 8
MBAP_BYTES: Final = 12

SlaveFraming = Literal["rtu", "tcp"]

Image = tuple[Mapping[int, int], Sequence[Row]]
"""Words (or bits) by address, and the rows that they mean."""


def crc(data: bytes) -> bytes:
    """CRC-16/MODBUS, low byte first."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


class ModbusSlave(Player):
    """One unit; another register image each turn."""

    speaks = False

    def __init__(self, unit: int, images: Sequence[Image], framing: SlaveFraming) -> None:
        super().__init__()
        self._unit = unit
        self._images = images
        self._framing = framing
        self._at = 0
        self.started.set()

    def rows(self) -> Sequence[Row]:
        return self._images[self._at][1]

    def turn(self) -> None:
        self._at = (self._at + 1) % len(self._images)

    def hear(self, heard: bytearray) -> Sequence[Reply]:
        take = self._rtu if self._framing == "rtu" else self._tcp
        replies = []
        while (reply := take(heard)) is not None:
            if reply.data:
                replies.append(reply)
        return replies

    def _rtu(self, heard: bytearray) -> Reply | None:
        if len(heard) < RTU_BYTES:
            return None
        request = bytes(heard[:RTU_BYTES])
        if crc(request[:-2]) != request[-2:]:
            del heard[:1]
            return Reply(b"")
        del heard[:RTU_BYTES]
        if request[0] != self._unit:
            return Reply(b"")
        body = request[:1] + self._answer(request[1:6])
        return Reply(body + crc(body), key=request[1:6])

    def _tcp(self, heard: bytearray) -> Reply | None:
        if len(heard) < MBAP_BYTES:
            return None
        request = bytes(heard[:MBAP_BYTES])
        del heard[:MBAP_BYTES]
        if request[6] != self._unit:
            return Reply(b"")
        body = request[6:7] + self._answer(request[7:])
        return Reply(request[:4] + len(body).to_bytes(2, "big") + body, key=request[7:])

    def _answer(self, pdu: bytes) -> bytes:
        function, address, count = pdu[0], int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
        if function not in READS:
            return bytes([function | EXCEPTION, 1])
        image = self._images[self._at][0]
        if not any(place in image for place in range(address, address + count)):
            return bytes([function | EXCEPTION, ILLEGAL_ADDRESS])
        words = [image.get(place, 0) for place in range(address, address + count)]
        if function in (1, 2):
            bits = sum((word & 1) << index for index, word in enumerate(words))
            data = bits.to_bytes((count + 7) // 8, "little")
        else:
            data = b"".join(word.to_bytes(2, "big") for word in words)
        return bytes([function, len(data)]) + data

    def foreign(self, reply: Reply) -> bytes:
        """The same answer in the name of the next unit."""
        other = self._unit % 247 + 1
        if self._framing == "tcp":
            return reply.data[:6] + bytes([other]) + reply.data[7:]
        body = bytes([other]) + reply.data[1:-2]
        return body + crc(body)
