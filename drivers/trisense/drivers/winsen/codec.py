"""Frames of Winsen's gas sensors: ``FF``, seven bytes, the two's complement of their 8-bit sum."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["COMMANDS", "MEASUREMENT", "MODELS", "Model", "WinsenCodec", "WinsenDecoder", "command"]

MEASUREMENT: Final = "air_quality"
HEAD: Final = 0xFF
FRAME_BYTES: Final = 9
READ: Final = 0x86
BOOTING: Final = 15_000
"""``u`` of an MH-Z19 that starts; what it tells as ppm is then no measurement."""
NO_TEMPERATURE: Final = -40
LARGEST_CO2_PPM: Final = 10_000
LARGEST_CO_RAW: Final = 5_000
"""500 ppm, the range of the ZE07-CO."""
UG_PER_PPB: Final = 1.25
"""Formaldehyde at 20 Cel and 1013 hPa."""

COMMANDS: Final[Mapping[str, bytes]] = {
    "read": b"\x86",
    "zero (400 ppm) calibration": b"\x87",
    "ABC on": b"\x79\xa0",
    "ABC off": b"\x79",
    "question-answer mode": b"\x78\x41",
    "active upload mode": b"\x78\x40",
}


def command(name: str) -> bytes:
    """The nine bytes of a command in ``COMMANDS``."""
    return _request(COMMANDS[name])


def _request(arguments: bytes) -> bytes:
    body = b"\x01" + arguments.ljust(6, b"\0")
    return bytes((HEAD,)) + body + bytes((-sum(body) & 0xFF,))


def _co2(payload: bytes) -> Frame | str:
    ppm = int.from_bytes(payload[:2], "big")
    if not any(payload):
        return "empty"
    if ppm > LARGEST_CO2_PPM:
        return "implausible"
    return {
        "values": {"co2": ppm},
        "internal_temperature": payload[2] + NO_TEMPERATURE,
        "status": payload[3],
        "u": int.from_bytes(payload[4:6], "big"),
    }


def _formaldehyde(payload: bytes) -> Frame | str:
    mass, ppb = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[4:6], "big")
    if abs(mass - UG_PER_PPB * ppb) > 5 + mass / 4:  # one quantity in two units
        return "implausible"
    return {"values": {"hcho_mass": mass, "hcho": ppb}}


def _carbon_monoxide(payload: bytes) -> Frame | str:
    tenths_ppm = int.from_bytes(payload[:2], "big")
    if tenths_ppm > LARGEST_CO_RAW:
        return "implausible"
    return {"values": {"co": tenths_ppm * 100}}


@dataclass(frozen=True, slots=True)
class Model:
    """What one model says."""

    reading: Callable[[bytes], Frame | str]
    """Meaning of a read reply's bytes 2 to 7, or what is wrong with them."""
    fields: tuple[str, ...]
    upload: tuple[int, int, str, int] | None = None
    """Of a module that sends by itself: gas code, unit code, field, and its unit in units of the field."""


MODELS: Final[Mapping[str, Model]] = {
    "mhz19": Model(_co2, ("co2",)),
    "ze07-ch2o": Model(_formaldehyde, ("hcho", "hcho_mass"), (0x17, 0x04, "hcho", 1)),
    "ze07-co": Model(_carbon_monoxide, ("co",), (0x04, 0x03, "co", 1000)),
}


class WinsenDecoder(Decoder):
    max_frame = FRAME_BYTES

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._kinds = {READ} | ({model.upload[0]} if model.upload else set())

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != HEAD:
            found = data.find(HEAD, start)
            return Cut((found if found >= 0 else len(data)) - start)
        frame = data[start : start + FRAME_BYTES]
        if len(frame) > 1 and frame[1] not in self._kinds:
            return Cut(1)
        if len(frame) < FRAME_BYTES:
            return None
        if sum(frame[1:]) & 0xFF:
            return Cut(1, damage="checksum")
        payload = frame[2:8]
        told = self._model.reading(payload) if frame[1] == READ else self._upload(payload)
        return Cut(1, damage=told) if isinstance(told, str) else Cut(FRAME_BYTES, told)

    def _upload(self, payload: bytes) -> Frame | str:
        """What a module sends by itself: unit, decimals, value, full scale."""
        assert self._model.upload is not None, "its kind is known"  # noqa: S101  # for the type checker
        _, unit, name, factor = self._model.upload
        raw, full_scale = int.from_bytes(payload[2:4], "big"), int.from_bytes(payload[4:6], "big")
        decimals = payload[1]
        if payload[0] != unit or decimals > 3 or raw > full_scale:
            return "implausible"
        return {"values": {name: raw * factor / 10**decimals}, "upload": True}


class WinsenCodec(FramedCodec):
    def __init__(self, model: Model) -> None:
        self.decoder = partial(WinsenDecoder, model)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if frame.get("u") == BOOTING:
            return (Observed(MEASUREMENT, {}),)
        values: dict[str, Value] = dict(frame["values"])
        if frame.get("internal_temperature", NO_TEMPERATURE) != NO_TEMPERATURE:
            values["internal_temperature"] = frame["internal_temperature"]
        return (Observed(MEASUREMENT, values),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        text = expected.get("command")
        if not isinstance(text, str):
            return None
        if text in COMMANDS:
            return command(text)
        if (found := re.fullmatch(r"span (\d{4})", text)) is not None:
            return _request(b"\x88" + int(found[1]).to_bytes(2, "big"))
        return None
