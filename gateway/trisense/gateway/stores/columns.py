"""Bundles turned into one table of columns per measurement: what a store writes in one go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from trisense.core.model import FieldType
from trisense.core.wire import Block, Bundle, Column

__all__ = [
    "Picture",
    "Portion",
    "Series",
    "Table",
    "culprits",
    "merge",
    "pictures",
    "readings_of",
    "rows_of",
    "without",
]


@dataclass(frozen=True, slots=True)
class Portion:
    """A bundle, and which of its batches are to be written."""

    bundle: Bundle
    heads: frozenset[int]
    """Indices into ``bundle.heads``."""

    @property
    def whole(self) -> bool:
        return len(self.heads) == len(self.bundle.heads)


class Series(NamedTuple):
    """Where rows come from: their tags."""

    site: str
    box: str
    device: str
    layer: str


@dataclass(slots=True)
class Filled:
    """One field of a table: values, where they are null, and quality codes where not good."""

    type: FieldType
    values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.object_]
    null: NDArray[np.bool_]
    quality: NDArray[np.int8]
    """0 where good."""


@dataclass(slots=True)
class Table:
    """All rows of one measurement, of any boxes and devices."""

    measurement: str
    series: list[Series]
    of_series: NDArray[np.int32]
    """Row -> index into ``series``."""
    times_ns: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    columns: dict[str, Filled] = field(default_factory=dict)


def rows_of(block: Block, heads: frozenset[int]) -> NDArray[np.intp]:
    """Indices of the rows of a block that belong to these batches."""
    owner = np.repeat([head for head, _ in block.counts], [count for _, count in block.counts])
    return np.flatnonzero(np.isin(owner, list(heads)))


def culprits(
    portions: Iterable[Portion], attempt: Callable[[list[Portion]], str | None]
) -> dict[tuple[int, int], str]:
    """Find the batches (epoch, seq) that cannot be written, by halving.

    ``attempt`` writes portions and returns None, or a reason why some of them cannot be; it is called
    again with parts of them. Refusals are rare, for names and types were checked before.
    """

    def find(batches: Sequence[tuple[Portion, int]]) -> dict[tuple[int, int], str]:
        reason = attempt(_regrouped(batches))
        if reason is None:
            return {}
        if len(batches) == 1:
            portion, index = batches[0]
            head = portion.bundle.heads[index]
            return {(head.epoch, head.seq): reason}
        middle = len(batches) // 2
        return find(batches[:middle]) | find(batches[middle:])

    return find([(portion, head) for portion in portions for head in sorted(portion.heads)])


def without(portions: Iterable[Portion], refused: Collection[tuple[int, int]]) -> list[Portion]:
    """The same but for some batches (epoch, seq)."""
    left = []
    for portion in portions:
        heads = portion.bundle.heads
        kept = frozenset(i for i in portion.heads if (heads[i].epoch, heads[i].seq) not in refused)
        if kept:
            left.append(Portion(portion.bundle, kept))
    return left


def _regrouped(batches: Sequence[tuple[Portion, int]]) -> list[Portion]:
    chosen: dict[int, tuple[Bundle, set[int]]] = {}
    for portion, head in batches:
        chosen.setdefault(id(portion), (portion.bundle, set()))[1].add(head)
    return [Portion(bundle, frozenset(heads)) for bundle, heads in chosen.values()]


def merge(portions: Iterable[Portion]) -> list[Table]:
    """Lay the rows of all portions together, one table per measurement."""
    parts: dict[str, list[tuple[Series, Block, NDArray[np.intp] | None]]] = {}
    for portion in portions:
        bundle = portion.bundle
        for block in bundle.blocks:
            chosen = None if portion.whole else rows_of(block, portion.heads)
            if len(block.times_ns) == 0 or (chosen is not None and len(chosen) == 0):
                continue
            stream = block.stream
            series = Series(stream.site or bundle.site, bundle.box, stream.device, stream.layer.value)
            parts.setdefault(stream.measurement, []).append((series, block, chosen))
    return [_table(measurement, found) for measurement, found in parts.items()]


def readings_of(portion: Portion) -> int:
    """Values that are there, in the chosen batches; exact where all are chosen, else in proportion."""
    total = sum(
        len(block.columns) * len(block.times_ns) - sum(len(column.nulls) for column in block.columns)
        for block in portion.bundle.blocks
    )
    rows = sum(head.samples for head in portion.bundle.heads)
    chosen = sum(portion.bundle.heads[i].samples for i in portion.heads)
    return total if chosen == rows else round(total * chosen / rows)


def _table(measurement: str, parts: Sequence[tuple[Series, Block, NDArray[np.intp] | None]]) -> Table:
    sizes = [len(block.times_ns) if chosen is None else len(chosen) for _, block, chosen in parts]
    total = sum(sizes)
    indices: dict[Series, int] = {}
    for series, _, _ in parts:
        indices.setdefault(series, len(indices))
    table = Table(
        measurement,
        list(indices),
        np.repeat(np.array([indices[series] for series, _, _ in parts], np.int32), sizes),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
    )
    start = 0
    for (_, block, chosen), size in zip(parts, sizes, strict=True):
        part = slice(start, start + size)
        table.times_ns[part] = _chosen(block.times_ns, chosen)
        table.ordinals[part] = _chosen(block.ordinals, chosen)
        for column in block.columns:
            filled = table.columns.get(column.field.name)
            if filled is None:
                filled = table.columns[column.field.name] = _empty(column.field.type, total)
            _fill(filled, part, column, chosen)
        start += size
    return table


def _empty(type_: FieldType, total: int) -> Filled:
    values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.object_]
    if type_ is FieldType.FLOAT:
        values = np.zeros(total, np.float64)
    elif type_ is FieldType.INT:
        values = np.zeros(total, np.int64)
    else:
        values = np.full(total, None, object)
    return Filled(type_, values, np.ones(total, np.bool_), np.zeros(total, np.int8))


def _fill(filled: Filled, part: slice, column: Column, chosen: NDArray[np.intp] | None) -> None:
    dtype = filled.values.dtype
    source = column.values if isinstance(column.values, np.ndarray) else np.array(column.to_list(), object)
    if isinstance(column.values, list) and dtype != np.object_:
        source = np.array([0 if value is None else value for value in column.values], dtype)
    filled.values[part] = source if chosen is None else source[chosen]
    filled.null[part] = False
    if len(column.nulls):
        null = np.zeros(len(source), np.bool_)
        null[np.asarray(column.nulls)] = True
        filled.null[part] = null if chosen is None else null[chosen]
    if column.quality:
        quality = np.zeros(len(source), np.int8)
        quality[list(column.quality)] = list(column.quality.values())
        filled.quality[part] = quality if chosen is None else quality[chosen]


def _chosen(values: Sequence[int] | NDArray[np.int64], chosen: NDArray[np.intp] | None) -> NDArray[np.int64]:
    array = np.asarray(values, np.int64)
    return array if chosen is None else array[chosen]


class Picture(NamedTuple):
    """A media batch's blob and where it belongs."""

    id: str
    box: str
    device: str
    measurement: str
    time_ns: int
    blob: bytes


def pictures(portion: Portion) -> list[Picture]:
    """The blobs of the chosen batches, each with device and time of the sample beside it."""
    bundle = portion.bundle
    wanted = {i for i in portion.heads if bundle.heads[i].blob is not None}
    found = []
    for block in bundle.blocks if wanted else ():
        row = 0
        for head, count in block.counts:
            blob = bundle.heads[head].blob
            if head in wanted and count and blob is not None:
                wanted.discard(head)
                digest = hashlib.sha256(blob).hexdigest()
                time_ns = int(block.times_ns[row])
                found.append(Picture(digest, bundle.box, *block.stream.key, time_ns, blob))
            row += count
    return found
