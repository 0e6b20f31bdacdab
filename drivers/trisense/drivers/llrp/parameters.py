"""LLRP 1.0.1 parameters: the type table, and the one parser and builder that read it.

A parameter is a TV (top bit set: 7-bit type, fixed size) or a TLV (10-bit type, u16 length with its own 4
bytes). Everything is big-endian and packed from the most significant bit on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trisense.core.errors import FrameError

__all__ = ["BY_NAME", "Cursor", "Param", "build", "pack_fields", "parse", "parse_fields", "spec"]

DEVICE: Final = "llrp"
MAX_DEPTH: Final = 12
"""A ROSpec nests eight deep; ParameterError may nest into itself without end."""
MAX_PARAMETERS: Final = 50_000
"""Parameters of one message, over all levels."""
TV_LIMIT: Final = 128
CUSTOM: Final = 1023

Fields = tuple[tuple[str, str], ...]


def spec(text: str) -> Fields:
    """Read ``Name:kind`` pairs. Kinds: ``uN``, ``sN``, ``bN`` (N bits in a shared byte; b1 is a flag),
    ``-:bN`` reserved, ``text``, ``u8*`` ``u16*`` ``u32*`` (u16 count before), ``bits`` (u16 count of bits),
    ``words`` and ``hex*`` (u16 count of words or bytes, as hex), ``hex12`` (12 bytes), ``rest``.
    """
    pairs = (item.split(":") for item in text.split())
    return tuple((name, kind) for name, kind in pairs)


# LLRP 1.0.1 sections 13 to 16; names of the standard's own definition file.
_TABLE: Final[Mapping[int, str]] = {
    # TV
    1: "AntennaID AntennaID:u16",
    2: "FirstSeenTimestampUTC Microseconds:u64",
    3: "FirstSeenTimestampUptime Microseconds:u64",
    4: "LastSeenTimestampUTC Microseconds:u64",
    5: "LastSeenTimestampUptime Microseconds:u64",
    6: "PeakRSSI PeakRSSI:s8",
    7: "ChannelIndex ChannelIndex:u16",
    8: "TagSeenCount TagCount:u16",
    9: "ROSpecID ROSpecID:u32",
    10: "InventoryParameterSpecID InventoryParameterSpecID:u16",
    11: "C1G2_CRC CRC:u16",
    12: "C1G2_PC PC_Bits:u16",
    13: "EPC96 EPC:hex12",
    14: "SpecIndex SpecIndex:u16",
    15: "ClientRequestOpSpecResult OpSpecID:u16",
    16: "AccessSpecID AccessSpecID:u32",
    17: "OpSpecID OpSpecID:u16",
    18: "C1G2SingulationDetails NumCollisionSlots:u16 NumEmptySlots:u16",
    # Time, capabilities
    128: "UTCTimestamp Microseconds:u64",
    129: "Uptime Microseconds:u64",
    137: "GeneralDeviceCapabilities MaxNumberOfAntennaSupported:u16 CanSetAntennaProperties:b1 "
    "HasUTCClockCapability:b1 -:b14 DeviceManufacturerName:u32 ModelName:u32 ReaderFirmwareVersion:text",
    139: "ReceiveSensitivityTableEntry Index:u16 ReceiveSensitivityValue:s16",
    140: "PerAntennaAirProtocol AntennaID:u16 ProtocolID:u8*",
    141: "GPIOCapabilities NumGPIs:u16 NumGPOs:u16",
    142: "LLRPCapabilities CanDoRFSurvey:b1 CanReportBufferFillWarning:b1 SupportsClientRequestOpSpec:b1 "
    "CanDoTagInventoryStateAwareSingulation:b1 SupportsEventAndReportHolding:b1 -:b3 "
    "MaxNumPriorityLevelsSupported:u8 ClientRequestOpSpecTimeout:u16 MaxNumROSpecs:u32 "
    "MaxNumSpecsPerROSpec:u32 MaxNumInventoryParameterSpecsPerAISpec:u32 MaxNumAccessSpecs:u32 "
    "MaxNumOpSpecsPerAccessSpec:u32",
    143: "RegulatoryCapabilities CountryCode:u16 CommunicationsStandard:u16",
    144: "UHFBandCapabilities",
    145: "TransmitPowerLevelTableEntry Index:u16 TransmitPowerValue:s16",
    146: "FrequencyInformation Hopping:b1 -:b7",
    147: "FrequencyHopTable HopTableID:u8 -:b8 Frequency:u32*",
    148: "FixedFrequencyTable Frequency:u32*",
    149: "PerAntennaReceiveSensitivityRange AntennaID:u16 ReceiveSensitivityIndexMin:u16 "
    "ReceiveSensitivityIndexMax:u16",
    # Reader operation
    177: "ROSpec ROSpecID:u32 Priority:u8 CurrentState:u8",
    178: "ROBoundarySpec",
    179: "ROSpecStartTrigger ROSpecStartTriggerType:u8",
    180: "PeriodicTriggerValue Offset:u32 Period:u32",
    181: "GPITriggerValue GPIPortNum:u16 GPIEvent:b1 -:b7 Timeout:u32",
    182: "ROSpecStopTrigger ROSpecStopTriggerType:u8 DurationTriggerValue:u32",
    183: "AISpec AntennaIDs:u16*",
    184: "AISpecStopTrigger AISpecStopTriggerType:u8 DurationTrigger:u32",
    185: "TagObservationTrigger TriggerType:u8 -:b8 NumberOfTags:u16 NumberOfAttempts:u16 T:u16 Timeout:u32",
    186: "InventoryParameterSpec InventoryParameterSpecID:u16 ProtocolID:u8",
    187: "RFSurveySpec AntennaID:u16 StartFrequency:u32 EndFrequency:u32",
    188: "RFSurveySpecStopTrigger StopTriggerType:u8 DurationPeriod:u32 N:u32",
    # Configuration
    217: "LLRPConfigurationStateValue LLRPConfigurationStateValue:u32",
    218: "Identification IDType:u8 ReaderID:hex*",
    219: "GPOWriteData GPOPortNumber:u16 GPOData:b1 -:b7",
    220: "KeepaliveSpec KeepaliveTriggerType:u8 PeriodicTriggerValue:u32",
    221: "AntennaProperties AntennaConnected:b1 -:b7 AntennaID:u16 AntennaGain:s16",
    222: "AntennaConfiguration AntennaID:u16",
    223: "RFReceiver ReceiverSensitivity:u16",
    224: "RFTransmitter HopTableID:u16 ChannelIndex:u16 TransmitPower:u16",
    225: "GPIPortCurrentState GPIPortNum:u16 Config:b1 -:b7 State:u8",
    226: "EventsAndReports HoldEventsAndReportsUponReconnect:b1 -:b7",
    237: "ROReportSpec ROReportTrigger:u8 N:u16",
    238: "TagReportContentSelector selector_bits:u16",
    239: "AccessReportSpec AccessReportTrigger:u8",
    # Reports and events
    240: "TagReportData",
    241: "EPCData EPC:bits",
    242: "RFSurveyReportData",
    243: "FrequencyRSSILevelEntry Frequency:u32 Bandwidth:u32 AverageRSSI:s8 PeakRSSI:s8",
    244: "ReaderEventNotificationSpec",
    245: "EventNotificationState EventType:u16 NotificationState:b1 -:b7",
    246: "ReaderEventNotificationData",
    247: "HoppingEvent HopTableID:u16 NextChannelIndex:u16",
    248: "GPIEvent GPIPortNumber:u16 GPIEvent:b1 -:b7",
    249: "ROSpecEvent EventType:u8 ROSpecID:u32 PreemptingROSpecID:u32",
    250: "ReportBufferLevelWarningEvent ReportBufferPercentageFull:u8",
    251: "ReportBufferOverflowErrorEvent",
    252: "ReaderExceptionEvent Message:text",
    253: "RFSurveyEvent EventType:u8 ROSpecID:u32 SpecIndex:u16",
    254: "AISpecEvent EventType:u8 ROSpecID:u32 SpecIndex:u16",
    255: "AntennaEvent EventType:u8 AntennaID:u16",
    256: "ConnectionAttemptEvent Status:u16",
    257: "ConnectionCloseEvent",
    # Status
    287: "LLRPStatus StatusCode:u16 ErrorDescription:text",
    288: "FieldError FieldNum:u16 ErrorCode:u16",
    289: "ParameterError ParameterType:u16 ErrorCode:u16",
    # EPC class 1 generation 2
    327: "C1G2LLRPCapabilities CanSupportBlockErase:b1 CanSupportBlockWrite:b1 -:b6 "
    "MaxNumSelectFiltersPerQuery:u16",
    328: "UHFC1G2RFModeTable",
    329: "UHFC1G2RFModeTableEntry ModeIdentifier:u32 DRValue:b1 EPCHAGTCConformance:b1 -:b6 MValue:u8 "
    "ForwardLinkModulation:u8 SpectralMaskIndicator:u8 BDRValue:u32 PIEValue:u32 MinTariValue:u32 "
    "MaxTariValue:u32 StepTariValue:u32",
    330: "C1G2InventoryCommand TagInventoryStateAware:b1 -:b7",
    335: "C1G2RFControl ModeIndex:u16 Tari:u16",
    336: "C1G2SingulationControl Session:b2 -:b6 TagPopulation:u16 TagTransitTime:u32",
    348: "C1G2EPCMemorySelector EnableCRC:b1 EnablePCBits:b1 -:b6",
    349: "C1G2ReadOpSpecResult Result:u8 OpSpecID:u16 ReadData:words",
    350: "C1G2WriteOpSpecResult Result:u8 OpSpecID:u16 NumWordsWritten:u16",
    351: "C1G2KillOpSpecResult Result:u8 OpSpecID:u16",
    352: "C1G2LockOpSpecResult Result:u8 OpSpecID:u16",
    353: "C1G2BlockEraseOpSpecResult Result:u8 OpSpecID:u16",
    354: "C1G2BlockWriteOpSpecResult Result:u8 OpSpecID:u16 NumWordsWritten:u16",
    CUSTOM: "Custom VendorIdentifier:u32 ParameterSubtype:u32 Data:rest",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What the standard says of one parameter type."""

    type: int
    name: str
    fields: Fields


