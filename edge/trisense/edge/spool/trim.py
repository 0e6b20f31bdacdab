"""What is given back: receipted batches by age, and by hand what the gateway never had."""

from __future__ import annotations

from typing import Final

from trisense.core.model import BatchClass
from trisense.edge.spool.reading import committed_ns
from trisense.edge.spool.room import ROUND_BYTES, oldest
from trisense.edge.spool.shelf import Shelf

__all__ = ["forget", "give_up"]

BATCHES: Final = 2000
"""Handled in one transaction: a commit may wait behind it."""


def forget(shelf: Shelf, older_s: float) -> int:
    """Delete some of what was receipted longer ago than that, in running time; gives how many batches."""
    old = shelf.old(int(older_s * 1e9), BATCHES)
    shelf.delete_kept(old)
    return len(old)


def give_up(shelf: Shelf, batch_class: BatchClass, before_ns: int, reason: str, *, preview: bool) -> int:
    """Drop and declare some of what was committed before that and waits; gives how many batches."""
    heads = oldest(shelf, batch_class, preview=preview, goal_bytes=ROUND_BYTES)
    heads = [head for head in heads if committed_ns(shelf.db, head.id) < before_ns]
    shelf.drop(heads, reason)
    return len(heads)
