"""Mode S messages: parity, and what a message says under the sheet's names (sheet 2.4).

DF17 and 18 carry their own check. The short surveillance replies overlay it with the aircraft's address, so
for them the check's remainder *is* the address, and only who has heard it elsewhere can believe it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from trisense.core.errors import FrameError
from trisense.drivers.sdk import Frame

__all__ = ["LONG_BYTES", "SHORT_BYTES", "decode", "remainder"]

DEVICE: Final = "adsb"
SHORT_BYTES: Final = 7
LONG_BYTES: Final = 14
SHORT_FORMATS: Final = (0, 4, 5, 11)
LONG_FORMATS: Final = (16, 17, 18, 19, 20, 21, 24)
INTERROGATORS: Final = 80
"""An all-call reply overlays its check with an interrogator code below it."""
CALLSIGN: Final = "#ABCDEFGHIJKLMNOPQRSTUVWXYZ##### ###############0123456789######"
# DF18 with these control fields has the layout of DF17; 1 and 5 carry addresses that are not ICAO's.
LIKE_DF17: Final = (0, 1, 2, 5, 6)
NOT_ICAO: Final = (1, 5)


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 16
        for _ in range(8):
            value = (value << 1) ^ (0x1FFF409 if value & 0x800000 else 0)
        table.append(value)
    return tuple(table)


CRC_TABLE: Final = _crc_table()


def remainder(payload: bytes) -> int:
    """Parity over all but the last three bytes, against those three: 0 where they agree."""
    value = 0
    for byte in payload[:-3]:
        value = (value << 8 & 0xFFFFFF) ^ CRC_TABLE[value >> 16 ^ byte]
    return value ^ int.from_bytes(payload[-3:], "big")


class _Bits:
    """Bits of a field by the sheet's 1-based positions, both ends included."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._size = len(data) * 8

    def __call__(self, first: int, last: int | None = None) -> int:
        last = first if last is None else last
        return self._value >> (self._size - last) & ((1 << (last - first + 1)) - 1)


def decode(payload: bytes) -> Frame:
    """What one message of 7 or 14 bytes says; the numbers are in the units of its names.

    Raises:
        FrameError: wrong length for its format, no such format, or its parity does not hold.
    """
    formats = {SHORT_BYTES: SHORT_FORMATS, LONG_BYTES: LONG_FORMATS}.get(len(payload), ())
    df = min(payload[0] >> 3, 24) if payload else -1
    if df not in formats:
        raise FrameError(DEVICE, f"no Mode S message of {len(payload)} bytes", payload)
    rest = remainder(payload)
    frame: Frame = {"df": df, "residual": f"{rest:06x}"}
    bits = _Bits(payload)
    if df in (11, 17, 18):
        allowed = INTERROGATORS if df == 11 else 1
        if rest >= allowed:
            raise FrameError(DEVICE, f"parity {rest:06x}", payload)
        frame |= {"crc_ok": True, "icao": payload[1:4].hex().upper(), "capability": bits(6, 8)}
        if df != 18:
            frame["on_ground"] = {4: True, 5: False}.get(bits(6, 8))
        if df == 11:
            frame["interrogator"] = rest
        elif df == 17 or bits(6, 8) in LIKE_DF17:
            frame["icao_address"] = df == 17 or bits(6, 8) not in NOT_ICAO
            frame |= extended_squitter(payload[4:11])
    elif df != 19:
        address = f"{rest:06X}"
        frame |= {"icao": address, "icao_from_parity": address, "address_from_parity": address}
        frame |= _surveillance(df, bits)
        if df in (20, 21):
            frame["bds"] = _register(payload[4])
            if frame["bds"] == "2,0":
                frame["callsign"] = _callsign(_Bits(payload[4:11]))
    return frame


def _surveillance(df: int, bits: _Bits) -> Frame:
    if df in (0, 16):
        return {"altitude_ft": altitude13(bits(20, 32)), "on_ground": bool(bits(6))}
    if df == 24:
        return {}
    status = bits(6, 8)
    # Flight status 4 and 5 say nothing about the ground.
    frame: Frame = {
        "flight_status": status,
        "on_ground": {0: False, 1: True, 2: False, 3: True}.get(status),
        "alert": status in (2, 3, 4),
        "spi": status in (4, 5),
    }
    if df in (4, 20):
        return frame | {"altitude_ft": altitude13(bits(20, 32))}
    return frame | {"squawk": squawk(bits(20, 32))}


def _register(first: int) -> str | None:
    """Comm-B register, where the message names it itself; the others can only be guessed."""
    return {0x10: "1,0", 0x20: "2,0", 0x30: "3,0"}.get(first)


def altitude12(code: int) -> int | None:
    """Feet of the 12-bit code of a position message, or None where it has none."""
    return altitude13((code & 0xFC0) << 1 | code & 0x3F)


def altitude13(code: int) -> int | None:
    """Feet of the 13-bit code: 25-ft steps with the Q bit, else 100-ft Gray code; None where unknown."""
    metric, fine = code & 0x40, code & 0x10
    if not code or metric:  # no aircraft is known to use the metric form; its scale was never settled
        return None
    if fine:
        return 25 * ((code & 0x1F80) >> 2 | (code & 0x20) >> 1 | code & 0xF) - 1000
    return _gillham(code)


