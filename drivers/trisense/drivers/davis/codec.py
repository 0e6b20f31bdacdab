"""Packets of a Davis Vantage console: LOOP and LOOP2 of 99 bytes, its time, archive requests; CRC-CCITT."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = [
    "LOOP",
    "LOOP2",
    "MEASUREMENT",
    "ArchiveCodec",
    "LoopCodec",
    "LoopDecoder",
    "TimeCodec",
    "values_of",
]

MEASUREMENT: Final = "weather"
HEAD: Final = b"LOO"
PACKET_BYTES: Final = 99
END: Final = b"\n\r"
LOOP: Final = 0
LOOP2: Final = 1

MPS_PER_MPH: Final = 0.44704
HPA_PER_INHG: Final = 33.86389


@dataclass(frozen=True, slots=True)
class Item:
    """One number of a packet: little-endian at ``at``."""

    name: str
    at: int
    size: int = 1
    scale: float = 1
    signed: bool = False
    no_data: tuple[int, ...] = ()

    def of(self, packet: bytes) -> int | float | None:
        raw = int.from_bytes(packet[self.at : self.at + self.size], "little", signed=self.signed)
        if raw in self.no_data:
            return None
        return raw if self.scale == 1 else raw / self.scale


BYTE: Final = (0xFF,)
WORD: Final = (0xFFFF,)
SIGNED: Final = (0x7FFF, -0x8000)
DIRECTION: Final = (0, 0x7FFF, 0xFFFF)
COMMON: Final = (
    Item("bar_trend", 3, signed=True, no_data=(0x50,)),  # 'P': an old console without a trend
    Item("packet_type", 4),
    Item("barometer_inHg", 7, 2, 1000, no_data=(0,)),
    Item("temp_in_degF", 9, 2, 10, signed=True, no_data=SIGNED),
    Item("hum_in", 11, no_data=BYTE),
    Item("temp_out_degF", 12, 2, 10, signed=True, no_data=SIGNED),
    Item("wind_speed_mph", 14, no_data=BYTE),
    Item("wind_dir_deg", 16, 2, no_data=DIRECTION),
    Item("hum_out", 33, no_data=BYTE),
    Item("rain_rate_clicks", 41, 2, no_data=WORD),
    Item("uv_index", 43, scale=10, no_data=BYTE),
    Item("solar_W_m2", 44, 2, no_data=(0x7FFF, 0xFFFF)),
    Item("rain_day_clicks", 50, 2, no_data=WORD),
)
ITEMS: Final[Mapping[int, tuple[Item, ...]]] = {
    LOOP: (
        *COMMON,
        Item("next_record", 5, 2),
        Item("wind_speed_10min_mph", 15, no_data=BYTE),
        Item("rain_month_clicks", 52, 2, no_data=WORD),
        Item("rain_year_clicks", 54, 2, no_data=WORD),
        Item("transmitter_battery", 86),
        Item("console_battery_V", 87, 2, 512 * 100 / 300),
        Item("forecast_icon", 89),
        Item("forecast_rule", 90),
    ),
    LOOP2: (
        *COMMON,
        Item("wind_speed_10min_mph", 18, 2, 10, no_data=(0x7FFF, 0xFFFF)),
        Item("wind_speed_2min_mph", 20, 2, 10, no_data=(0x7FFF, 0xFFFF)),
        Item("wind_gust_10min_mph", 22, 2, no_data=(0xFF, 0x7FFF, 0xFFFF)),  # whole mph: weewx issue 686
        Item("wind_gust_dir_deg", 24, 2, no_data=DIRECTION),
        Item("dew_point_degF", 30, 2, signed=True, no_data=(0xFF, *SIGNED)),
        Item("rain_15min_clicks", 52, 2, no_data=WORD),
        Item("rain_hour_clicks", 54, 2, no_data=WORD),
        Item("rain_24h_clicks", 58, 2, no_data=WORD),
        Item("station_pressure_inHg", 67, 2, 1000, no_data=(0,)),
    ),
}
"""By packet type."""


def _celsius(degrees: float) -> float:
    return round((degrees - 32) * 5 / 9, 2)


def _mps(mph: float) -> float:
    return round(mph * MPS_PER_MPH, 3)


def _hpa(inches: float) -> float:
    return round(inches * HPA_PER_INHG, 2)


def _plain(value: float) -> float:
    return value


CONVERSIONS: Final[Mapping[str, tuple[str, Callable[[float], float]]]] = {
    "sea_level_pressure": ("barometer_inHg", _hpa),
    "barometric_pressure": ("station_pressure_inHg", _hpa),
    "air_temperature": ("temp_out_degF", _celsius),
    "relative_humidity": ("hum_out", _plain),
    "dew_point": ("dew_point_degF", _celsius),
    "indoor_temperature": ("temp_in_degF", _celsius),
    "indoor_humidity": ("hum_in", _plain),
    "wind_speed": ("wind_speed_mph", _mps),
    "wind_speed_10min": ("wind_speed_10min_mph", _mps),
    "wind_gust": ("wind_gust_10min_mph", _mps),
    "wind_direction": ("wind_dir_deg", lambda degrees: degrees % 360),
    "uv_index": ("uv_index", _plain),
    "solar_irradiance": ("solar_W_m2", _plain),
    "supply_voltage": ("console_battery_V", lambda volts: round(volts, 3)),
    "transmitter_battery": ("transmitter_battery", _plain),
}
"""Our field, the console's number and the way from one to the other; rain depends on the collector."""
RAIN: Final[Mapping[str, str]] = {
    "rain_rate": "rain_rate_clicks",
    "rain_amount_day": "rain_day_clicks",
    "rain_amount_24h": "rain_24h_clicks",
    "rain_amount_total": "rain_year_clicks",
}


