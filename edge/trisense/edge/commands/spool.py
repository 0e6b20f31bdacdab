"""``trisense spool``: look into a box's queue on disk, check it, take samples out of it, make room."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from trisense.core import logs
from trisense.core.cli import cannot
from trisense.core.config import ConfigModel, check, read_toml
from trisense.core.errors import SpoolError, SpoolLocked
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.config import SpoolTable
from trisense.edge.spool import Spool, SpoolOptions
from trisense.edge.spool.export import Exported, Wanted, export
from trisense.edge.spool.fsck import Findings, examine
from trisense.edge.spool.model import KINDS
from trisense.edge.spool.shelf import Shelf
from trisense.edge.spool.trim import forget, give_up
from trisense.edge.spool.view import Contents, Progress, contents, look_into
from trisense.edge.status.screen import count, size

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look into a box's queue on disk, check it, export it, trim it.",
)

CHECKED: Final = {
    "log_frames": ("log frame", "log frames"),
    "pages": ("page", "pages"),
    "streams": ("stream", "streams"),
    "epochs": ("epoch", "epochs"),
    "batches": ("batch", "batches"),
}
"""What ``fsck`` counts, one and many."""
REPAIR_S: Final = 86_400.0
"""A repair by hand reads a damaged file to its end, however slow the card."""

SpoolPath = Annotated[
    Path, typer.Argument(metavar="SPOOL", help="The spool file, or the box's configuration (.toml).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


class _OfConfiguration(ConfigModel):
    spool: SpoolTable


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


@app.command("ls")
def list_(spool: SpoolPath, as_json: AsJson = False) -> None:
    """Say what lies in a spool by epoch, class and state: batches, samples, bytes, ages.

    Reads only, in short steps, so that it may run beside the box. Exit 2 when the file cannot be read.
    """
    path, _ = _where(spool)
    with _progress("reading", quiet=as_json) as progress:
        held = contents(path, progress)
    if as_json:
        typer.echo(json.dumps(_listing(path, held)))
    else:
        _show_contents(path, held)


@app.command()
def fsck(
    spool: SpoolPath,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is damaged; the box must be stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every page, index, checksum, counter, stream and the log of a spool.

    Without --repair it changes nothing and may run beside the box. With it, damaged batches are declared
    lost, and a damaged file is put aside and carried over into a new one batch by batch, each under its name.

    Exit 0 good; 1 repaired, or damaged and --repair can mend it; 2 damaged beyond repair, or cannot be read.
    """
    logs.configure("error")
    path, options = _where(spool)
    with _progress("checking", quiet=as_json) as progress:
        found = examine(path, progress)
        left = _repair(path, options, progress) if repair and not found.good else None
    outcome = _outcome(found, left)
    if as_json:
        typer.echo(json.dumps(_report(path, found, left, outcome)))
    else:
        _show_findings(path, found, left, outcome)
    sys.exit({"good": 0, "repaired": 1, "damaged": 1}.get(outcome, 2))


@app.command("export")
def export_(
    spool: SpoolPath,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; without it standard output.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="jsonl: a sample a line; csv: a value a line.")
    ] = Format.JSONL,
    since: Annotated[
        str | None, typer.Option(help="Samples from this time on, ISO 8601, UTC if it names no zone.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Samples before this time.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Samples of this device; may repeat.")] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only what has no receipt; else what is kept, too.")
    ] = False,
    pictures: Annotated[Path | None, typer.Option(help="Existing folder for the pictures.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say in JSON what was written; needs --output.")
    ] = False,
) -> None:
    """Write the samples in a spool as JSON lines or CSV; reads only, may run beside the box.

    Exit 1 when damaged batches had to be left out, 2 when the file cannot be read.
    """
    if as_json and output is None:
        raise typer.BadParameter("--json needs --output: standard output holds the samples")
    if pictures is not None and not pictures.is_dir():
        raise typer.BadParameter(f"--pictures: expected a folder, got {pictures}")
    path, _ = _where(spool)
    wanted = Wanted(_time_ns(since), _time_ns(until), frozenset(device or ()), waiting)
    try:
        with (
            _progress("exporting", quiet=as_json) as progress,
            look_into(path) as db,
            _opened(output) as out,
        ):
            done = export(db, out, wanted, as_csv=form is Format.CSV, pictures=pictures, progress=progress)
    except BrokenPipeError:
        sys.exit(0)  # the reader has seen enough
    except OSError as error:
        cannot(f"{output or 'standard output'}: {error}")
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(_told(done), err=True)
    sys.exit(1 if done.damaged else 0)


