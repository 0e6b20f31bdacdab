"""What the wire format makes of a CSV file: size, speed, and proof that nothing changes."""

from __future__ import annotations

import csv
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Final, TypeAlias

import msgpack
from trisense.core import limits
from trisense.core.errors import TrisenseError, WireError
from trisense.core.model import (
    NAME,
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Sample,
    Stream,
    Value,
    batch_hash,
)
from trisense.core.wire.bundle import Header
from trisense.core.wire.codec import pack, unpack

__all__ = ["CsvError", "Measurement", "Series", "measure", "read_csv"]

LONG_COLUMNS: Final = ["sensor", "metric", "value"]
BOX, SITE, MEASUREMENT = "kx-001", "kx", "csv"
EPOCH: Final = 0x9E37_79B9_7F4A_7C15
"""As random as a real one: a round number would pack better than the truth."""
TICKS_NS: Final = (1_000_000, 1000, 1)
NUMBER: Final = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,9})?")
MOMENT: Final = re.compile(r"(.*:[0-9]{2})[.,]([0-9]{1,9})(Z|[+-][0-9:]+)?")
START: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CsvError(TrisenseError):
    """A file that cannot be measured: which, where, and why."""


@dataclass(frozen=True, slots=True)
class Series:
    """One stream and all its rows."""

    stream: Stream
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The outcome for one file."""

    file: str
    batch: int
    readings: int
    """Value cells that are not empty; time, row number, sensor and metric are no values."""
    raw_bytes_per_reading: float
    """The same rows as plain MessagePack, uncompressed, names once a bundle."""
    compressed_bytes_per_reading: float
    """Whole payloads as published: identity, counters, hash, names and checksum included."""
    pack_per_s: float
    unpack_per_s: float
    exact: bool
    """Whether every time and value came back to the bit."""


def measure(path: Path, batch_rows: int, progress: Callable[[float], None] = lambda _: None) -> Measurement:
    """Pack a file, ``batch_rows`` rows of each stream a bundle; ``progress`` gets the share done.

    Streams that do not fit one bundle together go in several.

    Raises:
        CsvError: the file cannot be read as a table of readings.
        WireError: so many rows of one stream do not fit a bundle.
    """
    series = read_csv(path)
    longest = max(len(one.samples) for one in series)
    totals = _Totals()
    for start in range(0, longest, batch_rows):
        groups = [[one.samples[start : start + batch_rows] for one in series if start < len(one.samples)]]
        if not start:
            # The tables of the codec are made once a process: no file pays for them.
            _Totals().add(groups[0][:1])
        while groups:
            group = groups.pop(0)
            try:
                totals.add(group)
            except WireError as error:
                if error.reason != "size" or len(group) == 1:
                    raise
                middle = len(group) // 2
                groups[:0] = [group[:middle], group[middle:]]
        progress(min((start + batch_rows) / longest, 1.0))
    readings = totals.readings
    if not readings:
        raise CsvError(f"{path}: no value in any row")
    return Measurement(
        path.name,
        batch_rows,
        readings,
        round(totals.raw / readings, 4),
        round(totals.packed / readings, 4),
        round(readings / max(totals.pack_s, 1e-9)),
        round(readings / max(totals.unpack_s, 1e-9)),
        totals.exact,
    )


@dataclass
class _Totals:
    """What the bundles of a file come to."""

    readings: int = 0
    raw: int = 0
    packed: int = 0
    pack_s: float = 0.0
    unpack_s: float = 0.0
    exact: bool = True
    batches: int = 0
    samples: int = 0

    def add(self, group: Sequence[Sequence[Sample]]) -> None:
        """Send one more bundle there and back."""
        samples = tuple(chain.from_iterable(group))
        seq = self.batches + 1
        batch = Batch(EPOCH, seq, BatchClass.DATA, ClockState(), samples, batch_hash(samples))
        header = Header(BOX, SITE, Counters(EPOCH, seq + 1, seq, self.samples + len(samples)))
        before = process_time()
        payload = pack(header, [batch])
        between = process_time()
        bundle = unpack(payload)
        self.unpack_s += process_time() - between
        self.pack_s += between - before
        self.batches = seq
        self.samples += len(samples)
        self.readings += sum(value is not None for sample in samples for value in sample.values)
        self.raw += len(_raw(header, batch))
        self.packed += len(payload)
        self.exact = self.exact and bundle.counters == header.counters and _same(bundle.batches(), batch)


def _raw(header: Header, batch: Batch) -> bytes:
    names = {s.stream.key: [field.name for field in s.stream.fields] for s in batch.samples}
    rows = [
        [*s.stream.key, s.time_ns, s.n, *s.values] if len(names) > 1 else [s.time_ns, s.n, *s.values]
        for s in batch.samples
    ]
    body: bytes = msgpack.packb([header.box, batch.epoch, batch.seq, batch.hash, list(names.items()), rows])
    return body


def _same(batches: Sequence[Batch], sent: Batch) -> bool:
    """Equal, and equal in every bit of every float; samples of a stream in their order."""
    if len(batches) != 1:
        return False
    (got,) = batches
    if replace(got, samples=()) != replace(sent, samples=()) or len(got.samples) != len(sent.samples):
        return False
    return all(
        a.stream == b.stream
        and (a.time_ns, a.n, a.quality) == (b.time_ns, b.n, b.quality)
        and all(map(_same_value, a.values, b.values))
        for a, b in zip(got.samples, sent.samples, strict=True)
    )


def _same_value(a: Value, b: Value) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and a == b


# Reading a CSV file --------------------------------------------------------------------------------


def read_csv(path: Path) -> list[Series]:
    """Streams of a file: one of all columns, or one per sensor and metric of a long file.

    Raises:
        CsvError: no table, no times, a cell that is no reading.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.reader(lines, strict=True))
    except OSError as error:
        raise CsvError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CsvError(f"{path}: expected UTF-8 CSV, {error}") from error
    if len(rows) < 2:
        raise CsvError(f"{path}: expected a header and rows, got {len(rows)} lines")
    head, body = rows[0], [row for row in rows[1:] if row]
    for number, row in enumerate(rows[1:], 2):
        if row and len(row) != len(head):
            raise CsvError(f"{path}: line {number}: expected {len(head)} cells, got {len(row)}")
    if len(head) < 2:
        raise CsvError(f"{path}: expected a time and at least one column of values")
    times, tick_ns = _times(path, [row[0] for row in body])
    if head[1:] == LONG_COLUMNS:
        return list(_long(path, body, times, tick_ns))
    fields = [_name(path, title) for title in head[1:]]
    if len(set(fields)) < len(fields):
        raise CsvError(f"{path}: two columns have one name")
    columns = [_typed(path, title, [row[at] for row in body]) for at, title in enumerate(head[1:], 1)]
    device = _name(path, path.stem)
    stream = _stream(device, MEASUREMENT, fields, columns, tick_ns)
    return [_series(stream, times, columns)]


