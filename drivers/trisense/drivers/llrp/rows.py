"""Tag reports and reader events as rows."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trisense.core.model import Field, FieldType, Layer, Quality, Stream, Value
from trisense.drivers.epc import SIGHTING, TAG_FIELDS, tag_values
from trisense.drivers.llrp.messages import MessageType
from trisense.drivers.sdk import Frame, Observed

__all__ = ["Sightings", "crc_matches", "event_rows", "number", "rows_of", "streams"]

EVENT: Final = "reader_event"
SATURATED: Final = 65_535
"""TagSeenCount stops there (sheet 1.6)."""

SIGHTING_FIELDS: Final = (
    *TAG_FIELDS,
    Field("antenna", "1", FieldType.INT),
    Field("rssi", "dB{mW}", resolution=1.0, valid=(-120.0, 20.0)),
    Field("channel", "1", FieldType.INT),
    Field("seen_count", "1", FieldType.INT),
    Field("first_seen", "us", FieldType.INT),
    Field("last_seen", "us", FieldType.INT),
)
EVENT_FIELDS: Final = (
    Field("event", "", FieldType.STR),
    Field("antenna", "1", FieldType.INT),
    Field("detail", "", FieldType.STR),
)


def streams(device: str, site: str) -> tuple[Stream, ...]:
    return (
        Stream(device, SIGHTING, Layer.GROUND, SIGHTING_FIELDS, site),
        Stream(device, EVENT, Layer.GROUND, EVENT_FIELDS, site),
    )


def crc_matches(tag: Mapping[str, Any]) -> bool:
    """Whether the tag's own CRC-16 is that of its PC and EPC; True where the reader did not give both."""
    if "C1G2_PC" not in tag or "C1G2_CRC" not in tag:
        return True
    data = tag["C1G2_PC"].to_bytes(2, "big") + bytes.fromhex(number(tag))
    return crc_hqx(data, 0xFFFF) ^ 0xFFFF == int(tag["C1G2_CRC"])


def number(tag: Mapping[str, Any]) -> str:
    """The EPC of one TagReportData as hex, whatever its length."""
    return str(tag["EPC96"] if "EPC96" in tag else tag["EPCData"]["epc"])


class Sightings:
    """Rows of one connection's reports.

    A reader may leave out a parameter whose value equals the one it sent last (sheet 1.6), so the last
    values are kept, and only as long as the connection.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self.damaged_count = 0
        """Tags dropped because their CRC contradicts their number."""

    def forget(self) -> None:
        """A message was lost: what it changed is not known, so nothing earlier may stand for it."""
        self._last.clear()

    def rows(self, frame: Frame, *, rospec_id: int | None = None) -> Sequence[Observed]:
        """One row per tag of an RO_ACCESS_REPORT; with ``rospec_id`` only what that ROSpec found."""
        found = []
        for tag in frame["tags"]:
            # A wrong CRC is the tag's; what the reader says of antenna and channel still holds.
            self._last |= {name: tag[name] for name in CARRIED if name in tag}
            if not crc_matches(tag):
                self.damaged_count += 1
                continue
            if rospec_id is not None and self._last.get("ROSpecID", rospec_id) != rospec_id:
                continue
            found.append(_sighting({**self._last, **tag}))
        return found


CARRIED: Final = (
    "ROSpecID",
    "AntennaID",
    "PeakRSSI",
    "ChannelIndex",
    "FirstSeenTimestampUTC",
    "LastSeenTimestampUTC",
    "TagSeenCount",
)


def _sighting(tag: Mapping[str, Any]) -> Observed:
    values: dict[str, Value] = {
        **tag_values(bytes.fromhex(number(tag))),
        "antenna": tag.get("AntennaID"),
        "rssi": tag.get("PeakRSSI"),
        "channel": tag.get("ChannelIndex"),
        "seen_count": tag.get("TagSeenCount"),
        "first_seen": tag.get("FirstSeenTimestampUTC"),
        "last_seen": tag.get("LastSeenTimestampUTC"),
    }
    quality = {"seen_count": Quality.SUSPECT} if values["seen_count"] == SATURATED else {}
    return Observed(SIGHTING, {k: v for k, v in values.items() if v is not None}, quality)


def _antenna(event: Mapping[str, Any]) -> tuple[str, int | None, str]:
    return "antenna_connected" if event["EventType"] else "antenna_lost", event["AntennaID"], ""


def _exception(event: str | Mapping[str, Any]) -> tuple[str, int | None, str]:
    if isinstance(event, str):
        return "exception", None, event
    return "exception", event.get("AntennaID"), str(event["Message"])


_EVENTS: Final[Mapping[str, Callable[[Any], tuple[str, int | None, str]]]] = {
    "AntennaEvent": _antenna,
    "ReaderExceptionEvent": _exception,
    "ReportBufferLevelWarningEvent": lambda percent: ("buffer_warning", None, f"{percent} %"),
    "ReportBufferOverflowErrorEvent": lambda _: ("buffer_overflow", None, ""),
    "ConnectionAttemptEvent": lambda status: ("connection_attempt", None, f"status {status}"),
}


def event_rows(frame: Frame) -> Sequence[Observed]:
    """Rows of what an operator must know; hops, GPI and spec events make none."""
    rows = []
    for name, event in frame["ReaderEventNotificationData"].items():
        if name in _EVENTS:
            kind, antenna, detail = _EVENTS[name](event)
            values: dict[str, Value] = {"event": kind, "detail": detail}
            rows.append(Observed(EVENT, values if antenna is None else {**values, "antenna": antenna}))
    return rows


def rows_of(frame: Frame) -> Sequence[Observed]:
    """Rows of one frame on its own, for codecs: nothing is carried from an earlier report."""
    type_ = frame.get("type", frame.get("body_of"))
    if type_ == MessageType.RO_ACCESS_REPORT:
        return Sightings().rows(frame)
    return event_rows(frame) if type_ == MessageType.READER_EVENT_NOTIFICATION else []
