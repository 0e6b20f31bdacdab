"""What a check is given and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from trisense.edge.config import BoxConfig
from trisense.edge.status.model import Status

__all__ = ["Check", "Finding", "Patient", "Values", "Verdict"]


Values = Mapping[str, float | int | str | bool | None]


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but a promise is weaker than it could be, or will be."""
    BAD = "bad"
    """A promise does not hold here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    measured: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""
    values: Values = field(default_factory=dict)
    """What was measured as numbers, units in their names, for ``--json``."""


@dataclass(frozen=True, slots=True)
class Patient:
    """The box that is looked at."""

    config: BoxConfig
    running: Status | None = None
    """What the running box says of itself, where one runs and may be asked."""
    occupied: bool = False
    """Some process holds the spool: a box runs, whether it may be asked or not."""
    root: Path = Path("/")
    """Where /proc, /sys, /dev and /run lie."""


Check = Callable[[Patient], Iterator[Finding]]
"""Looks at one side of the box. It blocks, from one finding to the next for less than ``examine.LIMIT_S``."""
