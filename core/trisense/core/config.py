"""Configuration files: TOML in, a checked model out, or every mistake at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from trisense.core.errors import ConfigError, Mistake

__all__ = [
    "ConfigModel",
    "check",
    "key_path",
    "load_toml",
    "mistakes_of",
    "parse_toml",
    "read_secret",
    "read_text",
    "read_toml",
    "secrets_in",
]

TEXT_BYTES = 4 << 20
"""Larger files are no configuration, and some have no end."""
DEPTH_MAX = 32
"""Deeper tables are no configuration, and would end those who walk through them."""
PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
TOO_DEEP = re.compile(rf"(?<![\w-])(?:{PART}){{{DEPTH_MAX}}}")
"""A key of so many parts; tomllib takes a minute for one of 45,000 (the time grows with their square)."""
WITH_PASSWORD = re.compile(r"(?i)^[a-z][a-z0-9+.-]*+://[^/?#\s@:]*+:[^/?#\s@]*+@")
SECRET_WORDS = ("password", "passwd", "token", "secret", "api_key", "apikey", "private_key")


class ConfigModel(BaseModel):
    """Base of every configuration table: an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: missing, unreadable, or no TOML (with its line).
    """
    return parse_toml(path, read_text(path))


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ConfigError: missing, unreadable, no UTF-8 or larger than ``TEXT_BYTES``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_BYTES + 1)
        if len(data) > TEXT_BYTES:
            raise ConfigError(str(path), [Mistake("file", f"at most {TEXT_BYTES} bytes", "more")])
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(str(path), [Mistake("file", "a TOML file", "no such file")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Mistake("file", "a readable TOML file", str(error))]) from error


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """The tables of ``text``, which came from ``path``.

    Raises:
        ConfigError: no TOML (with its line), or nested deeper than ``DEPTH_MAX``.
    """
    too_deep = Mistake("file", f"at most {DEPTH_MAX} levels of nesting", "more")
    if TOO_DEEP.search(text):
        raise ConfigError(str(path), [too_deep])
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML that is none, a number of 5,000 digits
        raise ConfigError(str(path), [Mistake("file", "valid TOML", str(error))]) from error
    level: list[Any] = [tables]
    for _ in range(DEPTH_MAX):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return tables
    raise ConfigError(str(path), [too_deep])


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def check(path: Path, tables: Mapping[str, Any], model: type[Model]) -> Model:
    """Turn tables into ``model``.

    Raises:
        ConfigError: with every mistake, secrets in the file included.
    """
    found = list(secrets_in(tables))
    try:
        config = model.model_validate(tables)
    except ValidationError as error:
        found += mistakes_of(error)
        raise ConfigError(str(path), _unique(found)) from error
    if found:
        raise ConfigError(str(path), found)
    return config


def load_toml(path: Path, model: type[Model]) -> Model:
    """``read_toml`` and ``check`` in one."""
    return check(path, read_toml(path), model)


def mistakes_of(error: ValidationError, prefix: str = "") -> list[Mistake]:
    """Say pydantic's complaints in our words: key path, expected, got."""
    found = []
    for item in error.errors(include_url=False):
        where = prefix + key_path(item["loc"], dotted=bool(prefix))
        kind = item["type"]
        if kind == "extra_forbidden":
            mistake = Mistake(where, "a known key", "an unknown one")
        elif kind == "missing":
            mistake = Mistake(where, "a value", "nothing")
        elif kind == "union_tag_invalid":
            key = item["ctx"]["discriminator"].strip("'")
            mistake = Mistake(
                f"{where}.{key}", f"one of {item['ctx']['expected_tags']}", repr(item["ctx"]["tag"])
            )
        else:
            text = item["msg"]
            for opening in ("Value error, ", "Input should be ", "String should "):
                text = text.removeprefix(opening)
            text = text.partition(", unable to parse ")[0]
            mistake = Mistake(where, text, _shown(item["input"]))
        found.append(mistake)
    return found


def key_path(location: tuple[int | str, ...], *, dotted: bool = False) -> str:
    """Write ("device", 2, "line") as ``device[2].line``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path or dotted else part
    return path


def secrets_in(tables: Mapping[str, Any], prefix: str = "") -> Iterator[Mistake]:
    """Name each key that holds a secret itself instead of the file it is in."""
    for key, value in tables.items():
        where = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from secrets_in(value, where)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from secrets_in(item, f"{where}[{index}]")
        elif isinstance(value, str) and WITH_PASSWORD.search(value):
            yield Mistake(where, "a URL without name and password", "a secret")
        elif any(word in key.lower() for word in SECRET_WORDS) and not key.endswith(("_file", "_env")):
            yield Mistake(where, f"no secret in the file: use {key}_file = PATH", "a secret")


def read_secret(path: Path) -> str:
    """The first line of a secret file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(str(path), [Mistake("file", "a readable secret", str(error))]) from error
    if not text:
        raise ConfigError(str(path), [Mistake("file", "a secret on its first line", "an empty file")])
    return text.splitlines()[0]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unique(mistakes: list[Mistake]) -> list[Mistake]:
    """Drop what pydantic says of a key that was named as a secret already."""
    seen: dict[str, Mistake] = {}
    for mistake in mistakes:
        seen.setdefault(mistake.where, mistake)
    return list(seen.values())
