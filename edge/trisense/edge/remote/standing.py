"""``trisense edge config``: does the box run its own file, and what became of what came from afar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from trisense.core.errors import Mistake, RemoteError
from trisense.core.remote import content_hash
from trisense.edge.config import BoxConfig, load
from trisense.edge.remote import record
from trisense.edge.remote.door import door
from trisense.edge.remote.record import Record

__all__ = ["config", "warnings"]


def config(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration of the box.")],
    show: Annotated[bool, typer.Option("--show", help="The configuration itself, TOML on stdout.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Say whether this file counts, or a configuration from afar; nothing is changed.

    A configuration from afar gives way when this file changes, at the next start or a `reload`.
    Exit 0: this file. 1: another. 2: cannot say.
    """
    local = load(config)
    known = _standing(local)
    good = None if known is None else known.good
    if show:
        typer.echo(local.text if good is None else good, nl=False)
    elif as_json:
        typer.echo(json.dumps(_as_json(local, known)))
    else:
        for line in _lines(local, known):
            typer.echo(line)
    raise typer.Exit(0 if good is None else 1)


def warnings(local: BoxConfig) -> list[Mistake]:
    """What the reader of the box's own file would not think of."""
    found = []
    if door(local) == "closed":
        expected = "TLS, else nothing from afar is taken (or commands = [] and config = false)"
        found.append(Mistake("remote", expected, f"a plain connection to {local.mqtt.host}"))
    elif door(local) == "open":
        expected = "TLS with certificates: whoever reaches the broker may command this box"
        found.append(Mistake("remote.over_plain", expected, "true"))
    try:
        known = _standing(local)
    except RemoteError as error:
        found.append(Mistake("file", "to say whether the box runs it", error.detail))
    else:
        if known is not None and known.good is not None:
            found.append(Mistake("file", "what the box runs", "not this file, see `trisense edge config`"))
    return found


def _standing(local: BoxConfig) -> Record | None:
    """The record, where the box's own file has not changed since and so overruled it."""
    known = record.read(record.path_beside(local.spool.path))
    return known if known is not None and known.base == content_hash(local.text) else None


def _as_json(local: BoxConfig, known: Record | None) -> dict[str, object]:
    good = None if known is None else known.good
    return {
        "source": "local" if good is None else "remote",
        "running": content_hash(local.text if good is None else good),
        "on_trial": known is not None and known.trial is not None,
        "tried": None if known is None or known.tried is None else known.tried.model_dump(),
    }


def _lines(local: BoxConfig, known: Record | None) -> list[str]:
    """It speaks of the files alone: whether a box runs at all, `edge status` says."""
    what = "this file counts"
    if known is not None and known.good is not None:
        what = f"one from afar counts, {content_hash(known.good)[:16]}, until this file changes"
    lines = [f"{local.path}: {what}"]
    if known is not None and known.tried is not None and known.tried.outcome != "running":
        why = f": {known.tried.reason}" if known.tried.reason else ""
        outcome = known.tried.outcome.replace("_", " ")
        lines.append(f"desired last: {known.tried.hash[:16]}, {outcome} at {known.tried.at}{why}")
    return lines
