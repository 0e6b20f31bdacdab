"""``trisense edge status``, ``trisense top`` and ``trisense tap``: a running box, seen from its machine."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text
from trisense.core import cli
from trisense.core.errors import LinkError
from trisense.core.model import BOX_DEVICE, BatchClass
from trisense.edge.status.client import Client, find_config, find_socket
from trisense.edge.status.model import Status
from trisense.edge.status.screen import MARKS, UNITS, number, screen
from trisense.edge.status.tap import Condition

__all__ = ["status", "tap", "tap_app", "top_app"]

EVERY_S: Final = 1.0
LEAVE: Final = (b"q", b"Q", b"\x1b", b"\x03", b"\x04", b"")
"""q, Esc, Ctrl-C, Ctrl-D, a terminal that is gone."""

Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG.toml",
        show_default=False,
        help="Configuration of the box; left out: /etc/trisense/edge.toml, else edge.toml in this folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

tap_app = typer.Typer(add_completion=False, help="Follow the samples of the box on this machine.")
top_app = typer.Typer(add_completion=False, help="Watch the box on this machine live.")


def status(
    config: Config = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again each second, until Ctrl-C.")] = False,
) -> None:
    """Show the box that runs on this machine, what is wrong first.

    Asks the running box by its local socket; the box need not be online. With --json one object a line: the
    whole picture, `problems` empty when all is well. Exit 0 all well, 1 something is wrong, 2 no box runs.
    """
    with _connect(config) as client:
        console = Console(highlight=False)
        while True:
            picture = client.status()
            if as_json:
                typer.echo(picture.model_dump_json())
            else:
                console.print(screen(picture, console))
            if not watch:
                break
            time.sleep(EVERY_S)
            if not as_json:
                console.print()
    if picture.problems:
        raise typer.Exit(1)


@top_app.command()
def top(config: Config = None) -> None:
    """Watch the box on this machine: the screen of `edge status`, made anew each second.

    Leave with q, Esc or Ctrl-C. It waits for a box that restarts. Exit 2 when none runs at first, or there is
    no terminal.
    """
    console = Console(highlight=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        cli.cannot("top needs a terminal; without one: trisense edge status")
    client: Client | None = _connect(config)
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                client = client or _connect(config)
                shown = screen(client.status(), console, height=console.height)
            except LinkError as error:
                if client is not None:
                    client.close()
                client, shown = None, Text(f"{error}\n\nAsked again each second; q leaves.")
            live.update(shown, refresh=True)
            if _left(EVERY_S):
                return


@tap_app.command()
def tap(
    config: Config = None,
    *,
    device: Annotated[str, typer.Option(help="Name of the device; * and ? stand for others.")] = "*",
    measurement: Annotated[str, typer.Option(help="Name of the measurement, likewise.")] = "*",
    field: Annotated[str, typer.Option(help="Show these fields alone, likewise.")] = "*",
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="FIELD OP NUMBER, such as 'air_temperature > 30'; several must all hold.",
        ),
    ] = None,
    batch_class: Annotated[
        BatchClass | None, typer.Option("--class", help="Samples of this class alone.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="Leave after so many samples; 0: never.")] = 0,
    as_json: Json = False,
) -> None:
    """Follow the samples of the box on this machine as they come, before they are sent.

    A value marked ? is suspect, ! failed its test. Where the terminal is slower than the box some are left
    out, which is told on stderr: the box itself waits for nobody. Exit 2 when no box runs.
    """
    for condition in where or ():
        Condition.parse(condition)
    request: dict[str, Any] = {"device": device, "measurement": measurement, "field": field}
    request |= {"where": where or [], "batch_class": batch_class}
    try:
        with _connect(config) as client:
            if (nothing := unmatched(client.status(), device)) is not None:
                typer.echo(f"trisense: {nothing}", err=True)
            _follow(client.tap(request), count, as_json=as_json)
    except BrokenPipeError:
        # As `tap | head` leaves: what Python would still flush at its end has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unmatched(status: Status, pattern: str) -> str | None:
    """What to say where no device of the box has such a name: it would be waited for in silence."""
    names = [*(device.name for device in status.devices), BOX_DEVICE]
    if any(fnmatchcase(name, pattern) for name in names):
        return None
    return (
        f"--device: expected one of {', '.join(names)} or a pattern of them, got {pattern!r}; waiting for it"
    )


def _follow(rows: Iterator[dict[str, Any]], count: int, *, as_json: bool) -> None:
    shown = 0
    for row in rows:
        if "lost" in row:
            typer.echo(f"trisense: {row['lost']} samples left out: this is too slow", err=True)
            continue
        typer.echo(json.dumps(row) if as_json else _line(row))
        shown += 1
        if shown == count:
            return


def _line(row: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(row["time_ns"] / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    values = []
    for name, value in row["values"].items():
        unit = "" if value is None else UNITS.get(row["units"][name], row["units"][name])
        mark = MARKS.get(row["quality"].get(name, 1), "")
        values.append(f"{name}={number(value)}{mark} {unit}".rstrip())
    kind = "" if row["class"] == "data" else f" [{row['class']}]"
    return f"{at} {row['device']}/{row['measurement']}{kind} {', '.join(values)}"


def _connect(config: Path | None) -> Client:
    path = find_config(config)
    return Client(find_socket(path), path)


@contextmanager
def _keys() -> Iterator[None]:
    """Single keys from the terminal, without an echo."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _left(wait_s: float) -> bool:
    """Wait; True when somebody wants to leave meanwhile."""
    until_s = time.monotonic() + wait_s
    while (rest_s := until_s - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], rest_s)
        # Arrows and the like come as several bytes behind an escape: they are no Esc.
        if ready and os.read(sys.stdin.fileno(), 64) in LEAVE:
            return True
    return False
