"""The ledger: for every batch that came, what became of it, its hash and its samples.

The same tables and statements serve both homes: inside DuckDB, in one transaction with the rows, and
``ledger.db`` (SQLite) beside a line-protocol store. An index in memory answers "did this come before"
without asking the database. Batches below a box's ``low_seq`` fold into ranges (first, last, samples):
the box has its receipts and will not send them again, so their hashes are needed no more.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from trisense.core.model import Counters

__all__ = [
    "Entry",
    "EpochFacts",
    "FieldOf",
    "Known",
    "Ledger",
    "Loss",
    "Outcome",
    "Place",
    "Record",
    "Reported",
    "hex16",
]

FOLD_AFTER_S: Final = 600.0
"""A declared loss may come later than the ``low_seq`` that it explains; until it surely has come, batches
stay apart, for the loss may overlap them."""
FOLD_AT: Final = 256
"""Fewest batches of one epoch worth folding."""
ROWS_IN_MEMORY: Final = 1_000_000
"""Above it epochs fold whatever ``low_seq`` says (policy: fold_all); forks among them go unseen."""

SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS batches (box TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL,
       class TEXT NOT NULL, hash BLOB NOT NULL, samples BIGINT NOT NULL, outcome TEXT NOT NULL,
       reason TEXT NOT NULL, received_ms BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS folded (box TEXT NOT NULL, epoch TEXT NOT NULL, first_seq BIGINT NOT NULL,
       last_seq BIGINT NOT NULL, samples BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS counters (box TEXT NOT NULL, epoch TEXT NOT NULL, next_seq BIGINT NOT NULL,
       low_seq BIGINT NOT NULL, samples_committed BIGINT NOT NULL, reported_ms BIGINT NOT NULL,
       progress_ms BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS losses (box TEXT NOT NULL, epoch TEXT NOT NULL, first_seq BIGINT NOT NULL,
       last_seq BIGINT NOT NULL, samples BIGINT, reason TEXT NOT NULL, received_ms BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS forks (box TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL,
       hash BLOB NOT NULL, samples BIGINT NOT NULL, received_ms BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS fields (measurement TEXT NOT NULL, field TEXT NOT NULL,
       type TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS units (box TEXT NOT NULL, device TEXT NOT NULL, measurement TEXT NOT NULL,
       field TEXT NOT NULL, unit TEXT NOT NULL, since_ms BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS places (box TEXT NOT NULL, device TEXT NOT NULL, site TEXT NOT NULL,
       layer TEXT NOT NULL, latitude DOUBLE PRECISION NOT NULL, longitude DOUBLE PRECISION NOT NULL,
       height_m DOUBLE PRECISION)""",
)


FieldOf: TypeAlias = tuple[str, str, str, str]
"""(box, device, measurement, field)."""


class Outcome(StrEnum):
    STORED = "stored"
    REFUSED = "refused"


class Known(NamedTuple):
    """What the ledger has of one batch."""

    outcome: Outcome
    reason: str
    samples: int
    hash: bytes | None
    """None where it was folded away."""


class Entry(NamedTuple):
    """One batch and its fate."""

    box: str
    epoch: int
    seq: int
    batch_class: str
    hash: bytes
    samples: int
    outcome: Outcome
    reason: str
    received_ms: int


class Loss(NamedTuple):
    """What a box declared lost; ``samples`` None where it could not know."""

    box: str
    epoch: int
    first: int
    last: int
    samples: int | None
    reason: str


class Place(NamedTuple):
    """Where a device is, by its box's birth."""

    box: str
    device: str
    site: str
    layer: str
    latitude: float
    longitude: float
    height_m: float | None


@dataclass(slots=True)
class Record:
    """What one commit adds to the ledger."""

    entries: list[Entry] = field(default_factory=list)
    counters: dict[tuple[str, int], Counters] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    forks: list[Entry] = field(default_factory=list)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    """Measurement -> field -> type, seen for the first time."""
    units: dict[FieldOf, str] = field(default_factory=dict)
    """New or changed."""

    def refusing(self, reasons: Mapping[tuple[int, int], str]) -> Record:
        """The same with the batches (epoch, seq) of ``reasons`` refused, and nothing lost by their word."""
        if not reasons:
            return self
        entries = [
            e._replace(outcome=Outcome.REFUSED, reason=reasons[e.epoch, e.seq])
            if (e.epoch, e.seq) in reasons
            else e
            for e in self.entries
        ]
        return replace(self, entries=entries)


@dataclass(frozen=True, slots=True)
class Reported:
    """What a box last said of an epoch, and when."""

    counters: Counters
    reported_ms: int
    progress_ms: int
    """When ``low_seq`` last rose, or nothing was waiting."""


