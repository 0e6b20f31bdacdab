"""Messages of the RTMS G4: FF AA, a qualifier, a length, then what a plain sum of 16 bits protects.

The sum leaves out qualifier and length. So a message whose size does not fit its qualifier is damaged, and
an interval counts only where each message that its header announces is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = [
    "CLASSES",
    "FOOTER",
    "HEADER",
    "MEASUREMENT",
    "POLL",
    "REFUSED",
    "STATUS",
    "RtmsG4Codec",
    "RtmsG4Decoder",
    "interval",
    "message",
    "poll",
]

MEASUREMENT: Final = "traffic_interval"
STATUS: Final = "radar_status"
MARK: Final = b"\xff\xaa"
REFUSED, POLL, VEHICLE, HEADER, FOOTER = 0x1A, 0x53, 0x5E, 0x80, 0x81
COUNT_MAX, OCCUPANCY_MAX, SPEED_MAX, TENTHS_MAX = 0xFE00, 1000, 200, 36_000
"""Larger values mean that there is none."""
CLASSES: Final = 6
"""The smallest, which no message tells, and five more."""
KMH_PER_MPH: Final = 1.609344
OF_ZONES: Final = {
    0x10: ("volume", COUNT_MAX),
    0x11: ("occupancy", OCCUPANCY_MAX),
    0x12: ("speed", SPEED_MAX),
    0x13: ("gap", TENTHS_MAX),
    **{0x13 + n: (f"class_{n}", COUNT_MAX) for n in range(1, CLASSES)},
    0x1E: ("headway", TENTHS_MAX),
    0x1F: ("speed_85th", SPEED_MAX),
}
OPTIONS: Final = (("gap", 0x80), ("headway", 0x40), ("speed_85th", 0x04))
"""Bits of the header's composition byte."""
CLASS_BITS: Final = 0x3B
"""One bit of the composition byte for each class that is told: 08, 38 and 3B are 1, 3 and 5 of them."""


def message(qualifier: int, sensor: int, data: bytes) -> bytes:
    """A whole message; ``data`` has at most 253 bytes."""
    body = sensor.to_bytes(2, "big") + data
    return MARK + bytes((qualifier, len(body))) + body + sum(body).to_bytes(2, "big")


def poll(sensor: int) -> bytes:
    """The question for the statistics of the latest interval."""
    return message(POLL, sensor, b"\0")


class RtmsG4Decoder(Decoder):
    max_frame = 4 + 255 + 2

    def cut(self, data: bytes, start: int) -> Cut | None:
        if not MARK.startswith(data[start : start + 2]):
            return Cut(1)
        if len(data) - start < 4:
            return None
        qualifier, size = data[start + 2], data[start + 3]
        if size < 2:
            return Cut(1, damage="length")
        end = start + 4 + size
        if len(data) < end + 2:
            return None
        body = data[start + 4 : end]
        is_good = sum(body) == int.from_bytes(data[end : end + 2], "big")
        told = _meaning(qualifier, body[2:]) if is_good else None
        if told is None:
            return Cut(1, damage="length" if is_good else "checksum")
        sensor = int.from_bytes(body[:2], "big")
        return Cut(end + 2 - start, {"qual": qualifier, "sensor": sensor, "data": body[2:].hex(), **told})


def _meaning(qualifier: int, data: bytes) -> Frame | None:
    """What the data say under their qualifier; None where their size does not fit it."""
    if qualifier in OF_ZONES:
        _, most = OF_ZONES[qualifier]
        words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
        return None if len(data) % 2 else {"values": [word if word <= most else None for word in words]}
    if qualifier not in PARSERS:
        return {}
    size, parse = PARSERS[qualifier]
    return parse(data) if len(data) == size else None


def _header(data: bytes) -> Frame:
    return {
        "number": data[0],
        "page": int.from_bytes(data[1:3], "big"),
        "units": "mph" if data[3] & 0x01 else "kph",
        "from_memory": bool(data[3] & 0x08),
        "time": _time(data[4:11]),
        "zones": data[11] & 0x0F,
        "composition": data[12],
        "period_s": int.from_bytes(data[13:15], "big"),
        "supply_v": data[15] / 10,
        "health": data[16],
    }


def _footer(data: bytes) -> Frame:
    return {"number": data[0]}


