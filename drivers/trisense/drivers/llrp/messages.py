"""LLRP 1.0.1 messages without I/O: bytes to messages, messages to dicts with the sheet's names, and back.

Header: 3 reserved bits, 3 bits version, 10 bits type, u32 length with its own 10 bytes, u32 message id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import FrameError
from trisense.drivers.framing import Cut, Decoder
from trisense.drivers.llrp import rospec
from trisense.drivers.llrp.parameters import Cursor, Fields, Param, pack_fields, parse, parse_fields, spec
from trisense.drivers.sdk import Frame

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MessageDecoder",
    "MessageType",
    "as_frame",
    "body_frame",
    "encode",
]

DEVICE: Final = "llrp"
HEADER_BYTES: Final = 10
MAX_MESSAGE_BYTES: Final = 1 << 20
"""A report of 10,000 tags with every option is 0.9 MB; what claims more is no message."""
MAX_ATTEMPTS: Final = 8
VERSIONS: Final = (1, 2)
MAX_TYPE: Final = 1023


class MessageType:
    """Numbers by name of the messages this driver deals with; all legal ones stand in ``BODIES``."""

    GET_READER_CAPABILITIES = 1
    GET_READER_CONFIG = 2
    SET_READER_CONFIG = 3
    GET_READER_CAPABILITIES_RESPONSE = 11
    GET_READER_CONFIG_RESPONSE = 12
    CLOSE_CONNECTION = 14
    ADD_ROSPEC = 20
    DELETE_ROSPEC = 21
    START_ROSPEC = 22
    ENABLE_ROSPEC = 24
    RO_ACCESS_REPORT = 61
    KEEPALIVE = 62
    READER_EVENT_NOTIFICATION = 63
    KEEPALIVE_ACK = 72
    ERROR_MESSAGE = 100


# Fixed fields before the parameters; every type that is legal stands here.
_ROSPEC_ID: Final = spec("ROSpecID:u32")
_ACCESSSPEC_ID: Final = spec("AccessSpecID:u32")
BODIES: Final[Mapping[int, Fields]] = {
    1: spec("RequestedData:u8"),
    2: spec("AntennaID:u16 RequestedData:u8 GPIPortNum:u16 GPOPortNum:u16"),
    3: spec("ResetToFactoryDefault:b1 -:b7"),
    **dict.fromkeys((4, 11, 12, 13, 14, 20, 26, 40, 44, 60, 61, 62, 63, 64, 72, 100), ()),
    **dict.fromkeys(range(30, 37), ()),
    **dict.fromkeys(range(50, 55), ()),
    **dict.fromkeys(range(21, 26), _ROSPEC_ID),
    **dict.fromkeys(range(41, 44), _ACCESSSPEC_ID),
    1023: spec("VendorIdentifier:u32 MessageSubtype:u8 data:rest"),
}
BARE: Final = {1, 14, *range(21, 27), *range(41, 45), 60, 62, 64, 72, 1023}
"""Types that hold no parameters: a byte behind their fields is damage."""
RESPONSES: Final = {4, 11, 12, 13, *range(30, 37), *range(50, 55), 100}
"""Types that begin with LLRPStatus."""


class MessageDecoder(Decoder):
    """Cuts a byte stream into messages.

    TCP is trusted, so damage means a broken peer or a recording with holes. After it, the next
    believable header is searched byte by byte.
    """

    max_frame = MAX_MESSAGE_BYTES

    def __init__(self) -> None:
        super().__init__()
        self._attempts = 0

    def cut(self, data: bytes, start: int) -> Cut | None:
        left = len(data) - start
        if left < HEADER_BYTES:
            return None
        length = _believable(data, start)
        if not length:
            return Cut(1)
        if left < length:
            return None
        try:
            frame = as_frame(data, start, start + length)
        except FrameError as error:
            # A cut message has the next one's header inside its claimed length, so that is searched; but
            # only so often, or bytes made for it would cost a parse of everything at each of their places.
            self._attempts = (self._attempts + 1) % MAX_ATTEMPTS
            return Cut(1 if self._attempts else length, damage=error.what)
        self._attempts = 0
        return Cut(length, frame)


def _believable(held: bytes, start: int) -> int:
    """Length of the message whose header stands at ``start``, or 0 where that is no header."""
    head = held[start] << 8 | held[start + 1]
    length = int.from_bytes(held[start + 2 : start + 6], "big")
    known = head >> 10 in VERSIONS and head & MAX_TYPE in BODIES
    return length if known and HEADER_BYTES <= length <= MAX_MESSAGE_BYTES else 0


def as_frame(data: bytes, start: int, end: int) -> Frame:
    """The sheet's names of the message that ``data[start:end]`` is, header and all.

    Raises:
        FrameError: the body breaks the standard; nothing of it may be used.
    """
    head = data[start] << 8 | data[start + 1]
    type_ = head & MAX_TYPE
    frame: Frame = {
        "ver": head >> 10,
        "type": type_,
        "id": int.from_bytes(data[start + 6 : start + HEADER_BYTES], "big"),
        "length": end - start,
    }
    return frame | _body(type_, data, start + HEADER_BYTES, end)


def _body(type_: int, data: bytes, start: int, end: int) -> Frame:
    cursor = Cursor(data, start, end)
    values = parse_fields(cursor, BODIES[type_])
    if type_ in BARE:
        if cursor.pos != end:
            raise FrameError(DEVICE, f"{end - cursor.pos} bytes behind message {type_}")
        return values
    params = parse(data, cursor.pos, end)
    if type_ in RESPONSES:
        return values | _status(params)
    return values | _SHAPES.get(type_, _plain)(params)


def _plain(params: Sequence[Param]) -> Frame:
    return {"params": [tree(param) for param in params]}


def tree(param: Param) -> Frame:
    """One parameter as a dict: its number, name and values, and what is inside."""
    return {
        "type": param.type,
        "name": param.name,
        **param.values,
        **({"params": [tree(p) for p in param.params]} if param.params else {}),
    }


def _status(params: Sequence[Param]) -> Frame:
    if not params or params[0].name != "LLRPStatus":
        raise FrameError(DEVICE, "a response without LLRPStatus")
    status = {**params[0].values, **{p.name: _error(p) for p in params[0].params}}
    return {"LLRPStatus": status, **_plain(params[1:])}


def _error(param: Param) -> Frame:
    return {**param.values, **{p.name: _error(p) for p in param.params}}


def value(param: Param) -> Any:
    """The one value of a parameter, all of them by name, or True where it has none."""
    if len(param.values) == 1 and not param.params:
        return next(iter(param.values.values()))
    if not param.values and not param.params:
        return True
    return {**param.values, **{p.name: value(p) for p in param.params}}


def _report(params: Sequence[Param]) -> Frame:
    tags = []
    for param in params:
        if param.name == "TagReportData":
            epcs = sum(p.name in ("EPC96", "EPCData") for p in param.params)
            if epcs != 1:
                raise FrameError(DEVICE, f"TagReportData with {epcs} EPCs")
            tags.append({p.name: value(p) for p in param.params})
    others = [p for p in params if p.name != "TagReportData"]
    return {"tags": tags, **(_plain(others) if others else {})}


def _event(params: Sequence[Param]) -> Frame:
    if len(params) != 1 or params[0].name != "ReaderEventNotificationData":
        raise FrameError(DEVICE, "a notification without ReaderEventNotificationData")
    return {"ReaderEventNotificationData": {p.name: value(p) for p in params[0].params}}


_SHAPES: Final[Mapping[int, Callable[[Sequence[Param]], Frame]]] = {
    MessageType.SET_READER_CONFIG: rospec.config_frame,
    MessageType.ADD_ROSPEC: rospec.rospec_frame,
    MessageType.RO_ACCESS_REPORT: _report,
    MessageType.READER_EVENT_NOTIFICATION: _event,
}
_BODY_TYPES: Final[Mapping[str, int]] = {
    "ROSpec": MessageType.ADD_ROSPEC,
    "TagReportData": MessageType.RO_ACCESS_REPORT,
    "ReaderEventNotificationData": MessageType.READER_EVENT_NOTIFICATION,
    "GeneralDeviceCapabilities": MessageType.GET_READER_CAPABILITIES_RESPONSE,
    "LLRPCapabilities": MessageType.GET_READER_CAPABILITIES_RESPONSE,
    "RegulatoryCapabilities": MessageType.GET_READER_CAPABILITIES_RESPONSE,
    "C1G2LLRPCapabilities": MessageType.GET_READER_CAPABILITIES_RESPONSE,
    "Identification": MessageType.GET_READER_CONFIG_RESPONSE,
    "AntennaProperties": MessageType.GET_READER_CONFIG_RESPONSE,
    "AntennaConfiguration": MessageType.GET_READER_CONFIG_RESPONSE,
}


def body_frame(body: bytes) -> Frame | None:
    """A body kept without its header, as some recordings do; its type follows from its first parameters.

    A body begins with a parameter, whose first six bits are 0 or whose first bit is 1: never a header of
    version 1 or 2. None where the bytes are no such body.
    """
    try:
        names = [param.name for param in parse(body)]
        first = names[1:2] if names[:1] == ["LLRPStatus"] else names[:1]
        type_ = _BODY_TYPES.get(first[0]) if first else None
        return None if type_ is None else {"body_of": type_, **_body(type_, body, 0, len(body))}
    except FrameError:
        return None


def encode(frame: Mapping[str, Any]) -> bytes | None:
    """Bytes of the client's message that a frame describes, or None where a client sends no such message.

    Of ADD_ROSPEC and SET_READER_CONFIG it knows what the driver and the sheet use.
    """
    type_ = int(frame.get("type", -1))
    if type_ == MessageType.ADD_ROSPEC:
        params = rospec.rospec_bytes(frame)
    elif type_ == MessageType.SET_READER_CONFIG:
        params = rospec.config_bytes(frame)
    elif type_ in BARE or type_ == MessageType.GET_READER_CONFIG:
        params = b""
    else:
        return None
    body = pack_fields(BODIES[type_], frame) + params
    head = int(frame.get("ver", 1)) << 10 | type_
    length = len(body) + HEADER_BYTES
    return (
        head.to_bytes(2, "big")
        + length.to_bytes(4, "big")
        + int(frame.get("id", 0)).to_bytes(4, "big")
        + body
    )
