"""Whether a spool file is whole: what was looked at, what was found, and whether it can be mended."""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgpack
from trisense.core.errors import SpoolError
from trisense.edge.spool import file as files
from trisense.edge.spool.aside import any_batch, pending
from trisense.edge.spool.file import BatchRow
from trisense.edge.spool.model import DAMAGED, WAITING
from trisense.edge.spool.view import Progress, look_into, pages
from trisense.edge.spool.wal import marked_commits, whole_commits

__all__ = ["Findings", "examine"]

FAULTS_TOLD: Final = 20
"""Of one kind; the others are counted."""
WAL_TRIES: Final = 3
"""A box that runs writes the log while it is read here."""


@dataclass(slots=True)
class Findings:
    checked: dict[str, int] = field(default_factory=Counter)
    """What was looked at: ``batches``, ``epochs``, ``streams``, ``log_frames``, ``pages``."""
    faults: Counter[str] = field(default_factory=Counter)
    """Kinds of faults and how often each was met."""
    told: list[str] = field(default_factory=list)
    bad_rows: list[int] = field(default_factory=list)
    """Ids of batches that alone are damaged."""
    gone: dict[str, int] = field(default_factory=dict)
    """Per epoch, batches that are no longer here, receipted and purged or declared lost: no fault."""
    condemned: int = 0
    """Damaged batches that were declared lost before: no fault any more."""
    readable: bool = True
    """Whether anything at all can be read of it."""

    @property
    def good(self) -> bool:
        return not self.faults

    @property
    def only_rows(self) -> bool:
        """Whether every fault is one of ``bad_rows``."""
        return self.faults.total() == len(self.bad_rows)

    def fault(self, kind: str, what: str) -> None:
        self.faults[kind] += 1
        if self.faults[kind] <= FAULTS_TOLD:
            self.told.append(what)


def examine(path: Path, progress: Progress | None = None) -> Findings:
    """Look at everything: pages, indexes, checksums, counters, streams, the log. Changes nothing.

    Raises:
        SpoolError: no such file, or one that is no spool of this layout.
    """
    found = Findings()
    if pending(path):
        found.fault("salvage", "a damaged file was put aside and its salvage was broken off")
        if not path.is_file():
            return found
    _log(path, found)
    try:
        with look_into(path) as db:
            _pages(db, found)
            streams = _streams(db, found)
            epochs = _epochs(db, found)
            _batches(db, found, streams, epochs, progress)
    except SpoolError as error:
        if not isinstance(error.__cause__, sqlite3.DatabaseError):
            raise
        found.fault("file", str(error))
        found.readable = _anything(path)
    return found


def _log(path: Path, found: Findings) -> None:
    wal = path.with_name(path.name + "-wal")
    for _ in range(WAL_TRIES):
        marked, whole = marked_commits(wal), whole_commits(wal)
        if whole == marked:
            break
    else:
        found.fault("log", f"{wal.name}: commits up to frame {marked}, whole only up to frame {whole}")
    found.checked["log_frames"] = whole


def _pages(db: sqlite3.Connection, found: Findings) -> None:
    (found.checked["pages"],) = db.execute("PRAGMA page_count").fetchone()
    for (line,) in db.execute(f"PRAGMA integrity_check({FAULTS_TOLD})"):
        if line != "ok":
            found.fault("structure", str(line).strip())


def _streams(db: sqlite3.Connection, found: Findings) -> set[int]:
    (count,) = db.execute("SELECT count(*) FROM stream").fetchone()
    whole = {row.id for row in files.read_streams(db, damaged_ok=True)}
    found.checked["streams"] = count
    for _ in range(count - len(whole)):
        found.fault("stream", "a stream's description does not match its checksum")
    for cells in db.execute("SELECT stream, last_ns, max_n, crc FROM mark"):
        if files.mark_cells(*cells[:3]) != cells:
            found.fault("stream", "how far the ordinals of a stream went does not match its checksum")
    return whole


def _epochs(db: sqlite3.Connection, found: Findings) -> dict[str, files.EpochRow]:
    (count,) = db.execute("SELECT count(*) FROM epoch").fetchone()
    whole = {row.epoch: row for row in files.read_epochs(db, damaged_ok=True)}
    found.checked["epochs"] = count
    for _ in range(count - len(whole)):
        found.fault("epoch", "the counters of an epoch do not match their checksum")
    return whole


def _batches(
    db: sqlite3.Connection,
    found: Findings,
    streams: set[int],
    epochs: dict[str, files.EpochRow],
    progress: Progress | None,
) -> None:
    present: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    highest: dict[str, int] = {}
    for page in pages(db, progress):
        found.checked["batches"] += len(page)
        for row in page:
            if row.settled == DAMAGED:
                found.condemned += 1
            elif not row.whole() or not _streams_of(row) <= streams:
                found.bad_rows.append(row.id)
                found.fault("batch", f"batch {row.epoch}/{row.seq} (row {row.id}): checksum or stream")
                continue
            samples[row.epoch] += row.samples
            highest[row.epoch] = max(row.seq, highest.get(row.epoch, -1))
            epoch = epochs.get(row.epoch)  # a box that runs may have begun one since
            if epoch is not None:
                present[row.epoch] += row.seq < epoch.next_seq
                if row.seq < epoch.low_seq and row.settled == WAITING and row.age_ns == files.AGE_NEVER_NS:
                    found.fault("counter", f"batch {row.epoch}/{row.seq} waits below {epoch.low_seq}")
    found.gone = {name: row.next_seq - present[name] for name, row in epochs.items()}
    now = {row.epoch: row for row in files.read_epochs(db, damaged_ok=True)}
    for name, seq in highest.items():
        counted = now.get(name)
        if counted is None:
            found.fault("counter", f"epoch {name} has batches and no counters")
        elif counted.next_seq <= seq or (counted.exact and counted.samples_committed < samples[name]):
            found.fault("counter", f"epoch {name} has more batches or samples than it counts")


def _streams_of(row: BatchRow) -> set[int]:
    return {group[0] for group in msgpack.unpackb(zlib.decompress(row.rows))}


def _anything(path: Path) -> bool:
    """Whether a salvage would find a book or a batch."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            if files.read_epochs(db, damaged_ok=True):
                return True
    except sqlite3.Error:
        pass  # the batches may be had all the same
    return any_batch(path)
