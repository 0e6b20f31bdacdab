"""``trisense driver test``: the score card of a driver."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from trisense.core.cli import cannot
from trisense.core.errors import ConfigError
from trisense.drivers.kit.contract import CELLS
from trisense.drivers.kit.matrix import Card, judge_all
from trisense.drivers.kit.record import chosen
from trisense.drivers.kit.subject import subject_at, subject_of

__all__ = ["score"]

FILE_COLUMNS = 200
"""Width where nobody looks at a terminal: a log keeps a finding on one line."""
STYLES = {"pass": "green", "fail": "bold red", "n/a": "dim"}


def score(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Drivers; a Modbus profile is modbus:NAME, or the path of its file.",
        ),
    ],
    url: Annotated[
        str | None, typer.Option("--url", help="A device of its own, real or simulated, for one driver.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="With --url: an option of the driver.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of score cards.")] = False,
) -> None:
    """Run the conformance matrix against a driver and print its score card.

    The kit plays the device on a real pty or socket, from the examples in the driver's conformance.toml.
    Several drivers are tested side by side. With --url it stands in the line of that device instead, and
    does the faults there. Exit codes: 0 all passed, 1 a test failed, 2 cannot test.
    """
    if (url is not None and len(names) != 1) or (options and url is None):
        cannot("--url for one driver, -o with --url")
    try:
        if url is None:
            subjects = [subject_of(name) for name in names]
        else:
            subjects = [subject_at(names[0], url, chosen(options or []))]
    except ConfigError as error:
        cannot(str(error))
    cards = judge_all(subjects)
    if as_json:
        typer.echo(json.dumps([card.as_json() for card in cards], indent=2, ensure_ascii=False))
    else:
        _show(cards)
    raise typer.Exit(0 if all(card.passed for card in cards) else 1)


def _show(cards: Sequence[Card]) -> None:
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=True, width=None if terminal else FILE_COLUMNS)
    for card in cards:
        console.print(Text(card.driver, "bold"), Text(card.note, "dim"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for one in card.verdicts:
            detail = f"{CELLS[one.cell]}. Found: {one.detail}" if one.verdict == "fail" else one.detail
            table.add_row(one.cell, Text(one.verdict, STYLES[one.verdict]), Text(detail, overflow="fold"))
        console.print(table)
        judged = card.count("pass") + card.count("fail")
        rest = f", {card.count('n/a')} not applicable" if card.count("n/a") else ""
        console.print(Text(f"{card.count('pass')} of {judged} passed{rest}\n", "bold"))