def values_of(native: Mapping[str, Any], click_mm: float | None) -> dict[str, Value]:
    """Our fields out of a packet's numbers; rain only where it is known what one click is."""
    values: dict[str, Value] = {}
    for name, (source, convert) in CONVERSIONS.items():
        if source in native:
            values[name] = None if native[source] is None else convert(native[source])
    if click_mm is not None:
        for name, source in RAIN.items():
            if source in native:
                values[name] = None if native[source] is None else round(native[source] * click_mm, 3)
    return values


class LoopDecoder(Decoder):
    max_frame = PACKET_BYTES

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != HEAD[0]:
            found = data.find(HEAD[:1], start)
            return Cut((found if found >= 0 else len(data)) - start)
        head = data[start : start + 3]
        if not head.startswith(HEAD[: len(head)]):
            return Cut(1)
        packet = data[start : start + PACKET_BYTES]
        if len(packet) < PACKET_BYTES:
            return None
        if packet[95:97] != END or packet[4] not in ITEMS:
            return Cut(1, damage="no packet")
        if crc_hqx(packet, 0) != 0:
            return Cut(1, damage="crc")
        native: dict[str, Any] = {item.name: item.of(packet) for item in ITEMS[packet[4]]}
        if packet[4] == LOOP:
            native |= {"sunrise": _clock(packet[91:93]), "sunset": _clock(packet[93:95])}
        return Cut(PACKET_BYTES, {"native": native, "values": values_of(native, None)})


def _clock(raw: bytes) -> str | None:
    hour, minute = divmod(int.from_bytes(raw, "little"), 100)
    return f"{hour:02}:{minute:02}" if hour < 24 and minute < 60 else None


class LoopCodec(FramedCodec):
    decoder: Callable[[], Decoder] = LoopDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return (Observed(MEASUREMENT, frame["values"]),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the console alone sends it
        return None


class TimeDecoder(Decoder):
    """The answer to GETTIME behind its ACK: six bytes and a CRC."""

    max_frame = 8

    def cut(self, data: bytes, start: int) -> Cut | None:
        reply = data[start : start + self.max_frame]
        if len(reply) < self.max_frame:
            return None
        if crc_hqx(reply, 0) != 0:
            return Cut(1)
        second, minute, hour, day, month, year = reply[:6]
        try:
            told = datetime(1900 + year, month, day, hour, minute, second)  # the console's own time
        except ValueError:
            return Cut(1, damage="no time")
        return Cut(self.max_frame, {"datetime": told.isoformat()})


class TimeCodec(LoopCodec):
    decoder: Callable[[], Decoder] = TimeDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:  # noqa: ARG002  # a clock is no reading
        return ()


class ArchiveDecoder(Decoder):
    """What DMPAFT sends: since when the archive is wanted, in the console's stamps."""

    max_frame = 6

    def cut(self, data: bytes, start: int) -> Cut | None:
        stamp = data[start : start + self.max_frame]
        if len(stamp) < self.max_frame:
            return None
        if crc_hqx(stamp, 0) != 0:
            return Cut(1)
        date, time = int.from_bytes(stamp[:2], "little"), int.from_bytes(stamp[2:4], "little")
        hour, minute = divmod(time, 100)
        frame = {"date_stamp": date, "time_stamp": time, "day": date & 31, "month": date >> 5 & 15}
        return Cut(self.max_frame, frame | {"hour": hour, "minute": minute})


class ArchiveCodec(TimeCodec):
    decoder = ArchiveDecoder

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if "date_stamp" not in expected:
            return None
        stamp = expected["date_stamp"].to_bytes(2, "little") + expected["time_stamp"].to_bytes(2, "little")
        return bytes(stamp) + crc_hqx(stamp, 0).to_bytes(2, "big")