def _vehicle(data: bytes) -> Frame:
    return {
        "zone": data[0],
        "vclass": data[1],
        "length_dm": data[2],
        "speed": data[3],
        "duration_ms": int.from_bytes(data[4:6], "big"),
        "ms_bcd": _bcd(data[6]),
        "time": _time(data[7:14]),
        "units": "mph" if data[14] == 1 else "kph",
    }


PARSERS: Final[Mapping[int, tuple[int, Callable[[bytes], Frame]]]] = {
    HEADER: (22, _header),
    FOOTER: (1, _footer),
    VEHICLE: (15, _vehicle),
}


def _bcd(byte: int) -> int | None:
    tens, ones = divmod(byte, 16)
    return tens * 10 + ones if tens < 10 and ones < 10 else None


def _time(stamp: bytes) -> str | None:
    """The sensor's own time, of a zone that it does not tell, or None where it is none."""
    parts = [_bcd(byte) for byte in stamp]
    if None in parts:
        return None
    second, minute, hour, _, day, month, year = (part or 0 for part in parts)
    try:
        return datetime(2000 + year, month, day, hour, minute, second).isoformat()
    except ValueError:
        return None


def interval(messages: Sequence[Frame]) -> Frame | None:
    """The interval that the messages of an answer make, from header to footer; None where it is not whole."""
    if not messages or messages[0]["qual"] != HEADER or messages[-1]["qual"] != FOOTER:
        return None
    header, composition = messages[0], messages[0]["composition"]
    classes = [f"class_{n}" for n in range(1, (composition & CLASS_BITS).bit_count() + 1)]
    wanted = {"volume", "occupancy", "speed", *classes, *(name for name, bit in OPTIONS if composition & bit)}
    told = {OF_ZONES[one["qual"]][0]: one["values"] for one in messages if one["qual"] in OF_ZONES}
    fits = all(len(values) == header["zones"] for values in told.values())
    if messages[-1]["number"] != header["number"] or not wanted <= told.keys() or not fits:
        return None
    rest = ("number", "time", "units", "period_s", "supply_v")
    lanes = [{name: told[name][lane] for name in wanted} for lane in range(header["zones"])]
    return {**{name: header[name] for name in rest}, "class_count": len(classes), "lanes": lanes}


class RtmsG4Codec(FramedCodec):
    """The footer of a whole answer carries the interval that ends with it."""

    decoder = RtmsG4Decoder

    def frames(self, data: bytes) -> Sequence[Frame]:
        found = list(super().frames(data))
        series: list[Frame] = []
        for at, frame in enumerate(found):
            series = [frame] if frame["qual"] == HEADER else [*series, frame]
            if frame["qual"] == FOOTER:
                found[at] = frame | (interval(series) or {})
        return found

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "lanes" not in frame:
            return ()
        lanes = [Observed(MEASUREMENT, _row(frame, number)) for number in range(1, len(frame["lanes"]) + 1)]
        return [*lanes, Observed(STATUS, {"supply_voltage": frame["supply_v"]})]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if expected.get("qual") != POLL:
            return None
        return message(POLL, expected["sensor"], bytes.fromhex(expected["data"]))


def _row(frame: Frame, number: int) -> Mapping[str, Value]:
    """The values of a lane; what the sensor has no value of is left out."""
    lane = frame["lanes"][number - 1]
    kmh = KMH_PER_MPH if frame["units"] == "mph" else 1.0
    values: dict[str, Value] = {"lane": number, "interval": frame["number"], "duration": frame["period_s"]}
    found: dict[str, Value] = {"vehicle_count": lane["volume"], "occupancy": _times(lane["occupancy"], 0.1)}
    if lane["volume"] != 0:  # without vehicles there is no speed and no headway, whatever stands there
        found |= {"mean_speed": _times(lane["speed"], kmh), "speed_85th": _times(lane.get("speed_85th"), kmh)}
        found |= {"headway": _times(lane.get("headway"), 0.1), "gap": _times(lane.get("gap"), 0.1)}
    told = [lane[f"class_{n}"] for n in range(1, frame["class_count"] + 1)]
    if told and None not in (*told, lane["volume"]) and sum(told) <= lane["volume"]:
        found["class_1_count"] = lane["volume"] - sum(told)  # the smallest, which no message tells
    found |= {f"class_{n}_count": count for n, count in enumerate(told, 2)}
    return values | {name: value for name, value in found.items() if value is not None}


def _times(value: int | None, unit: float) -> float | None:
    return None if value is None else value * unit
