"""Batches to bytes and back: blocks of columns in MessagePack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import msgpack
from trisense.core import limits, vocabulary
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import (
    BOX_ID,
    EPOCH_MAX,
    HASH_BYTES,
    NAME,
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Quality,
    Sample,
    Stream,
    check_value,
)
from trisense.core.wire.bundle import BatchHead, Block, Bundle, Column, Header
from trisense.core.wire.frame import open_frame, seal

__all__ = ["pack", "split", "unpack"]

VERSION: Final = 1
LAYERS: Final = tuple(Layer)
CLASSES: Final = tuple(BatchClass)
TYPES: Final = tuple(FieldType)
CODES: Final = frozenset(Quality) - {Quality.GOOD}
UNIT: Final = re.compile(r"[!-~]{0,64}")
COUNTER_MAX: Final = 2**63 - 1
ORDINAL_MAX: Final = 2**31 - 1

Wire = Any  # what MessagePack holds: checked value by value below
T = TypeVar("T")


def pack(header: Header, batches: Sequence[Batch]) -> bytes:
    """One self-contained bundle.

    Raises:
        ValueRefused: a value no bundle may carry.
        WireError: ``size`` where the bundle would break a limit.
    """
    if not BOX_ID.fullmatch(header.box):
        raise ValueRefused("box", f"{header.box!r} is no box id")
    blocks: dict[Stream, list[tuple[int, Sample]]] = {}
    for index, batch in enumerate(batches):
        for sample in batch.samples:
            blocks.setdefault(sample.stream, []).append((index, sample))
    rows = sum(len(members) for members in blocks.values())
    cells = sum(len(members) * len(stream.fields) for stream, members in blocks.items())
    if rows > limits.BUNDLE_ROWS or cells > limits.BUNDLE_CELLS:
        raise WireError("size", f"{rows} rows, {cells} cells")
    counters = header.counters
    body = msgpack.packb(
        [
            VERSION,
            vocabulary.VERSION,
            header.box,
            header.site,
            [counters.epoch, counters.next_seq, counters.low_seq, counters.samples_committed],
            [_head(batch) for batch in batches],
            [_block(stream, members) for stream, members in blocks.items()],
        ]
    )
    if len(body) > limits.DECODED_BYTES:
        raise WireError("size", f"{len(body)} bytes before compression")
    payload = seal(body)
    if len(payload) > limits.PAYLOAD_BYTES:
        raise WireError("size", f"payload of {len(payload)} bytes")
    return payload


def split(header: Header, batches: Sequence[Batch]) -> list[tuple[bytes, tuple[Batch, ...]]]:
    """Bundles within the limits that together carry all batches, in their order.

    Raises:
        ValueRefused: a value no bundle may carry.
        WireError: ``too_large``: one batch alone breaks a limit.
    """
    if not batches:
        return []
    try:
        return [(pack(header, batches), tuple(batches))]
    except ValueRefused:
        raise
    except WireError as error:
        if len(batches) == 1:
            raise WireError("too_large", f"batch {batches[0].seq}: {error}") from error
    middle = len(batches) // 2
    return split(header, batches[:middle]) + split(header, batches[middle:])


def _head(batch: Batch) -> Wire:
    if len(batch.hash) != HASH_BYTES:
        raise ValueRefused("hash", f"{len(batch.hash)} bytes")
    return [
        batch.epoch,
        batch.seq,
        CLASSES.index(batch.batch_class),
        batch.clock.synced,
        batch.clock.error_ms,
        batch.hash,
        len(batch.samples),
        batch.blob,
    ]


def _block(stream: Stream, members: list[tuple[int, Sample]]) -> Wire:
    for name in (stream.device, stream.measurement, *(f.name for f in stream.fields)):
        _named(name)
    counts: list[int] = []
    for index, _ in members:
        if counts and counts[-2] == index:
            counts[-1] += 1
        else:
            counts += [index, 1]
    times = []
    for _, sample in members:
        if sample.time_ns % stream.tick_ns or not limits.TIME_MIN_NS <= sample.time_ns <= limits.TIME_MAX_NS:
            raise ValueRefused("time", f"{sample.time_ns} ns")
        if not 0 <= sample.n <= ORDINAL_MAX:
            raise ValueRefused("ordinal", str(sample.n))
        times.append(sample.time_ns // stream.tick_ns)
    columns = []
    for at, field in enumerate(stream.fields):
        values = [check_value(sample.values[at], field.type) for _, sample in members]
        columns.append(values)
    quality = [[row, *code] for row, (_, s) in enumerate(members) for code in s.quality]
    for _, at, code in quality:
        if code not in CODES or not 0 <= at < len(stream.fields):
            raise ValueRefused("quality", f"code {code} of field {at}")
    return [
        stream.device,
        stream.measurement,
        LAYERS.index(stream.layer),
        stream.site,
        stream.tick_ns,
        [[f.name, None if _known(f) else f.unit, TYPES.index(f.type)] for f in stream.fields],
        counts,
        [b - a for a, b in zip([0, *times], times, strict=False)],
        [s.n for _, s in members] if any(s.n for _, s in members) else [],
        columns,
        quality,
    ]


def _known(field: Field) -> bool:
    known = vocabulary.PROPERTIES.get(field.name)
    return known is not None and known.unit == field.unit


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueRefused("name", repr(name))
    return name


def unpack(payload: bytes) -> Bundle:
    """Decode one bundle.

    Raises:
        WireError: with the reason; nothing else, whatever the bytes are.
    """
    body = open_frame(payload)
    try:
        parts = msgpack.unpackb(body, strict_map_key=True, use_list=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError("msgpack", str(error)[:200]) from error
    version, vocabulary_version, box, site, counters, heads, blocks = _list(parts, 7)
    if version != VERSION or vocabulary_version != vocabulary.VERSION:
        raise WireError("version", f"{version!r}, vocabulary {vocabulary_version!r}"[:80])
    if not BOX_ID.fullmatch(_text(box)):
        raise WireError("box", repr(box)[:80])
    if _text(site) and not NAME.fullmatch(site):
        raise WireError("site", repr(site)[:80])
    found = tuple(_unhead(head) for head in _list(heads))
    budget = [limits.BUNDLE_ROWS, limits.BUNDLE_CELLS]
    tables = tuple(_unblock(block, len(found), budget) for block in _list(blocks))
    samples = [0] * len(found)
    for table in tables:
        for index, count in table.counts:
            samples[index] += count
    if samples != [head.samples for head in found]:
        raise WireError("counts", "rows of the blocks and of the batches differ")
    epoch, next_seq, low_seq, committed = _list(counters, 4)
    return Bundle(
        box,
        site,
        Counters(
            _int(epoch, 0, EPOCH_MAX),
            _int(next_seq, 0, COUNTER_MAX),
            _int(low_seq, 0, COUNTER_MAX),
            _int(committed, 0, COUNTER_MAX),
        ),
        found,
        tables,
    )


def _unhead(head: Wire) -> BatchHead:
    epoch, seq, class_, synced, error_ms, digest, samples, blob = _list(head, 8)
    if not isinstance(digest, bytes) or len(digest) != HASH_BYTES:
        raise WireError("hash", repr(digest)[:80])
    if not isinstance(synced, bool) or not isinstance(blob, bytes | None):
        raise WireError("type", "head")
    return BatchHead(
        _int(epoch, 0, EPOCH_MAX),
        _int(seq, 0, COUNTER_MAX),
        CLASSES[_int(class_, 0, len(CLASSES) - 1)],
        ClockState(synced, None if error_ms is None else _int(error_ms, 0, COUNTER_MAX)),
        digest,
        _int(samples, 0, limits.BUNDLE_ROWS),
        blob,
    )


def _unblock(block: Wire, heads: int, budget: list[int]) -> Block:
    device, measurement, layer, site, tick, fields, counts, times, ordinals, columns, quality = _list(
        block, 11
    )
    stream = Stream(
        _name(device),
        _name(measurement),
        LAYERS[_int(layer, 0, len(LAYERS) - 1)],
        tuple(_unfield(field) for field in _list(fields)),
        _name(site) if site else _text(site),
        _int(tick, 1, 10**15),
    )
    rows = len(_list(times))
    budget[0] -= rows
    budget[1] -= rows * len(stream.fields)
    if min(budget) < 0:
        raise WireError("size", "more rows or cells than a bundle may hold")
    flat = [_int(v, 0, limits.BUNDLE_ROWS) for v in _list(counts)]
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True)) if len(flat) % 2 == 0 else ()
    if sum(count for _, count in pairs) != rows or any(index >= heads for index, _ in pairs):
        raise WireError("counts", f"{rows} rows")
    stamps, tick_count = [], 0
    for delta in times:
        tick_count += _int(delta, -limits.TIME_MAX_NS, limits.TIME_MAX_NS)
        stamps.append(_int(tick_count * stream.tick_ns, limits.TIME_MIN_NS, limits.TIME_MAX_NS))
    numbers = [_int(v, 0, ORDINAL_MAX) for v in _list(ordinals)] or [0] * rows
    if len(numbers) != rows:
        raise WireError("counts", "ordinals")
    codes: list[dict[int, int]] = [{} for _ in stream.fields]
    for item in _list(quality):
        row, at, code = _list(item, 3)
        code = _int(code, 2, 9)
        if code not in CODES:
            raise WireError("quality", str(code))
        codes[_int(at, 0, len(stream.fields) - 1)][_int(row, 0, rows - 1)] = code
    return Block(
        stream,
        pairs,
        _array(stamps, FieldType.INT),
        _array(numbers, FieldType.INT),
        tuple(
            _column(field, _list(values, rows), code)
            for field, values, code in zip(
                stream.fields, _list(columns, len(stream.fields)), codes, strict=True
            )
        ),
    )


def _unfield(field: Wire) -> Field:
    name, unit, type_ = _list(field, 3)
    if unit is None:
        known = vocabulary.PROPERTIES.get(_name(name))
        if known is None:
            raise WireError("unit", f"{name} has none")
        unit = known.unit
    elif not UNIT.fullmatch(_text(unit)):
        raise WireError("unit", repr(unit)[:80])
    return Field(_name(name), unit, TYPES[_int(type_, 0, len(TYPES) - 1)])


def _column(field: Field, values: list[Wire], quality: dict[int, int]) -> Column:
    try:
        checked = [check_value(value, field.type) for value in values]
    except ValueRefused as error:
        raise WireError(error.reason, str(error)) from error
    nulls = [row for row, value in enumerate(checked) if value is None]
    if field.type is not FieldType.STR:
        for row in nulls:
            checked[row] = 0
        return Column(field, _array(checked, field.type, nulls), nulls, quality)
    return Column(field, checked, nulls, quality)


def _array(values: list[Any], type_: FieldType, nulls: Sequence[int] = ()) -> Any:
    if find_spec("numpy") is None:
        for row in nulls:
            values[row] = None
        return values
    import numpy as np  # noqa: PLC0415  # an edge box has no numpy

    return np.array(values, dtype=np.int64 if type_ is FieldType.INT else np.float64)


def _check(kind: type[T], value: Wire) -> T:
    if type(value) is not kind:
        raise WireError("type", f"expected {kind}, got {value!r:.80}")
    return value


def _text(value: Wire) -> str:
    return _check(str, value)


def _name(value: Wire) -> str:
    if not NAME.fullmatch(_text(value)):
        raise WireError("name", repr(value)[:80])
    return str(value)


def _int(value: Wire, low: int, high: int) -> int:
    number = _check(int, value)
    if not low <= number <= high:
        raise WireError("range", f"{number} is not within {low}..{high}")
    return number


def _list(value: Wire, length: int | None = None) -> list[Wire]:
    items = _check(list, value)
    if length is not None and len(items) != length:
        raise WireError("length", f"expected {length} items, got {len(items)}")
    return items
