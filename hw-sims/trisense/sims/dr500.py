"""A Houston Radar DR500, written from the protocol sheet: answers with the average speed in its own unit."""

from __future__ import annotations

from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told

__all__ = ["Dr500"]

KMH_IN_UNIT: Final = (1.609344, 1.0, 1.09728, 3.6)
ESCAPED: Final = {0xFA: b"\xfa\x0a", 0xF3: b"\xfa\x03", 0xFC: b"\xfa\x0c"}
CRC_AT: Final = -2


class Dr500(Simulator):
    """DR500 on a UART; ``unit`` is 0 mph, 1 km/h, 2 ft/s, 3 m/s."""

    kind = "dr500"
    baud = 115_200

    def __init__(self, *, unit: int = 0, **base: Any) -> None:
        super().__init__(**base)
        self.unit = unit

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-200:]
            while 0xFC in heard:
                frame, _, heard = heard.partition(b"\xfc")
                await self._answer(end, frame.rpartition(b"\xf3")[2])

    async def _answer(self, end: End, escaped: bytes) -> None:
        whole = escaped
        for byte, pair in reversed(ESCAPED.items()):
            whole = whole.replace(pair, bytes((byte,)))
        body = whole[:-2]
        if not body or _crc(body) != whole[-2:]:
            return
        if body[0] == 0x18:
            value = self.unit if body[2:4] == b"UN" else 0
            await end.send(_framed(b"\x19" + body[1:4] + value.to_bytes(2, "little")))
        elif body[0] == 0x31:
            vehicles = self.world.vehicles(self.now_ns())
            speed = round(abs(vehicles[0].speed_mps) * 3.6 / KMH_IN_UNIT[self.unit]) if vehicles else 0
            told: dict[str, Value] = {"presence": int(speed > 0)}
            if speed:
                told["vehicle_speed"] = speed * KMH_IN_UNIT[self.unit]
            await end.send(_framed(bytes((0x32, speed))), Told("radar_speed", told), check=CRC_AT)


def _framed(body: bytes) -> bytes:
    whole = b"".join(ESCAPED.get(byte, bytes((byte,))) for byte in body + _crc(body))
    return b"\xf3" + whole + b"\xfc"


def _crc(body: bytes) -> bytes:
    """CRC-16/XMODEM, bit by bit."""
    crc = 0
    for byte in body:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2, "little")
