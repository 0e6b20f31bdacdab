"""What Hi-Link's LD24xx radars share: envelopes of reports and commands, and the dialogue of configuration.

An envelope is head, length, payload, tail, without any check. Reports stop while a radar is configured, so
whoever opens one sends "leave configuration" first: a host may have died there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import DeviceRefused
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import Cut
from trisense.drivers.sdk import Frame

__all__ = [
    "ENVELOPE_BYTES",
    "LEAVE_CONFIGURATION",
    "REPLY_HEAD",
    "REPLY_MAX",
    "REPORT_HEAD",
    "command",
    "configured",
    "encoded",
    "reply",
    "report",
]

REPORT_HEAD: Final = b"\xf4\xf3\xf2\xf1"
REPORT_TAIL: Final = b"\xf8\xf7\xf6\xf5"
REPLY_HEAD: Final = b"\xfd\xfc\xfb\xfa"
REPLY_TAIL: Final = b"\x04\x03\x02\x01"
REPLY_MAX: Final = 64
"""Longest payload of a reply, in bytes."""
ENVELOPE_BYTES: Final = 10
ACK: Final = 0x0100
ENTER_CONFIGURATION: Final = 0xFF
LEAVE_CONFIGURATION: Final = 0xFE


def command(word: int, data: bytes = b"") -> bytes:
    """A command to the radar."""
    payload = struct.pack("<H", word) + data
    return REPLY_HEAD + struct.pack("<H", len(payload)) + payload + REPLY_TAIL


def encoded(expected: Mapping[str, Any]) -> bytes | None:
    """The command that a vector describes, or None where it describes something else."""
    if "command" not in expected or expected.get("ack"):
        return None
    return command(int(expected["command"]), bytes.fromhex(expected.get("data", "")))


def report(data: bytes, start: int, longest: int, read: Callable[[bytes], Frame | str]) -> Cut | None:
    """Judge the report whose head begins at ``start``; ``read`` gives its frame or what is wrong with it."""
    return _enveloped(data, start, REPORT_TAIL, range(longest + 1), read)


def reply(data: bytes, start: int, more: Callable[[Frame, bytes], None] | None = None) -> Cut | None:
    """Judge the command or reply whose head begins at ``start``; ``more`` adds what its data say."""

    def read(payload: bytes) -> Frame:
        (word,) = struct.unpack_from("<H", payload)
        rest = payload[2:]
        frame: Frame = {"command": word & ~ACK, "ack": bool(word & ACK)}
        if frame["ack"] and len(rest) >= 2:
            frame["status"] = int.from_bytes(rest[:2], "little")
            rest = rest[2:]
        frame["data"] = rest.hex()
        if more is not None and frame.get("status") == 0:
            more(frame, rest)
        return frame

    return _enveloped(data, start, REPLY_TAIL, range(2, REPLY_MAX + 1), read)


def _enveloped(
    data: bytes, start: int, tail: bytes, lengths: range, read: Callable[[bytes], Frame | str]
) -> Cut | None:
    if len(data) - start < 6:
        return None
    (length,) = struct.unpack_from("<H", data, start + 4)
    if length not in lengths:
        return Cut(1, damage=f"length {length}")
    size = ENVELOPE_BYTES + length
    if len(data) < start + size:
        return None
    if not data.startswith(tail, start + size - len(tail)):
        return Cut(1, damage="tail")
    frame = read(data[start + 6 : start + 6 + length])
    return Cut(1, damage=frame) if isinstance(frame, str) else Cut(size, frame)


async def configured(radar: Dialogue, device: str, commands: Sequence[bytes] = ()) -> None:
    """Enter configuration, send the commands, leave it. A radar that answers is alive.

    Raises:
        DeviceRefused: the radar does not take a command.
        DeviceTimeout: no answer.
        LineError: the line is gone.
    """
    try:
        for one in (command(ENTER_CONFIGURATION, b"\x01\x00"), *commands):
            (word,) = struct.unpack_from("<H", one, 6)
            answer = await radar.ask(one, _answers(word))
            if answer.get("status"):
                raise DeviceRefused(device, f"refuses command {word:#04x}", code=answer["status"])
    finally:
        await radar.tell(command(LEAVE_CONFIGURATION))


def _answers(word: int) -> Callable[[Frame], bool]:
    return lambda frame: bool(frame.get("command") == word and frame["ack"])
