"""Alarm rules and what judges by them, without I/O or a clock of its own; box and gateway use the same."""

from trisense.core.alarms.binding import Source, Subject, bind
from trisense.core.alarms.evaluator import Evaluator, Transition
from trisense.core.alarms.rules import (
    DeviceRule,
    MissingRule,
    Priority,
    RateRule,
    Rule,
    ThresholdRule,
    rule_mistakes,
)
from trisense.core.alarms.stream import ALARM, alarm_values

__all__ = [
    "ALARM",
    "DeviceRule",
    "Evaluator",
    "MissingRule",
    "Priority",
    "RateRule",
    "Rule",
    "Source",
    "Subject",
    "ThresholdRule",
    "Transition",
    "alarm_values",
    "bind",
    "rule_mistakes",
]
