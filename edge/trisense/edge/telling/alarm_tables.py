"""The ``[[alarm]]`` tables of a box: read, and checked against what its devices sense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError
from trisense.core.alarms import Rule, Source, bind, rule_mistakes
from trisense.core.errors import Mistake
from trisense.core.model import BOX_DEVICE
from trisense.edge.telling.health import HEALTH, HEALTH_S

if TYPE_CHECKING:
    from trisense.edge.config import Device

__all__ = ["alarm_rules", "sources", "unwatchable"]

RULE: Final[TypeAdapter[Rule]] = TypeAdapter(Rule)


def alarm_rules(tables: Sequence[Mapping[str, Any]], found: list[Mistake]) -> list[Rule]:
    """The rules in ``tables``; what is wrong with one by itself is added to ``found``."""
    rules = []
    for index, table in enumerate(tables):
        try:
            rules.append(RULE.validate_python(table))
        except ValidationError as error:
            found += rule_mistakes(error, f"alarm[{index}]")
    return rules


def unwatchable(rules: Sequence[Rule], devices: Iterable[Device]) -> list[Mistake]:
    """What rules ask of devices that these do not have."""
    return bind(rules, sources(devices))[1]


def sources(devices: Iterable[Device]) -> dict[str, Source]:
    """What rules can watch: the devices' streams as they leave the box, and the box's own health."""
    found = {device.name: Source(device.streams, _period_s(device)) for device in devices}
    return found | {BOX_DEVICE: Source((HEALTH,), HEALTH_S)}


def _period_s(device: Device) -> float | None:
    if device.driver.kind != "polled":
        return None
    interval_s: float = device.driver.config.interval_s
    return interval_s