def _long(path: Path, body: Sequence[Sequence[str]], times: Sequence[int], tick_ns: int) -> Iterator[Series]:
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(body):
        groups.setdefault((_name(path, row[1]), _name(path, row[2])), []).append(at)
    for (sensor, metric), members in groups.items():
        columns = [_typed(path, f"{sensor} {metric}", [body[at][3] for at in members])]
        stream = _stream(sensor, metric, ["value"], columns, tick_ns)
        yield _series(stream, [times[at] for at in members], columns)


Columns: TypeAlias = Sequence[tuple[FieldType, Sequence[Value]]]


def _stream(device: str, measurement: str, names: Sequence[str], columns: Columns, tick_ns: int) -> Stream:
    fields = tuple(
        Field(name, "" if type_ is FieldType.STR else "1", type_)
        for name, (type_, _) in zip(names, columns, strict=True)
    )
    return Stream(device, measurement, Layer.GROUND, fields, tick_ns=tick_ns)


def _series(stream: Stream, times: Sequence[int], columns: Columns) -> Series:
    seen: Counter[int] = Counter()
    samples = []
    for time_ns, values in zip(times, zip(*(v for _, v in columns), strict=True), strict=True):
        samples.append(Sample(stream, time_ns, values, seen[time_ns]))
        seen[time_ns] += 1
    return Series(stream, tuple(samples))


def _name(path: Path, text: str) -> str:
    """A title as a name of ours: small letters, digits, ``_`` and ``-``."""
    name = re.sub(r"[^a-z0-9_-]+", "_", text.strip().lower()).lstrip("_-")[: limits.NAME_BYTES]
    if not NAME.fullmatch(name):
        raise CsvError(f"{path}: {text!r} gives no name")
    return name


def _times(path: Path, cells: Sequence[str]) -> tuple[list[int], int]:
    """Times in ns and their tick: ISO 8601 (UTC where no zone is told), seconds, or row numbers.

    A whole number counts ticks from 1970: what it counts is not known, but that it comes back is.
    """
    moments = []
    for line, cell in enumerate(cells, 2):
        time_ns = _number_ns(cell) if NUMBER.fullmatch(cell) else _moment_ns(cell)
        if time_ns is None or time_ns > limits.TIME_MAX_NS:
            raise CsvError(f"{path}: line {line}: expected a time or a row number, got {cell!r}")
        moments.append(time_ns)
    tick_ns = next(tick for tick in TICKS_NS if not any(moment % tick for moment in moments))
    return moments, tick_ns


def _number_ns(cell: str) -> int | None:
    whole = int(Decimal(cell)) if "." not in cell else None
    if whole is None:
        return int(Decimal(cell) * 10**9)
    return whole * TICKS_NS[0] if whole * TICKS_NS[0] <= limits.TIME_MAX_NS else whole


def _moment_ns(cell: str) -> int | None:
    """None where it is no time, or one before 1970. datetime itself would drop digits after the sixth."""
    parts = MOMENT.fullmatch(cell)
    try:
        moment = datetime.fromisoformat(parts[1] + (parts[3] or "") if parts else cell)
    except ValueError:
        return None
    passed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - START
    fraction = int(parts[2].ljust(9, "0")) if parts else 0
    return passed // timedelta(seconds=1) * 10**9 + fraction if passed >= timedelta(0) else None


def _typed(path: Path, title: str, cells: Sequence[str]) -> tuple[FieldType, list[Value]]:
    """A column of whole numbers is int, of numbers float, of anything else text."""
    filled = [cell for cell in cells if cell]
    for type_, kind in ((FieldType.INT, int), (FieldType.FLOAT, float)):
        try:
            numbers = [kind(cell) if cell else None for cell in cells]
        except ValueError:
            continue
        if type_ is FieldType.INT and any(
            not limits.INT_MIN <= int(cell) <= limits.INT_MAX for cell in filled
        ):
            continue
        wrong = next((n for n in numbers if n is not None and n - n != 0), None)
        if wrong is not None:
            raise CsvError(f"{path}: column {title}: {wrong} is no reading")
        return type_, list(numbers)
    return FieldType.STR, [cell or None for cell in cells]
