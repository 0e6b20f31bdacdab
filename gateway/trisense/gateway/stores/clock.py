"""How far the times of a batch can be trusted, as fields of its rows.

A batch that was made while its box's clock was not synchronised carries that in its head; stored rows
have no batch. So each such row gets ``clock_code`` (a QARTOD code for its time: 2 nobody can say, 3 off
by up to ``clock_error_ms``); rows whose time is good have neither, and cost nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from trisense.core.model import Field, FieldType, Quality
from trisense.core.wire import Block, Bundle, Column

__all__ = ["with_clock"]

CODE: Final = Field("clock_code", "1", FieldType.INT)
ERROR: Final = Field("clock_error_ms", "ms", FieldType.INT)
NONE: Final = -1
"""Stands where a batch has nothing to say."""


def with_clock(bundle: Bundle) -> Bundle:
    """The bundle with the fields above where one of its batches needs them; else itself."""
    clocks = [head.clock for head in bundle.heads]
    if all(clock.synced for clock in clocks):
        return bundle
    errors = [NONE if c.synced or c.error_ms is None else c.error_ms for c in clocks]
    codes = [
        NONE if c.synced else int(Quality.NOT_EVALUATED if c.error_ms is None else Quality.SUSPECT)
        for c in clocks
    ]
    return replace(bundle, blocks=tuple(_flagged(block, codes, errors) for block in bundle.blocks))


def _flagged(block: Block, codes: list[int], errors: list[int]) -> Block:
    heads, counts = [head for head, _ in block.counts], [count for _, count in block.counts]
    added = tuple(
        _column(field, np.repeat(np.array([said[head] for head in heads], np.int64), counts))
        for field, said in ((CODE, codes), (ERROR, errors))
        if any(said[head] != NONE for head in heads)
    )
    if not added:
        return block
    stream = replace(block.stream, fields=(*block.stream.fields, *(column.field for column in added)))
    return replace(block, stream=stream, columns=(*block.columns, *added))


def _column(field: Field, values: NDArray[np.int64]) -> Column:
    return Column(field, values, np.flatnonzero(values == NONE).tolist(), {})
