"""``trisense gateway``: run, check, quarantine; what is for one box is in ``remote_commands``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from trisense.core import logs
from trisense.core.cli import cannot
from trisense.gateway import remote_commands
from trisense.gateway.config import check_secrets, load
from trisense.gateway.quarantine import Quarantine

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Run or check the gateway, reach its boxes."
)
quarantine = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What the gateway refused, and why."
)
app.add_typer(quarantine, name="quarantine")
app.add_typer(remote_commands.app)

ConfigPath = Annotated[Path, typer.Argument(help="The gateway's TOML file.", metavar="CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="For a program.")]


@app.command()
def run(config: ConfigPath) -> None:
    """Take what the boxes send, store it, answer, show it; until SIGTERM."""
    from trisense.gateway.service import Gateway  # noqa: PLC0415  # brings duckdb and numpy: not for check

    settings = load(config)
    check_secrets(settings, config)
    logs.configure(settings.log.level)

    async def serve() -> None:
        await Gateway(settings).run()

    asyncio.run(serve())


@app.command()
def check(config: ConfigPath) -> None:
    """Check the configuration, secrets included; connect to nothing."""
    settings = load(config)
    check_secrets(settings, config)
    typer.echo(
        f"{config}: good; store {settings.store.kind}, broker {settings.mqtt.host}:{settings.mqtt.port}"
    )


@quarantine.command("ls")
def quarantine_ls(config: ConfigPath, as_json: AsJson = False) -> None:
    """List what is in quarantine, oldest first."""
    kept = _quarantine(config).list()
    if as_json:
        typer.echo(json.dumps([{"id": k.id, **k.meta} for k in kept], indent=1))
        return
    for k in kept:
        batches = len(k.meta.get("batches", []))
        what = f"{k.meta['reason']:<16}  {batches} batches  {k.payload_bytes} bytes"
        typer.echo(f"{k.id}  {k.meta.get('box', '?'):<32}  {what}")


@quarantine.command("show")
def quarantine_show(
    config: ConfigPath,
    name: Annotated[str, typer.Argument(help="Its id, or enough of it.", metavar="ID")],
    raw: Annotated[bool, typer.Option("--raw", help="The bytes as they came, on stdout.")] = False,
) -> None:
    """Show why something is in quarantine, or its bytes."""
    store = _quarantine(config)
    try:
        if raw:
            sys.stdout.buffer.write(store.payload(name))
        else:
            kept = store.show(name)
            typer.echo(json.dumps({"id": kept.id, **kept.meta}, indent=1))
    except KeyError as error:
        cannot(str(error.args[0]))


def _quarantine(config: Path) -> Quarantine:
    settings = load(config).quarantine
    return Quarantine(settings.path, max_bytes=settings.max_bytes)
