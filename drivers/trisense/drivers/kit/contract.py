"""``conformance.toml``: what the kit plays to a driver, and the rows that must come of it.

It lies beside a driver's ``sample.toml``. The examples come from the maker's document or from a capture,
never out of the driver itself: they are what the driver is measured by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from trisense.core.config import ConfigModel
from trisense.core.model import Quality, Value

__all__ = ["CELLS", "Bytes", "CellName", "Conformance", "Example", "Exchange", "Pattern", "Row"]

CellName = Literal[
    "examples",
    "silence",
    "slow drip",
    "noise before",
    "noise between",
    "noise inside",
    "checksum",
    "truncated",
    "duplicates",
    "wrong unit",
    "hang-up",
    "return",
    "clock steps",
    "cancel",
]
CELLS: Final[Mapping[CellName, str]] = {
    "examples": "each example gives exactly its rows",
    "silence": "a device that says nothing is a DeviceError in time, and good rows when it speaks again",
    "slow drip": "bytes that come one by one",
    "noise before": "noise before the first frame",
    "noise between": "noise between frames",
    "noise inside": "bytes inserted into a frame: nothing of it is told",
    "checksum": "one bit turned: nothing of the frame is told",
    "truncated": "frames that end early: nothing of them is told",
    "duplicates": "a frame that comes twice is never the answer to the next question",
    "wrong unit": "a good frame of another unit is not ours",
    "hang-up": "the device goes in the middle of a frame: a DeviceError, also while it is away",
    "return": "it comes back as another device node (TCP: a new listener) and is read again",
    "clock steps": "the wall clock jumps: same rows, and no time of it in them",
    "cancel": "cancelled at each await, close() too: it returns, nothing is left behind, the next one works",
}
"""The conformance matrix, in the order it is run."""

WILD: Final = re.compile(r"\?\?|[0-9A-Fa-f]{2}")


def _bytes(value: object) -> object:
    """Hex digits with spaces, ``{ text = "..." }``, or a list of both, joined."""
    if isinstance(value, str):
        try:
            return bytes.fromhex(value)
        except ValueError as error:
            raise ValueError('bytes as hex digits "42 4d", or as { text = "R1234\\r" }') from error
    if isinstance(value, Mapping) and set(value) == {"text"} and isinstance(value["text"], str):
        return value["text"].encode()
    if isinstance(value, list):
        parts = [_bytes(part) for part in value]
        if all(isinstance(part, bytes) for part in parts):
            return b"".join(part for part in parts if isinstance(part, bytes))
    if isinstance(value, bytes):
        return value
    raise ValueError('bytes as hex digits "42 4d", { text = "R1234\\r" }, or a list of them')


def _pattern(value: object) -> object:
    """As ``_bytes``; in hex, ``??`` stands for any byte."""
    if isinstance(value, re.Pattern):
        return value
    if isinstance(value, str):
        text = "".join(value.split())
        pairs = WILD.findall(text)
        if "".join(pairs) != text or not pairs:
            raise ValueError('hex digits, ?? for any byte: "02 ?? 03"')
        parts = [b"." if pair == "??" else re.escape(bytes.fromhex(pair)) for pair in pairs]
        return re.compile(b"".join(parts), re.DOTALL)
    literal = _bytes(value)
    if not literal:
        raise ValueError("at least one byte")
    return re.compile(re.escape(literal), re.DOTALL) if isinstance(literal, bytes) else literal


Bytes = Annotated[bytes, BeforeValidator(_bytes)]
Pattern = Annotated[re.Pattern[bytes], BeforeValidator(_pattern)]


class Exchange(ConfigModel):
    """What the device answers."""

    ask: Pattern
    """Bytes in what the host sends."""
    reply: Bytes
    """What the device says when it has heard them."""


class Row(ConfigModel):
    """One row that must come of an example."""

    measurement: str
    values: Mapping[str, Value]
    """The fields that are checked; others may stand in the row too."""
    quality: Mapping[str, Quality] = {}
    """Codes that are checked. A field with 9 (missing) has no value, so it stands here alone."""
    optional: bool = False
    """It may come and need not: an event, a summary by time."""


class Example(ConfigModel):
    """What a device said in one case, and what that means."""

    source: str
    """Where it stands: document and page, or who captured it when."""
    frames: tuple[Bytes, ...] = ()
    """What the device sends by itself, frame by frame."""
    exchange: tuple[Exchange, ...] = ()
    """What it answers, in the order it is asked: ``{ ask = ..., reply = ... }``."""
    rows: tuple[Row, ...]
    """What must come of it, in order: ``{ measurement = ..., values = { ... } }``. The fields named must be
    equal. ``quality = { pm10 = 9 }`` checks codes (9: no value); ``optional = true``: it need not come."""
    checked: tuple[int, int] | None = None
    """Which bytes of a frame (or reply) its check covers: [first, behind the last], as a Python slice; left
    out: all. Damage elsewhere cannot be seen by anybody, so none is done there."""
    device: Mapping[str, Any] = {}
    """Options that this example needs, such as another model."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.frames) == bool(self.exchange):
            raise ValueError("frames (what it sends by itself) or exchange (what it answers), one of both")
        if not any(self.frames) and not any(one.reply for one in self.exchange):
            raise ValueError("at least one frame or reply with bytes in it")
        return self


class Conformance(ConfigModel):
    """The whole file."""

    transport: Literal["pty", "tcp", "none"] = "pty"
    """What the device is played on; ``none`` is for a driver that reads no bytes from any line."""
    reason: str = ""
    """Of ``none``: why no test makes sense."""
    line: str = ""
    """What the driver's option says, with {path} of the pty or {port} of the socket; left out:
    ``serial://{path}`` or ``tcp://127.0.0.1:{port}``."""
    line_key: str = "line"
    """The driver's option that takes it."""
    device: Mapping[str, Any] = {}
    """Options of the driver under test, beside name, driver and line. ``timeout_s`` is 0.3 if not here."""
    greeting: Bytes = b""
    """What the device says when a host connects (TCP)."""
    starts_with: Pattern | None = None
    """The device sends frames only after it has heard this; left out: at once."""
    exchange: tuple[Exchange, ...] = ()
    """What it answers in every example, undamaged: a handshake, as ``[[exchange]]`` with ask and reply."""
    settle: Annotated[int, Field(ge=0, le=100)] = 0
    """Examples after each connection that may give no rows: what the driver must have seen to be sure."""
    foreign: tuple[Bytes, ...] = ()
    """Frames or replies, good in themselves, of a unit that is not ours. None of them may become a row."""
    not_applicable: Mapping[CellName, str] = {}
    """Tests that make no sense for this protocol, each with the reason."""
    example: tuple[Example, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        empty = [name for name, reason in self.not_applicable.items() if not reason.strip()]
        if empty:
            raise ValueError(f"a reason for {', '.join(empty)}")
        if self.transport == "none" and not self.reason.strip():
            raise ValueError('a reason for transport = "none"')
        if (self.transport == "none") is bool(self.example):
            raise ValueError('at least one [[example]], or transport = "none" and none')
        return self
