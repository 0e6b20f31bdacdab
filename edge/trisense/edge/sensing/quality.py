"""Tests of values after QARTOD: what each reading of a field is worth, by itself and by those before it.

A code is final once its sample is made, so every test looks back, never ahead. What a test remembers is one
field of one stream, bounded, and begins anew after a gap: neither a change nor a standstill is read into a
time in which nobody looked.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import structlog
from pydantic import Field as Constrained
from pydantic import model_validator
from trisense.core.config import ConfigModel
from trisense.core.model import Field, Quality
from trisense.core.vocabulary import limits_of
from trisense.edge.once import Fault

__all__ = ["NOTHING_FOUND", "FieldTests", "Findings", "Flags", "QualityTable"]

log = structlog.get_logger(__name__)

NS: Final = 1_000_000_000
SPIKE_WINDOW: Final = 5
SPIKE_MIN: Final = 3
"""A median of fewer values says nothing."""
CALM_S: Final = 60.0
"""A test that has passed for so long is over its episode: a value that flickers is one line, not many."""

Findings = Mapping[str, Quality]
"""What is wrong with one reading: the name of each test that did not pass, and the code it gives."""
NOTHING_FOUND: Final[Findings] = MappingProxyType({})

Finite = Annotated[float, Constrained(allow_inf_nan=False)]
Step = Annotated[float, Constrained(gt=0, allow_inf_nan=False)]
Limits = tuple[float, float]


class QualityTable(ConfigModel):
    """Tests of one field: ``[device.quality.FIELD]``, or ``[device.quality."MEASUREMENT.FIELD"]`` where the
    device has the field in several streams and one of them is meant. Values are in the field's unit.
    """

    range: Limits | None = None
    """Lowest and highest possible value; outside it code 4. None: that of the device or the vocabulary."""
    suspect: Limits | None = None
    """Lowest and highest expected value; outside it code 3. None: that of the vocabulary."""
    spike: Step | None = None
    """Distance from the median of the last five values above which a value is suspect."""
    spike_fail: Step | None = None
    """The same, above which it fails."""
    rate_per_s: Step | None = None
    """Change a second, from the last value that was not suspect, above which a value is suspect."""
    flat_s: Step | None = None
    """A value that has stood still for so many seconds is suspect."""
    flat_fail_s: Step | None = None
    """The same, after which it fails."""
    eps: Annotated[float, Constrained(ge=0, allow_inf_nan=False)] = 0.0
    """A value that stays within so much of one stands still."""
    gap_s: Step | None = None
    """After a silence of so many seconds spike, rate and standstill begin anew. None: 60, or five intervals
    or two time-outs of the device where that is longer."""
    sentinels: tuple[Finite, ...] = ()
    """Values that the device gives for "no reading", before any calibration: null with code 9."""

    @model_validator(mode="after")
    def _in_order(self) -> QualityTable:
        for name in ("range", "suspect"):
            limits: Limits | None = getattr(self, name)
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(f"{name} with the lower limit first")
        for name in ("spike", "flat"):
            suspect, fail = ("spike", "spike_fail") if name == "spike" else ("flat_s", "flat_fail_s")
            low, high = getattr(self, suspect), getattr(self, fail)
            if low is not None and high is not None and not low < high:
                raise ValueError(f"{suspect} below {fail}")
        return self


class Flags:
    """Who failed which test how often, and a line of the log for each episode and its end."""

    def __init__(self, device: str, measurement: str, field: str) -> None:
        self.counts: Counter[str] = Counter()
        """Readings by the test they did not pass."""
        self._log = log.bind(device=device, measurement=measurement, field=field)
        self._open: dict[str, tuple[Fault, int]] = {}

    @property
    def calm(self) -> bool:
        """Whether no episode is under way."""
        return not self._open

    def note(self, findings: Findings, value: float, time_ns: int) -> None:
        """Take what was found at one reading; call it with nothing too while not ``calm``."""
        for test, code in findings.items():
            self.counts[test] += 1
            fault = self._open[test][0] if test in self._open else self._fault(test)
            fault.failed(code=int(code), value=value)
            self._open[test] = (fault, time_ns)
        for test, (fault, last_ns) in list(self._open.items()):
            if time_ns - last_ns >= CALM_S * NS or time_ns < last_ns:
                fault.recovered()
                del self._open[test]

    def _fault(self, test: str) -> Fault:
        return Fault(self._log.bind(test=test), "quality_flagged", "quality_recovered")


class FieldTests:
    """The tests of one field of one stream, and what they remember."""

    __slots__ = (
        "_anchor", "_anchor_ns", "_eps", "_fail", "_flat", "_gap_ns", "_last_ns", "_passed", "_passed_ns",
        "_rate", "_spike", "_suspect", "_window", "gaps", "looks_back",
    )  # fmt: skip

    def __init__(self, field: Field, table: QualityTable | None, *, gap_s: float) -> None:
        """``gap_s`` counts where the table names none; without a table only the range is tested."""
        given = table or QualityTable()
        fail, suspect = limits_of(field)
        self._fail = given.range or _closed(fail)
        self._suspect = given.suspect or _closed(suspect)
        self._spike = _two(given.spike, given.spike_fail)
        self._rate = math.inf if given.rate_per_s is None else given.rate_per_s
        self._flat = _two(given.flat_s, given.flat_fail_s)
        self._eps = given.eps
        self._gap_ns = int((given.gap_s or gap_s) * NS)
        self.looks_back = any(x is not None for x in (self._spike, given.rate_per_s, self._flat))
        """Whether a test needs the values before: else any value within ``quick`` passes by itself."""
        self.gaps = 0
        """Times that it began anew because nothing had come for too long; counted where a test looks back."""
        self._window: deque[float] = deque(maxlen=SPIKE_WINDOW)
        self._last_ns: int | None = None
        self._passed = self._anchor = 0.0
        self._passed_ns = self._anchor_ns = 0

    @property
    def quick(self) -> Limits:
        """Between these limits, both included, a value passes the range test."""
        return (max(self._fail[0], self._suspect[0]), min(self._fail[1], self._suspect[1]))

    def find(self, value: float, time_ns: int, given: Quality) -> Findings:
        """What is wrong with a value; ``given`` is the code that device and calibration gave it.

        A value that cannot be (code 4 or 9 by range or by ``given``) is not remembered.
        """
        low, high = self._fail
        if not low <= value <= high:
            return {"range": Quality.FAIL}
        low, high = self._suspect
        found: dict[str, Quality] | None = None
        if not low <= value <= high:
            found = {"range": Quality.SUSPECT}
        if not self.looks_back or given >= Quality.FAIL:
            return found or NOTHING_FOUND
        if self._last_ns is None or not 0 <= time_ns - self._last_ns <= self._gap_ns:
            self.gaps += self._last_ns is not None and time_ns > self._last_ns
            self._begin(value, time_ns)
            return found or NOTHING_FOUND
        found = self._look_back(value, time_ns, found or {})
        self._last_ns = time_ns
        self._window.append(value)
        if not found:
            self._passed, self._passed_ns = value, time_ns
        return found

    def _look_back(self, value: float, time_ns: int, found: dict[str, Quality]) -> dict[str, Quality]:
        if self._spike is not None and len(self._window) >= SPIKE_MIN:
            _grade(found, "spike", abs(value - _median(self._window)), self._spike)
        # A step up is suspect until so much time has passed that it could have been made at that rate.
        since_s = (time_ns - self._passed_ns) / NS
        if since_s > 0 and abs(value - self._passed) > self._rate * since_s:
            found["rate"] = Quality.SUSPECT
        if self._flat is not None:
            if abs(value - self._anchor) > self._eps:
                self._anchor, self._anchor_ns = value, time_ns
            else:
                _grade(found, "flat", (time_ns - self._anchor_ns) / NS, self._flat, inclusive=True)
        return found

    def _begin(self, value: float, time_ns: int) -> None:
        self._window.clear()
        self._window.append(value)
        self._last_ns = self._passed_ns = self._anchor_ns = time_ns
        self._passed = self._anchor = value


def _grade(
    found: dict[str, Quality], test: str, amount: float, limits: Limits, *, inclusive: bool = False
) -> None:
    """Note ``test`` where ``amount`` passes the limit of suspect or of fail; inclusive: reaches it."""
    for limit, code in zip(limits, (Quality.SUSPECT, Quality.FAIL), strict=True):
        if amount > limit or (inclusive and amount == limit):
            found[test] = code


def _two(suspect: float | None, fail: float | None) -> Limits | None:
    if suspect is None and fail is None:
        return None
    return (math.inf if suspect is None else suspect, math.inf if fail is None else fail)


def _closed(limits: tuple[float | None, float | None]) -> Limits:
    low, high = limits
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _median(values: deque[float]) -> float:
    ordered: Any = sorted(values)
    middle = len(ordered) // 2
    median: float = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return median
