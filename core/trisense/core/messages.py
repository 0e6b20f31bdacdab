"""Messages beside bundles: receipts and declared loss (MessagePack), birth and state (JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Strict, ValidationError
from pydantic import Field as Constrained
from trisense.core.errors import WireError
from trisense.core.model import BOX_DEVICE, EPOCH_MAX, Counters, Field, FieldType, Layer, Stream

__all__ = [
    "CALIBRATION",
    "LOSS",
    "Birth",
    "CalibrationBirth",
    "DeviceBirth",
    "EpochReceipt",
    "FieldBirth",
    "GatewayState",
    "Position",
    "State",
    "StreamBirth",
    "merged",
    "pack_receipts",
    "unpack_receipts",
]

RECEIPT_BYTES: Final = 64 * 1024
SEQ_MAX: Final = 2**63 - 1

LOSS: Final = Stream(
    device=BOX_DEVICE,
    measurement="loss",
    layer=Layer.GROUND,
    fields=(
        Field("epoch", "", FieldType.STR),
        Field("first", "1", FieldType.INT),
        Field("last", "1", FieldType.INT),
        Field("samples", "1", FieldType.INT),
        Field("stream", "", FieldType.STR),
        Field("t0", "", FieldType.STR),
        Field("t1", "", FieldType.STR),
        Field("reason", "", FieldType.STR),
    ),
)
"""Declared loss: a sample like any other, in a batch of class alarm. ``epoch`` is 16 hex digits,
``samples`` null where the count is unknown, ``t0`` and ``t1`` ISO 8601 UTC or null."""

CALIBRATION: Final = Stream(
    device=BOX_DEVICE,
    measurement="calibration",
    layer=Layer.GROUND,
    fields=(
        Field("source", "", FieldType.STR),
        Field("field", "", FieldType.STR),
        Field("version", "", FieldType.STR),
        Field("hash", "", FieldType.STR),
        Field("state", "", FieldType.STR),
        Field("valid_from", "", FieldType.STR),
        Field("valid_to", "", FieldType.STR),
        Field("uncertainty", "", FieldType.FLOAT),
    ),
)
"""By what the values of a field are made from this time on, said at the start of a device and at each
change. ``source`` is the device, ``field`` is ``MEASUREMENT.FIELD``, ``state`` is valid, expired or early,
the rest is ``CalibrationBirth``."""


@dataclass(frozen=True, slots=True)
class EpochReceipt:
    """The gateway's word on batches of one epoch of one box."""

    epoch: int
    stored: tuple[tuple[int, int], ...] = ()
    """Inclusive (first, last) ranges of seq."""
    refused: tuple[tuple[int, str, int], ...] = field(default=())
    """(seq, reason code, samples)."""


def pack_receipts(receipts: Sequence[EpochReceipt]) -> bytes:
    body = [
        {"epoch": r.epoch, "stored": [list(s) for s in r.stored], "refused": [list(x) for x in r.refused]}
        for r in receipts
    ]
    packed: bytes = msgpack.packb({"v": 1, "receipts": body})
    return packed


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Seq = Annotated[int, Constrained(ge=0, le=SEQ_MAX)]


# MessagePack has arrays only, so a strict tuple would never match.
_Refused = Annotated[tuple[_Seq, Annotated[str, Constrained(max_length=64)], _Seq], Strict(False)]


class _EpochReceiptIn(_Strict):
    epoch: Annotated[int, Constrained(ge=0, le=EPOCH_MAX)]
    stored: list[Annotated[list[_Seq], Constrained(min_length=2, max_length=2)]]
    refused: list[_Refused]


class _ReceiptsIn(_Strict):
    v: Literal[1]
    receipts: Annotated[list[_EpochReceiptIn], Constrained(max_length=1024)]


