"""How receivers hand Mode S messages on: Beast binary, AVR text, SBS lines (sheet 2.1 to 2.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from trisense.core.errors import FrameError
from trisense.drivers.adsb import modes
from trisense.drivers.framing import Cut, Decoder
from trisense.drivers.sdk import Frame

__all__ = ["BeastDecoder", "avr_frames", "parse_sbs", "sbs_frames"]

DEVICE: Final = "adsb"
ESCAPE: Final = 0x1A
ESCAPE_BYTE: Final = b"\x1a"
MODE_AC: Final = 0x31
PAYLOAD_BYTES: Final = {MODE_AC: 2, 0x32: modes.SHORT_BYTES, 0x33: modes.LONG_BYTES}
OTHER_TYPES: Final = (0x34, 0xE3, 0xE4, 0xE8)
"""Status of Beast hardware, readsb's receiver id and pings: of no settled length, so they are skipped."""
HEAD_BYTES: Final = 7
TICKS_PER_S: Final = 12_000_000
MLAT_TICKS: Final = 0xFF004D4C4154
"""Marks a synthetic message: a position that the network worked out."""


class BeastDecoder(Decoder):
    """Cuts a Beast stream; frames of ``OTHER_TYPES`` have ``type`` only, damaged Mode S makes none.

    Damage is looked through for the next message, which may begin within it; parity tells a real one.
    """

    max_frame = 2 + 2 * (HEAD_BYTES + modes.LONG_BYTES)

    def __init__(self) -> None:
        super().__init__()
        self._in_step = True
        """Whether a frame must begin here: what no parity guards is believed nowhere else."""

    def cut(self, data: bytes, start: int) -> Cut | None:
        cut = self._judged(data, start)
        if cut is not None:
            self._in_step = cut.frame is not None
        return cut

    def _judged(self, data: bytes, start: int) -> Cut | None:
        if data[start] != ESCAPE:
            return Cut(1)
        if start + 1 == len(data):
            return None
        type_ = data[start + 1]
        if type_ in PAYLOAD_BYTES and (self._in_step or type_ != MODE_AC):
            return self._message(data, start)
        if type_ in OTHER_TYPES and self._in_step:
            return self._other(data, start)
        # Two in a row: the end of a message cut short, or a lone one before the next message.
        return Cut(1, damage=None if type_ == ESCAPE else f"unknown type {type_:02x}")

    def _message(self, data: bytes, start: int) -> Cut | None:
        type_ = data[start + 1]
        body = bytearray()
        place = start + 2
        while len(body) < HEAD_BYTES + PAYLOAD_BYTES[type_]:
            escaped = data[place : place + 1] == ESCAPE_BYTE
            if place + escaped >= len(data):
                return None
            if escaped and data[place + 1] != ESCAPE:
                return Cut(1, damage="cut short")
            body.append(data[place])
            place += 1 + escaped
        try:
            return Cut(place - start, _beast_frame(type_, bytes(body)))
        except FrameError as error:
            return Cut(1, damage=error.what)

    def _other(self, data: bytes, start: int) -> Cut | None:
        place, end = start + 2, start + self.max_frame
        while place < end:
            escaped = data[place : place + 1] == ESCAPE_BYTE
            if place + escaped >= end:
                break
            if place + escaped >= len(data):
                return None
            if escaped and data[place + 1] != ESCAPE:
                break
            place += 1 + escaped
        return Cut(place - start, {"type": chr(data[start + 1])})


def _beast_frame(type_: int, body: bytes) -> Frame:
    ticks, signal, payload = int.from_bytes(body[:6], "big"), body[6], body[HEAD_BYTES:]
    frame: Frame = {
        "type": chr(type_),
        "ticks": ticks,
        "seconds_12MHz": round(ticks / TICKS_PER_S, 6),
        "mlat": ticks == MLAT_TICKS,
        "signal_raw": signal,
        "rssi_dbfs": round(20 * math.log10(signal / 255), 2) if signal else None,
        "payload": payload.hex().upper(),
    }
    if type_ != MODE_AC:
        frame |= {"avr": f"*{frame['payload']};", **modes.decode(payload)}
    return frame


_AVR: Final = re.compile(
    rb"\*(?P<hex>(?:[0-9A-Fa-f]{14}){1,2});"
    rb"(?:(?P<ticks>[0-9A-Fa-f]{1,16});(?P<precision>[0-9A-Fa-f]{1,2});(?P<rssi>[0-9A-Fa-f]{1,8});)?"
    rb"|@(?P<mlat_ticks>[0-9A-Fa-f]{12})(?P<mlat_hex>(?:[0-9A-Fa-f]{14}){1,2});"
    rb"|(?P<heartbeat>\*0000;)|(?P<noise>[*@]?[^*@\s]+|[*@])"
)


