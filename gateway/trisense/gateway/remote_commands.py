"""``trisense gateway command``, ``config`` and ``replay``: a box at arm's length."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import ValidationError
from trisense.core.cli import cannot, plain, plain_lines
from trisense.core.config import mistakes_of, parse_toml, read_text, secrets_in
from trisense.core.errors import ConfigError, RemoteError
from trisense.core.model import BOX_ID
from trisense.core.remote import (
    COMMANDS,
    VERBS,
    Command,
    Desired,
    Replay,
    Reply,
    Reported,
    ShowConfig,
    Span,
    arguments_of,
    check_content,
    content_hash,
)
from trisense.gateway import remote, replies
from trisense.gateway.config import GatewayConfig, load

__all__ = ["app"]

app = typer.Typer(add_completion=False)

ConfigPath = Annotated[Path, typer.Argument(help="The gateway's TOML file.", metavar="CONFIG")]
BoxName = Annotated[str, typer.Argument(help="Id of the box.", metavar="BOX")]
AsJson = Annotated[bool, typer.Option("--json", help="For a program.")]
Health = Annotated[
    float | None,
    typer.Option("--health", min=1, max=3600, help="Seconds it has to prove itself; else the box's own."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, max=86_400, help="Seconds to wait for the box.")
]
SHOW_S: Final = 20.0

T = TypeVar("T")


@app.command("command")
def command(
    config: ConfigPath,
    box: BoxName,
    verb: Annotated[str, typer.Argument(help=f"One of {', '.join(VERBS)}.", metavar="VERB")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="In order, or as NAME=VALUE.", metavar="ARGUMENT")
    ] = None,
    *,
    timeout_s: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Have a box do something now, and show its reply.

    - read DEVICE: its samples.
    - snapshot CAMERA: a picture; the reply tells its id, the picture travels as all do.
    - restart DEVICE: close it and connect it anew.
    - log-level LEVEL [MINUTES]: for 15 minutes or as many, then back by itself.
    - replay [SINCE [UNTIL]]: send again what the gateway had; see `gateway replay`.
    - reload: take over what changed in the box's own file.
    - show-config: what it runs; see `gateway config`.
    - status: how it is, what is wrong first.

    A box may allow fewer of them. Exit 0: done. 1: the box did not do it, and says why. 2: no answer.
    """
    settings = _settings(config, box)
    reply = _run(remote.ask(settings, box, _command(verb, arguments or [], timeout_s), timeout_s=timeout_s))
    _show(reply, as_json=as_json, verb=verb)


