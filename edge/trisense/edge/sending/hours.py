"""Hours of the day, UTC, in which a link may be used: ``"05:00-07:00"``, also across midnight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Hours"]

DAY_S: Final = 86_400
FORM: Final = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Hours:
    """Windows of each day, in seconds since midnight UTC."""

    windows: tuple[tuple[int, int], ...]
    """(begin, end); an end before the begin lies on the next day."""

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Hours:
        """Read windows.

        Raises:
            ValueError: one of them is none.
        """
        return cls(tuple(_window(text) for text in texts))

    def open_at(self, now_ns: int) -> bool:
        """Whether a window is open at that wall time; without windows always."""
        second = now_ns // 1_000_000_000 % DAY_S
        return not self.windows or any(
            begin <= second < end if begin < end else second >= begin or second < end
            for begin, end in self.windows
        )


def _window(text: str) -> tuple[int, int]:
    found = FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"hours such as '05:00-07:00', not {text!r}")
    from_h, from_min, to_h, to_min = map(int, found.groups())
    begin, end = from_h * 3600 + from_min * 60, to_h * 3600 + to_min * 60
    if begin >= DAY_S or end > DAY_S or begin == end:
        raise ValueError(f"a time of day to another one, up to 24:00, not {text!r}")
    return begin, end
