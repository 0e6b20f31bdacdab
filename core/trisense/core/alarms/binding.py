"""Which streams a rule watches: rules against the devices that are there, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from trisense.core.alarms.rules import DeviceRule, MissingRule, RateRule, Rule, ThresholdRule
from trisense.core.errors import Mistake
from trisense.core.model import BOX_DEVICE, FieldType, Stream

__all__ = ["SUBJECTS_MAX", "Source", "Subject", "bind"]

SUBJECTS_MAX: Final = 10_000
"""Most pairs of a rule and what it watches: about 5 MB, and a bound on what one restart can tell."""
NAMES_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Source:
    """A device as rules see it."""

    streams: tuple[Stream, ...]
    period_s: float | None = None
    """Seconds between its samples, where that is fixed."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that one rule watches."""

    rule: Rule
    device: str
    measurement: str | None = None
    """None: any of the device's."""
    field: str | None = None
    stream: Stream | None = None
    """Stream of the field; samples of another shape, while a device is being exchanged, are left alone."""
    index: int | None = None
    """Place of the field in it."""
    limit_s: float | None = None
    """For missing data: how long silence may last."""

    @property
    def key(self) -> tuple[str, str, str | None, str | None]:
        return (self.rule.name, self.device, self.measurement, self.field)


def bind(
    rules: Sequence[Rule], sources: Mapping[str, Source], where: str = "alarm"
) -> tuple[list[Subject], list[Mistake]]:
    """Everything that ``rules`` watch among ``sources`` (by device name), and every mistake in them.

    A pattern takes the devices that have what is asked for and must find one; it never means the box itself.
    """
    subjects: list[Subject] = []
    mistakes: list[Mistake] = []
    names: set[str] = set()
    for index, rule in enumerate(rules):
        path = f"{where}[{index}]"
        if rule.name in names:
            mistakes.append(Mistake(f"{path}.name", "a name of its own", f"{rule.name!r} once more"))
        names.add(rule.name)
        for found in _subjects(rule, sources, path):
            if isinstance(found, Subject):
                subjects.append(found)
            else:
                mistakes.append(found)
    if len(subjects) > SUBJECTS_MAX:
        expected = f"at most {SUBJECTS_MAX} pairs of a rule and what it watches"
        mistakes.append(Mistake(where, expected, str(len(subjects))))
    return subjects, mistakes


def _subjects(rule: Rule, sources: Mapping[str, Source], path: str) -> Iterator[Subject | Mistake]:
    exact = rule.device in sources
    devices = [rule.device] if exact else _matching(rule.device, sources)
    if not devices:
        yield Mistake(f"{path}.device", _one_of(sources), repr(rule.device))
    elif isinstance(rule, DeviceRule):
        yield from (Subject(rule, device) for device in devices)
    elif isinstance(rule, MissingRule) and rule.field is None:
        yield from _silent(rule, {d: sources[d] for d in devices}, path)
    else:
        yield from _fields(rule, {d: sources[d] for d in devices}, path, exact=exact)


def _matching(pattern: str, sources: Mapping[str, Source]) -> list[str]:
    return [name for name in sources if name != BOX_DEVICE and fnmatchcase(name, pattern)]


def _silent(rule: MissingRule, sources: Mapping[str, Source], path: str) -> Iterator[Subject | Mistake]:
    known = sorted({s.measurement for source in sources.values() for s in source.streams})
    if rule.measurement is not None and rule.measurement not in known:
        yield Mistake(f"{path}.measurement", _one_of(known), repr(rule.measurement))
        return
    for device, source in sources.items():
        if rule.measurement is None or any(s.measurement == rule.measurement for s in source.streams):
            yield _missing(rule, Subject(rule, device, rule.measurement), source, path)


def _fields(
    rule: ThresholdRule | RateRule | MissingRule, sources: Mapping[str, Source], path: str, *, exact: bool
) -> Iterator[Subject | Mistake]:
    streams = [(device, s) for device, source in sources.items() for s in source.streams]
    if rule.measurement is not None:
        known = sorted({s.measurement for _, s in streams})
        streams = [(device, s) for device, s in streams if s.measurement == rule.measurement]
        if not streams:
            yield Mistake(f"{path}.measurement", _one_of(known), repr(rule.measurement))
            return
    having = [(d, s, i) for d, s in streams for i, f in enumerate(s.fields) if f.name == rule.field]
    if not having:
        yield Mistake(
            f"{path}.field", _one_of(f.name for _, s in streams for f in s.fields), repr(rule.field)
        )
    elif exact and len(having) > 1:
        yield Mistake(f"{path}.measurement", _one_of(s.measurement for _, s, _ in having), "nothing")
    else:
        for device, stream, index in having:
            yield _field(rule, stream, index, sources[device], path)


def _field(
    rule: ThresholdRule | RateRule | MissingRule, stream: Stream, index: int, source: Source, path: str
) -> Subject | Mistake:
    field = stream.fields[index]
    subject = Subject(rule, stream.device, stream.measurement, field.name, stream, index)
    if isinstance(rule, MissingRule):
        return _missing(rule, subject, source, path)
    if field.type is FieldType.STR:
        return Mistake(f"{path}.field", "a field of numbers", f"{field.name!r}, which is text")
    if rule.unit != field.unit:
        expected = f"{field.unit!r}, the unit of {stream.device}/{stream.measurement}.{field.name}"
        return Mistake(f"{path}.unit", expected, repr(rule.unit))
    if isinstance(rule, RateRule) and source.period_s is not None and rule.window_s < source.period_s:
        expected = f"at least the interval of {stream.device}, {source.period_s:g}"
        return Mistake(f"{path}.window_s", expected, f"{rule.window_s:g}")
    return subject


def _missing(rule: MissingRule, subject: Subject, source: Source, path: str) -> Subject | Mistake:
    if rule.periods is not None:
        if source.period_s is None:
            expected = f"missing_s: {subject.device} keeps its own pace"
            return Mistake(f"{path}.periods", expected, f"{rule.periods:g}")
        return replace(subject, limit_s=rule.periods * source.period_s)
    if rule.missing_s is not None and source.period_s is not None and rule.missing_s < source.period_s:
        expected = f"at least the interval of {subject.device}, {source.period_s:g}"
        return Mistake(f"{path}.missing_s", expected, f"{rule.missing_s:g}")
    return replace(subject, limit_s=rule.missing_s)


def _one_of(names: Iterable[str]) -> str:
    known = sorted(set(names))
    shown = ", ".join(known[:NAMES_SHOWN])
    return f"one of {shown}" + (f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else "")
