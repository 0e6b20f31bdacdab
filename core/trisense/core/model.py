"""What travels: streams, samples, batches. The words are those of the glossary in the README.

Nothing here knows bytes (see ``wire``) or where samples come from (see ``trisense.drivers``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property
from itertools import groupby
from typing import Final, TypeAlias

import msgpack
from trisense.core import limits
from trisense.core.errors import ValueRefused

__all__ = [
    "BOX_DEVICE",
    "BOX_ID",
    "NAME",
    "RESERVED",
    "Batch",
    "BatchClass",
    "ClockState",
    "Counters",
    "Field",
    "FieldType",
    "Layer",
    "Quality",
    "Sample",
    "Stream",
    "Value",
    "batch_hash",
    "check_value",
]

Value: TypeAlias = int | float | str | None
"""One cell. ``bool`` is no value: a flag is the integer 0 or 1."""

BOX_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""Full match of a box id: safe in a topic, a file name and a certificate's common name."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Full match of a device, measurement, field or site name."""
RESERVED: Final = frozenset({"site", "box", "device", "layer", "time", "n", "clock_code", "clock_error_ms"})
"""Columns and tags of every stored row: a field of that name would be taken for one, and is refused."""
BOX_DEVICE: Final = "box"
"""Device name of what a box says of itself (declared loss, health); no device may take it."""

HASH_BYTES: Final = 8
EPOCH_MAX: Final = 2**64 - 1


class Layer(StrEnum):
    GROUND = "ground"
    AIR = "air"
    SKY = "sky"


class Quality(IntEnum):
    """QARTOD flag of one reading. Only codes other than GOOD travel and are stored."""

    GOOD = 1
    NOT_EVALUATED = 2
    SUSPECT = 3
    FAIL = 4
    MISSING = 9


class BatchClass(StrEnum):
    ALARM = "alarm"
    DATA = "data"
    MEDIA = "media"


class FieldType(StrEnum):
    INT = "int"
    FLOAT = "float"
    STR = "str"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a stream."""

    name: str
    unit: str = "1"
    """UCUM code; ``1`` for a pure number, empty for text."""
    type: FieldType = FieldType.FLOAT
    resolution: float | None = None
    """Step of the hardware in ``unit``, where it has one."""
    valid: tuple[float | None, float | None] | None = None
    """Lowest and highest possible value; outside it a reading keeps its value with code 4.
    None: the range the vocabulary gives to this name."""


@dataclass(frozen=True)
class Stream:
    """A table that one device produces. Two streams are equal when all they say is equal."""

    device: str
    measurement: str
    layer: Layer
    fields: tuple[Field, ...]
    site: str = ""
    """Empty: the site of the box."""
    tick_ns: int = 1_000_000
    """Every sample's time is a multiple of it."""

    @cached_property
    def key(self) -> tuple[str, str]:
        """(device, measurement): unique on a box."""
        return (self.device, self.measurement)

    def __hash__(self) -> int:
        # Equal streams have equal keys; all fields would cost a microsecond each, many times a batch.
        return hash(self.key)

    @cached_property
    def said(self) -> tuple[object, ...]:
        """What a batch's hash covers of it."""
        fields = tuple((f.name, f.unit, f.type.value) for f in self.fields)
        return (self.device, self.measurement, self.site, self.layer.value, fields)

    @cached_property
    def texts(self) -> tuple[int, ...]:
        """Indices of the fields that hold text."""
        return tuple(index for index, field in enumerate(self.fields) if field.type is FieldType.STR)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a stream. (stream, time_ns, n) is unique for ever."""

    stream: Stream
    time_ns: int
    """UTC, nanoseconds since 1970, a multiple of the stream's tick."""
    values: tuple[Value, ...]
    """One per field of the stream, in its order."""
    n: int = 0
    """Ordinal among samples of one stream at one time."""
    quality: tuple[tuple[int, int], ...] = ()
    """(field index, code) for each field whose code is not GOOD, by rising index."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.stream.fields):
            raise ValueRefused(
                "column_count",
                f"{self.stream.key}: {len(self.stream.fields)} fields, {len(self.values)} values",
            )


@dataclass(frozen=True, slots=True)
class ClockState:
    """How far the box's clock could be trusted when a batch was cut."""

    synced: bool = True
    error_ms: int | None = None
    """Estimated error, or None where nobody can say."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a box reports of its spool's current epoch with every bundle and birth."""

    epoch: int
    next_seq: int
    """The next batch of this epoch will carry it: all below have been committed."""
    low_seq: int
    """Everything below it has been receipted or declared lost."""
    samples_committed: int
    """Samples ever committed in this epoch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that were committed together; identity (box, epoch, seq). Never re-cut."""

    epoch: int
    seq: int
    batch_class: BatchClass
    clock: ClockState
    samples: tuple[Sample, ...]
    hash: bytes
    """Eight bytes over the canonical rows, see ``batch_hash``."""
    blob: bytes | None = None
    """The picture of a media batch; the sample beside it carries its SHA-256."""


def batch_hash(samples: Iterable[Sample]) -> bytes:
    """Digest of the canonical rows of a batch, 8 bytes.

    Canonical: streams by key, rows by (time, n), each with its stream's description, so the
    same identity with another hash is another content: a fork, never a duplicate.
    """
    ordered = sorted(samples, key=lambda s: (s.stream.key, s.time_ns, s.n))
    rows: list[object] = []
    for _, group in groupby(ordered, key=lambda s: s.stream.key):
        members: Sequence[Sample] = list(group)
        # Lists and tuples are one in MessagePack.
        cells = [(s.time_ns, s.n, s.values, s.quality) for s in members]
        rows.append((*members[0].stream.said, cells))
    return hashlib.blake2b(msgpack.packb(rows), digest_size=HASH_BYTES).digest()


def check_value(value: Value, type_: FieldType) -> Value:
    """Return the value as a bundle may carry it, or raise.

    An int in a float field becomes that float where this loses nothing.

    Raises:
        ValueRefused: NaN, infinity, beyond 64 bits, text too long or not UTF-8, or another type.
    """
    if value is None:
        return None
    if type_ is FieldType.FLOAT and type(value) in (int, float):
        return _check_float(value)  # type: ignore[arg-type]  # narrowed by type() above
    if type_ is FieldType.INT and type(value) is int:
        if not limits.INT_MIN <= value <= limits.INT_MAX:
            raise ValueRefused("int_range", f"{value} is beyond 64 bits")
        return value
    if type_ is FieldType.STR and type(value) is str:
        return _check_text(value)
    raise ValueRefused("type", f"expected {type_.value}, got {type(value).__name__} {value!r:.40}")


def _check_float(value: float) -> float:
    if type(value) is int:
        if abs(value) > 2**53:
            raise ValueRefused("int_in_float", f"{value} has no exact float")
        return float(value)
    if value - value != 0.0:
        raise ValueRefused("not_finite", repr(value))
    return value


def _check_text(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueRefused("text_encoding", str(error)) from error
    if size > limits.TEXT_BYTES:
        raise ValueRefused("text_length", f"{size} bytes, at most {limits.TEXT_BYTES}")
    return value
