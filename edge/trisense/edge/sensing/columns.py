"""One field of one stream on its way from the driver's value to a cell and its code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from trisense.core import limits
from trisense.core.errors import ValueRefused
from trisense.core.messages import CALIBRATION
from trisense.core.model import FieldType, Quality, Stream, Value, check_value
from trisense.drivers import Observed
from trisense.edge.sensing.calibration import Calibration, Certificate
from trisense.edge.sensing.quality import NOTHING_FOUND, FieldTests, Findings, Flags
from trisense.edge.sensing.treatment import ColumnPlan

__all__ = ["Column"]

log = structlog.get_logger(__name__)

QUICK_TYPES: Final[Mapping[FieldType, tuple[type, float, float]]] = {
    # Finite, and within 64 bits: a comparison with these says what ``check_value`` would.
    FieldType.FLOAT: (float, -sys.float_info.max, sys.float_info.max),
    FieldType.INT: (int, limits.INT_MIN, limits.INT_MAX),
}


class _InUse:
    """The certificate that makes a field's values now."""

    def __init__(self, device: str, name: str, calibration: Calibration, tell: Callable[[Observed], None]):
        self._device = device
        self._name = name
        self._calibration = calibration
        self._tell = tell
        self._certificate: Certificate | None = None
        self._state = ""
        self._from_ns = self._to_ns = 0

    def value(self, raw: float, time_ns: int) -> tuple[float, Findings]:
        certificate = self._certificate
        if certificate is None or not self._from_ns <= time_ns < self._to_ns:
            certificate = self._choose(time_ns)
        value, inside = certificate.value(raw)
        if not inside:
            return value, {"calibration_range": Quality.FAIL}
        return value, NOTHING_FOUND if self._state == "valid" else {"calibration": Quality.SUSPECT}

    def _choose(self, time_ns: int) -> Certificate:
        certificate, state, (self._from_ns, self._to_ns) = self._calibration.at(time_ns)
        self._certificate, self._state = certificate, state
        birth = certificate.birth()
        say = log.info if state == "valid" else log.warning
        say(f"calibration_{state}", device=self._device, field=self._name, **birth.model_dump())
        row = {"source": self._device, "field": self._name, "state": state} | birth.model_dump()
        known = {field.name for field in CALIBRATION.fields}
        self._tell(Observed("calibration", {name: row[name] for name in row if name in known}))
        return certificate


class Column:
    """One field: what it remembers, and how often which test flagged it.

    A value of ``quick_type`` from ``low`` to ``high``, both included, without a code of its own is good as
    it is; every other goes through ``cell``.
    """

    __slots__ = (
        "_calibration", "_field", "_flags", "_missing", "_quick", "_refuse", "_sentinels", "_tests", "high",
        "low", "quick_type", "source",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        plan: ColumnPlan,
        gap_s: float,
        *,
        refuse: Callable[[str, str, str | None], None],
        tell: Callable[[Observed], None],
    ) -> None:
        field = plan.field
        self.source = plan.source
        self._field = field
        self._refuse = refuse
        self._sentinels = plan.sentinels
        self._missing = 0
        self._flags = Flags(stream.device, stream.measurement, field.name)
        self._tests = None if field.type is FieldType.STR else FieldTests(field, plan.tests, gap_s=gap_s)
        self._calibration = (
            _InUse(stream.device, f"{stream.measurement}.{field.name}", plan.calibration, tell)
            if plan.calibration is not None
            else None
        )
        self._quick: type | None = None
        self.low = self.high = 0.0
        if self._tests is not None and not (self._tests.looks_back or self._sentinels or self._calibration):
            self._quick, low, high = QUICK_TYPES[field.type]
            self.low, self.high = max(low, self._tests.quick[0]), min(high, self._tests.quick[1])
        self.quick_type = self._quick

    @property
    def name(self) -> str:
        return self._field.name

    def counts(self) -> dict[str, int]:
        """Readings by the test they did not pass; ``missing``: null; ``gap``: silences of a tested field."""
        gaps = 0 if self._tests is None else self._tests.gaps
        own = {"missing": self._missing, "gap": gaps}
        return {test: count for test, count in own.items() if count} | self._flags.counts

    def cell(self, raw: Value, given: Quality, time_ns: int) -> tuple[Value, Quality]:
        """The value and its code: the worst of the device's own and of every test."""
        value = self._checked(raw)
        if value is None or value in self._sentinels:
            self._missing += 1
            return None, Quality.MISSING if given is Quality.GOOD or value is not None else given
        if self._tests is None or isinstance(value, str):
            return value, given
        found = NOTHING_FOUND
        if self._calibration is not None:
            value, found = self._calibration.value(value, time_ns)
            if self._field.type is FieldType.INT:
                value = round(value)
        worst = max(given, *found.values()) if found else given
        tested = self._tests.find(value, time_ns, worst)
        if found or tested:
            found = {**found, **tested}
            worst = max(given, *found.values())
        if found or not self._flags.calm:
            self._flags.note(found, value, time_ns)
            # The end of an episode is seen by the values that pass.
            self.quick_type = self._quick if self._flags.calm else None
        return value, worst

    def _checked(self, raw: Value) -> Value:
        try:
            return check_value(raw, self._field.type)
        except ValueRefused as error:
            self._refuse("value_refused", self.source, str(error))
            return None
