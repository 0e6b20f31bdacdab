"""``trisense edge scan``: which Modbus units are on a line, and what they could be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from trisense.core import logs
from trisense.drivers.lines import check_url

if TYPE_CHECKING:
    from trisense.drivers.modbus.scan import FoundUnit, Scan

__all__ = ["scan"]

UNIT_MAX: Final = 247
SHOWN_VALUES: Final = 6


class FramingChoice(StrEnum):
    RTU = "rtu"
    ASCII = "ascii"
    TCP = "tcp"


def _line(url: str) -> str:
    try:
        parts = check_url(url)
    except ValueError as error:
        raise typer.BadParameter(f"expected {error}, got {url}") from error
    if parts.scheme not in ("serial", "tcp"):
        raise typer.BadParameter(f"expected a serial or tcp line, got {url}")
    return url


def units_of(text: str) -> list[int]:
    """Unit addresses of a list such as ``1-10,144``, in its order.

    Raises:
        typer.BadParameter: it is no such list, or beyond 1 to 247.
    """
    units: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and 1 <= int(end) <= UNIT_MAX for end in ends) or int(ends[0]) > int(
            ends[1]
        ):
            raise typer.BadParameter(f"expected units such as 1-10,144 within 1 to {UNIT_MAX}, got {part!r}")
        units |= dict.fromkeys(range(int(ends[0]), int(ends[1]) + 1))
    return list(units)


def scan(
    url: Annotated[str, typer.Argument(metavar="URL", callback=_line, help="serial:///dev/... or tcp://...")],
    units: Annotated[str, typer.Option(help="Units to look for, such as 1-10,144.")] = "1-247",
    framing: Annotated[FramingChoice | None, typer.Option(help="rtu where the line is serial.")] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.01, max=10, help="Seconds until an answer begins.")
    ] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Find the Modbus units on a line and suggest profiles; reads only, needs no configuration.

    Exit 1 when nobody answers, 2 when the line cannot be opened. Not while the box runs: it owns the line.
    """
    logs.configure("error")
    wanted = units_of(units)
    if framing is None:
        if url.startswith("tcp:"):
            raise typer.BadParameter("--framing tcp, or rtu for a converter that passes raw frames")
        framing = FramingChoice.RTU
    if framing is FramingChoice.TCP and not url.startswith("tcp:"):
        raise typer.BadParameter("--framing rtu or ascii on a serial line")
    from trisense.drivers.modbus.scan import Scan  # noqa: PLC0415  # a box that runs needs nothing of it

    walk = Scan(url, framing.value, timeout_s=timeout_s)
    found = _walk(walk, wanted)
    if as_json:
        typer.echo(_dump(url, framing.value, walk.echo, found))
    else:
        _show(walk.echo, found, asked=len(wanted))
    if not found:
        raise typer.Exit(1)


def _walk(walk: Scan, units: Sequence[int]) -> list[FoundUnit]:
    """Scan with progress on a terminal, on stderr so that stdout holds the result alone."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("units", total=len(units))
        done = iter(range(len(units)))

        def tell(unit: int, found: int) -> None:
            progress.update(task, completed=next(done), description=f"unit {unit}, {found} found")

        return asyncio.run(walk.run(units, tell))


def _dump(url: str, framing: str, echo: bool, found: Sequence[FoundUnit]) -> str:
    units = [
        {
            "unit": one.unit,
            "state": one.state,
            "suggestions": [
                {"profile": s.profile, "options": dict(s.options), "score": s.score, "values": dict(s.values)}
                for s in one.suggestions
            ],
        }
        for one in found
    ]
    return json.dumps({"line": url, "framing": framing, "echo": echo, "units": units})


def _show(echo: bool, found: Sequence[FoundUnit], *, asked: int) -> None:
    console = Console(highlight=False, markup=False)
    if not found:
        console.print(f"Nobody answers, {asked} units asked.")
    table = Table("unit", "could be", "options", "says now")
    for one in found:
        for suggestion in one.suggestions:
            values = [f"{name} {value}" for name, value in suggestion.values.items() if value is not None]
            more = " ..." if len(values) > SHOWN_VALUES else ""
            options = " ".join(f"{option}={value}" for option, value in suggestion.options.items())
            table.add_row(
                str(one.unit),
                f"modbus:{suggestion.profile}",
                options,
                ", ".join(values[:SHOWN_VALUES]) + more,
            )
        if one.state == "damaged":
            table.add_row(str(one.unit), "damaged answers: wrong parity, or two units of one address", "", "")
        elif not one.suggestions:
            table.add_row(str(one.unit), "no profile of ours", "", "")
    if found:
        console.print(table)
    if echo:
        console.print("The adapter hears itself: its devices need echo = true.")
