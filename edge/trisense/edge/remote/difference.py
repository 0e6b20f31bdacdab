"""What a new configuration changes, for people to look at before it is put to work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from pydantic import BaseModel
from trisense.core.model import Field
from trisense.core.remote import LIST_MAX, BusChange, Difference, FieldChange
from trisense.edge.config import BoxConfig

__all__ = ["difference"]

SHARE_MIN: Final = 0.0005
"""Smaller changes of a line's load are none."""
NO_TABLES: Final = frozenset({"path", "hash", "text", "devices"})
FIELD_WORDS: Final = (
    ("vanishes", "vanishes", "vanish"),
    ("changes", "changes its unit or type", "change their unit or type"),
    ("appears", "appears", "appear"),
)

Fields = dict[tuple[str, str, str], str]
"""Unit and type by (device, measurement, field)."""


def difference(before: BoxConfig, after: BoxConfig) -> Difference:
    """All that ``after`` changes; lists end at ``LIST_MAX``, the summary counts everything."""
    old = {device.name: device for device in before.devices}
    new = {device.name: device for device in after.devices}
    whole = Difference(
        devices_added=[name for name in new if name not in old],
        devices_removed=[name for name in old if name not in new],
        devices_changed=[name for name in new if name in old and not old[name].alike(new[name])],
        fields=list(_field_changes(_fields(before), _fields(after))),
        buses=_buses(before, after),
        settings=list(_settings(before, after)),
    )
    lists = {
        name: value[:LIST_MAX]
        for name in Difference.model_fields
        if isinstance(value := getattr(whole, name), list)
    }
    return whole.model_copy(update=lists | {"summary": _summary(whole)[:LIST_MAX]})


def _fields(config: BoxConfig) -> Fields:
    return {
        (device.name, stream.measurement, field.name): _what(field)
        for device in config.devices
        for stream in device.streams
        for field in stream.fields
    }


def _what(field: Field) -> str:
    return f"{field.unit} {field.type.value}".strip()


def _field_changes(before: Fields, after: Fields) -> Iterator[FieldChange]:
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        device, measurement, field = key
        yield FieldChange(
            device=device,
            measurement=measurement,
            field=field,
            change="appears" if old is None else "vanishes" if new is None else "changes",
            before=old,
            after=new,
        )


def _buses(before: BoxConfig, after: BoxConfig) -> list[BusChange]:
    old, new = _loads(before), _loads(after)
    changes = []
    for line in [*old, *(line for line in new if line not in old)]:
        was, will = old.get(line), new.get(line)
        if was is None or will is None or abs(was[0] - will[0]) >= SHARE_MIN or was[1] != will[1]:
            changes.append(
                BusChange(
                    line=line,
                    before=None if was is None else round(was[0], 4),
                    after=None if will is None else round(will[0], 4),
                    fits=will is None or will[1],
                )
            )
    return changes


def _loads(config: BoxConfig) -> dict[str, tuple[float, bool]]:
    """(share of the line's time, whether it fits) of each Modbus line."""
    if not any(device.driver.config.driver.startswith("modbus") for device in config.devices):
        return {}
    from trisense.drivers.modbus import Modbus  # noqa: PLC0415  # a box without Modbus never loads it
    from trisense.drivers.modbus.forecast import forecast  # noqa: PLC0415  # as above

    loads = forecast(device.driver for device in config.devices if isinstance(device.driver, Modbus))
    return {load.url: (load.utilisation, load.fits) for load in loads}


def _settings(before: BoxConfig, after: BoxConfig) -> Iterator[str]:
    for field in fields(after):
        if field.name not in NO_TABLES:
            name = field.name.removesuffix("s") if field.name == "alarms" else field.name
            yield from _keys(name, getattr(before, field.name), getattr(after, field.name))


def _keys(where: str, old: Any, new: Any) -> Iterator[str]:
    """Key paths below ``where`` whose values differ; entries of a list go by their names."""
    if isinstance(new, BaseModel) and type(old) is type(new):
        for name in type(new).model_fields:
            yield from _keys(f"{where}.{name}", getattr(old, name), getattr(new, name))
    elif isinstance(new, tuple | list) and isinstance(old, tuple | list):
        mine, theirs = _by_name(old), _by_name(new)
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            if mine.get(name) != theirs.get(name):
                yield f"{where}[{name}]"
    elif old != new:
        yield where


def _by_name(entries: tuple[Any, ...] | list[Any]) -> Mapping[str, Any]:
    return {str(getattr(entry, "name", index)): entry for index, entry in enumerate(entries)}


def _summary(change: Difference) -> list[str]:
    said = []
    for what, one, many in FIELD_WORDS:
        number = sum(field.change == what for field in change.fields)
        if number:
            said.append(f"{number} fields {many}" if number > 1 else f"1 field {one}")
    for names, verb in (
        (change.devices_removed, "removed"),
        (change.devices_added, "added"),
        (change.devices_changed, "changed"),
    ):
        if names:
            said.append(f"{len(names)} device{'s' if len(names) > 1 else ''} {verb}: {_first(names)}")
    said += map(_load_said, change.buses)
    if change.settings:
        said.append(f"settings changed: {_first(change.settings)}")
    return said


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _load_said(bus: BusChange) -> str:
    before, after = bus.before or 0.0, bus.after or 0.0
    text = f"bus load {after - before:+.0%} on {bus.line} ({before:.0%} to {after:.0%})"
    return text if bus.fits else f"{text}: DOES NOT FIT"
