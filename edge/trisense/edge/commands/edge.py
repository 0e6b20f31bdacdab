"""``trisense edge``: run a field box, or check its configuration."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
from trisense.core import logs
from trisense.edge.commands import check_screen, checking
from trisense.edge.commands.ports import ports
from trisense.edge.commands.scan import scan
from trisense.edge.config import load
from trisense.edge.doctor.command import doctor
from trisense.edge.remote import standing
from trisense.edge.runtime import Box
from trisense.edge.service import heap
from trisense.edge.service.notify import Notifier
from trisense.edge.status.client import find_config
from trisense.edge.status.commands import status

__all__ = ["app"]

log = structlog.get_logger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run or check a field box.")

LINGER_S: Final = 1.0
"""Longest wait, after everything is saved, for a thread that hangs in a name look-up or a connect."""

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration of the box.")]


@app.command()
def run(config: ConfigPath) -> None:
    """Sense, keep and send until SIGTERM or Ctrl-C; leaves within 5 s with everything on disk.

    SIGHUP takes over what changed in the file: devices, alarms, broker, link, log.
    """
    heap.share()
    box = load(config)
    logs.configure(box.log.level)
    # A watchdog ends a program by SIGABRT: what every thread did then goes to stderr, whoever held it up.
    faulthandler.enable()
    asyncio.run(_run(Box(box, notifier=Notifier())))


async def _run(box: Box) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, box.reload)
    await box.run(stop)
    # Python waits for its threads; one may hang in the system's resolver for longer than we may stay.
    timer = threading.Timer(LINGER_S, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _tell(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """An error that nobody waits for, such as that of a connection given up, as a line of the log."""
    log.debug("stray_error", what=context.get("message"), why=repr(context.get("exception")))


@app.command()
def check(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.toml", help="Left out: /etc/trisense/edge.toml, else edge.toml here."),
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="Read each device once; needs no broker.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Check a configuration. Exit 1 when a device cannot be read, 2 when the file has mistakes."""
    logs.configure("error")
    box = load(find_config(config))
    for mistake in [*checking.warnings(box), *standing.warnings(box)]:
        typer.echo(f"{box.path}: warning: {mistake}", err=True)
    readings = asyncio.run(checking.read_devices(box)) if read else None
    if json:
        typer.echo(checking.as_json(box, readings))
    else:
        check_screen.show(box, readings)
    if readings is not None and any(reading.error is not None for reading in readings):
        raise typer.Exit(1)


# Help lists them in this order: what is needed every day first.
app.command()(status)
app.command()(doctor)
app.command()(ports)
app.command()(scan)
app.command()(standing.config)
