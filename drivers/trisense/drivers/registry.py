"""Drivers by name, found by entry point: a driver of another package equals ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trisense.core.errors import ConfigError, MissingExtra, Mistake
from trisense.drivers.sdk import Driver

__all__ = ["GROUP", "driver_class", "known", "load"]

GROUP = "trisense.drivers"
EXTRAS = {"camera": "camera", "sky": "sky", "air": "air"}


@cache
def known() -> Mapping[str, EntryPoint]:
    """Every registered driver by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load(name: str) -> type[Driver[Any]]:
    """Import the driver class registered as ``name``.

    Raises:
        KeyError: no such driver.
        MissingExtra: the driver is there, what it depends on is not.
    """
    point = known()[name]
    try:
        loaded: type[Driver[Any]] = point.load()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("trisense"):
            raise
        part = point.module.removeprefix("trisense.drivers.").split(".")[0]
        raise MissingExtra(EXTRAS.get(part, "edge"), missing) from error
    return loaded


def driver_class(name: str) -> type[Driver[Any]]:
    """The driver that ``driver = name`` means; ``modbus:PROFILE`` is the driver ``modbus``.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
        MissingExtra: see ``load``.
    """
    base = name.split(":", 1)[0]
    if base not in known():
        raise ConfigError("driver", [Mistake("driver", f"one of {', '.join(known())}", repr(name))])
    return load(base)
