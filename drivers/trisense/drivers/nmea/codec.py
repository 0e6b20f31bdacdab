"""NMEA 0183 sentences of weather stations: ``$WIMWV,...*hh``, the check an XOR of what stands between."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import xor
from typing import Any, Final

from trisense.core.errors import TrisenseError
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed
from trisense.drivers.wxt.fields import UNITS, converted

__all__ = ["MEASUREMENTS", "NmeaCodec", "NmeaDecoder"]

SENTENCE: Final = re.compile(rb"\$([ -#%-)+-~]*)\*([0-9A-Fa-f]{2})\r?\n")
ADDRESS: Final = re.compile(r"([A-Z]{2})([A-Z]{3})|(P)([A-Z0-9]+)")
NUMBER: Final = re.compile(r"[+-]?(?:\d{1,7}(?:\.\d{0,6})?|\.\d{1,6})")
TYPE: Final = re.compile(r"[A-Z]")

MEASUREMENTS: Final[Mapping[str, str]] = {"MWV": "wind", "MWD": "true_wind", "MDA": "weather", "MTW": "water"}
"""The stream of each sentence."""
REFERENCES: Final = {"R": "relative", "T": "theoretical"}
MPS_PER_KNOT: Final = UNITS["speed"]["N"]
TABLES: Final[Mapping[str, Sequence[tuple[int, str, str, float]]]] = {
    "MDA": (
        (2, "B", "barometric_pressure", 1000),
        (0, "I", "barometric_pressure", UNITS["pressure"]["I"]),
        (4, "C", "air_temperature", 1),
        (6, "C", "water_temperature", 1),
        (8, "", "relative_humidity", 1),
        (9, "", "absolute_humidity", 1),
        (10, "C", "dew_point", 1),
        (12, "T", "wind_direction", 1),
        (14, "M", "wind_direction_magnetic", 1),
        (18, "M", "wind_speed", 1),
        (16, "N", "wind_speed", MPS_PER_KNOT),
    ),
    "MWD": (
        (0, "T", "wind_direction", 1),
        (2, "M", "wind_direction_magnetic", 1),
        (6, "M", "wind_speed", 1),
        (4, "N", "wind_speed", MPS_PER_KNOT),
    ),
    "MTW": ((0, "C", "water_temperature", 1),),
}
"""Place of a number, the unit letter behind it, its name and factor. The first one that is there counts:
bar and m/s have more digits than inches of mercury and knots."""
ANGLES: Final = frozenset({"wind_direction", "wind_direction_magnetic", "wind_angle"})


class NotAsItShould(TrisenseError):
    """A sentence of another form than its type has."""


class NmeaDecoder(Decoder):
    max_frame = 512
    """The standard has 82; sentences with many transducers are longer."""

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != ord("$"):
            found = data.find(b"$", start)
            return Cut((found if found >= 0 else len(data)) - start)
        behind = start + self.max_frame
        line_end, next_head = data.find(b"\n", start, behind), data.find(b"$", start + 1, behind)
        if next_head >= 0 and (line_end < 0 or next_head < line_end):
            return Cut(next_head - start, damage="cut short")
        if line_end < 0:
            return None
        return self._judge(data[start : line_end + 1])

    def frame(self, text: str) -> Frame:
        """A frame of what stands between ``$`` and ``*``.

        Raises:
            NotAsItShould: that is damage.
        """
        return _frame(text)

    def _judge(self, line: bytes) -> Cut:
        """A whole line from ``$`` on."""
        found = SENTENCE.fullmatch(line)
        if found is None:
            return Cut(len(line), damage="format")
        if reduce(xor, found[1], 0) != int(found[2], 16):
            return Cut(len(line), damage="checksum")
        try:
            return Cut(len(line), self.frame(found[1].decode("ascii")))
        except NotAsItShould as wrong:
            return Cut(len(line), damage=str(wrong))


def _frame(text: str) -> Frame:
    address, *fields = text.split(",")
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise NotAsItShould("format")
    frame: Frame = {"talker": found[1] or found[3], "sentence": found[2] or found[4]}
    read = READERS.get(frame["sentence"]) if found[1] else None
    if read is not None:
        read(fields, frame)
    elif found[1] and frame["sentence"] in TABLES:
        frame["values"] = _table(fields, TABLES[frame["sentence"]])
    return frame


def _number(text: str) -> float | None:
    """A number, or None where the field is empty: no value."""
    if not text:
        return None
    if not NUMBER.fullmatch(text):
        raise NotAsItShould("format")
    return float(text)


def _checked(name: str, value: float) -> float:
    """The XOR of a sentence misses two like errors in one column, so its values must be possible."""
    if (name in ANGLES and not 0 <= value <= 360) or (name == "wind_speed" and value < 0):
        raise NotAsItShould("implausible")
    return value


def _table(fields: Sequence[str], table: Sequence[tuple[int, str, str, float]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for place, letter, name, factor in table:
        value = _number(fields[place]) if place < len(fields) else None
        if value is None:
            continue
        if letter and fields[place + 1 : place + 2] not in ([letter], [""], []):
            raise NotAsItShould("format")
        if name not in values:
            values[name] = _checked(name, value if factor == 1 else round(value * factor, 4))
    return values


def _mwv(fields: Sequence[str], frame: Frame) -> None:
    if len(fields) < 5 or fields[1] not in REFERENCES or fields[4] not in ("A", "V"):
        raise NotAsItShould("format")
    frame["reference"], frame["status"] = REFERENCES[fields[1]], fields[4]
    angle, speed = _number(fields[0]), _number(fields[2])
    if speed is None or fields[4] == "V":
        frame["valid"] = False
        return
    if fields[3] not in UNITS["speed"]:
        raise NotAsItShould("format")
    values = {"wind_speed": converted(_checked("wind_speed", speed), fields[3], "speed")}
    if angle is not None:
        values["wind_angle"] = _checked("wind_angle", angle)
    frame["values"] = values


def _xdr(fields: Sequence[str], frame: Frame) -> None:
    """Groups of four; a group without its id ends the sentence, for nobody knows what follows."""
    found = []
    for start in range(0, len(fields) - 3, 4):
        kind, value, unit, identity = fields[start : start + 4]
        if not TYPE.fullmatch(kind) or (value and not NUMBER.fullmatch(value)):
            break
        if value:
            found.append({"type": kind, "value": float(value), "unit": unit, "id": identity})
    frame["transducers"] = found


def _txt(fields: Sequence[str], frame: Frame) -> None:
    if len(fields) < 4:
        raise NotAsItShould("format")
    frame["text_id"], frame["text"] = fields[2], ",".join(fields[3:])


READERS: Final[Mapping[str, Callable[[Sequence[str], Frame], None]]] = {"MWV": _mwv, "XDR": _xdr, "TXT": _txt}


class NmeaCodec(FramedCodec):
    decoder = NmeaDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        """What a sentence tells by itself; what a transducer measures, only the configuration says."""
        values = frame.get("values")
        if not values:
            return ()
        told = dict(values)
        if "reference" in frame:
            told["reference"] = frame["reference"]
        return (Observed(MEASUREMENTS[frame["sentence"]], told),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # it is never told anything
        return None
