"""The ``trisense`` program: one door, each part's commands behind it.

A part registers its commands by entry point (group ``trisense.commands``); a command is imported
when it is called, so that a box without the gateway's dependencies still starts quickly.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as installed_version
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main
from trisense.core.errors import ConfigError, MissingExtra, TrisenseError

__all__ = ["GROUP", "cannot", "main", "plain", "plain_lines"]

GROUP = "trisense.commands"
EXTRAS = {
    "trisense.edge": "edge",
    "trisense.drivers": "edge",
    "trisense.gateway": "gateway",
    "trisense.sims": "sims",
}
"""Extra that brings what a part's commands depend on."""
SUMMARIES = {
    "demo": "A whole city in a box on this machine: devices, boxes, broker, gateway, page.",
    "edge": "Run or check a field box.",
    "gateway": "Run or check the gateway, look into its quarantine, reach its boxes.",
    "top": "Watch the box on this machine live.",
    "tap": "Follow the samples of the box on this machine.",
    "spool": "Look into a box's queue on disk, check it, export it, trim it.",
    "bus": "Predict the load of Modbus lines.",
    "driver": "List, show, test or start drivers; decode captured bytes, record a line.",
    "wire": "Measure the wire format on a CSV file, show a bundle.",
    "sim": "Run simulated devices.",
    "audit": "Account for every sample of every box.",
}


def cannot(message: str) -> NoReturn:
    """End the program: it cannot do what was asked (exit 2)."""
    typer.echo(f"trisense: {plain_lines(message)}", err=True)
    sys.exit(2)


def plain(text: str) -> str:
    """``text`` without what a terminal would obey, new lines included: words of a device may come from
    anybody's tag, those of a box from whoever took it.
    """
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def plain_lines(text: str) -> str:
    """``plain`` for each line of ``text``."""
    return "\n".join(map(plain, text.split("\n")))


class Commands(typer.core.TyperGroup):
    """Commands by entry point, imported only when called."""

    @cached_property
    def _points(self) -> Mapping[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002  # typer's own Context
        order = list(SUMMARIES)
        return sorted(self._points, key=lambda n: (order.index(n) if n in order else len(order), n))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ARG002  # typer's own Context
        point = self._points.get(cmd_name)
        return None if point is None else load(point)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # The summaries stand here, not in the commands, so that --help imports none of them.
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Options"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx))])
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


def load(point: EntryPoint) -> Any:
    """Import one command."""
    command = typer.main.get_command(point.load())
    _unwrap(command)
    return command


def _unwrap(command: Any) -> None:
    """Join the lines of each paragraph of help: typer keeps a docstring's, too long for 80 columns."""
    if command.help:
        command.help = re.sub(r"(?<!\n)\n(?!\n|- )", " ", inspect.cleandoc(command.help))
    for inner in getattr(command, "commands", {}).values():
        _unwrap(inner)


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The extra that brings what a part of ours tried to import; None where a module of ours is missing."""
    missing, importer = error.name or "", None
    if missing.split(".")[0] == "trisense":
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        part = ".".join(str(frame.f_globals.get("__name__", "")).split(".")[:2])
        importer = EXTRAS.get(part, importer)
    return None if importer is None else MissingExtra(importer, missing.split(".")[0])


root = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # the signature typer calls
    if wanted:
        typer.echo(f"trisense {installed_version('trisense')}")
        raise typer.Exit


@root.callback()
def trisense(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Urban sensing: drivers and a store-and-forward runtime on field boxes, a gateway, a live page.

    Exit codes: 0 good, 1 found something, 2 cannot do it.
    """


def main() -> NoReturn:
    """Run the program; every error of ours becomes clear lines on stderr and exit code 2."""
    try:
        typer.main.get_command(root)(prog_name="trisense")
    except ConfigError as error:
        for mistake in error.mistakes:
            typer.echo(f"{error.file}: {mistake}", err=True)
        sys.exit(2)
    except TrisenseError as error:
        cannot(str(error))
    except ModuleNotFoundError as error:
        lacking = missing_extra(error)
        if lacking is None:
            raise
        cannot(str(lacking))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # What Python would still flush at its end has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        cannot(f"what is written has no room: {error}")
    sys.exit(0)
