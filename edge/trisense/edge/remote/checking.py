"""May a configuration be put to work from afar? The checker of ``edge check``, and a few questions more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    found = [
        *_fixed(local, own, tables),
        *_files(tables, frozenset(name for _, name in _secrets(own)), local.path.resolve().parent),
    ]
    try:
        config = checked(local.path, content, tables)
    except ConfigError as error:
        raise ConfigError(error.file, [*error.mistakes, *found]) from error
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


def _files(tables: Tables, known: frozenset[str], folder: Path) -> Iterator[Mistake]:
    """Files with secrets that are not where the deployer put such files.

    Otherwise whoever may push a configuration could have any file of the box sent as a password.
    """
    for where, name in _secrets(tables):
        if name in known:
            continue
        if not (folder / name).resolve().is_relative_to(folder):
            yield Mistake(
                where, f"a file that the box's own configuration names, or one in {folder}", repr(name)
            )


def _secrets(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            path = f"{where}.{key}" if where else str(key)
            if str(key).endswith("_file") and isinstance(inner, str):
                yield path, inner
            else:
                yield from _secrets(inner, path)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _secrets(inner, f"{where}[{index}]")
