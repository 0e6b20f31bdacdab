"""Frames of the UHFReader18 family: length, address, command, status in answers, data, CRC-16.

The length counts all behind itself. Requests have no status; with four bytes behind their length they are
too short for an answer, longer ones are told by ``encode`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from trisense.drivers.epc import SIGHTING, tag_values
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["ANY", "INFO", "INVENTORY", "MORE_FOLLOWS", "PUSHED", "UhfDecoder", "UhfReader18Codec", "request"]

INVENTORY: Final = 0x01
INFO: Final = 0x21
PUSHED: Final = 0xEE
COMMANDS: Final = frozenset((1, 2, 3, 4, 0x0F, 0x21, 0x22, 0x24, 0x25, 0x28, 0x2F, 0x35, 0x36, PUSHED))
"""What stands third in a frame: without it any byte of noise would promise a frame of its own length."""
WITH_TAGS: Final = (1, 2, 3, 4)
"""Inventory done, time over, more frames follow, memory full."""
MORE_FOLLOWS: Final = 3
REQUEST_LENGTH: Final = 4
INFO_BYTES: Final = 8
HEARTBEAT: Final = bytes.fromhex("560000000000")
"""What a TCP bridge says by itself. A frame may begin alike, so all of it must be there."""
ANY: Final = 0xFF
"""Broadcast address; answers carry the reader's own."""


def crc16(data: bytes) -> int:
    """Reflected polynomial 0x8408 from 0xFFFF; over a frame with its own CRC it is 0."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc


def request(address: int, command: int, data: bytes = b"") -> bytes:
    """The bytes of a request to the reader."""
    body = bytes((REQUEST_LENGTH + len(data), address, command)) + data
    return body + crc16(body).to_bytes(2, "little")


class UhfDecoder(Decoder):
    """Takes what readers at ``address`` say, or with ``ANY`` what all of them say."""

    max_frame = 256

    def __init__(self, address: int = ANY) -> None:
        super().__init__()
        self._address = address

    def cut(self, data: bytes, start: int) -> Cut | None:
        head = data[start : start + len(HEARTBEAT)]
        if head == HEARTBEAT:
            return Cut(len(HEARTBEAT), {"heartbeat": True})
        size = head[0] + 1
        if len(head) < len(HEARTBEAT) and HEARTBEAT.startswith(head):
            return None
        foreign = len(head) > 1 and self._address not in (ANY, head[1])
        if size <= REQUEST_LENGTH or foreign or (len(head) > 2 and head[2] not in COMMANDS):
            return Cut(1)
        frame = data[start : start + size]
        if len(frame) < size:
            return None
        return Cut(size, _frame(frame)) if crc16(frame) == 0 else Cut(1, damage="checksum")


def _frame(frame: bytes) -> Frame:
    """A frame whose CRC is right."""
    command = frame[2]
    found: Frame = {"len": frame[0], "adr": frame[1], "cmd": command, "crc_ok": True}
    if frame[0] == REQUEST_LENGTH:
        return found | {"data": ""}
    status, data = frame[3], frame[4:-2]
    found |= {"status": status, "data": data.hex()}
    if command == INVENTORY and status in WITH_TAGS:
        tags = _tags(data)
        found |= {"tags": tags} if tags is not None else {"contradiction": "tags do not fill the data"}
    elif command == PUSHED and status == 0 and data.strip(b"\0"):
        found["tags"] = [data.rstrip(b"\0").hex()]
    elif command == INFO and status == 0 and len(data) >= INFO_BYTES:
        found["info"] = {
            "version": f"{data[0]}.{data[1]}",
            "type": data[2],
            "power_dbm": data[6],
            "scan_time_s": data[7] / 10,
        }
    return found


def _tags(data: bytes) -> list[str] | None:
    """Number of tags, then each with its length; None where that is not what stands there."""
    found, rest = [], data[1:]
    for _ in range(data[0] if data else 0):
        if not rest or len(rest) <= rest[0]:
            return None
        found.append(rest[1 : 1 + rest[0]].hex())
        rest = rest[1 + rest[0] :]
    return None if rest else found


class UhfReader18Codec(FramedCodec):
    def __init__(self, address: int = ANY) -> None:
        self.decoder = partial(UhfDecoder, address)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return [Observed(SIGHTING, tag_values(bytes.fromhex(tag))) for tag in frame.get("tags", ()) if tag]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if "cmd" not in expected or "status" in expected:
            return None
        return request(expected["adr"], expected["cmd"], bytes.fromhex(expected["data"]))
