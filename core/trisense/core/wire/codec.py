"""A whole bundle to bytes and back.

The body is one MessagePack array: vocabulary version, box, site, epoch, next_seq, low_seq,
samples_committed, a stream of bits, and, where there are any, the UTF-8 of all text and the blobs of
the media batches. The bits hold the heads, then the tables: shape and streams of each, how many
rows each batch has in each stream, then times, ordinals and columns. Streams of one shape with few
rows share a table, so that a live bundle pays for a column once per kind of device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from operator import mul
from typing import Any, Final, TypeAlias

import msgpack
from trisense.core import limits, vocabulary
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import BOX_ID, EPOCH_MAX, NAME, Batch, Counters, Sample, Stream
from trisense.core.wire import integers, lists
from trisense.core.wire.bits import BitReader, natural, to_bytes
from trisense.core.wire.blocks import Budget, Texts, read_table, write_table
from trisense.core.wire.bundle import Block, Bundle, Header
from trisense.core.wire.frame import open_frame, seal
from trisense.core.wire.heads import COUNTER_MAX, HEADS_MAX, read_heads, write_heads
from trisense.core.wire.integers import Operations
from trisense.core.wire.schema import (
    Names,
    Shape,
    read_shape,
    read_stream,
    shape_of,
    write_shape,
    write_stream,
)

__all__ = ["pack", "split", "unpack"]

Rows: TypeAlias = list[tuple[int, Sample]]
"""Rows of a stream, each with the index of its batch."""
Member: TypeAlias = tuple[Stream, Rows]
SHARED_ROWS: Final = 12
"""Streams of one shape share a table when they have fewer rows than this on average."""
PLAIN: Final = (int, str, str, int, int, int, int, bytes)
"""Types of the items of a body; where there is text or a blob, more bytes follow."""
BITS_BYTES: Final = limits.PAYLOAD_BYTES
"""Bits are dense already: more of them never fit a payload."""


def pack(header: Header, batches: Sequence[Batch]) -> bytes:
    """One self-contained bundle.

    Raises:
        ValueRefused: a value no bundle may carry.
        WireError: ``size`` where the bundle would break a limit.
    """
    counters = header.counters
    _check_header(header)
    members = _by_stream(batches)
    _check_size(members, len(batches))
    tables = _tables(members)
    names, texts, budget = Names(), bytearray(), Budget()
    parts = [write_heads(batches, counters), natural(len(tables))]
    counts = []
    for shape, same in tables:
        parts += [write_shape(shape, names), natural(len(same) - 1)]
        for stream, rows in same:
            parts.append(write_stream(stream.device, stream.site, names))
            own = [0] * len(batches)
            for index, _ in rows:
                own[index] += 1
            counts += own
    parts.append(integers.encode(counts))
    for shape, same in tables:
        samples = [sample for _, rows in same for _, sample in rows]
        parts.append(write_table(shape, samples, texts, budget))
    body: list[Any] = [
        vocabulary.VERSION,
        header.box,
        header.site,
        counters.epoch,
        counters.next_seq,
        counters.low_seq,
        counters.samples_committed,
        to_bytes("".join(parts)),
    ]
    if len(body[-1]) > BITS_BYTES:
        raise WireError("size", f"{len(body[-1])} bytes of bits")
    blobs = [batch.blob for batch in batches if batch.blob is not None]
    if texts or blobs:
        body += [bytes(texts), *blobs]
    packed: bytes = msgpack.packb(body)
    if len(packed) > limits.DECODED_BYTES:
        raise WireError("size", f"{len(packed)} bytes before compression")
    payload = seal(packed)
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


def unpack(payload: bytes) -> Bundle:
    """Decode one bundle: numpy arrays where numpy is installed, else lists.

    Raises:
        WireError: with the reason; nothing else, whatever the bytes are.
    """
    return decode(payload, operations())


@lru_cache(maxsize=1)
def operations() -> Operations:
    """The fastest there are."""
    if find_spec("numpy") is None:
        return lists
    from trisense.core.wire import arrays  # noqa: PLC0415  # a box has no numpy

    return arrays


def decode(payload: bytes, ops: Operations) -> Bundle:
    """``unpack`` with the given operations."""
    (vocabulary_version, box, site, *numbers, bits), (texts, *blobs) = _read_body(open_frame(payload))
    if vocabulary_version != vocabulary.VERSION:
        raise WireError("version", f"vocabulary {vocabulary_version}")
    counters = _read_counters(numbers)
    reader = ops.reader(bits)
    heads = read_heads(reader, counters, blobs)
    names = Names()
    tables = []
    series = 0
    for _ in range(reader.bounded(limits.BUNDLE_SERIES, "tables")):
        shape = read_shape(reader, names)
        size = reader.bounded(limits.BUNDLE_SERIES, "streams") + 1
        series += size * (len(shape.fields) + 1)
        if series > limits.BUNDLE_SERIES:
            raise WireError("size", f"{series} columns")
        tables.append([read_stream(reader, shape, names) for _ in range(size)])
    counts = _read_counts(reader, tables, len(heads), ops)
    source = Texts(texts)
    budget = Budget()
    blocks: list[Block] = []
    at = 0
    for streams in tables:
        own = counts[at : at + len(streams)]
        at += len(streams)
        blocks += read_table(reader, streams, own, source, budget, ops)
    source.check_end()
    samples = map(sum, zip(*counts, strict=True)) if counts else [0] * len(heads)
    whole = tuple(replace(head, samples=count) for head, count in zip(heads, samples, strict=True))
    return Bundle(box, site, counters, whole, tuple(blocks))


# Checks before packing -----------------------------------------------------------------------------


def _check_header(header: Header) -> None:
    if not BOX_ID.fullmatch(header.box):
        raise ValueRefused("box", f"{header.box!r} is no box id")
    if header.site and not NAME.fullmatch(header.site):
        raise ValueRefused("name", f"site {header.site!r}")
    counters = header.counters
    if not 0 <= counters.epoch <= EPOCH_MAX or not all(
        0 <= number <= COUNTER_MAX
        for number in (counters.next_seq, counters.low_seq, counters.samples_committed)
    ):
        raise ValueRefused("counters", repr(counters))


def _by_stream(batches: Sequence[Batch]) -> list[Member]:
    """The rows of each stream, in their order."""
    members: dict[Stream, Rows] = {}
    # Samples of a stream mostly share one object: its fields are hashed once, not once a row.
    by_object: dict[int, Rows] = {}
    for index, batch in enumerate(batches):
        for sample in batch.samples:
            rows = by_object.get(id(sample.stream))
            if rows is None:
                rows = by_object[id(sample.stream)] = members.setdefault(sample.stream, [])
            rows.append((index, sample))
    return list(members.items())


def _check_size(members: Sequence[Member], heads: int) -> None:
    rows = sum(len(own) for _, own in members)
    cells = sum(len(own) * len(stream.fields) for stream, own in members)
    series = sum(len(stream.fields) + 1 for stream, _ in members)
    if (
        rows > limits.BUNDLE_ROWS
        or heads > HEADS_MAX
        or series > limits.BUNDLE_SERIES
        or max(cells, len(members) * heads) > limits.BUNDLE_CELLS
    ):
        raise WireError("size", f"{heads} batches, {len(members)} streams, {rows} rows, {cells} cells")


def _tables(members: Sequence[Member]) -> list[tuple[Shape, list[Member]]]:
    """Streams of one shape together where they are short."""
    shapes: dict[Shape, list[Member]] = {}
    for member in members:
        shapes.setdefault(shape_of(member[0]), []).append(member)
    tables = []
    for shape, same in shapes.items():
        if sum(len(rows) for _, rows in same) < SHARED_ROWS * len(same):
            tables.append((shape, same))
        else:
            tables += [(shape, [member]) for member in same]
    return tables


# Reading -------------------------------------------------------------------------------------------


def _read_body(body: bytes) -> tuple[list[Any], list[bytes]]:
    """The items of a body: those that are always there, then text and blobs."""
    # Items are read one by one, so that no array within an array ever comes to life.
    unpacker = msgpack.Unpacker(
        max_buffer_size=limits.DECODED_BYTES,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        max_str_len=limits.NAME_BYTES,
    )
    try:
        unpacker.feed(body)
        size = unpacker.read_array_header()
        if not len(PLAIN) <= size <= len(PLAIN) + 1 + HEADS_MAX:
            raise WireError("body", f"{size} items")
        plain = [unpacker.unpack() for _ in PLAIN]
        extra = [unpacker.unpack() for _ in range(size - len(PLAIN))] or [b""]
    except (ValueError, msgpack.UnpackException, msgpack.BufferFull) as error:
        raise WireError("msgpack", str(error)[:200]) from error
    if unpacker.tell() != len(body):
        raise WireError("body", f"{len(body) - unpacker.tell()} bytes too many")
    if list(map(type, plain)) != list(PLAIN) or set(map(type, extra)) != {bytes}:
        raise WireError("body", "an item of another type")
    _, box, site, *_, bits = plain
    if not BOX_ID.fullmatch(box) or (site and not NAME.fullmatch(site)):
        raise WireError("name", f"box {box!r}, site {site!r}")
    if len(bits) > BITS_BYTES:
        raise WireError("size", f"{len(bits)} bytes of bits")
    return plain, extra


def _read_counters(numbers: Sequence[int]) -> Counters:
    counters = Counters(*numbers)
    if not 0 <= counters.epoch <= EPOCH_MAX or not all(0 <= n <= COUNTER_MAX for n in numbers[1:]):
        raise WireError("counters", repr(counters))
    return counters


def _read_counts(
    reader: BitReader, tables: Sequence[Sequence[Stream]], heads: int, ops: Operations
) -> list[tuple[int, ...]]:
    """Rows of each stream, batch by batch; all of them together within the limits."""
    streams = sum(map(len, tables))
    if streams * heads > limits.BUNDLE_CELLS:
        raise WireError("size", f"{streams} streams, {heads} batches")
    decoded = integers.decode(reader, streams * heads, ops).values
    low, high = ops.limits(decoded)
    if low < 0 or high > limits.BUNDLE_ROWS:
        raise WireError("counts", f"{low} to {high} rows")
    flat = ops.listed(decoded)
    counts = [tuple(flat[at : at + heads]) for at in range(0, len(flat), heads)] if heads else []
    rows = list(map(sum, counts))
    widths = [len(stream.fields) for table in tables for stream in table]
    if len(rows) != streams or not all(rows):
        raise WireError("counts", "a stream without rows")
    cells = sum(map(mul, rows, widths))
    if sum(rows) > limits.BUNDLE_ROWS or cells > limits.BUNDLE_CELLS:
        raise WireError("size", f"{sum(rows)} rows, {cells} cells")
    return counts