def _gillham(code: int) -> int | None:
    # Bits from the top: C1 A1 C2 A2 C4 A4 M B1 Q B2 D2 B4 D4; D2 is the highest of the 500-ft part.
    five_hundreds = _from_gray(code, (2, 0, 11, 9, 7, 5, 3, 1))
    hundreds = _from_gray(code, (12, 10, 8))
    if hundreds in (0, 5, 6):
        return None
    hundreds = 5 if hundreds == 7 else hundreds
    if five_hundreds % 2:
        hundreds = 6 - hundreds
    return 500 * five_hundreds + 100 * hundreds - 1300


def _from_gray(code: int, places: tuple[int, ...]) -> int:
    value = bit = 0
    for place in places:
        bit ^= code >> place & 1
        value = value << 1 | bit
    return value


def squawk(code: int) -> str:
    """The four octal digits A B C D of the 13-bit identity code."""
    digits = ((11, 9, 7), (5, 3, 1), (12, 10, 8), (4, 2, 0))
    return "".join(str(sum((code >> place & 1) << i for i, place in enumerate(digit))) for digit in digits)


def extended_squitter(me: bytes) -> Frame:
    """The seven bytes ME of DF17 and 18."""
    bits = _Bits(me)
    tc = bits(1, 5)
    frame: Frame = {"tc": tc}
    reader = next((read for codes, read in _READERS.items() if tc in codes), None)
    return frame | reader(bits) if reader else frame


def _callsign(bits: _Bits) -> str | None:
    text = "".join(CALLSIGN[bits(9 + 6 * i, 14 + 6 * i)] for i in range(8)).rstrip(" ")
    return text if text and "#" not in text else None


def _identity(bits: _Bits) -> Frame:
    return {
        "callsign": _callsign(bits),
        "category": f"{'DCBA'[bits(1, 5) - 1]}{bits(6, 8)}",
    }


def _position(bits: _Bits) -> Frame:
    return {"cpr_odd": bits(22), "cpr_lat": bits(23, 39), "cpr_lon": bits(40, 56)}


def _surface(bits: _Bits) -> Frame:
    return {
        **_position(bits),
        "on_ground": True,
        "gs_kt": _movement(bits(6, 12)),
        "track": bits(14, 20) * 360 / 128 if bits(13) else None,
    }


def _movement(code: int) -> float | None:
    """Knots of the surface movement code, at the lower end of its step."""
    if not 1 <= code <= 124:
        return None
    first, base, step = next(row for row in _MOVEMENT if code >= row[0])
    return base + (code - first) * step


_MOVEMENT: Final = (
    (124, 175.0, 0.0),
    (109, 100.0, 5.0),
    (94, 70.0, 2.0),
    (39, 15.0, 1.0),
    (13, 2.0, 0.5),
    (9, 1.0, 0.25),
    (2, 0.125, 0.125),
    (1, 0.0, 0.0),
)


def _airborne(bits: _Bits) -> Frame:
    return {**_position(bits), "on_ground": False, "altitude_ft": altitude12(bits(9, 20))}


def _airborne_gnss(bits: _Bits) -> Frame:
    return {**_position(bits), "on_ground": False, "gnss_altitude_ft": altitude12(bits(9, 20))}


def _velocity(bits: _Bits) -> Frame:
    subtype = bits(6, 8)
    frame: Frame = {"subtype": subtype}
    if subtype in (1, 2):
        frame |= _over_ground(bits, 4 if subtype == 2 else 1)
    elif subtype in (3, 4):
        frame |= _through_air(bits, 4 if subtype == 4 else 1)
    else:
        return frame
    rate, difference = bits(38, 46), bits(50, 56)
    frame["vr_fpm"] = (rate - 1) * 64 * (-1 if bits(37) else 1) if rate else None
    frame["vr_src"] = "baro" if bits(36) else "gnss"
    frame["geo_minus_baro_ft"] = (difference - 1) * 25 * (-1 if bits(49) else 1) if difference else None
    return frame


def _over_ground(bits: _Bits, scale: int) -> Frame:
    if not bits(15, 24) or not bits(26, 35):
        return {"gs_kt": None, "track": None}
    east = (bits(15, 24) - 1) * scale * (-1 if bits(14) else 1)
    north = (bits(26, 35) - 1) * scale * (-1 if bits(25) else 1)
    return {
        "gs_kt": round(math.hypot(east, north), 4),
        "track": round(math.degrees(math.atan2(east, north)) % 360, 4),
    }


def _through_air(bits: _Bits, scale: int) -> Frame:
    return {
        "heading": round(bits(15, 24) * 360 / 1024, 4) if bits(14) else None,
        "as_kt": (bits(26, 35) - 1) * scale if bits(26, 35) else None,
        "tas": bits(25),
    }


def _status(bits: _Bits) -> Frame:
    if bits(6, 8) != 1:
        return {"subtype": bits(6, 8)}
    return {"subtype": 1, "emergency": bits(9, 11), "squawk": squawk(bits(12, 24))}


def _target(bits: _Bits) -> Frame:
    return {"subtype": bits(6, 7)}


def _operation(bits: _Bits) -> Frame:
    return {"subtype": bits(6, 8), "version": bits(41, 43)}


_READERS: Final[Mapping[range, Callable[[_Bits], Frame]]] = {
    range(1, 5): _identity,
    range(5, 9): _surface,
    range(9, 19): _airborne,
    range(19, 20): _velocity,
    range(20, 23): _airborne_gnss,
    range(28, 29): _status,
    range(29, 30): _target,
    range(31, 32): _operation,
}
