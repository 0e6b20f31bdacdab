"""Judges samples, silence and devices by rules; says what was raised and what was cleared.

Per rule and subject there is one condition: true, false, or unknown. It is unknown until the first definite
look, and a look that says nothing (a failed, missing or null value; a number between a limit and its
hysteresis) never makes it true or false. A change counts when it has held for the rule's delay:

- Limits and rates are decided by samples alone: an alarm is raised by the first sample that is outside at
  least ``for_s`` after the first one that was, with none inside in between. Silence decides nothing.
- A look that says nothing does not break the wait before an alarm, but does break the wait before its end:
  unknown is never normal.
- Silence and devices are decided by ``tick`` and ``device``.

The first definite look at each subject is told even when all is well (``occurrence`` 0): whoever still holds
an alarm from before a restart learns that it has ended, and one that goes on is raised anew.

Each subject may speak ``BURST`` times at once and then once in ``REFILL_S``; what it changes in between is
held and counted, and its last word is told, with the count, as soon as it may speak again.

Durations are in seconds of a clock that never steps (``now_s``); wall times (``*_ns``) are only told.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from trisense.core.alarms.binding import Subject
from trisense.core.alarms.rules import DeviceRule, MissingRule, RateRule, Rule, ThresholdRule
from trisense.core.model import Quality, Sample, Value

__all__ = ["BURST", "REFILL_S", "Evaluator", "Transition"]

BURST: Final = 6
"""Three alarms and their ends: what comes and goes more often chatters."""
REFILL_S: Final = 60.0
NOT_WATCHED: Final = "no longer watched: the configuration has changed"
UNUSABLE: Final = frozenset({Quality.FAIL, Quality.MISSING})
RATE_POINTS: Final = 64
"""Most points kept over a rate's window; faster samples are thinned, for the newest always counts."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One alarm raised or cleared."""

    subject: Subject
    raised: bool
    occurrence: int
    """1, 2, ... for alarms since the start; 0: nothing was raised since then, and all is well."""
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    since_ns: int | None = None
    """Wall time at which the condition of this occurrence began; None for occurrence 0."""
    why: str = ""
    """What the device said, or why there is nothing left to watch."""
    held: int = 0
    """Earlier transitions of this subject that were not told because there were too many."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen at one moment."""

    now_s: float
    began_ns: int
    """Wall time from which the condition holds if this look is the first to see it."""
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    why: str = ""
    began_s: float | None = None
    """As ``began_ns`` by the clock that never steps, where that was before this look."""


class _Watch:
    """The condition of one subject."""

    def __init__(self, subject: Subject, for_s: float) -> None:
        self.subject = subject
        self._for_s = for_s
        self._clear_for_s = subject.rule.clear_for_s
        self._active: bool | None = None
        self._pending: bool | None = None
        self._pending_s = 0.0
        self._pending_ns = 0
        self._occurrence = 0
        self.since_s = 0.0
        """When the condition of the last alarm began, by the clock that never steps."""
        self._since_ns: int | None = None
        self._raised: Transition | None = None
        self._tokens = float(BURST)
        self._refilled_s: float | None = None
        self._untold: Transition | None = None
        self._held = 0

    @property
    def active(self) -> bool:
        return bool(self._active)

    @property
    def waits(self) -> bool:
        """It has something to tell as soon as it may."""
        return self._untold is not None

    def unknown(self) -> None:
        """A look that says nothing: of all waits only one before an end is broken."""
        if self._pending is False:
            self._pending = None

    def between(self) -> None:
        """Neither outside of the limit nor back inside: all waits are broken."""
        self._pending = None

    def judge(self, condition: bool, look: _Look) -> Iterator[Transition]:
        """A definite look; yields what is to be told now."""
        if condition == self._active:
            self._pending = None
            return
        if self._pending is not condition:
            self._pending, self._pending_s, self._pending_ns = condition, look.now_s, look.began_ns
        if look.now_s - self._pending_s < (self._for_s if condition else self._clear_for_s):
            return
        self._active, self._pending = condition, None
        if condition:
            self._occurrence += 1
            self._since_ns = self._pending_ns
            self.since_s = self._pending_s if look.began_s is None else look.began_s
        # What is cleared names the limit that had been passed, not one that was never near.
        limit = look.limit if condition or self._raised is None else self._raised.limit
        made = Transition(
            self.subject, condition, self._occurrence, look.value, limit, look.unit, self._since_ns, look.why
        )
        self._raised = made if condition else None
        yield from self._say(made, look.now_s)

    def end(self, why: str) -> Transition | None:
        """The last word of a subject that is watched no more."""
        last = self._raised or self._untold
        if last is None:
            return None
        return replace(last, raised=False, value=None, why=why, held=self._held)

    def speak(self, now_s: float) -> Iterator[Transition]:
        """What was held, as soon as it may be told."""
        if self._untold is not None and self._take_token(now_s):
            told, self._untold = replace(self._untold, held=self._held - 1), None
            self._held = 0
            yield told

    def _say(self, made: Transition, now_s: float) -> Iterator[Transition]:
        if self._untold is None and self._take_token(now_s):
            yield made
            return
        self._untold = made
        self._held += 1

    def _take_token(self, now_s: float) -> bool:
        if self._refilled_s is not None:
            self._tokens = min(BURST, self._tokens + (now_s - self._refilled_s) / REFILL_S)
        self._refilled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Level(_Watch):
    def __init__(self, subject: Subject, rule: ThresholdRule) -> None:
        super().__init__(subject, rule.for_s)
        self._rule = rule

    def feed(self, value: float | None, sample: Sample, now_s: float) -> Iterator[Transition]:
        if value is None:
            self.unknown()
            return
        condition = self._rule.condition(value)
        if condition is None:
            self.between()
            return
        look = _Look(now_s, sample.time_ns, value, self._rule.limit(value), self._rule.unit)
        yield from self.judge(condition, look)


