"""Frames of the Nova SDS family: ``AA``, kind, six bytes, their 8-bit sum, ``AB``; commands of 19 bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["MEASUREMENT", "MODELS", "PERIOD_REPLY", "NovaCodec", "NovaDecoder", "command", "period"]

MEASUREMENT: Final = "air_quality"
HEAD: Final = 0xAA
TAIL: Final = 0xAB
FRAME_BYTES: Final = 10
REPLY: Final = 0xC5
TOLERANCE: Final = 10
"""Tenths of ug/m3 by which fine dust may exceed coarse dust: rounding and noise of two channels."""

MODELS: Final[Mapping[str, tuple[int, tuple[str, ...]]]] = {
    "sds011": (0xC0, ("pm2_5", "pm10")),  # SDS018 and SDS021 too
    "sds198": (0xCF, ("pm100",)),
}
"""Kind of a data frame and what it tells, by model."""

REPORT_MODE: Final = 0x02
QUERY: Final = 0x04
DEVICE_ID: Final = 0x05
SLEEP_WORK: Final = 0x06
FIRMWARE: Final = 0x07
PERIOD: Final = 0x08
PERIOD_REPLY: Final = "period"

SETTINGS: Final[Mapping[int, tuple[str, str, Sequence[str | int]]]] = {
    REPORT_MODE: ("report_mode", "mode", ("active", "query")),
    SLEEP_WORK: ("sleep_work", "state", ("sleep", "work")),
    PERIOD: (PERIOD_REPLY, "minutes", range(31)),
}
"""Replies that tell a setting: name, key and what each value means."""

COMMANDS: Final[Mapping[str, bytes]] = {
    "report mode: query": bytes((REPORT_MODE, 1, 1)),
    "report mode: active": bytes((REPORT_MODE, 1, 0)),
    "query data": bytes((QUERY,)),
    "sleep": bytes((SLEEP_WORK, 1, 0)),
    "work": bytes((SLEEP_WORK, 1, 1)),
    "period": bytes((PERIOD,)),
    "firmware": bytes((FIRMWARE,)),
}
ANY_DEVICE: Final = b"\xff\xff"
ARGUMENT_BYTES: Final = 13
"""Command, twelve bytes of data."""


def command(name: str, device_id: bytes = ANY_DEVICE) -> bytes:
    """The 19 bytes of a command in ``COMMANDS``."""
    return _framed(COMMANDS[name], device_id)


def period(minutes: int) -> bytes:
    """The command that lets the sensor work for 30 s in every ``minutes``; 0 is without a pause."""
    return _framed(bytes((PERIOD, 1, minutes)), ANY_DEVICE)


def _framed(arguments: bytes, device_id: bytes) -> bytes:
    body = arguments.ljust(ARGUMENT_BYTES, b"\0") + device_id
    return bytes((HEAD, 0xB4)) + body + bytes((sum(body) & 0xFF, TAIL))


class NovaDecoder(Decoder):
    max_frame = FRAME_BYTES

    def __init__(self, model: str) -> None:
        super().__init__()
        self._kind, self._names = MODELS[model]

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != HEAD:
            found = data.find(HEAD, start)
            return Cut((found if found >= 0 else len(data)) - start)
        frame = data[start : start + FRAME_BYTES]
        if len(frame) > 1 and frame[1] not in (self._kind, REPLY):
            return Cut(1)
        if len(frame) < FRAME_BYTES:
            return None
        return self._judge(frame)

    def _judge(self, frame: bytes) -> Cut:
        """Ten bytes that begin well. After damage only the first is done with."""
        payload = frame[2:8]
        if frame[9] != TAIL:
            return Cut(1, damage="no tail")
        if sum(payload) & 0xFF != frame[8]:
            return Cut(1, damage="checksum")
        if frame[1] == REPLY:
            reply = _reply(payload)
            return Cut(FRAME_BYTES, reply) if reply else Cut(1, damage="unknown reply")
        return self._reading(payload)

    def _reading(self, payload: bytes) -> Cut:
        raw = (int.from_bytes(payload[0:2], "little"), int.from_bytes(payload[2:4], "little"))
        values: dict[str, float]
        if len(self._names) == 1:
            values = {"pm100": raw[1]}
            empty = raw[1] == 0
        else:
            values = dict(zip(self._names, (word / 10 for word in raw), strict=True))
            empty = raw == (0, 0)  # what the sensor tells while it has nothing to tell
            if raw[0] > raw[1] + TOLERANCE:  # the sum is weak; coarse dust includes fine dust
                return Cut(1, damage="implausible")
        if empty:
            return Cut(FRAME_BYTES, damage="empty")
        return Cut(FRAME_BYTES, {"values": values, "device_id": payload[4:6].hex()})


def _reply(payload: bytes) -> Frame | None:
    """What a sensor answers to a command; None for what it never says."""
    kind, first, second, third = payload[:4]
    frame: Frame = {"device_id": payload[4:6].hex()}
    if kind == FIRMWARE:
        return frame | {"reply": "firmware", "firmware": f"20{first:02}-{second:02}-{third:02}"}
    if kind == DEVICE_ID:
        return frame | {"reply": "device_id"}
    if kind not in SETTINGS or first > 1 or third:
        return None
    reply, key, told = SETTINGS[kind]
    return frame | {"reply": reply, "set": bool(first), key: told[second]} if second < len(told) else None


class NovaCodec(FramedCodec):
    def __init__(self, model: str) -> None:
        self.decoder = partial(NovaDecoder, model)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return (Observed(MEASUREMENT, frame["values"]),) if "values" in frame else ()

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        text = expected.get("command")
        if not isinstance(text, str):
            return None
        if text in COMMANDS:
            return command(text)
        if found := re.fullmatch(r"firmware of device ([0-9A-F]{4})", text):
            return command("firmware", bytes.fromhex(found[1]))
        if found := re.fullmatch(r"period (\d+) min", text):
            return period(int(found[1]))
        if found := re.fullmatch(r"set id ([0-9A-F]{4}) -> ([0-9A-F]{4})", text):
            arguments = bytes((DEVICE_ID,)).ljust(ARGUMENT_BYTES - 2, b"\0") + bytes.fromhex(found[2])
            return _framed(arguments, bytes.fromhex(found[1]))
        return None
