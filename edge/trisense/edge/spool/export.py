"""Batches of a spool as text: JSON lines, a sample each, or CSV, a value each."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from trisense.core.model import Sample, Stream
from trisense.edge.spool.file import BatchRow, read_streams
from trisense.edge.spool.model import DAMAGED, WAITING
from trisense.edge.spool.rows import unpack_rows, unpack_stream
from trisense.edge.spool.view import Progress, pages

__all__ = ["Exported", "Wanted", "export"]

CSV_COLUMNS: Final = (
    "time", "n", "site", "layer", "device", "measurement", "field", "value", "unit", "quality",
    "class", "epoch", "seq", "state",
)  # fmt: skip
GOOD: Final = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported."""

    since_ns: int | None = None
    until_ns: int | None = None
    """Times of samples, the second excluded."""
    devices: frozenset[str] = frozenset()
    """Empty: all of them."""
    waiting_only: bool = False
    """Not what is kept though the gateway has it."""

    def takes(self, sample: Sample) -> bool:
        if self.devices and sample.stream.device not in self.devices:
            return False
        if self.since_ns is not None and sample.time_ns < self.since_ns:
            return False
        return self.until_ns is None or sample.time_ns < self.until_ns


@dataclass(slots=True)
class Exported:
    batches: int = 0
    samples: int = 0
    pictures: int = 0
    damaged: int = 0
    """Batches left out, for their checksums do not match."""


def export(
    db: sqlite3.Connection,
    out: TextIO,
    wanted: Wanted,
    *,
    as_csv: bool = False,
    pictures: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the samples of a spool in the order of their commits, and pictures into a folder.

    Raises:
        sqlite3.DatabaseError: the file is damaged here; what was written is whole.
        OSError: what is written to does not take it.
    """
    streams = {row.id: unpack_stream(row.description) for row in read_streams(db, damaged_ok=True)}
    write = _csv_writer(out) if as_csv else _json_writer(out)
    done = Exported()
    for row in (row for page in pages(db, progress) for row in page):
        if wanted.waiting_only and row.settled != WAITING:
            continue
        samples = _samples(row, streams)
        if samples is None:
            done.damaged += row.settled != DAMAGED
            continue
        chosen = [sample for sample in samples if wanted.takes(sample)]
        if not chosen:
            continue
        done.batches += 1
        done.samples += len(chosen)
        for sample in chosen:
            write(row, sample)
        if row.blob is not None and pictures is not None:
            (pictures / _picture_name(row)).write_bytes(row.blob)
            done.pictures += 1
    return done


def _samples(row: BatchRow, streams: dict[int, Stream]) -> tuple[Sample, ...] | None:
    """None where the row is damaged."""
    if not row.whole():
        return None
    try:
        return unpack_rows(row.rows, streams.__getitem__)
    except KeyError:
        return None  # a stream that began after the export, or whose description is gone


def _state(row: BatchRow) -> str:
    return "open" if row.state == "open" else ("waiting", "stored", "refused", "damaged")[row.settled]


def _iso(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def _picture_name(row: BatchRow) -> str:
    suffix = "jpg" if row.blob is not None and row.blob.startswith(b"\xff\xd8") else "bin"
    return f"{row.epoch}-{row.seq}.{suffix}"


def _json_writer(out: TextIO) -> Callable[[BatchRow, Sample], None]:
    def write(row: BatchRow, sample: Sample) -> None:
        stream = sample.stream
        names = [field.name for field in stream.fields]
        line: dict[str, Any] = {
            "time": _iso(sample.time_ns),
            "n": sample.n,
            "site": stream.site,
            "layer": stream.layer.value,
            "device": stream.device,
            "measurement": stream.measurement,
            "values": dict(zip(names, sample.values, strict=True)),
            "quality": {names[index]: int(code) for index, code in sample.quality},
            "class": row.batch_class,
            "epoch": row.epoch,
            "seq": row.seq,
            "state": _state(row),
        }
        if row.blob is not None:
            line["picture"] = _picture_name(row)
        out.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _csv_writer(out: TextIO) -> Callable[[BatchRow, Sample], None]:
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)

    def write(row: BatchRow, sample: Sample) -> None:
        rows.writerows(_csv_cells(row, sample))

    return write


def _csv_cells(row: BatchRow, sample: Sample) -> Iterator[tuple[object, ...]]:
    stream = sample.stream
    codes = dict(sample.quality)
    where = (
        _iso(sample.time_ns),
        sample.n,
        stream.site,
        stream.layer.value,
        stream.device,
        stream.measurement,
    )
    batch = (row.batch_class, row.epoch, row.seq, _state(row))
    for index, (field, value) in enumerate(zip(stream.fields, sample.values, strict=True)):
        yield (*where, field.name, value, field.unit, int(codes.get(index, GOOD)), *batch)
