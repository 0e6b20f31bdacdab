"""``trisense bus``: what a configuration asks of its Modbus lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from trisense.core import logs
from trisense.drivers.modbus import Modbus
from trisense.drivers.modbus.forecast import FULL, LineLoad, forecast
from trisense.edge.config import load

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Predict the load of Modbus lines.")


@app.callback()
def _group() -> None:
    """Keep ``plan`` a sub-command, as there is no other yet."""


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration of the box.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Predict requests, bus time and utilisation of each line; nothing is opened.

    Exit 1 when a line cannot hold its devices, 2 when the file has mistakes.
    """
    logs.configure("error")
    box = load(config)
    lines = forecast(device.driver for device in box.devices if isinstance(device.driver, Modbus))
    if as_json:
        typer.echo(json.dumps({"fits": all(line.fits for line in lines), "lines": [_dump(x) for x in lines]}))
    else:
        _show(lines)
    if not all(line.fits for line in lines):
        raise typer.Exit(1)


def _dump(line: LineLoad) -> dict[str, Any]:
    return {
        "line": line.url,
        "framing": line.framing,
        "speed_assumed": line.assumed,
        "utilisation": round(line.utilisation, 4),
        "fits": line.fits,
        "stretch": round(line.stretch, 3),
        "clashes": list(line.clashes),
        "devices": [
            {
                "name": device.name,
                "profile": device.profile,
                "unit": device.unit,
                "interval_s": device.interval_s,
                "read_ms": round(device.read_s * 1000, 3),
                "utilisation": round(device.utilisation, 4),
                "registers": device.registers,
                "wanted": device.wanted,
                "requests": [
                    {"function": r.function, "address": r.address, "count": r.count} for r in device.requests
                ],
            }
            for device in line.devices
        ],
    }


def _show(lines: Sequence[LineLoad]) -> None:
    console = Console(highlight=False, markup=False)
    if not lines:
        console.print("No Modbus device in this configuration.")
    for line in lines:
        table = Table(
            "device", "profile", "unit", "requests", "registers", "bus ms a read", "every s", "share"
        )
        for device in line.devices:
            table.add_row(
                device.name,
                device.profile,
                str(device.unit),
                " ".join(f"{r.function}:{r.address}+{r.count}" for r in device.requests),
                f"{device.registers} ({device.wanted} wanted)",
                f"{device.read_s * 1000:.1f}",
                f"{device.interval_s:g}",
                f"{device.utilisation:.1%}",
            )
        console.print(f"{line.url}, {line.framing}", soft_wrap=True)
        console.print(table)
        if line.assumed:
            console.print("The speed behind the converter is not known; 9600 baud is assumed.")
        for clash in line.clashes:
            console.print(f"CANNOT WORK: the devices on this line do not agree on {clash}", style="red")
        if line.utilisation > FULL:
            console.print(
                f"DOES NOT FIT: {line.utilisation:.0%} of the line's time, {FULL:.0%} can be used. Make every"
                f" interval {line.stretch:.2f} times as long, the line faster, or use a second one.",
                style="red",
            )
        else:
            console.print(f"Fits: {line.utilisation:.1%} of the line's time, {FULL:.0%} can be used.")
