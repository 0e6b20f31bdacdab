"""The stream in which a box tells its alarms, ``box/alarm``: one row for each that is raised or cleared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from trisense.core.alarms.evaluator import Transition
from trisense.core.alarms.rules import DeviceRule, MissingRule, RateRule
from trisense.core.model import BOX_DEVICE, Field, FieldType, Layer, Stream, Value

__all__ = ["ALARM", "alarm_values"]

TEXT_CHARS: Final = 500
"""Of a message that quotes a device."""

ALARM: Final = Stream(
    device=BOX_DEVICE,
    measurement="alarm",
    layer=Layer.GROUND,
    fields=(
        Field("rule", "", FieldType.STR),
        Field("kind", "", FieldType.STR),
        Field("priority", "", FieldType.STR),
        Field("state", "", FieldType.STR),
        Field("source", "", FieldType.STR),
        Field("measurement", "", FieldType.STR),
        Field("field", "", FieldType.STR),
        Field("value", "1"),
        Field("limit", "1"),
        Field("unit", "", FieldType.STR),
        Field("since", "", FieldType.STR),
        Field("occurrence", "1", FieldType.INT),
        Field("held", "1", FieldType.INT),
        Field("message", "", FieldType.STR),
    ),
)
"""``source`` is the device; ``state`` is raised or cleared; ``value`` and ``limit`` are in ``unit``;
``since`` is ISO 8601 UTC; what a kind of rule does not have is null. Of one rule, source, measurement and
field the newest row counts."""


def alarm_values(told: Transition) -> dict[str, Value]:
    """The row of a transition, by field name."""
    subject, rule = told.subject, told.subject.rule
    return {
        "rule": rule.name,
        "kind": rule.kind,
        "priority": rule.priority.value,
        "state": "raised" if told.raised else "cleared",
        "source": subject.device,
        "measurement": subject.measurement,
        "field": subject.field,
        "value": _short(told.value),
        "limit": _short(told.limit),
        "unit": told.unit or None,
        "since": _iso(told.since_ns),
        "occurrence": told.occurrence,
        "held": told.held,
        "message": _message(told)[:TEXT_CHARS],
    }


def _message(told: Transition) -> str:
    if told.why and not told.raised:
        return told.why  # nobody can say whether all is well
    what = told.subject.rule.message or _what(told)
    return f"{what}: {told.why}" if told.why else what


def _what(told: Transition) -> str:
    rule, value, limit = told.subject.rule, told.value, told.limit
    if isinstance(rule, DeviceRule):
        return "cannot be read" if told.raised else "works"
    if isinstance(rule, MissingRule):
        name = told.subject.field or told.subject.measurement or "samples"
        return f"no {name} for more than {limit:g} s" if told.raised else f"{name} as expected"
    name = f"{told.subject.field}{' changes' if isinstance(rule, RateRule) else ''}"
    if not told.raised or value is None or limit is None:
        return f"{name} within limits"
    return f"{name} {'above' if value > limit else 'below'} {limit:g} {told.unit}"


def _short(value: float | None) -> float | None:
    """Six digits: a rate has no more, and more cost bytes."""
    return None if value is None else float(f"{value:.6g}")


def _iso(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