KINDS: Final[Mapping[int, Kind]] = {
    number: Kind(number, text.partition(" ")[0], spec(text.partition(" ")[2]))
    for number, text in _TABLE.items()
}
BY_NAME: Final[Mapping[str, Kind]] = {kind.name: kind for kind in KINDS.values()}


@dataclass(slots=True)
class Param:
    """One parameter: its values by field name, and the parameters inside it."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    params: list[Param] = field(default_factory=list)
    type: int = 0
    """Set where ``name`` is no name of the table: an unknown TLV, kept as ``Data``."""

    def find(self, name: str) -> Param | None:
        return next((p for p in self.params if p.name == name), None)

    def each(self, name: str) -> list[Param]:
        return [p for p in self.params if p.name == name]


class Cursor:
    """Reads the fields of one span of bytes, never past its end."""

    __slots__ = ("_bit", "_data", "end", "pos")

    def __init__(self, data: bytes, pos: int, end: int) -> None:
        self._data = data
        self._bit = 0
        self.pos = pos
        self.end = end

    def take(self, count: int) -> bytes:
        if self._bit:
            raise FrameError(DEVICE, "bit fields do not fill their byte")
        if count > self.end - self.pos:
            raise FrameError(DEVICE, f"field of {count} bytes, {self.end - self.pos} left")
        self.pos += count
        return self._data[self.pos - count : self.pos]

    def uint(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            if self.pos >= self.end:
                raise FrameError(DEVICE, "bit field past the end")
            value = value << 1 | (self._data[self.pos] >> (7 - self._bit)) & 1
            self._bit = (self._bit + 1) % 8
            self.pos += self._bit == 0
        return value


def parse_fields(cursor: Cursor, fields: Fields) -> dict[str, Any]:
    """Read the fields in order.

    Raises:
        FrameError: they do not fit.
    """
    values: dict[str, Any] = {}
    for name, kind in fields:
        value = _parse_field(cursor, kind)
        if name != "-":
            values[name] = value
    return values


def _parse_field(cursor: Cursor, kind: str) -> Any:
    if kind in INTEGERS:
        count, signed = INTEGERS[kind]
        return int.from_bytes(cursor.take(count), "big", signed=signed)
    if kind in LISTS:
        count = LISTS[kind]
        return [cursor.uint(count) for _ in range(cursor.uint(2))]
    if kind in OTHERS:
        return OTHERS[kind](cursor)
    return cursor.bits(int(kind[1:]))


def _parse_bit_array(cursor: Cursor) -> dict[str, Any]:
    bits = cursor.uint(2)
    return {"bits": bits, "epc": cursor.take((bits + 7) // 8).hex()}


INTEGERS: Final = {
    "u8": (1, False),
    "u16": (2, False),
    "u32": (4, False),
    "u64": (8, False),
    "s8": (1, True),
    "s16": (2, True),
}
LISTS: Final = {"u8*": 1, "u16*": 2, "u32*": 4}
OTHERS: Final[Mapping[str, Callable[[Cursor], Any]]] = {
    "text": lambda cursor: cursor.take(cursor.uint(2)).decode("utf-8", "replace"),
    "bits": _parse_bit_array,
    "words": lambda cursor: cursor.take(2 * cursor.uint(2)).hex(),
    "hex*": lambda cursor: cursor.take(cursor.uint(2)).hex(),
    "hex12": lambda cursor: cursor.take(12).hex(),
    "rest": lambda cursor: cursor.take(cursor.end - cursor.pos).hex(),
}


def parse(data: bytes, pos: int = 0, end: int | None = None) -> list[Param]:
    """Read parameters up to ``end``.

    Raises:
        FrameError: an unknown TV (its size is not known), a length that does not fit, too many or too deep.
    """
    return _Parser(data).params(pos, len(data) if end is None else end, 0)


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._seen = 0

    def params(self, pos: int, end: int, depth: int) -> list[Param]:
        if depth > MAX_DEPTH:
            raise FrameError(DEVICE, f"parameters nested deeper than {MAX_DEPTH}")
        found = []
        while pos < end:
            self._seen += 1
            if self._seen > MAX_PARAMETERS:
                raise FrameError(DEVICE, f"more than {MAX_PARAMETERS} parameters")
            param, pos = self._tv(pos, end) if self._data[pos] & 0x80 else self._tlv(pos, end, depth)
            found.append(param)
        return found

    def _tv(self, pos: int, end: int) -> tuple[Param, int]:
        kind = KINDS.get(self._data[pos] & 0x7F)
        if kind is None:
            raise FrameError(DEVICE, f"unknown TV parameter {self._data[pos] & 0x7F}")
        cursor = Cursor(self._data, pos + 1, end)
        return Param(kind.name, parse_fields(cursor, kind.fields), type=kind.type), cursor.pos

    def _tlv(self, pos: int, end: int, depth: int) -> tuple[Param, int]:
        if end - pos < 4:
            raise FrameError(DEVICE, f"{end - pos} bytes are no TLV header")
        head = int.from_bytes(self._data[pos : pos + 2], "big")
        size = int.from_bytes(self._data[pos + 2 : pos + 4], "big")
        if size < 4 or size > end - pos or head > CUSTOM or head < TV_LIMIT:
            raise FrameError(DEVICE, f"TLV parameter {head} of {size} bytes, {end - pos} left")
        stop = pos + size
        kind = KINDS.get(head)
        if kind is None:
            return Param("Unknown", {"Data": self._data[pos + 4 : stop].hex()}, type=head), stop
        cursor = Cursor(self._data, pos + 4, stop)
        values = parse_fields(cursor, kind.fields)
        return Param(kind.name, values, self.params(cursor.pos, stop, depth + 1), kind.type), stop


def build(param: Param) -> bytes:
    """Bytes of one TLV or TV parameter and all inside it; a field without a value is 0."""
    kind = BY_NAME[param.name]
    body = pack_fields(kind.fields, param.values)
    if kind.type < TV_LIMIT:
        return bytes([0x80 | kind.type]) + body
    body += b"".join(build(p) for p in param.params)
    return kind.type.to_bytes(2, "big") + (len(body) + 4).to_bytes(2, "big") + body


def pack_fields(fields: Fields, values: Mapping[str, Any]) -> bytes:
    """Bytes of the fields in order; those left out of ``values`` are 0 or empty."""
    out = bytearray()
    bits = width = 0
    for name, kind in fields:
        if kind in INTEGERS:
            count, signed = INTEGERS[kind]
            out += int(values.get(name, 0)).to_bytes(count, "big", signed=signed)
        elif kind in LISTS:
            items: Sequence[int] = values.get(name, ())
            out += len(items).to_bytes(2, "big")
            out += b"".join(item.to_bytes(LISTS[kind], "big") for item in items)
        elif kind == "rest":
            out += bytes.fromhex(values.get(name, ""))
        else:
            count = int(kind[1:])
            bits = bits << count | int(values.get(name, 0))
            width += count
            if width % 8 == 0:
                out += bits.to_bytes(width // 8, "big")
                bits = width = 0
    return bytes(out)
