"""Answers to boxes, gathered while a group is judged and packed once it is durable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from trisense.core.messages import EpochReceipt, pack_receipts

__all__ = ["Answers"]

REASON_CHARS: Final = 64
RANGES_PER_MESSAGE: Final = 2_000
REFUSALS_PER_MESSAGE: Final = 400
"""Together at most 2,000 x 20 + 400 x 84 bytes, below the 64 KiB that a box accepts... per epoch."""


class Answers:
    """Stored and refused batches per box and epoch."""

    def __init__(self) -> None:
        self._stored: dict[tuple[str, int], set[int]] = {}
        self._refused: dict[tuple[str, int], dict[int, tuple[str, int]]] = {}

    def stored(self, box: str, epoch: int, seq: int) -> None:
        self._stored.setdefault((box, epoch), set()).add(seq)

    def refused(self, box: str, epoch: int, seq: int, *, reason: str, samples: int) -> None:
        """Say no for good; it takes back an earlier ``stored`` of this group."""
        self._stored.get((box, epoch), set()).discard(seq)
        self._refused.setdefault((box, epoch), {})[seq] = (reason[:REASON_CHARS], samples)

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """(box, payload) for each receipt message; one message speaks of one epoch."""
        for box, epoch in sorted(self._stored.keys() | self._refused.keys()):
            ranges = list(_ranges(self._stored.get((box, epoch), ())))
            refusals = [
                (seq, reason, samples)
                for seq, (reason, samples) in sorted(self._refused.get((box, epoch), {}).items())
            ]
            while ranges or refusals:
                part = EpochReceipt(
                    epoch, tuple(ranges[:RANGES_PER_MESSAGE]), tuple(refusals[:REFUSALS_PER_MESSAGE])
                )
                del ranges[:RANGES_PER_MESSAGE], refusals[:REFUSALS_PER_MESSAGE]
                yield box, pack_receipts([part])


def _ranges(seqs: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for seq in sorted(seqs):
        if first is None or last is None:
            first = last = seq
        elif seq == last + 1:
            last = seq
        else:
            yield first, last
            first = last = seq
    if first is not None and last is not None:
        yield first, last
