"""Messages of the SS125 ("Z1"): a header with its own CRC-8, then a body with another."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = [
    "CLASSES",
    "INTERVAL_DATA",
    "MEASUREMENT",
    "Ss125Codec",
    "Ss125Decoder",
    "crc8",
    "message",
    "query_interval",
]

MEASUREMENT: Final = "traffic_interval"
MARK: Final = b"Z1"
HEADER: Final = struct.Struct(">2sBHBHBBB")
BODY_MAX: Final = 244
EVENT, INTERVAL_DATA = 0x67, 0x71
TYPES: Final = ("read", "write", "result")
EVENT_BYTES, INTERVAL_BYTES, RESULT_BYTES = 24, 46, 6
OCCUPANCY_ERROR: Final = 0x8000
CLASS_AT: Final = (22, 25, 28, 31)
CLASSES: Final = len(CLASS_AT)


def crc8(data: bytes) -> int:
    """CRC-8 with polynomial 0x1C, start 0; over a message with its CRC it gives 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x1C if crc & 0x80 else crc << 1) & 0xFF
    return crc


def message(body: bytes, *, destination: int, source: int = 0, sequence: int = 0) -> bytes:
    """A whole message; ``body`` comes without its CRC."""
    head = HEADER.pack(MARK, 0, destination, 0, source, sequence, len(body), 0)[:-1]
    return head + bytes((crc8(head),)) + body + bytes((crc8(body),))


def query_interval(sensor: int, *, sequence: int = 0, interval: int = 0) -> bytes:
    """The question for an interval; 0 is the latest."""
    body = bytes((INTERVAL_DATA, 0, 0)) + interval.to_bytes(3, "big")
    return message(body, destination=sensor, sequence=sequence)


class Ss125Decoder(Decoder):
    max_frame = HEADER.size + BODY_MAX + 1

    def cut(self, data: bytes, start: int) -> Cut | None:
        if not MARK.startswith(data[start : start + 2]):
            return Cut(1)
        if len(data) - start < HEADER.size:
            return None
        _, _, destination, _, source, sequence, size, header_crc = HEADER.unpack_from(data, start)
        if crc8(data[start : start + HEADER.size]) or not 3 <= size <= BODY_MAX:
            return Cut(1, damage="header")
        end = start + HEADER.size + size + 1
        if len(data) < end:
            return None
        body = data[start + HEADER.size : end]
        if crc8(body):
            return Cut(1, damage="body")
        header = {"dest": destination, "source": source, "seq": sequence, "body_len": size}
        return Cut(end - start, {**header, "header_crc": header_crc, "body_crc": body[-1], **_meaning(body)})


def _meaning(body: bytes) -> Frame:
    """What a body says whose CRC is good."""
    kind = body[2]
    frame: Frame = {"msg_id": body[0], "msg_type": TYPES[kind] if kind < len(TYPES) else kind}
    if body[0] == EVENT and len(body) == EVENT_BYTES:
        return frame | _event(body)
    if body[0] == INTERVAL_DATA and len(body) == INTERVAL_BYTES:
        return frame | _interval(body)
    if body[0] == INTERVAL_DATA and len(body) == 7 and frame["msg_type"] == "read":
        frame["interval"] = int.from_bytes(body[3:6], "big")
    elif len(body) == RESULT_BYTES and frame["msg_type"] == "result":
        frame["result"] = int.from_bytes(body[3:5], "big")
    return frame


def _event(body: bytes) -> Frame:
    return {
        "msg_type": body[2],
        "is_event": body[1] == 1,
        "time": _time(body[3:11]),
        "lane": body[11],
        "range": _fixed16(body[12:14]),
        "duration_ms": int.from_bytes(body[14:17], "big"),
        "speed": _fixed24(body[17:20]),
        "vclass": body[20],
        "length": _fixed16(body[21:23]),
        "crc_ok": True,
    }


def _interval(body: bytes) -> Frame:
    occupancy = int.from_bytes(body[20:22], "big")
    return {
        "interval": int.from_bytes(body[3:6], "big"),
        "time": _time(body[6:14]),
        "speed": _fixed24(body[14:17]),
        "volume": int.from_bytes(body[17:20], "big"),
        "occupancy": None if occupancy & OCCUPANCY_ERROR or occupancy > 1000 else occupancy / 10,
        "classes": [int.from_bytes(body[at : at + 3], "big") for at in CLASS_AT],
        "speed_85th": _fixed24(body[34:37]),
        "headway_ms": int.from_bytes(body[37:40], "big"),
        "gap_ms": int.from_bytes(body[40:43], "big"),
        "lanes": body[43],
        "approaches": body[44],
    }


def _fixed16(data: bytes) -> float:
    return data[0] + data[1] / 256


def _fixed24(data: bytes) -> float | None:
    """15 bits with sign and a fraction that follows it; None where the sensor says that there is no value."""
    if not data[0] & 0x80:
        return None
    whole = int.from_bytes(data[:2], "big") & 0x7FFF
    if whole & 0x4000:
        return whole - 0x8000 - data[2] / 256
    return whole + data[2] / 256


def _time(data: bytes) -> str | None:
    """The sensor's UTC time, or None where it is none."""
    date, day = struct.unpack(">II", data)
    try:
        moment = datetime(
            *(date >> 9, date >> 5 & 0xF, date & 0x1F, day >> 22 & 0x1F, day >> 16 & 0x3F, day >> 10 & 0x3F),
            microsecond=(day & 0x3FF) * 1000,
            tzinfo=UTC,
        )
    except (ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Ss125Codec(FramedCodec):
    """``kmh`` is km/h in one of the speed unit that the sensor is set to."""

    decoder = Ss125Decoder

    def __init__(self, kmh: float = 1.609344) -> None:
        self._kmh = kmh

    def frames(self, data: bytes) -> Sequence[Frame]:
        """Messages, or one body or one number of 24 bits as documents show them without a header."""
        if len(data) == 3:
            return [{"speed": _fixed24(data)}]
        if data[:1] in (bytes((EVENT,)), bytes((INTERVAL_DATA,))) and not crc8(data):
            return [_meaning(data)] if 4 <= len(data) <= BODY_MAX + 1 else []
        return super().frames(data)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "volume" not in frame:
            return ()
        values: dict[str, Value] = {"interval": frame["interval"], "vehicle_count": frame["volume"]}
        if frame["occupancy"] is not None:
            values["occupancy"] = frame["occupancy"]
        values |= {f"class_{n}_count": count for n, count in enumerate(frame["classes"], 1)}
        if frame["volume"]:  # without vehicles there is no speed and no headway, whatever stands there
            for name, told in (("mean_speed", "speed"), ("speed_85th", "speed_85th")):
                if frame[told] is not None:
                    values[name] = frame[told] * self._kmh
            values |= {"headway": frame["headway_ms"] / 1000, "gap": frame["gap_ms"] / 1000}
        return [Observed(MEASUREMENT, values)]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if expected.get("msg_id") != INTERVAL_DATA or expected.get("msg_type") != "read":
            return None
        return query_interval(expected["dest"], sequence=expected["seq"], interval=expected["interval"])
