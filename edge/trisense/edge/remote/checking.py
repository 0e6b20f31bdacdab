"""May a configuration be put to work from afar? The checker of ``edge check``, and a few questions more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from trisense.core.config import parse_toml
from trisense.core.errors import ConfigError, Mistake
from trisense.edge.config import BoxConfig, checked

__all__ = ["fixed_mistakes", "from_afar"]

CHANGEABLE: Final = frozenset({"box", "mqtt", "link", "log", "device", "alarm"})
"""Tables that may differ from the box's own file. Any other is the deployer's: where the disk is, what
listens, what may be done from afar. Of ``[box]`` the id and the site are."""
NO_TABLES: Final = frozenset({"path", "hash", "text", "devices"})
"""What a configuration holds beside its tables."""
HERE: Final = "what the box has: set it on the box"


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
    found = list(_files(tables, _named(own), local.path.resolve().parent))
    try:
        config = checked(local.path, content, tables)
    except ConfigError as error:
        raise ConfigError(error.file, [*error.mistakes, *found]) from error
    found += fixed_mistakes(local, config)
    if found:
        raise ConfigError(str(local.path), found)
    return config


def fixed_mistakes(here: BoxConfig, config: BoxConfig) -> Iterator[Mistake]:
    """What ``config`` would change that only a restart with the box's own file can."""
    for name in ("id", "site"):
        if getattr(config.box, name) != getattr(here.box, name):
            yield Mistake(
                f"box.{name}",
                f"{getattr(here.box, name)!r}: set it on the box",
                repr(getattr(config.box, name)),
            )
    for field in fields(config):
        if field.name in CHANGEABLE | NO_TABLES or field.name.rstrip("s") in CHANGEABLE:
            continue
        mine, theirs = getattr(here, field.name), getattr(config, field.name)
        if mine == theirs:
            continue
        for key in type(mine).model_fields:
            if getattr(mine, key) != getattr(theirs, key):
                yield Mistake(f"{field.name}.{key}", HERE, repr(getattr(theirs, key)))


def _files(tables: Mapping[str, Any], known: frozenset[str], folder: Path) -> Iterator[Mistake]:
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


def _named(tables: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for _, name in _secrets(tables))


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
