"""Lines of Vaisala's ASCII protocol: ``0R1,Dn=160D,...``, with a lower-case ``r`` and a CRC at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdi12_crc import checked, crc
from trisense.drivers.sdk import Frame, Observed
from trisense.drivers.wxt.fields import HEATER_STATES, HEATING, UNITS, converted, measurement_of

__all__ = ["POLLS", "WxtCodec", "WxtDecoder", "poll", "rows"]

POLLS: Final[Mapping[str, str]] = {
    "wind": "1",
    "ptu": "2",
    "rain": "3",
    "supervisor": "5",
    "composite": "0",
    "combined": "",
}
"""Number of each message; ``combined`` makes the station send the others one after another."""
FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "Dn": ("wind_direction_min", "direction"),
    "Dm": ("wind_direction", "direction"),
    "Dx": ("wind_direction_max", "direction"),
    "Sn": ("wind_speed_min", "speed"),
    "Sm": ("wind_speed", "speed"),
    "Sx": ("wind_speed_max", "speed"),
    "Ta": ("air_temperature", "temperature"),
    "Tp": ("internal_temperature", "temperature"),
    "Ua": ("relative_humidity", "humidity"),
    "Pa": ("barometric_pressure", "pressure"),
    "Rc": ("rain_amount", "rain"),
    "Rd": ("rain_duration", "time"),
    "Ri": ("rain_rate", "rain"),
    "Hc": ("hail_amount", "hail"),
    "Hd": ("hail_duration", "time"),
    "Hi": ("hail_rate", "hail"),
    "Rp": ("rain_rate_peak", "rain"),
    "Hp": ("hail_rate_peak", "hail"),
    "Th": ("heating_temperature", "temperature"),
    "Vh": (HEATING, "voltage"),
    "Vs": ("supply_voltage", "voltage"),
    "Vr": ("reference_voltage", "voltage"),
}
HEAD: Final = re.compile(rb"[0-9A-Za-z](?:[Rr][0-9]|[Tt]X),")
FIELD: Final = re.compile(r"([A-Z][a-z])=(-?\d{1,6}(?:\.\d{1,4})?)([A-Za-z#])")
INVALID: Final = "#"
HITS: Final = "H"
"""Hits on the whole sensor: no amount per area, so no value of ours."""
INFO: Final = "Id="
COMMAND: Final = re.compile(r"read (\w+)( with CRC)?")


def poll(address: str, message: str, *, with_crc: bool = True) -> bytes:
    """The line that asks for a message of ``POLLS``."""
    number = POLLS[message]
    if not with_crc:
        return f"{address}R{number}\r\n".encode()
    text = f"{address}r{number}".encode()
    return text + crc(text) + b"\r\n"


class WxtDecoder(Decoder):
    max_frame = 512

    def cut(self, data: bytes, start: int) -> Cut | None:
        end = data.find(b"\n", start, start + self.max_frame)
        if end < 0:
            return None
        line, size = data[start:end].removesuffix(b"\r"), end + 1 - start
        if not line:
            return Cut(size)
        head = None
        for head in HEAD.finditer(line):  # noqa: B007  # the last one: noise or a cut line may stand before
            pass
        return _judge(line[head.start() :], size) if head is not None else Cut(size, damage="format")


def _judge(line: bytes, size: int) -> Cut:
    with_crc = line[1:2].islower()
    if with_crc:
        body = checked(line)
        if body is None:
            return Cut(size, damage="crc")
        line = body
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        return Cut(size, damage="format")
    frame: Frame = {"address": text[0], "message": text[1:3].upper()}
    if with_crc:
        frame["crc_ok"] = True
    if frame["message"] == "TX":
        frame["text"] = text[4:]
        return Cut(size, frame)
    if not _read(text[4:], frame, trusted=with_crc):
        return Cut(size, damage="format")
    if not with_crc and not _plausible(frame["values"]):
        return Cut(size, damage="implausible")
    return Cut(size, frame)


def _read(text: str, frame: Frame, *, trusted: bool) -> bool:
    """Put the fields into ``frame``; False where one has another form, as two that lost what was between.

    With a right CRC (``trusted``) an unknown name is an option of the station; without, it is damage.
    """
    values: dict[str, float] = {}
    invalid: list[str] = []
    for item in text.split(","):
        if item.startswith(INFO):
            frame["info"] = item.removeprefix(INFO)
            continue
        found = FIELD.fullmatch(item)
        if found is None:
            return False
        code, number, letter = found.groups()
        if code not in FIELDS:
            if not trusted:
                return False
            continue
        name, quantity = FIELDS[code]
        if name in values or name in invalid:
            return False
        if name == HEATING:
            if letter not in HEATER_STATES:
                return False
            values[name], frame["heating_state"] = float(number), HEATER_STATES[letter]
        elif letter == INVALID or (quantity == "hail" and letter == HITS):
            invalid.append(name)
        elif letter not in UNITS[quantity]:
            return False
        else:
            values[name] = converted(float(number), letter, quantity)
    frame["values"] = values
    if invalid:
        frame["invalid"] = invalid
    return True


def _plausible(values: Mapping[str, float]) -> bool:
    """What a line without a check must keep at least."""
    speeds = [values[name] for name in ("wind_speed_min", "wind_speed", "wind_speed_max") if name in values]
    directions = [value for name, value in values.items() if name.startswith("wind_direction")]
    return all(less <= more for less, more in pairwise(speeds)) and all(0 <= it <= 360 for it in directions)


def rows(frames: Sequence[Frame]) -> list[Observed]:
    """The rows of frames that were told together: ``weather``, then ``supervisor``."""
    told: dict[str, dict[str, float | str]] = {}
    for frame in frames:
        values = {**frame.get("values", {})}
        values |= {name: frame[name] for name in ("heating_state", "info") if name in frame}
        for name in (*values, *frame.get("invalid", ())):
            row = told.setdefault(measurement_of(name), {})
            if name in values:
                row[name] = values[name]
    return [Observed(name, told[name]) for name in ("weather", "supervisor") if name in told]


class WxtCodec(FramedCodec):
    decoder = WxtDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return rows([frame])

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        found = COMMAND.fullmatch(str(expected.get("command")))
        if found is None or found[1].lower() not in POLLS:
            return None
        return poll(str(expected.get("address", "0")), found[1].lower(), with_crc=bool(found[2]))
