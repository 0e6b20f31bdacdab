"""May a configuration be put to work from afar? The checker of ``edge check``, and a few questions more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from trisense.core.config import ConfigModel, parse_toml
from trisense.core.errors import ConfigError, Mistake
from trisense.edge.config import BoxConfig, checked
from trisense.edge.remote.door import door

__all__ = ["from_afar", "needs_restart"]

CHANGEABLE: Final = frozenset({"box", "mqtt", "link", "log", "device", "alarm"})
"""Tables that may differ from the box's own file. Any other is the deployer's: where the disk is, what
listens, what may be done from afar. Of ``[box]`` the id and the site are."""
BOX_FIXED: Final = ("id", "site")

OPENED: Final = ("_file", ".calibration", ".configuration")
"""Ends of the names of keys whose files are opened while a configuration is checked."""
WRITTEN: Final = "state_file"
"""And of those that are written: a new one could be any file in the folder."""
REPLAY: Final = "replay://"
INDEX: Final = re.compile(r"\[\d+\]")

Tables = Mapping[str, Any]


def from_afar(local: BoxConfig, content: str) -> BoxConfig:
    """Check a configuration that came over the link for the box whose own file is ``local``.

    A table of the deployer's that it leaves out is that of the box's own file; relative paths start at
    the folder of that file.

    Raises:
        ConfigError: with every mistake.
    """
    own = parse_toml(local.path, local.text)
    tables = parse_toml(local.path, content)
    for name, table in own.items():
        if name not in CHANGEABLE:
            tables.setdefault(name, table)
    found = list(_fixed(local, own, tables))
    files = Files(own, local.path.resolve().parent)
    if refused := list(files.refused(_paths_in(tables))):
        raise ConfigError(str(local.path), [*found, *refused])  # before any of them is opened
    try:
        config = checked(local.path, content, tables)
    except ConfigError as error:
        raise ConfigError(error.file, [*error.mistakes, *found]) from error
    found += files.refused(_paths_of(config))
    if door(config) == "closed" and door(local) != "closed":
        expected = "TLS, or over_plain = true in the box's own file, else it would be the last the box takes"
        found.append(Mistake("mqtt", expected, f"a plain connection to {config.mqtt.host}"))
    if found:
        raise ConfigError(str(local.path), found)
    return config


def needs_restart(before: BoxConfig, after: BoxConfig) -> list[Mistake]:
    """What a box that works by ``before`` cannot take over from ``after`` without a restart."""
    own, tables = parse_toml(before.path, before.text), parse_toml(after.path, after.text)
    return list(_fixed(before, own, tables))


def _fixed(here: BoxConfig, own: Tables, tables: Tables) -> Iterator[Mistake]:
    """What differs in tables that are the deployer's."""
    for key in BOX_FIXED:
        mine, theirs = getattr(here.box, key), _table(tables, "box").get(key, "nothing")
        if theirs != mine:
            yield Mistake(f"box.{key}", f"{mine!r}, else set it on the box", repr(theirs))
    for field in fields(here):
        table = getattr(here, field.name)
        if field.name in CHANGEABLE or not isinstance(table, ConfigModel):
            continue
        try:
            theirs = type(table).model_validate(_table(tables, field.name))
        except ValidationError:
            continue  # the checker tells it better
        mine = type(table).model_validate(_table(own, field.name))
        for key in type(table).model_fields:
            if getattr(mine, key) != getattr(theirs, key):
                shown = repr(_table(tables, field.name).get(key))
                yield Mistake(f"{field.name}.{key}", "what the box has: set it on the box", shown)


def _table(tables: Tables, name: str) -> Tables:
    table = tables.get(name)
    return table if isinstance(table, Mapping) else {}


class Files:
    """Which files a configuration from afar may name: those that the box's own file names for the same
    purpose, and others in its folder.

    Otherwise whoever may push a configuration could have any file of the box sent as a password or to a
    device, its private key to begin with, or have one overwritten.
    """

    def __init__(self, own: Tables, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, set[str]] = {}
        for where, name in _paths_in(own, every=True):
            if "\0" in name:
                continue  # no file has it, and asking would raise
            self._known.setdefault((folder / name).resolve(), set()).add(_purpose(where))

    def refused(self, named: Iterable[tuple[str, str]]) -> Iterator[Mistake]:
        """What is wrong with files named as (key path, name)."""
        for where, name in named:
            if "\0" in name:
                yield Mistake(where, "the name of a file", repr(name))
                continue
            purpose, path = _purpose(where), (self._folder / name).resolve()
            known = self._known.get(path)
            if purpose in (known or ()):
                continue
            if known is not None or purpose.endswith(WRITTEN) or not path.is_relative_to(self._folder):
                expected = (
                    f"a file that the box's own configuration names for this, or another in {self._folder}"
                )
                yield Mistake(where, expected, repr(name))


def _purpose(where: str) -> str:
    return INDEX.sub("", where)


def _paths_in(value: object, where: str = "", *, every: bool = False) -> Iterator[tuple[str, str]]:
    """(key path, name) of files, by the names of keys: those that are opened while a configuration is
    checked; ``every``: each string, for it may be one.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths_in(inner, f"{where}.{key}" if where else str(key), every=every)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths_in(inner, f"{where}[{index}]", every=every)
    elif isinstance(value, str):
        if value.startswith(REPLAY):
            yield where, value.removeprefix(REPLAY).partition("?")[0]
        elif every or _purpose(where).endswith(OPENED):
            yield where, value


def _paths_of(config: BoxConfig) -> Iterator[tuple[str, str]]:
    """The same by their types: what drivers, of others too, will open when they are at work."""
    for index, device in enumerate(config.devices):
        table = device.driver.config
        for name in type(table).model_fields:
            if isinstance(value := getattr(table, name), Path):
                yield f"device[{index}].{name}", str(value)
