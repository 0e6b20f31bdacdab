"""``trisense wire``: measure the format on a CSV file, show a bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from trisense.core.cli import cannot
from trisense.core.errors import WireError
from trisense.core.wire import unpack
from trisense.core.wire.measure import CsvError, Measurement, measure
from trisense.core.wire.show import ROWS, as_data, as_text

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Measure the wire format on a CSV file, show a bundle."
)


@app.command("measure")
def measure_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.csv...", help="CSV files with one header row.")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Rows a bundle.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Pack a CSV file and prove that every value comes back to the bit.

    The first column is a time (ISO 8601) or a row number, the others are values; a file with the
    columns sensor, metric and value is long: each sensor and metric is a stream, and a bundle holds
    BATCH rows of each. A reading is a value cell that is not empty. compressed_bytes_per_reading
    counts whole MQTT payloads: box, epoch, seq, counters, hash, names and checksum included.
    raw_bytes_per_reading is the same rows as plain MessagePack arrays, not compressed. Speeds are
    of one core, for whole columns. Of several files the last line is the mean.

    Exit codes: 0 exact, 1 something came back changed, 2 a file cannot be measured.
    """
    found = [_measured(path, batch) for path in files]
    for one in found:
        typer.echo(json.dumps(asdict(one)) if as_json else _line(one))
    if len(found) > 1:
        mean = sum(one.compressed_bytes_per_reading for one in found) / len(found)
        exact = all(one.exact for one in found)
        total = {"files": len(found), "mean_compressed_bytes_per_reading": round(mean, 4), "exact": exact}
        typer.echo(
            json.dumps(total) if as_json else f"mean of {len(found)} files: {mean:.4f} bytes a reading"
        )
    if not all(one.exact for one in found):
        raise typer.Exit(1)


def _measured(path: Path, batch: int) -> Measurement:
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(path.name, total=1.0)
            return measure(path, batch, lambda share: progress.update(task, completed=share))
    except CsvError as error:
        cannot(str(error))
    except WireError as error:
        cannot(f"{path}: {batch} rows a bundle do not fit: {error}")


def _line(one: Measurement) -> str:
    return (
        f"{one.file}: {one.readings} readings, {one.compressed_bytes_per_reading:.4f} bytes a reading"
        f" (raw {one.raw_bytes_per_reading:.2f}), pack {one.pack_per_s / 1e6:.2f} M/s,"
        f" unpack {one.unpack_per_s / 1e6:.2f} M/s, {'exact' if one.exact else 'NOT EXACT'}"
    )


@app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A payload; - reads standard input.")],
    as_hex: Annotated[bool, typer.Option("--hex", help="The input is hexadecimal text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    rows: Annotated[int, typer.Option(min=0, help="Rows of each block to show.")] = ROWS,
) -> None:
    """Print a bundle for a person. Exit code 2 when it is none."""
    payload = _read(file)
    if as_hex:
        try:
            payload = bytes.fromhex(payload.decode("ascii"))
        except ValueError:
            cannot(f"{file}: expected hexadecimal text")
    try:
        bundle = unpack(payload)
    except WireError as error:
        cannot(f"{file}: no valid bundle: {error}")
    typer.echo(json.dumps(as_data(bundle, payload, rows)) if as_json else as_text(bundle, payload, rows))


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        cannot(f"{file}: {error.strerror or error}")