@app.command()
def trim(
    spool: SpoolPath,
    *,
    older_h: Annotated[
        float, typer.Option("--older-than", min=0, metavar="HOURS", help="Only what is older than that.")
    ] = 0.0,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Drop what has no receipt, too; needs --declare-lost.")
    ] = False,
    declare_lost: Annotated[
        bool, typer.Option("--declare-lost", help="Yes: drop what the gateway never had, and say so to it.")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option("--class", help="Of what waits: media, preview, data, alarm; may repeat."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete receipted batches; with --waiting and --declare-lost drop others and declare them lost.

    Age is running time since the receipt, for what waits wall time since the commit. The room is used again
    by the box; the file does not shrink. The box must be stopped: exit 2 while it runs.
    """
    logs.configure("error")
    if waiting != declare_lost:
        raise typer.BadParameter("--waiting loses readings for good: give --declare-lost with it, or neither")
    kinds = kind or list(KINDS)
    if kind and not waiting:
        raise typer.BadParameter("--class is for --waiting")
    if unknown := set(kinds) - set(KINDS):
        raise typer.BadParameter(f"--class: expected {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    path, options = _where(spool)
    _must_be(path)
    dropped: dict[str, int] = {}
    clock = SystemClock()
    with _owned(path, options) as taken:
        deleted = _all(taken, lambda shelf: forget(shelf, older_h * 3600))
        before_ns = clock.now_ns() - int(older_h * 3600 * 1e9)
        for name in kinds if waiting else ():
            dropped[name] = _all(taken, partial(_give_up, name, before_ns))
    if as_json:
        typer.echo(json.dumps({"deleted": deleted, "declared_lost": dropped}))
    else:
        typer.echo(f"{_batches(deleted, 'receipted ')} deleted.")
        for name, number in dropped.items():
            typer.echo(f"{_batches(number)} of class {name} dropped and declared lost.")


def _give_up(kind: str, before_ns: int, shelf: Shelf) -> int:
    batch_class, preview = KINDS[kind]
    return give_up(shelf, batch_class, before_ns, "trimmed", preview=preview)


def _all(spool: Spool, part: Callable[[Shelf], int]) -> int:
    """Do ``part`` until nothing is left for it; gives how many batches."""
    count = 0
    while done := spool.durably(part):
        count += done
    return count


# --- the file ---


def _where(spool: Path) -> tuple[Path, SpoolOptions]:
    """The spool file, and how the box would open it."""
    if spool.suffix != ".toml":
        return spool, SpoolOptions(salvage_s=REPAIR_S)
    tables = read_toml(spool)
    table = check(spool, {"spool": tables.get("spool", {})}, _OfConfiguration).spool
    return spool.resolve().parent / table.path, SpoolOptions(
        max_bytes=table.max_bytes, ballast_bytes=table.ballast_bytes, salvage_s=REPAIR_S
    )


def _must_be(path: Path) -> None:
    """A mistyped name must not become a new spool."""
    if not path.is_file():
        raise SpoolError(f"{path}: no such file")


@contextmanager
def _owned(path: Path, options: SpoolOptions) -> Iterator[Spool]:
    """The spool for writing.

    Raises:
        SpoolLocked: the box runs.
    """
    spool = Spool(path, SystemClock(), options)
    try:
        spool.open()
    except SpoolLocked as error:
        raise SpoolLocked(f"{error}: stop the box first") from error
    try:
        yield spool
    finally:
        spool.close()


def _repair(path: Path, options: SpoolOptions, progress: Progress | None) -> Findings:
    """Mend, and look again."""
    with _owned(path, options) as spool:  # opening alone may mend: it salvages what it cannot use
        found = examine(path, progress)
        if found.only_rows:
            for identity in found.bad_rows:
                spool.condemn(identity)
        else:
            spool.rebuild(found.told[0])
    return examine(path, progress)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as out:
        yield out
        out.flush()


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal's standard error; nothing else where, or where a program reads."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _time_ns(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"expected a time such as 2026-11-23T08:00:00Z, got {text!r}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000) * 1000


# --- what is said ---


def _iso(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")


def _listing(path: Path, held: Contents) -> dict[str, Any]:
    return {
        "path": str(path),
        "file_bytes": held.file_bytes,
        "log_bytes": held.log_bytes,
        "ballast_bytes": held.ballast_bytes,
        "aside_bytes": held.aside_bytes,
        "horizon": _iso(held.horizon_ns),
        "epochs": [
            {
                "epoch": row.epoch,
                "opened": _iso(row.opened_ns),
                "next_seq": row.next_seq,
                "samples_committed": row.samples_committed if row.exact else None,
            }
            for row in held.epochs
        ],
        "batches": [
            {
                "epoch": group.epoch,
                "class": group.kind,
                "state": group.state,
                "batches": group.batches,
                "samples": group.samples,
                "size_bytes": group.size_bytes,
                "oldest": _iso(group.oldest_ns),
                "newest": _iso(group.newest_ns),
            }
            for group in held.groups
        ],
    }


def _show_contents(path: Path, held: Contents) -> None:
    """An epoch a heading, a line each for what it holds: of use on 80 columns."""
    console = Console(highlight=False, soft_wrap=True)
    parts = {
        "file": held.file_bytes,
        "log": held.log_bytes,
        "ballast": held.ballast_bytes,
        "damaged file kept aside": held.aside_bytes,
    }
    sizes = ", ".join(f"{name} {size(part)}" for name, part in parts.items() if part)
    console.print(f"{path}: {sizes}", markup=False)
    epoch = None
    for group in held.groups:
        if group.epoch != epoch:
            epoch = group.epoch
            console.print(f"epoch {epoch}", style="bold")
        what = f"{group.kind} {group.state}"
        many = f"{_batches(group.batches)}, {count(group.samples, 'sample', 'samples')}"
        console.print(f"  {what:<14} {many}, {size(group.size_bytes)}")
        console.print(f"  {'':<14} committed {_utc(group.oldest_ns)} .. {_utc(group.newest_ns)} UTC")
    if not held.groups:
        console.print("No batch in it.")
    if held.horizon_ns is not None:
        console.print(f"What was receipted since {_utc(held.horizon_ns)} UTC is kept and can be replayed.")


def _utc(time_ns: int | None) -> str:
    return (_iso(time_ns) or "?").removesuffix("+00:00").replace("T", " ")


def _batches(number: int, which: str = "") -> str:
    return count(number, f"{which}batch", f"{which}batches")


def _outcome(found: Findings, left: Findings | None) -> str:
    if found.good:
        return "good"
    if not found.readable or (left is not None and not left.good):
        return "beyond repair"
    return "damaged" if left is None else "repaired"


def _report(path: Path, found: Findings, left: Findings | None, outcome: str) -> dict[str, Any]:
    return {
        "path": str(path),
        "outcome": outcome,
        "checked": found.checked,
        "faults": found.faults,
        "told": found.told,
        "batches_gone": found.gone,
        "condemned": (left or found).condemned,
        "faults_left": {} if left is None else left.faults,
    }


def _show_findings(path: Path, found: Findings, left: Findings | None, outcome: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    looked = ", ".join(
        count(number, *CHECKED.get(name, (name, name))) for name, number in found.checked.items()
    )
    console.print(f"{path}: checked {looked}.", markup=False)
    for line in found.told:
        console.print(f"  {line}", markup=False)
    more = found.faults.total() - len(found.told)
    if more:
        console.print(f"  and {more} more")
    gone = sum(found.gone.values())
    if gone:
        console.print(f"{_batches(gone)} gone: receipted and deleted, or declared lost.")
    condemned = (left or found).condemned
    if condemned:
        console.print(f"{_batches(condemned, 'damaged ')} declared lost; the bytes are kept for a look.")
    if left is not None:
        for line in left.told:
            console.print(f"  still: {line}", markup=False)
    console.print({"damaged": "Damaged: --repair can mend it."}.get(outcome, f"{outcome.capitalize()}."))


def _told(done: Exported) -> str:
    text = f"{count(done.samples, 'sample', 'samples')} of {_batches(done.batches)}"
    if done.pictures:
        text += f", {done.pictures} pictures"
    return text + (f"; {_batches(done.damaged, 'damaged ')} left out" if done.damaged else "")
