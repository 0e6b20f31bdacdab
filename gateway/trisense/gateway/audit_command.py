"""``trisense audit``: account for every sample of every box."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table
from trisense.core.cli import cannot
from trisense.core.errors import StoreUnavailable
from trisense.gateway import accounts
from trisense.gateway.accounts import Account, Deep, Facts, Waiting
from trisense.gateway.config import DuckDbConfig, load
from trisense.gateway.stores import make_store
from trisense.gateway.stores.base import NotSupported

__all__ = ["app"]

app = typer.Typer(add_completion=False)
TIMEOUT_S = 120.0


@app.command()
def audit(
    url: Annotated[str | None, typer.Option(help="The running gateway.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The gateway's TOML file: open its files; it must not be running.")
    ] = None,
    spool: Annotated[list[Path] | None, typer.Option(help="Spool file of a local box; may repeat.")] = None,
    deep: Annotated[bool, typer.Option(help="Count the rows in the store, check pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Account for every sample of every box: stored, refused, declared lost, or still in its spool.

    Exit codes: 0 every box balances, 1 some box does not, 2 cannot say.
    """
    if url is not None and config is not None:
        cannot("--url or --config, not both")
    facts, counted = _from_files(config, deep) if config else _ask(url or "http://127.0.0.1:8080", deep)
    waiting: dict[str, Waiting] | None = None
    for path in spool or ():
        waiting = (waiting or {}) | accounts.read_spool(path)
    found = [accounts.balance(f, waiting) for f in facts]
    wrong = {box: faults for box, d in counted.items() if (faults := d.faults())}
    if as_json:
        typer.echo(json.dumps(_as_json(found, counted, wrong), indent=1))
    else:
        _print(found, wrong)
    sys.exit(0 if all(a.balanced for a in found) and not wrong else 1)


def _ask(url: str, deep: bool) -> tuple[list[Facts], dict[str, Deep]]:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/audit", params={"deep": int(deep)}, timeout=TIMEOUT_S)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        facts = [accounts.facts_from_json(f) for f in told["facts"]]
        return facts, {box: Deep(**count) for box, count in told.get("deep", {}).items()}
    except (httpx.HTTPError, ValueError, TypeError, KeyError) as error:
        cannot(f"no audit from {url}: {error}; is the gateway running there? --config opens its files")


def _from_files(config: Path, deep: bool) -> tuple[list[Facts], dict[str, Deep]]:
    settings = load(config).store
    kept = settings.path if isinstance(settings, DuckDbConfig) else settings.state_path / "ledger.db"
    if not kept.is_file():
        cannot(f"{kept}: no such file; has this gateway ever run?")
    store = make_store(settings)
    try:
        store.open()
        facts = accounts.facts_of(store.ledger)
        counted = {box: accounts.deep_of(store, box) for box in {f.box for f in facts}} if deep else {}
    except StoreUnavailable as error:
        cannot(f"{error}; while the gateway runs it has its files to itself: ask it, without --config")
    except NotSupported as error:
        cannot(str(error))
    finally:
        store.close()
    return facts, counted


def _as_json(found: list[Account], counted: Mapping[str, Deep], wrong: Mapping[str, str]) -> dict[str, Any]:
    return {
        "balanced": all(a.balanced for a in found) and not wrong,
        "accounts": [accounts.as_json(a) for a in found],
        "deep": {box: accounts.facts_json(count) for box, count in counted.items()},
        "deep_faults": dict(wrong),
    }


def _print(found: list[Account], wrong: Mapping[str, str]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("box", "epoch"):
        table.add_column(name)
    for name in ("committed", "stored", "refused", "lost", "in spool", "pending", "in flight", "missing"):
        table.add_column(name, justify="right")
    table.add_column("")
    for a in found:
        verdict = "balanced" if a.balanced else "DOES NOT BALANCE"
        table.add_row(
            a.box,
            a.epoch,
            "unknown" if a.committed is None else str(a.committed),
            str(a.stored),
            str(a.refused),
            f"{a.lost} + unknown" if a.lost_unknown else str(a.lost),
            str(a.waiting),
            str(a.pending),
            str(a.in_flight),
            str(a.unaccounted),
            verdict if not a.forks else f"{verdict}, {a.forks} forks refused",
        )
    console.print(table)
    for a in found:
        if a.missing:
            shown = ", ".join(
                f"{x}" if x == y else f"{x}-{y}" for x, y in a.missing[: accounts.MISSING_SHOWN]
            )
            console.print(f"{a.box} {a.epoch}: batches without a trace: {shown}", markup=False)
    for box, what in wrong.items():
        console.print(f"{box}: {what}", markup=False)
    bad = sum(not a.balanced for a in found)
    total = sum(a.committed or 0 for a in found)
    boxes = len({a.box for a in found})
    epochs = f"{len(found)} {'epoch' if len(found) == 1 else 'epochs'}"
    console.print(
        f"{epochs} of {boxes} {'box' if boxes == 1 else 'boxes'}, {total} samples,"
        f" {bad} {'does' if bad == 1 else 'do'} not balance"
    )
