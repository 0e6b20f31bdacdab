"""What a bundle holds once it is unpacked: heads of batches, and one block of columns per stream.

Nothing here knows bytes. A field's ``resolution`` and ``valid`` range do not travel: quality was
judged on the box, so a stream comes out with the name, unit and type of each field only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, TypeAlias

from trisense.core.model import (
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    Sample,
    Stream,
    Value,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers: TypeAlias = Sequence[int] | NDArray[np.int64]
    Values: TypeAlias = Sequence[Value] | NDArray[np.int64] | NDArray[np.float64]

__all__ = ["BatchHead", "Block", "Bundle", "Column", "Header"]


@dataclass(frozen=True, slots=True)
class Header:
    """Who sends a bundle, and the counters of its spool at that moment."""

    box: str
    site: str
    counters: Counters


@dataclass(frozen=True, slots=True)
class BatchHead:
    """A batch without its rows."""

    epoch: int
    seq: int
    batch_class: BatchClass
    clock: ClockState
    hash: bytes
    samples: int
    """Rows of this batch, over all blocks."""
    blob: bytes | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """All values of one field in a block."""

    field: Field
    values: Values
    """One per row. An int64 or float64 array where numpy is installed and the field is a number
    (at a null row it holds anything), else a list (None at a null row)."""
    nulls: Sequence[int]
    """Rows without a value, rising."""
    quality: Mapping[int, int]
    """Row to quality code, for each row that is not good."""

    def to_list(self) -> list[Value]:
        """The values as Python objects, None where there is none."""
        values: list[Value]
        values = list(self.values) if isinstance(self.values, Sequence) else self.values.tolist()
        for row in self.nulls:
            values[row] = None
        return values


@dataclass(frozen=True, slots=True)
class Block:
    """All rows of one stream in a bundle."""

    stream: Stream
    counts: tuple[tuple[int, int], ...]
    """(index into the bundle's heads, rows of that batch), in the order of the rows."""
    times_ns: Integers
    ordinals: Integers
    columns: tuple[Column, ...]
    size_bytes: float = 0.0
    """Its share of the bundle before compression, names and text not counted."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One MQTT payload, decoded."""

    box: str
    site: str
    counters: Counters
    heads: tuple[BatchHead, ...]
    blocks: tuple[Block, ...]

    def batches(self) -> list[Batch]:
        """Row form. The samples of a batch stand stream by stream, in their order within each."""
        samples: list[list[Sample]] = [[] for _ in self.heads]
        for block in self.blocks:
            rows = iter(_rows(block))
            for head, count in block.counts:
                samples[head].extend(islice(rows, count))
        return [
            Batch(head.epoch, head.seq, head.batch_class, head.clock, tuple(rows), head.hash, head.blob)
            for head, rows in zip(self.heads, samples, strict=True)
        ]


def _rows(block: Block) -> list[Sample]:
    stream, count = block.stream, len(block.times_ns)
    quality: dict[int, list[tuple[int, int]]] = {}
    for index, column in enumerate(block.columns):
        for row, code in column.quality.items():
            quality.setdefault(row, []).append((index, code))
    cells = zip(*(c.to_list() for c in block.columns), strict=True) if block.columns else repeat((), count)
    return [
        Sample(stream, int(time_ns), values, int(n), tuple(quality.get(row, ())))
        for row, (time_ns, n, values) in enumerate(zip(block.times_ns, block.ordinals, cells, strict=True))
    ]