def unpack_receipts(payload: bytes) -> list[EpochReceipt]:
    """Decode what ``pack_receipts`` made.

    Raises:
        WireError: too long, not MessagePack, or not of that form.
    """
    if len(payload) > RECEIPT_BYTES:
        raise WireError("size", f"receipt of {len(payload)} bytes")
    try:
        parsed = _ReceiptsIn.model_validate(msgpack.unpackb(payload, strict_map_key=True))
    except (ValueError, ValidationError, msgpack.UnpackException) as error:
        raise WireError("receipt", str(error)[:200]) from error
    for r in parsed.receipts:
        if any(first > last for first, last in r.stored):
            raise WireError("receipt", "a range runs backward")
    return [
        EpochReceipt(r.epoch, tuple((a, b) for a, b in r.stored), tuple(r.refused)) for r in parsed.receipts
    ]


def merged(receipts: Sequence[EpochReceipt]) -> list[EpochReceipt]:
    """The same, each epoch once and no two ranges of it that overlap: whoever repeats himself a thousand
    times in one message must not have the disk searched a thousand times.
    """
    stored: dict[int, list[tuple[int, int]]] = {}
    refused: dict[int, dict[int, tuple[int, str, int]]] = {}
    for receipt in receipts:
        stored.setdefault(receipt.epoch, []).extend(receipt.stored)
        refused.setdefault(receipt.epoch, {}).update((entry[0], entry) for entry in receipt.refused)
    return [
        EpochReceipt(epoch, _joined(ranges), tuple(refused[epoch].values()))
        for epoch, ranges in stored.items()
    ]


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


class _Json(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Position(_Json):
    """WGS 84 degrees; height in metres above the ellipsoid where known."""

    latitude: Annotated[float, Constrained(ge=-90, le=90)]
    longitude: Annotated[float, Constrained(ge=-180, le=180)]
    height_m: float | None = None


class CalibrationBirth(_Json):
    """What a calibration certificate says of itself; times are ISO 8601 UTC."""

    version: str
    """Its number or name, as people call it."""
    hash: str
    """Sixteen hex digits over its content: another calibration has another."""
    valid_from: str
    valid_to: str
    uncertainty: float
    """Expanded (k = 2), in the unit of the field."""
    by: str


class FieldBirth(_Json):
    name: str
    unit: str
    type: FieldType
    calibration: list[CalibrationBirth] = []
    """The certificates its values are made by, in the order of their time; the stream ``box/calibration``
    says from when each was in use."""


class StreamBirth(_Json):
    measurement: str
    fields: list[FieldBirth]


class DeviceBirth(_Json):
    name: str
    driver: str
    layer: Layer
    site: str
    position: Position | None = None
    streams: list[StreamBirth]


class CountersJson(_Json):
    epoch: Annotated[int, Constrained(ge=0, le=EPOCH_MAX)]
    next_seq: _Seq
    low_seq: _Seq
    samples_committed: _Seq

    @classmethod
    def of(cls, counters: Counters) -> CountersJson:
        return cls(
            epoch=counters.epoch,
            next_seq=counters.next_seq,
            low_seq=counters.low_seq,
            samples_committed=counters.samples_committed,
        )


class Birth(_Json):
    """What a box is, retained: sent at each connect and after a change of configuration."""

    v: Literal[1] = 1
    box: str
    site: str
    position: Position | None = None
    version: str
    config_hash: str
    counters: list[CountersJson]
    """Every epoch the spool still knows, the current one last."""
    devices: list[DeviceBirth]
    alarms: list[str] | None = None
    """Names of the alarm rules at work: an alarm of any other is void. None: nothing is said of them."""


class State(_Json):
    """Online or offline, retained; the offline form is the connection's will."""

    v: Literal[1] = 1
    online: bool
    boot_id: str
    since: str
    """ISO 8601 UTC by the box's own clock: when its program began, or when it left in order. In a will when
    its connection was made, so that it is offline since then or later.
    """


class GatewayState(_Json):
    """A gateway worker's word, retained. With no worker online a box pauses its bulk lanes."""

    v: Literal[1] = 1
    online: bool
    credit: int | None = None
    """Bulk bundles a box may have in flight; None: the box's own limit."""
