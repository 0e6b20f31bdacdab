"""The last sample of each stream, as the listeners of a box see it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trisense.core.model import Sample

__all__ = ["Latest", "Seen"]

STREAMS: Final = 1024
"""Streams remembered; beyond it the one that has been silent for longest is forgotten."""


@dataclass(slots=True)
class Seen:
    sample: Sample
    at_s: float
    """Monotonic time at which it came."""
    count: int


class Latest:
    """Remembers; give ``saw`` every sample."""

    def __init__(self, *, streams: int = STREAMS) -> None:
        self._limit = streams
        self._seen: dict[tuple[str, str], Seen] = {}

    def saw(self, sample: Sample) -> None:
        key = sample.stream.key
        seen = self._seen.pop(key, None)
        self._seen[key] = Seen(sample, time.monotonic(), 1 if seen is None else seen.count + 1)
        if len(self._seen) > self._limit:
            del self._seen[next(iter(self._seen))]

    def of(self, device: str) -> Iterator[Seen]:
        """The last samples of one device, by measurement."""
        mine = (seen for (of, _), seen in self._seen.items() if of == device)
        return iter(sorted(mine, key=lambda seen: seen.sample.stream.measurement))
