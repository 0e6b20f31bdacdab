"""The first readings of a sensor that was just switched on: told, but not yet to be trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from trisense.core.model import Quality
from trisense.drivers.sdk import Observed

__all__ = ["WarmUp"]


class WarmUp:
    """Marks readings with code 2 (not evaluated) for some seconds after ``begin``."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._ends = 0.0

    def begin(self) -> None:
        """The sensor was switched on now, or may have been."""
        self._ends = time.monotonic() + self._duration_s

    @property
    def lasts(self) -> bool:
        return time.monotonic() < self._ends

    def mark(self, rows: Sequence[Observed]) -> Sequence[Observed]:
        """The rows as they are, or while it lasts with code 2 where they have no code of their own."""
        if not self.lasts:
            return rows
        return [
            replace(row, quality={**dict.fromkeys(row.values, Quality.NOT_EVALUATED), **row.quality})
            for row in rows
        ]
