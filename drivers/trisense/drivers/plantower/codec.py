"""Frames of the Plantower PMS family: ``42 4D``, length, big-endian words, 16-bit sum of all before it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

from trisense.core.model import Quality
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["COMMANDS", "MEASUREMENT", "MODELS", "Model", "PlantowerCodec", "PlantowerDecoder", "command"]

MEASUREMENT: Final = "air_quality"
HEAD: Final = b"\x42\x4d"
OVERHEAD: Final = 4
"""Head and length stand outside of what the length counts."""
ACK_LENGTH: Final = 4

MASSES: Final = ("pm1_cf1", "pm2_5_cf1", "pm10_cf1", "pm1", "pm2_5", "pm10")
COUNTS: Final = tuple(f"pnc_gt_{size}um" for size in ("0_3", "0_5", "1_0", "2_5", "5_0", "10"))
COUNTS_PER_CM3: Final = 100
"""Counts are per 0.1 litre."""

COMMANDS: Final[Mapping[str, tuple[int, int]]] = {
    "passive mode": (0xE1, 0),
    "active mode": (0xE1, 1),
    "read in passive mode": (0xE2, 0),
    "sleep": (0xE4, 0),
    "wake": (0xE4, 1),
}
NAMES: Final = {code: name for name, code in COMMANDS.items()}


@dataclass(frozen=True, slots=True)
class Model:
    """What the words of one model's frame mean, from byte 4 on."""

    words: tuple[str, ...]
    """Field names; a name that begins with ``_`` is no reading."""
    length: int
    """Value of the frame's length field: the words and the sum."""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(word for word in self.words if not word.startswith("_"))

    @property
    def tells_errors(self) -> bool:
        return "_version" in self.words


CLIMATE: Final = ("air_temperature", "relative_humidity")
MODELS: Final[Mapping[str, Model]] = {
    # PMS1003, 5003, 7003, A003
    "pmsx003": Model((*MASSES, *COUNTS, "_version"), 28),
    "pms5003t": Model((*MASSES, *COUNTS[:4], *CLIMATE, "_version"), 28),
    "pms5003s": Model((*MASSES, *COUNTS, "hcho_mass"), 28),
    "pms5003st": Model((*MASSES, *COUNTS, "hcho_mass", *CLIMATE, "_reserved", "_reserved"), 36),
    "pms3003": Model((*MASSES, "_reserved", "_reserved", "_reserved"), 20),
}
"""By model. pmsx003, pms5003t and pms5003s frames look alike: the type is a setting, never a guess."""


def command(name: str) -> bytes:
    """The seven bytes of a command in ``COMMANDS``."""
    code, value = COMMANDS[name]
    return _summed(HEAD + struct.pack(">BH", code, value))


class PlantowerDecoder(Decoder):
    max_frame = OVERHEAD + 36

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != HEAD[0]:
            found = data.find(HEAD[:1], start)
            return Cut((found if found >= 0 else len(data)) - start)
        head = data[start : start + OVERHEAD]
        if not head.startswith(HEAD[: len(head)]):
            return Cut(1)
        if len(head) < OVERHEAD:
            return None
        length = int.from_bytes(head[2:], "big")
        if length not in (self._model.length, ACK_LENGTH):
            return Cut(1, damage=f"length {length}")
        frame = data[start : start + OVERHEAD + length]
        return self._judge(frame) if len(frame) == OVERHEAD + length else None

    def _judge(self, frame: bytes) -> Cut:
        """A whole frame, good or not. After damage only its first byte is done with."""
        if sum(frame[:-2]) & 0xFFFF != int.from_bytes(frame[-2:], "big"):
            return Cut(1, damage="checksum")
        if len(frame) == OVERHEAD + ACK_LENGTH:
            return Cut(len(frame), _ack(frame))
        payload = frame[OVERHEAD:-2]
        if not any(payload):
            return Cut(len(frame), damage="empty")
        decoded = _decode(self._model, payload)
        if not _plausible(decoded["values"]):
            return Cut(1, damage="implausible")
        return Cut(len(frame), decoded)


def _ack(frame: bytes) -> Frame:
    return {"command": NAMES.get((frame[4], frame[5]), f"{frame[4]:02x}"), "ack": True}


def _decode(model: Model, payload: bytes) -> Frame:
    raw = struct.unpack(f">{len(payload) // 2}H", payload)
    words = dict(zip(model.words, raw, strict=True))
    values: dict[str, int | float] = {}
    for name in model.fields:
        word = words[name]
        if name in COUNTS:
            values[name] = word / COUNTS_PER_CM3
        elif name == "air_temperature":
            values[name] = (word - 0x10000 if word & 0x8000 else word) / 10
        elif name == "relative_humidity":
            values[name] = word / 10
        else:
            values[name] = word
    frame: Frame = {"values": values}
    if model.tells_errors:
        frame["version"] = words["_version"] >> 8
        frame["error_code"] = words["_version"] & 0xFF
    return frame


def _plausible(values: Mapping[str, float]) -> bool:
    """Dust of larger grains includes that of smaller ones; a 16-bit sum alone misses swapped bytes."""
    counts = [values[name] for name in COUNTS if name in values]
    return (
        all(more >= fewer for more, fewer in pairwise(counts))
        and values["pm1"] <= values["pm2_5"] <= values["pm10"]
        and values["pm1_cf1"] <= values["pm2_5_cf1"] <= values["pm10_cf1"]
    )


def _summed(frame: bytes) -> bytes:
    return frame + (sum(frame) & 0xFFFF).to_bytes(2, "big")


class PlantowerCodec(FramedCodec):
    def __init__(self, model: Model) -> None:
        self.decoder = partial(PlantowerDecoder, model)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "values" not in frame:
            return ()
        values = dict(frame["values"])
        if "error_code" in frame:
            values["error_code"] = frame["error_code"]
        return (Observed(MEASUREMENT, values, _doubts(values)),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        name = expected.get("command")
        return command(name) if isinstance(name, str) and name in COMMANDS else None


def _doubts(values: Mapping[str, float]) -> Mapping[str, Quality]:
    """Mass without a single grain is what some units tell just after waking (PyPMS issue 3)."""
    if "pnc_gt_0_3um" in values and values["pm10"] > 0 and values["pnc_gt_0_3um"] == 0:
        return dict.fromkeys((*MASSES, *(name for name in COUNTS if name in values)), Quality.SUSPECT)
    return {}