def avr_frames(data: bytes) -> Iterator[Frame | FrameError]:
    """Each message of AVR text in order; an error for each damaged one and each word that is none."""
    for match in _AVR.finditer(data):
        if match["heartbeat"]:
            continue
        payload = match["hex"] or match["mlat_hex"]
        if payload is None:
            yield FrameError(DEVICE, "no AVR message", match[0])
            continue
        try:
            frame = modes.decode(bytes.fromhex(payload.decode("ascii")))
        except FrameError as error:
            yield error
            continue
        ticks = match["ticks"] or match["mlat_ticks"]
        if ticks:
            frame["ticks"] = int(ticks, 16)
        if match["precision"]:
            frame["precision"] = int(match["precision"], 16)
            frame["clock_mhz"] = 2 * frame["precision"]
            frame["signal_raw"] = int(match["rssi"], 16)
        yield frame


SBS_FIELDS: Final = 22
SBS_SHORT: Final = {"SEL": 11, "ID": 11, "AIR": 10, "STA": 11, "CLK": 10}
"""Fields of the lines that are no messages."""


def sbs_frames(data: bytes) -> Iterator[Frame | FrameError]:
    """Each line of BaseStation CSV in order; an error for each line that is none."""
    for line in data.splitlines():
        if line.strip():
            try:
                yield parse_sbs(line.decode("ascii", "replace"))
            except FrameError as error:
                yield error


def parse_sbs(line: str) -> Frame:
    """One line under the sheet's names; what is empty is None.

    Raises:
        FrameError: another number of fields (columns are never shifted), or a field of another kind.
    """
    fields = line.strip("\r\n").split(",")
    kind = fields[0]
    wanted = SBS_FIELDS if kind == "MSG" else SBS_SHORT.get(kind)
    if wanted is None or len(fields) != wanted:
        raise FrameError(DEVICE, f"{len(fields)} fields, expected {wanted or SBS_FIELDS}", line.encode())
    try:
        frame = _sbs_head(fields)
        if kind == "MSG":
            frame |= _sbs_message(fields)
        elif kind in ("SEL", "ID"):
            frame["callsign"] = fields[10].strip() or None
        elif kind == "STA":
            frame["status"] = fields[10].strip() or None
    except ValueError as error:
        raise FrameError(DEVICE, str(error), line.encode()) from error
    return frame


def _sbs_head(fields: list[str]) -> Frame:
    generated, logged = _sbs_time(fields[6], fields[7]), _sbs_time(fields[8], fields[9])
    return {
        "type": fields[0],
        "icao": _address(fields[4]),
        "generated": generated and generated.isoformat(timespec="milliseconds"),
        "logged": logged and logged.isoformat(timespec="milliseconds"),
        "log_delay_s": round((logged - generated).total_seconds(), 3) if generated and logged else None,
    }


def _sbs_message(fields: list[str]) -> Frame:
    tx = int(fields[1])
    if not 1 <= tx <= 8:
        raise ValueError(f"no transmission type {tx}")
    if fields[17] and not re.fullmatch("[0-7]{4}", fields[17]):
        raise ValueError(f"no squawk: {fields[17]}")
    return {
        "tx": tx,
        "callsign": fields[10].strip() or None,
        "altitude_ft": _number(fields[11]),
        "gs_kt": _number(fields[12]),
        "track": _number(fields[13]),
        "lat": _number(fields[14], 90),
        "lon": _number(fields[15], 180),
        "vr_fpm": _number(fields[16]),
        "squawk": fields[17] or None,
        "alert": _flag(fields[18]),
        "emergency": _flag(fields[19]),
        "spi": _flag(fields[20]),
        "on_ground": _flag(fields[21]),
    }


def _sbs_time(date: str, time: str) -> datetime | None:
    """Local time of the receiver, whose zone nobody knows."""
    return datetime.strptime(f"{date} {time}", "%Y/%m/%d %H:%M:%S.%f") if date and time else None


def _address(text: str) -> str | None:
    if text and not re.fullmatch("[0-9A-Fa-f]{6}", text):
        raise ValueError(f"no ICAO address: {text}")
    return text.upper() or None


def _number(text: str, limit: float = math.inf) -> float | int | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value) or abs(value) > limit:
        raise ValueError(f"no number within {limit:g}: {text}")
    return int(value) if value.is_integer() else value


def _flag(text: str) -> bool | None:
    if text not in ("", "0", "1", "-1"):
        raise ValueError(f"no flag: {text}")
    return text != "0" if text else None