class _Rate(_Watch):
    def __init__(self, subject: Subject, rule: RateRule) -> None:
        super().__init__(subject, rule.for_s)
        self._rule = rule
        self._points: deque[tuple[float, float]] = deque(maxlen=2 * RATE_POINTS + 2)

    def feed(self, value: float | None, sample: Sample, now_s: float) -> Iterator[Transition]:
        rate = None if value is None else self._rate(value, now_s)
        if rate is None:
            self.unknown()
            return
        condition = self._rule.condition(rate)
        if condition is None:
            self.between()
            return
        look = _Look(now_s, sample.time_ns, rate, self._rule.limit(rate), self._rule.rate_unit)
        yield from self.judge(condition, look)

    def _rate(self, value: float, now_s: float) -> float | None:
        """The change since the newest point that is a window old; None where there is none yet."""
        points, window_s = self._points, self._rule.window_s
        while len(points) > 1 and now_s - points[1][0] >= window_s:
            points.popleft()
        while points and now_s - points[0][0] > 2 * window_s:
            points.popleft()
        rate = None
        if points and now_s - points[0][0] >= window_s:
            rate = self._rule.rate(value - points[0][1], now_s - points[0][0])
        if not points or now_s - points[-1][0] >= window_s / RATE_POINTS:
            points.append((now_s, value))
        return rate


class _Silence(_Watch):
    def __init__(self, subject: Subject, now_s: float, now_ns: int) -> None:
        super().__init__(subject, 0.0)
        self._limit_s = subject.limit_s or 0.0
        self._seen_s, self._seen_ns = now_s, now_ns
        self._seen = False

    def feed(self, value: float | None, sample: Sample, now_s: float) -> Iterator[Transition]:
        if self.subject.index is not None and value is None:
            return
        self._seen_s, self._seen_ns, self._seen = now_s, sample.time_ns, True
        yield from self.tick(now_s)

    def tick(self, now_s: float) -> Iterator[Transition]:
        silent_s = now_s - self._seen_s
        look = _Look(now_s, self._seen_ns, silent_s, self._limit_s, "s", began_s=self._seen_s)
        if silent_s > self._limit_s:
            yield from self.judge(condition=True, look=look)
        elif self._seen:
            yield from self.judge(condition=False, look=replace(look, value=None))


class _Device(_Watch):
    def __init__(self, subject: Subject, rule: DeviceRule) -> None:
        super().__init__(subject, rule.for_s)
        self._failing: bool | None = None
        self._began_s, self._began_ns = 0.0, 0
        self._limit_s = rule.for_s
        self._why = ""

    def note(self, failing: bool, why: str, now_s: float, now_ns: int) -> Iterator[Transition]:
        if failing and not self._failing:
            self._began_s, self._began_ns = now_s, now_ns
        self._failing, self._why = failing, why if failing else ""
        yield from self.tick(now_s)

    def tick(self, now_s: float) -> Iterator[Transition]:
        if self._failing is None:
            return
        value = now_s - self._began_s if self._failing else None
        look = _Look(now_s, self._began_ns, value, self._limit_s, "s", self._why)
        yield from self.judge(self._failing, look)


