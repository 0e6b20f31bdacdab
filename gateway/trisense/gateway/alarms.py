"""Alarms as operators are told them, and what the rules of all boxes say now. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from trisense.core.alarms import ALARM
from trisense.core.model import BOX_DEVICE, Value

__all__ = ["Alarm", "RuleWords"]

SUBJECT: Final = ("rule", "source", "measurement", "field")
WORDS_KEPT: Final = 50_000
"""About 50 MB; beyond it what was cleared longest ago is forgotten first."""

_Subject: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, told once."""

    seq: int
    time_ms: int
    """When it happened by the box's word, or when the gateway saw it."""
    box: str
    device: str
    kind: str
    """Measurement of the alarm's stream (``loss``), or the gateway's own word: ``fork``, ``clone``,
    ``rollback``, ``quarantine``, ``store_down``, ``store_full``."""
    values: Mapping[str, Value]

    def as_json(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "time_ms": self.time_ms,
            "box": self.box,
            "device": self.device,
            "kind": self.kind,
            "values": dict(self.values),
        }

    @property
    def of_rule(self) -> bool:
        """Whether a rule of the box says it: such an alarm is raised and cleared, any other only happens."""
        return (self.device, self.kind) == (BOX_DEVICE, ALARM.measurement) and bool(self.values.get("rule"))

    @property
    def raised(self) -> bool:
        return self.values.get("state") == "raised"


class RuleWords:
    """Of each thing that a rule watches the newest word by the box's time, however long ago it was said."""

    def __init__(self) -> None:
        self._words: dict[_Subject, Alarm] = {}

    def note(self, alarm: Alarm) -> None:
        """Take a word; one that is older than what is known changes nothing."""
        if not alarm.of_rule:
            return
        subject = _subject(alarm.box, alarm.values)
        known = self._words.pop(subject, None)
        self._words[subject] = alarm if known is None or alarm.time_ms >= known.time_ms else known
        if len(self._words) > WORDS_KEPT:
            cleared = (key for key, word in self._words.items() if not word.raised)
            del self._words[next(cleared, next(iter(self._words)))]

    def last(self, box: str, values: Mapping[str, Value]) -> Alarm | None:
        """The newest word on what ``values``, those of a row of ``core.alarms.ALARM``, are about."""
        return self._words.get(_subject(box, values))

    def raised(self) -> list[Alarm]:
        """What is raised by its newest word, that which spoke last at the end."""
        return [word for word in self._words.values() if word.raised]


def _subject(box: str, values: Mapping[str, Value]) -> _Subject:
    return (box, *(str(values.get(name) or "") for name in SUBJECT))
