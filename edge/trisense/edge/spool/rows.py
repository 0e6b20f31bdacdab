"""How the spool keeps streams and rows: small, self-checking, against a table of streams."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

import msgpack
from trisense.core.model import Field, FieldType, Layer, Sample, Stream

__all__ = ["checksum", "pack_rows", "pack_stream", "unpack_rows", "unpack_stream"]

LEVEL: Final = 1
"""zlib at its quickest: rows live here for a day and are packed anew for the wire."""


def pack_stream(stream: Stream) -> bytes:
    fields = [
        [f.name, f.unit, f.type.value, f.resolution, None if f.valid is None else list(f.valid)]
        for f in stream.fields
    ]
    packed: bytes = msgpack.packb(
        [stream.device, stream.measurement, stream.site, stream.layer.value, stream.tick_ns, fields]
    )
    return packed


def unpack_stream(description: bytes) -> Stream:
    """What ``pack_stream`` made; the caller has checked that the bytes are whole."""
    device, measurement, site, layer, tick_ns, fields = msgpack.unpackb(description)
    return Stream(
        device=device,
        measurement=measurement,
        layer=Layer(layer),
        fields=tuple(
            Field(name, unit, FieldType(kind), resolution, None if valid is None else tuple(valid))
            for name, unit, kind, resolution, valid in fields
        ),
        site=site,
        tick_ns=tick_ns,
    )


def pack_rows(samples: Sequence[Sample], stream_id: Callable[[Stream], int]) -> bytes:
    """Rows grouped by stream: [id, times, ordinals or nil, values row by row, [row, field, code]...]."""
    groups: list[list[Any]] = []
    for _, members in groupby(sorted(samples, key=lambda s: s.stream.key), key=lambda s: s.stream.key):
        rows = list(members)
        times = [s.time_ns // s.stream.tick_ns for s in rows]
        steps = times[:1] + [b - a for a, b in pairwise(times)]
        ordinals = [s.n for s in rows] if any(s.n for s in rows) else None
        values = [v for s in rows for v in s.values]
        codes = [[i, *q] for i, s in enumerate(rows) for q in s.quality]
        groups.append([stream_id(rows[0].stream), steps, ordinals, values, codes])
    return zlib.compress(msgpack.packb(groups), LEVEL)


def unpack_rows(packed: bytes, stream: Callable[[int], Stream]) -> tuple[Sample, ...]:
    """What ``pack_rows`` made; the caller has checked that the bytes are whole."""
    samples: list[Sample] = []
    for stream_id, steps, ordinals, values, codes in msgpack.unpackb(zlib.decompress(packed)):
        of = stream(stream_id)
        if len(steps) == 1 and not codes:  # most groups of a one-second batch
            n = 0 if ordinals is None else ordinals[0]
            samples.append(Sample(of, steps[0] * of.tick_ns, tuple(values), n))
            continue
        width = len(of.fields)
        quality: dict[int, list[tuple[int, int]]] = {}
        for row, index, code in codes:
            quality.setdefault(row, []).append((index, code))
        ticks = 0
        for row, step in enumerate(steps):
            ticks += step
            samples.append(
                Sample(
                    of,
                    ticks * of.tick_ns,
                    tuple(values[row * width : (row + 1) * width]),
                    0 if ordinals is None else ordinals[row],
                    tuple(quality.get(row, ())),
                )
            )
    return tuple(samples)


def checksum(cells: Iterable[object]) -> int:
    """CRC-32 over the cells of one table row, in their order."""
    return zlib.crc32(msgpack.packb(list(cells)))