class Evaluator:
    """Watches subjects. Memory is bounded by their number (``binding.SUBJECTS_MAX``)."""

    def __init__(self) -> None:
        self.held = 0
        """Transitions that were never told by themselves because a subject had too many."""
        self._watches: dict[tuple[str, str, str | None, str | None], _Watch] = {}
        self._fed: dict[tuple[str, str], list[_Level | _Rate | _Silence]] = {}
        self._any: dict[str, list[_Silence]] = {}
        self._devices: dict[str, list[_Device]] = {}
        self._timed: list[_Silence | _Device] = []

    def watch(self, subjects: Iterable[Subject], now_s: float, now_ns: int) -> list[Transition]:
        """Watch these from now on; those known before go on as they were.

        One that is gone while its alarm is active is cleared, for nobody would clear it later.
        """
        known, self._watches = self._watches, {}
        for subject in subjects:
            old = known.get(subject.key)
            same = old is not None and old.subject == subject
            made = old if same and old is not None else _made(subject, now_s, now_ns)
            self._watches[subject.key] = made
            if same:
                del known[subject.key]
        self._sort()
        ends = (old.end(NOT_WATCHED) for old in known.values())
        return [end for end in ends if end is not None]

    @property
    def active(self) -> list[tuple[Subject, float]]:
        """What is raised now, and since when by the clock that never steps."""
        return [(watch.subject, watch.since_s) for watch in self._watches.values() if watch.active]

    def feed(self, sample: Sample, now_s: float) -> list[Transition]:
        """Judge one sample."""
        key = sample.stream.key
        told: list[Transition] = []
        for watch in self._fed.get(key, ()):
            stream = watch.subject.stream
            if stream is None or stream is sample.stream or stream == sample.stream:
                told += watch.feed(_usable(sample, watch.subject.index), sample, now_s)
        for watch in self._any.get(key[0], ()):
            told += watch.feed(None, sample, now_s)
        return told

    def device(self, name: str, failing: bool, why: str, now_s: float, now_ns: int) -> list[Transition]:
        """Judge the state of one device; ``why`` is told when an alarm is raised."""
        return [t for watch in self._devices.get(name, ()) for t in watch.note(failing, why, now_s, now_ns)]

    def tick(self, now_s: float) -> list[Transition]:
        """Judge what time alone decides; call it every second or so."""
        told = [t for watch in self._timed for t in watch.tick(now_s)]
        for watch in self._watches.values():
            if watch.waits:
                told += watch.speak(now_s)
        self.held += sum(t.held for t in told)
        return told

    def _sort(self) -> None:
        fed: dict[tuple[str, str], list[_Level | _Rate | _Silence]] = defaultdict(list)
        anything: dict[str, list[_Silence]] = defaultdict(list)
        devices: dict[str, list[_Device]] = defaultdict(list)
        self._timed = []
        for watch in self._watches.values():
            subject = watch.subject
            if isinstance(watch, _Device):
                devices[subject.device].append(watch)
                self._timed.append(watch)
                continue
            if isinstance(watch, _Silence):
                self._timed.append(watch)
            if isinstance(watch, _Silence) and subject.measurement is None:
                anything[subject.device].append(watch)
            elif isinstance(watch, _Level | _Rate | _Silence) and subject.measurement is not None:
                fed[subject.device, subject.measurement].append(watch)
        self._fed, self._any, self._devices = dict(fed), dict(anything), dict(devices)


def _made(subject: Subject, now_s: float, now_ns: int) -> _Watch:
    rule: Rule = subject.rule
    if isinstance(rule, ThresholdRule):
        return _Level(subject, rule)
    if isinstance(rule, RateRule):
        return _Rate(subject, rule)
    if isinstance(rule, MissingRule):
        return _Silence(subject, now_s, now_ns)
    return _Device(subject, rule)


def _usable(sample: Sample, index: int | None) -> float | None:
    """The value of a field where it is a number one may judge by."""
    if index is None:
        return None
    value: Value = sample.values[index]
    if value is None:
        return None
    if any(i == index and code in UNUSABLE for i, code in sample.quality):
        return None
    # A text that is there is no number, but it is no silence either.
    return 0.0 if isinstance(value, str) else float(value)