@app.command("replay")
def replay(
    config: ConfigPath,
    box: BoxName,
    *,
    since: Annotated[str | None, typer.Option(help="ISO 8601; UTC where it names no zone.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    timeout_s: Timeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Have a box send again what it still keeps, to fill a store that was restored.

    What the gateway has already it stores no second time.

    Exit 0: done. 1: the box did not do it, and says why. 2: no answer.
    """
    settings = _settings(config, box)
    span = Span(since=_time("--since", since), until=_time("--until", until))
    asked = Replay(deadline=_deadline(timeout_s), arguments=span)
    reply = _run(remote.ask(settings, box, asked, timeout_s=timeout_s))
    if as_json or not reply.ok or reply.result is None:
        _show(reply, as_json=as_json)
    else:
        horizon = reply.result.get("horizon")
        kept = (
            f"what was receipted it keeps from {horizon}" if horizon else "it keeps none that was receipted"
        )
        typer.echo(plain(f"{box}: {reply.result.get('batches')} batches go again; {kept}"))


@app.command("config")
def config_(
    config: ConfigPath,
    box: BoxName,
    file: Annotated[
        Path | None, typer.Argument(help="TOML file for the box; none: show what it runs.", metavar="FILE")
    ] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Mistakes and difference; nothing changes, nothing is kept.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the box has settled.")] = True,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take back what the broker keeps for a box that is away.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Try one again that the box has given up.")] = False,
    health_s: Health = None,
    timeout_s: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Give a box another configuration, or show what it runs.

    The box checks it, tries it, and goes back by itself unless it proves healthy in time: connected, and
    each device at work that worked before. Ctrl-C ends the waiting, not the trial. An offline box gets it
    when it comes back, unless the broker restarts meanwhile: the shipped one keeps nothing on disk.

    Exit 0: it runs; with --dry-run: no mistakes; with --no-wait: the broker keeps it for the box.
    1: rejected, rolled back, or overruled by the box's own file. 2: no answer, or nothing was sent.
    """
    settings = _settings(config, box)
    if withdraw:
        _run(remote.withdraw(settings, box))
        typer.echo(f"{box}: the broker keeps nothing for it; what it runs stays")
        return
    if file is None:
        if dry_run or again or health_s is not None or not wait:
            cannot("FILE: expected a TOML file for the box with these options, got none")
        _show_config(settings, box, min(timeout_s, SHOW_S))
        return
    if wait and not dry_run and health_s is not None and timeout_s <= health_s:
        cannot(f"--timeout: expected more than --health, {health_s:g}, got {timeout_s:g}")
    desired = _desired(file, box, dry_run=dry_run, again=again, health_s=health_s)

    def tell(reported: Reported) -> None:
        if not as_json:
            typer.echo(_said(box, reported), err=reported.state in ("checking", "trial"))

    push = remote.Push(settings, box, desired, tell=tell, note=lambda text: typer.echo(plain(text), err=True))
    if not (wait or dry_run):
        _run(push.leave())
        typer.echo(f"{box}: left at the broker, {desired.hash[:16]}")
        return
    try:
        reported = _run(push.follow(timeout_s))
    except KeyboardInterrupt:
        typer.echo(plain(f"{box}: {push.standing()}"), err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(reported.model_dump_json(indent=1))
    raise typer.Exit(0 if reported.state in ("running", "checked") else 1)


def _settings(config: Path, box: str) -> GatewayConfig:
    if not BOX_ID.fullmatch(box):
        cannot(f"BOX: expected an id of the form {BOX_ID.pattern}, got {box!r}")
    return load(config)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _deadline(timeout_s: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=timeout_s)


def _command(verb: str, arguments: list[str], timeout_s: float) -> Command:
    form = COMMANDS.get(verb)
    if form is None:
        cannot(f"VERB: expected one of {', '.join(VERBS)}, got {verb!r}")
    names = arguments_of(form)
    given: dict[str, str] = {}
    for name, argument in zip([*names, *[""] * len(arguments)], arguments, strict=False):
        key, equals, value = argument.partition("=")
        if equals and key in names:
            given[key] = value
        elif name:
            given[name] = argument
        else:
            cannot(f"{verb}: expected {', '.join(names) or 'no argument'}, got {argument!r} too")
    body = {"verb": verb, "deadline": _deadline(timeout_s).isoformat(), "arguments": given}
    try:
        return form.model_validate_strings(body, strict=False)
    except ValidationError as error:
        cannot("; ".join(str(mistake) for mistake in mistakes_of(error)))


def _show(reply: Reply, *, as_json: bool, verb: str = "") -> None:
    if as_json:
        typer.echo(reply.model_dump_json(indent=1))
    elif reply.error is not None:
        typer.echo(plain(f"not done: {reply.error.reason}: {reply.error.detail}"), err=True)
    else:
        typer.echo("\n".join(replies.lines(verb, reply.result)))
    raise typer.Exit(0 if reply.ok else 1)


def _show_config(settings: GatewayConfig, box: str, timeout_s: float) -> None:
    reply = _run(remote.ask(settings, box, ShowConfig(deadline=_deadline(timeout_s)), timeout_s=timeout_s))
    if reply.result is None:
        _show(reply, as_json=False)
        return
    content = str(reply.result.get("content", ""))
    sys.stdout.write(plain_lines(content.expandtabs()) if sys.stdout.isatty() else content)


def _desired(file: Path, box: str, *, dry_run: bool, again: bool, health_s: float | None) -> Desired:
    content = read_text(file)
    tables = parse_toml(file, content)
    if found := list(secrets_in(tables)):
        raise ConfigError(str(file), found)  # before it lies at the broker for all to read who may
    named = tables.get("box")
    told = named.get("id") if isinstance(named, dict) else None
    if told != box:
        cannot(f"{file}: box.id: expected {box!r}, got {told!r}")
    desired = Desired(
        hash=content_hash(content),
        content=content,
        health_s=health_s,
        dry_run=dry_run,
        attempt=int(time.time()) if again else 0,
    )
    try:
        check_content(desired)
    except RemoteError as error:
        cannot(f"{file}: {error.detail}")
    return desired


def _said(box: str, reported: Reported) -> str:
    lines = [
        f"{box}: {reported.state.replace('_', ' ')}" + (f": {reported.reason}" if reported.reason else "")
    ]
    lines += [f"  {m.where}: expected {m.expected}, got {m.got}" for m in reported.mistakes]
    if reported.difference is not None and reported.state in ("checked", "checking"):
        lines += [f"  {line}" for line in reported.difference.summary or ["nothing changes"]]
    return "\n".join(map(plain, lines))


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        cannot(f"{option}: expected a time such as 2026-11-23T08:00, got {text!r}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)
