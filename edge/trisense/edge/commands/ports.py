"""``trisense edge ports``: the serial ports of this machine, and what to call them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from trisense.core import logs
from trisense.core.errors import Mistake
from trisense.edge.commands.port_report import PortUse, absent_ports, survey, unstable_names
from trisense.edge.config import load

__all__ = ["ports"]


def ports(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="Show which device uses which port.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """List serial ports: driver, adapter, who uses and who holds each, and the `line` to write for it.

    Nothing is opened. Exit 1 when the configuration names a port that is not there, names one so that it
    will mean another some day, or gives one port two names; 2 when the file has mistakes.
    """
    logs.configure("error")
    box = load(config) if config is not None else None
    found = survey(box)
    mistakes = [] if box is None else [*unstable_names(box), *absent_ports(box)]
    if as_json:
        dump = {"ports": [_dump(use) for use in found], "warnings": [str(mistake) for mistake in mistakes]}
        typer.echo(json.dumps(dump))
    else:
        _show(found, mistakes)
    if mistakes:
        raise typer.Exit(1)


def _line(use: PortUse) -> str:
    return f"serial://{use.best_name}"


def _dump(use: PortUse) -> dict[str, Any]:
    adapter = use.port.adapter
    return {
        "node": str(use.port.node),
        "driver": use.port.driver,
        "usb_id": use.port.usb_id,
        "maker": adapter and adapter.maker,
        "product": adapter and adapter.product,
        "serial": adapter and adapter.serial,
        "by_id": [str(link) for link in use.port.by_id],
        "by_path": [str(link) for link in use.port.by_path],
        "ambiguous": use.ambiguous,
        "used_by": list(use.used_by),
        "held_by": [{"pid": holder.pid, "command": holder.command} for holder in use.held_by],
        "line": _line(use),
    }


def _show(found: Sequence[PortUse], mistakes: Sequence[Mistake]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("No serial port.")
    for use in found:
        port, adapter = use.port, use.port.adapter
        what = [port.driver or "no driver"]
        if adapter is not None:
            number = f"serial number {adapter.serial}" if adapter.serial else "no serial number"
            what += [port.usb_id or "", adapter.maker, adapter.product, number]
        console.print(f"[bold]{port.node}[/bold]  {', '.join(filter(None, what))}")
        console.print(f'    line = "{_line(use)}"', markup=False)
        for link in (*port.by_id, *port.by_path):
            if link != use.best_name:
                console.print(f"    also {link}", markup=False)
        if use.ambiguous:
            console.print("    AMBIGUOUS: other adapters have the same name in by-id", style="yellow")
        if use.used_by:
            console.print(f"    used by {', '.join(use.used_by)}")
        if use.held_by:
            names = ", ".join(f"{holder.command} ({holder.pid})" for holder in use.held_by)
            console.print(f"    held by {names}", markup=False)
    for mistake in mistakes:
        console.print(f"warning: {mistake}", style="yellow", markup=False)
