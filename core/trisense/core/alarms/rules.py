"""What an alarm rule says: one ``[[alarm]]`` table of a configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field as Constrained
from pydantic import ValidationError, model_validator
from trisense.core.config import ConfigModel, mistakes_of
from trisense.core.errors import Mistake

__all__ = ["DeviceRule", "MissingRule", "Priority", "RateRule", "Rule", "ThresholdRule", "rule_mistakes"]

Name = Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Glob = Annotated[str, Constrained(pattern=r"^[a-z0-9_*?\[\]!-]{1,64}$")]
Number = Annotated[float, Constrained(allow_inf_nan=False)]
Delay = Annotated[float, Constrained(ge=0, le=86_400)]
Wait = Annotated[float, Constrained(gt=0, le=31 * 86_400)]
PER_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Priority(StrEnum):
    """How soon somebody must act (ISA-18.2)."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class _Common(ConfigModel):
    name: Name
    """Name of the rule, unique on the box."""
    device: Glob
    """Device it watches: a name, a pattern such as `dust-*`, or `box` for the box's own health."""
    priority: Priority = Priority.MEDIUM
    """critical, high, medium or low."""
    message: Annotated[str, Constrained(max_length=200)] = ""
    """What the operator reads; without it the limit is told."""
    clear_for_s: Delay = 0.0
    """Seconds for which all must be well again before the alarm is cleared."""


class _Limits(_Common):
    """A number that must stay within limits."""

    measurement: Name | None = None
    """Measurement of the field; not needed where only one of the device's has it."""
    field: Name
    """The field that is watched."""
    unit: str
    """UCUM unit of the limits, which must be the field's own."""
    above: Number | None = None
    """The condition holds above it. With `below` too: outside of the two."""
    below: Number | None = None
    """The condition holds below it."""
    hysteresis: Annotated[float, Constrained(ge=0, allow_inf_nan=False)] = 0.0
    """How far the number must come back inside before the condition ends."""
    for_s: Delay = 0.0
    """Seconds for which the condition must hold before the alarm is raised."""

    @model_validator(mode="after")
    def _clearable(self) -> _Limits:
        if self.above is None and self.below is None:
            raise ValueError("above, below or both")
        if self.above is not None and self.below is not None:
            if self.below >= self.above:
                raise ValueError("below less than above")
            if 2 * self.hysteresis > self.above - self.below:
                raise ValueError("a hysteresis of at most half of what lies between below and above")
        return self

    def condition(self, value: float) -> bool | None:
        """True outside of the limits, False inside by the hysteresis, None between the two."""
        if self._outside(value, 0.0):
            return True
        return None if self._outside(value, self.hysteresis) else False

    def limit(self, value: float) -> float | None:
        """The limit that ``value`` is beyond."""
        return self.above if self.above is not None and value > self.above else self.below

    def _outside(self, value: float, by: float) -> bool:
        over = self.above is not None and value > self.above - by
        return over or (self.below is not None and value < self.below + by)


class ThresholdRule(_Limits):
    """A value above, below or outside of limits."""

    kind: Literal["threshold"]


class RateRule(_Limits):
    """A value that changes too fast: limits of the change in ``unit`` per ``per``."""

    kind: Literal["rate"]
    per: Literal["s", "min", "h"] = "min"
    """Time unit of the rate: s, min or h."""
    window_s: Wait = 60.0
    """The change is taken over at least so many seconds, at most twice as many."""

    @property
    def rate_unit(self) -> str:
        return f"{self.unit}/{self.per}"

    def rate(self, change: float, over_s: float) -> float:
        return change / over_s * PER_S[self.per]


class MissingRule(_Common):
    """No sample for too long; with ``field``: no usable value of it."""

    kind: Literal["missing"]
    measurement: Name | None = None
    """Only samples of this measurement count."""
    field: Name | None = None
    """Only good, unchecked or suspect values of this field count."""
    missing_s: Wait | None = None
    """Seconds of silence that are too long."""
    periods: Annotated[float, Constrained(ge=1, le=1000)] | None = None
    """Or intervals of a polled device."""

    @model_validator(mode="after")
    def _either(self) -> MissingRule:
        if (self.missing_s is None) == (self.periods is None):
            raise ValueError("either missing_s or periods")
        return self


class DeviceRule(_Common):
    """A device that cannot be read."""

    kind: Literal["device"]
    for_s: Delay = 30.0
    """Seconds for which it must be failing."""


Rule: TypeAlias = Annotated[
    ThresholdRule | RateRule | MissingRule | DeviceRule, Constrained(discriminator="kind")
]
KINDS = ("threshold", "rate", "missing", "device")


def rule_mistakes(error: ValidationError, where: str) -> list[Mistake]:
    """Complaints about one table as mistakes: the kind, which pydantic writes into the path, is left out."""
    found = []
    for mistake in mistakes_of(error, where):
        path = mistake.where
        for kind in KINDS:
            if path == f"{where}.{kind}" or path.startswith(f"{where}.{kind}."):
                path = where + path.removeprefix(f"{where}.{kind}")
        found.append(Mistake(path, mistake.expected, mistake.got))
    return found