@dataclass(slots=True)
class EpochFacts:
    """All that is known of one epoch of one box."""

    rows: dict[int, Known] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    folded: list[tuple[int, int, int]] = field(default_factory=list)
    """Sorted, disjoint (first, last, samples)."""
    losses: list[Loss] = field(default_factory=list)
    forks: int = 0
    reported: Reported | None = None

    def find(self, seq: int) -> Known | None:
        known = self.rows.get(seq)
        if known is not None:
            return known
        index = bisect_right(self.folded, (seq, float("inf"), 0)) - 1
        if index >= 0 and self.folded[index][0] <= seq <= self.folded[index][1]:
            return Known(Outcome.STORED, "", 0, None)
        return None


class Ledger(ABC):
    """Tables in some database, and the index of them in memory. One thread uses it."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], EpochFacts] = {}
        self.fields: dict[str, dict[str, str]] = {}
        """Measurement -> field -> type: what a store holds already."""
        self.units: dict[FieldOf, str] = {}
        self.places: dict[tuple[str, str], Place] = {}

    # Each home of the tables has its own of these.

    @abstractmethod
    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert whole rows, in the order of the table's columns."""

    @abstractmethod
    def _replace(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert whole rows in place of those with the same first two columns (box and epoch)."""

    # Reading

    def load(self) -> None:
        """Make the tables where missing and read them into memory."""
        for statement in SCHEMA:
            self._execute(statement)
        self.epochs.clear()
        for row in self._execute("SELECT * FROM batches"):
            box, epoch, seq, _class, digest, samples, outcome, reason, received_ms = row
            facts = self._facts(box, int(epoch, 16))
            facts.rows[seq] = Known(Outcome(outcome), reason, samples, bytes(digest))
            facts.received[seq] = received_ms
        for box, epoch, first, last, samples in self._execute("SELECT * FROM folded ORDER BY first_seq"):
            self._facts(box, int(epoch, 16)).folded.append((first, last, samples))
        for box, epoch, first, last, samples, reason, _ in self._execute("SELECT * FROM losses"):
            facts = self._facts(box, int(epoch, 16))
            facts.losses.append(Loss(box, int(epoch, 16), first, last, samples, reason))
        for box, epoch, count in self._execute("SELECT box, epoch, count(*) FROM forks GROUP BY box, epoch"):
            self._facts(box, int(epoch, 16)).forks = count
        for box, epoch, next_seq, low_seq, committed, reported_ms, progress_ms in self._execute(
            "SELECT * FROM counters"
        ):
            counters = Counters(int(epoch, 16), next_seq, low_seq, committed)
            self._facts(box, int(epoch, 16)).reported = Reported(counters, reported_ms, progress_ms)
        for measurement, name, type_ in self._execute("SELECT * FROM fields"):
            self.fields.setdefault(measurement, {})[name] = type_
        for *key, unit, _ in self._execute("SELECT * FROM units ORDER BY since_ms"):
            self.units[tuple(key)] = unit
        for row in self._execute("SELECT * FROM places"):
            place = Place(*row)
            self.places[place.box, place.device] = place

    def find(self, box: str, epoch: int, seq: int) -> Known | None:
        facts = self.epochs.get((box, epoch))
        return None if facts is None else facts.find(seq)

    # Writing: ``write`` inside the caller's transaction, ``applied`` after it held.

    def write(self, record: Record) -> None:
        """Put a record into the tables; the index in memory does not change yet."""
        now = _now_ms()
        self._insert(
            "batches",
            [
                (
                    e.box,
                    hex16(e.epoch),
                    e.seq,
                    e.batch_class,
                    e.hash,
                    e.samples,
                    e.outcome,
                    e.reason,
                    e.received_ms,
                )
                for e in record.entries
            ],
        )
        self._insert(
            "losses",
            [(x.box, hex16(x.epoch), x.first, x.last, x.samples, x.reason, now) for x in record.losses],
        )
        self._insert(
            "forks", [(e.box, hex16(e.epoch), e.seq, e.hash, e.samples, e.received_ms) for e in record.forks]
        )
        self._insert("fields", [(m, f, t) for m, types in record.fields.items() for f, t in types.items()])
        self._insert("units", [(*key, unit, now) for key, unit in record.units.items()])
        reports = [self._progressed(box, c, now) for (box, _), c in record.counters.items()]
        self._replace(
            "counters",
            [
                (
                    box,
                    hex16(epoch),
                    r.counters.next_seq,
                    r.counters.low_seq,
                    r.counters.samples_committed,
                    r.reported_ms,
                    r.progress_ms,
                )
                for (box, epoch), r in zip(record.counters, reports, strict=True)
            ],
        )

    def applied(self, record: Record) -> None:
        """Take a durable record into memory."""
        for e in record.entries:
            facts = self._facts(e.box, e.epoch)
            facts.rows[e.seq] = Known(e.outcome, e.reason, e.samples, e.hash)
            facts.received[e.seq] = e.received_ms
        for loss in record.losses:
            self._facts(loss.box, loss.epoch).losses.append(loss)
        for e in record.forks:
            self._facts(e.box, e.epoch).forks += 1
        for measurement, types in record.fields.items():
            self.fields.setdefault(measurement, {}).update(types)
        self.units.update(record.units)
        for (box, epoch), counters in record.counters.items():
            self._facts(box, epoch).reported = self._progressed(box, counters, _now_ms())

    def write_places(self, box: str, places: Iterable[Place]) -> None:
        """Replace what is known of where the devices of a box are."""
        self._execute("DELETE FROM places WHERE box = ?", (box,))
        rows = list(places)
        self._insert("places", rows)
        self.places = {key: p for key, p in self.places.items() if key[0] != box}
        self.places |= {(p.box, p.device): p for p in rows}

    def foldable(self, *, now_ms: int | None = None) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
        """Per epoch the runs (first, last, samples) that may fold now."""
        now = _now_ms() if now_ms is None else now_ms
        full = sum(len(facts.rows) for facts in self.epochs.values()) > ROWS_IN_MEMORY
        found = {}
        for key, facts in self.epochs.items():
            runs = _runs(facts, now - round(FOLD_AFTER_S * 1000), regardless=full)
            if sum(last - first + 1 for first, last, _ in runs) >= FOLD_AT:
                found[key] = runs
        return found

    def write_fold(self, box: str, epoch: int, runs: Sequence[tuple[int, int, int]]) -> None:
        """Fold runs of one epoch, in the caller's transaction; ``applied_fold`` follows."""
        for first, last, _ in runs:
            self._execute(
                "DELETE FROM batches WHERE box = ? AND epoch = ? AND seq BETWEEN ? AND ?",
                (box, hex16(epoch), first, last),
            )
        self._execute("DELETE FROM folded WHERE box = ? AND epoch = ?", (box, hex16(epoch)))
        merged = _merged([*self.epochs[box, epoch].folded, *runs])
        self._insert("folded", [(box, hex16(epoch), *run) for run in merged])

    def applied_fold(self, box: str, epoch: int, runs: Sequence[tuple[int, int, int]]) -> None:
        facts = self.epochs[box, epoch]
        facts.folded = _merged([*facts.folded, *runs])
        for first, last, _ in runs:
            for seq in range(first, last + 1):
                del facts.rows[seq], facts.received[seq]

    def _facts(self, box: str, epoch: int) -> EpochFacts:
        return self.epochs.setdefault((box, epoch), EpochFacts())

    def _progressed(self, box: str, counters: Counters, now: int) -> Reported:
        facts = self.epochs.get((box, counters.epoch))
        before = facts.reported if facts else None
        waiting = counters.low_seq < counters.next_seq
        if before is not None and waiting and counters.low_seq <= before.counters.low_seq:
            return Reported(counters, now, before.progress_ms)
        return Reported(counters, now, now)


def _runs(facts: EpochFacts, before_ms: int, *, regardless: bool) -> list[tuple[int, int, int]]:
    """Unbroken runs of stored batches below ``low_seq`` that no declared loss touches."""
    low = facts.reported.counters.low_seq if facts.reported else 0
    runs: list[tuple[int, int, int]] = []
    for seq in sorted(facts.rows):
        known = facts.rows[seq]
        young = seq >= low or facts.received[seq] > before_ms
        if known.outcome is not Outcome.STORED or (young and not regardless):
            continue
        if any(loss.first <= seq <= loss.last for loss in facts.losses):
            continue
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq, runs[-1][2] + known.samples)
        else:
            runs.append((seq, seq, known.samples))
    return runs


def _merged(runs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    merged: list[tuple[int, int, int]] = []
    for first, last, samples in sorted(runs):
        if merged and merged[-1][1] == first - 1:
            merged[-1] = (merged[-1][0], last, merged[-1][2] + samples)
        else:
            merged.append((first, last, samples))
    return merged


def hex16(epoch: int) -> str:
    """An epoch as text: SQLite has no unsigned 64 bits, and neither has JSON."""
    return f"{epoch:016x}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
