"""What a camera's own past says of its newest picture: frozen, moved, softer or noisier than usual.

Fixed limits call a healthy camera faulty all day (camera sheet, section 4.2), so each hour of the day has
its own baseline: sharpness and contrast of good pictures of up to seven days, and one reference picture.
All of it lives in memory, is bounded, and starts anew with the process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from trisense.drivers.camera.health import OCCLUDED_FLAT, Look, Measured, compare_luma, look
from trisense.drivers.camera.picture import Luma

__all__ = ["Verdict", "Watch"]

FROZEN_MAD: Final = 0.05
"""A live still scene gave 0.27 or more for 95 % of its frames."""
FROZEN_REPEATS: Final = 5
FROZEN_S: Final = 120.0
MOVED_NCC: Final = 0.4
MOVED_MOTION: Final = 0.3
"""Both are needed: a healthy picture after an exposure step has ncc 0.10 but motion 0.04."""
MOVED_CHECKS: Final = 3
BLUR_RATIO: Final = 0.35
NOISE_RATIO: Final = 8.0
STEADY_STD: Final = 2.0
"""Contrast within this factor of the usual has "changed little"."""
BASELINE_MIN: Final = 10
BASELINE_MAX: Final = 7 * 60
"""Seven days of an hour at one picture a minute."""
LEARN_EVERY_S: Final = 60.0
REFRESH_S: Final = 43_200.0
"""An hour's reference picture is taken anew when the hour comes round again."""
RELEARN_S: Final = 86_400.0
"""A camera that looks elsewhere for a day was turned on purpose: its new view becomes the reference."""
REFERENCE_WIDTH: Final = 320
RECENT: Final = 3
AGREE: Final = 2
HOLD_S: Final = 60.0
BLUR_HOLD_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the newest picture is, and what the camera is since some time."""

    look: Look
    """Of this picture alone, in the light of the past."""
    state: Look
    """Confirmed: the same look in two of three pictures and for a minute (blur ten minutes)."""
    change: dict[str, float]
    """``compare_luma`` with the picture before; empty for the first one or after a change of size."""


@dataclass(slots=True)
class _Hour:
    """What is usual at one hour of the day."""

    usual: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=BASELINE_MAX))
    """(lapvar, std) of good pictures."""
    reference: Luma | None = None
    flat: NDArray[np.bool_] | None = None
    taken_s: float = 0.0


class Watch:
    """The memory of one camera. Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._hours: dict[int, _Hour] = {}
        self._newest: _Hour | None = None
        self._before: tuple[Luma, str] | None = None
        self._repeats = 0
        self._repeats_since_s = 0.0
        self._elsewhere = 0
        self._elsewhere_since_s = 0.0
        self._learned_s = 0.0
        self._recent: deque[Look] = deque(maxlen=RECENT)
        self._since_s: dict[Look, float] = {}
        self.state: Look = "normal"

    def judge(self, seen: Measured, digest: str, now_s: float, *, hour_of_day: int) -> Verdict:
        """Judge the newest picture and learn from it; ``digest`` is that of its bytes."""
        change = self._compare_with_before(seen.y, digest, now_s)
        hour = self._hours.setdefault(hour_of_day, _Hour())
        small = _small(seen.y)
        known = hour if hour.reference is not None else self._newest
        self._compare_with_reference(small, known, now_s)
        found = self._name(seen, known, hour, now_s)
        if found == "normal" and not self._elsewhere and not self._repeats:
            self._learn(hour, seen, small, now_s)
        return Verdict(found, self._confirm(found, now_s), change)

    def damaged(self, now_s: float) -> Look:
        """Take note of a picture that could not be decoded; gives the confirmed state."""
        return self._confirm("corrupt", now_s)

    def _compare_with_before(self, y: Luma, digest: str, now_s: float) -> dict[str, float]:
        before, self._before = self._before, (y, digest)
        if before is not None and before[0].shape != y.shape:
            self._forget()
        if before is None or before[0].shape != y.shape:
            self._repeats, self._repeats_since_s = 0, now_s
            return {}
        change = compare_luma(before[0], y)
        if digest == before[1] or change["mad"] < FROZEN_MAD:
            self._repeats += 1
        else:
            self._repeats, self._repeats_since_s = 0, now_s
        return change

    def _compare_with_reference(self, small: Luma, known: _Hour | None, now_s: float) -> None:
        if known is None or known.reference is None:
            return
        change = compare_luma(known.reference, small)
        if change["ncc"] >= MOVED_NCC or change["frac"] <= MOVED_MOTION:
            self._elsewhere = 0
            return
        if not self._elsewhere:
            self._elsewhere_since_s = now_s
        self._elsewhere += 1
        if now_s - self._elsewhere_since_s > RELEARN_S:
            self._forget()

    def _forget(self) -> None:
        """Another view: nothing that was learned holds any more."""
        self._hours.clear()
        self._newest = None
        self._elsewhere = 0

    def _name(self, seen: Measured, known: _Hour | None, hour: _Hour, now_s: float) -> Look:
        first = look(seen)
        if first in ("black", "overexposed", "corrupt"):
            return first
        if self._repeats >= FROZEN_REPEATS and now_s - self._repeats_since_s > FROZEN_S:
            return "frozen"
        if known is not None and known.flat is not None:
            lost = float(np.mean(seen.flat & ~known.flat))
            first = "normal" if first == "occluded" else first
            if lost > OCCLUDED_FLAT and first == "normal":
                return "occluded"
        if self._elsewhere >= MOVED_CHECKS:
            return "moved"
        if first == "normal" and len(hour.usual) >= BASELINE_MIN:
            return _against_usual(seen, hour)
        return first

    def _learn(self, hour: _Hour, seen: Measured, small: Luma, now_s: float) -> None:
        if hour.reference is None or now_s - hour.taken_s > REFRESH_S:
            hour.reference, hour.flat, hour.taken_s = small, seen.flat, now_s
            self._newest = hour
        if now_s - self._learned_s >= LEARN_EVERY_S:
            hour.usual.append((seen.metrics["lapvar"], seen.metrics["std"]))
            self._learned_s = now_s

    def _confirm(self, found: Look, now_s: float) -> Look:
        self._recent.append(found)
        self._since_s = {name: self._since_s.get(name, now_s) for name in self._recent}
        hold_s = BLUR_HOLD_S if found == "blurred" else HOLD_S
        # All three must be good to clear, two of three bad to raise: no flapping at a limit.
        agree = RECENT if found == "normal" else AGREE
        if self._recent.count(found) >= agree and now_s - self._since_s[found] > hold_s:
            self.state = found
        return self.state


def _against_usual(seen: Measured, hour: _Hour) -> Look:
    """Sharpness and contrast of a picture against the median of its hour."""
    lapvar = median(pair[0] for pair in hour.usual)
    std = median(pair[1] for pair in hour.usual)
    if seen.metrics["lapvar"] < BLUR_RATIO * lapvar and seen.metrics["std"] >= BLUR_RATIO * std:
        return "blurred"
    if seen.metrics["lapvar"] > NOISE_RATIO * lapvar and seen.metrics["std"] < STEADY_STD * std:
        return "noisy"
    return "normal"


def _small(y: Luma) -> Luma:
    factor = max(1, y.shape[1] // REFERENCE_WIDTH)
    return np.asarray(Image.fromarray(y).reduce(factor))
