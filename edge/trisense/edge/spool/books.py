"""The spool's books: counters of each epoch, the table of streams and how far their ordinals went.

Kept in memory and in the file together; after a rollback ``load`` brings memory back in line.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trisense.core.messages import SEQ_MAX
from trisense.core.model import Counters, Sample, Stream
from trisense.edge.sensing.ordinals import NEVER, Ordinals
from trisense.edge.spool.file import (
    AGE_NEVER_NS,
    BatchRow,
    EpochRow,
    StreamRow,
    mark_cells,
    read_epochs,
    read_streams,
    read_unmarked,
    write_unmarked,
)
from trisense.edge.spool.model import epoch_name, epoch_number
from trisense.edge.spool.rows import pack_stream, unpack_stream

__all__ = ["Books", "Epoch", "unused_numbers"]


def unused_numbers() -> int:
    """A number beyond which no stream has had any, where damage took how far they went.

    None has had a million at one time; which million it is is left to chance, for damage may come again.
    """
    return (1 + secrets.randbelow(1 << 10)) << 20


@dataclass(slots=True)
class Epoch:
    opened_ns: int
    next_seq: int = 0
    low_seq: int = 0
    samples_committed: int = 0
    replay_low: int = SEQ_MAX
    """Smallest seq that waits a second time."""
    line_ns: int = NEVER
    """Newest final time of the box's own line of time."""
    exact: bool = True
    """False where damage took the numbers: then no counters are reported for it."""

    @property
    def drained(self) -> bool:
        """Whether nothing of it waits for its first receipt."""
        return self.low_seq >= self.next_seq


@dataclass(slots=True)
class _Mark:
    """Where the ordinals of one stream stand, as far as it is committed."""

    id: int
    stream: Stream
    last_ns: int = NEVER
    max_n: int = -1


class Books:
    """Epochs and streams of one open spool file."""

    def __init__(self, db: sqlite3.Connection, *, frozen: bool = False) -> None:
        self._db = db
        self._unmarked = (NEVER, -1)
        """How far the ordinals of a stream may have gone that is not here: damage may have taken it."""
        self.frozen = frozen
        """No ``low_seq`` moves: batches that wait may still come in from a damaged file."""
        self.epochs: dict[int, Epoch] = {}
        self._marks: dict[tuple[str, str], _Mark] = {}
        self._streams: dict[int, Stream] = {}
        self._moving_of: tuple[str, int] | None = None
        self._moving: dict[tuple[str, str], Ordinals] = {}
        """Ordinals of the samples that move together: those of one run with one provisional offset."""

    def load(self) -> None:
        """Read everything from the file.

        Raises:
            sqlite3.DatabaseError: the file is damaged here.
        """
        self.epochs = {
            int(row.epoch, 16): Epoch(
                row.opened_ns,
                row.next_seq,
                row.low_seq,
                row.samples_committed,
                line_ns=row.line_ns,
                exact=bool(row.exact),
            )
            for row in read_epochs(self._db)
        }
        for epoch, seq in self._lowest_replayed():
            if epoch in self.epochs:
                self.epochs[epoch].replay_low = seq
        for epoch in self.epochs:
            self.find_low(epoch)
        self._streams = {}
        self._marks = {}
        self._moving_of = None
        self._unmarked = read_unmarked(self._db) or (NEVER, -1)
        for row in read_streams(self._db):
            stream = unpack_stream(row.description)
            mark = _Mark(row.id, stream, row.last_ns, row.max_n)
            known = self._marks.get(stream.key)
            if known is not None:
                mark.last_ns = max(mark.last_ns, known.last_ns)
                mark.max_n = max(mark.max_n, known.max_n)
            self._streams[row.id] = stream
            self._marks[stream.key] = mark

    def _lowest_replayed(self) -> list[tuple[int, int]]:
        query = (
            "SELECT epoch, min(seq) FROM batch INDEXED BY replayed"  # noqa: S608  # a constant
            f" WHERE settled = 0 AND age_ns > {AGE_NEVER_NS} GROUP BY epoch"
        )
        return [(epoch_number(name), int(seq)) for name, seq in self._db.execute(query)]

    # --- streams ---

    def stream(self, identity: int) -> Stream:
        """The stream of that number.

        Raises:
            KeyError: the file has no description of it.
        """
        return self._streams[identity]

    def stream_id(self, stream: Stream) -> int:
        """The number of a stream, given and written at its first use."""
        mark = self._marks.get(stream.key)
        if mark is not None and mark.stream == stream:
            return mark.id
        identity = next((i for i, known in self._streams.items() if known == stream), None)
        if identity is None:
            identity = max(self._streams, default=0) + 1
            StreamRow(identity, pack_stream(stream), *self._unmarked).write(self._db)
            self._streams[identity] = stream
        last_ns, max_n = self._unmarked if mark is None else (mark.last_ns, mark.max_n)
        self._marks[stream.key] = _Mark(identity, stream, last_ns, max_n)
        return identity

    def mark(self, samples: Sequence[Sample]) -> None:
        """Write how far each stream's ordinals have gone, so that they stay unique after a restart."""
        touched: dict[tuple[str, str], _Mark] = {}
        for sample in samples:
            key = sample.stream.key
            mark = self._marks[key]
            mark.last_ns = max(mark.last_ns, sample.time_ns)
            mark.max_n = max(mark.max_n, sample.n)
            touched[key] = mark
        self._write(touched.values())

    def _write(self, marks: Iterable[_Mark]) -> None:
        self._db.executemany(
            "UPDATE mark SET last_ns = ?2, max_n = ?3, crc = ?4 WHERE stream = ?1",
            [mark_cells(m.id, m.last_ns, m.max_n) for m in marks],
        )

    def ordinals(self, key: tuple[str, str]) -> Ordinals:
        """Ordinals of a stream that go on where the final ones stopped."""
        mark = self._marks.get(key)
        return Ordinals(*self._unmarked) if mark is None else Ordinals(mark.last_ns, mark.max_n)

    def doubt_marks(self, now_ns: int) -> None:
        """Write that streams may have had any time up to now, and any number: what told it is gone."""
        self._unmarked = (max(now_ns, *(m.last_ns for m in self._marks.values()), NEVER), unused_numbers())
        for mark in self._marks.values():
            mark.last_ns, mark.max_n = self._unmarked
        self._write(self._marks.values())
        write_unmarked(self._db, *self._unmarked)

    # --- samples that become final ---

    def move(
        self, samples: Sequence[Sample], epoch: str, offset_ns: int, final_offset_ns: int
    ) -> tuple[Sample, ...]:
        """Open samples of ``epoch`` at their final times; to be called in the order of their commits.

        All of a stream move by the same whole number of its ticks.
        """
        if self._moving_of != (epoch, offset_ns):
            self._moving_of, self._moving = (epoch, offset_ns), {}
        final = []
        for sample in samples:
            key, tick_ns = sample.stream.key, sample.stream.tick_ns
            if key not in self._moving:
                self._moving[key] = self.ordinals(key)
            time_ns = sample.time_ns + (final_offset_ns - offset_ns) // tick_ns * tick_ns
            final.append(replace(sample, time_ns=time_ns, n=self._moving[key].moved(time_ns, sample.n)))
        return tuple(final)

    def others(self, samples: Sequence[Sample]) -> None:
        """Samples that did not move are in their way."""
        for sample in samples:
            self._moving.pop(sample.stream.key, None)

    # --- epochs ---

    def line_ns(self) -> int:
        """Newest final time of the box's own line of time, of the latest epoch that has one."""
        known = (of.line_ns for of in reversed(self.epochs.values()) if of.line_ns != NEVER)
        return next(known, NEVER)

    def count(self, epoch: int, samples: int) -> None:
        """One more batch in ``epoch``."""
        of = self.epochs[epoch]
        of.next_seq += 1
        of.samples_committed += samples
        self.save(epoch)

    def save(self, epoch: int) -> None:
        of = self.epochs[epoch]
        low_seq = min(of.low_seq, of.next_seq)
        row = EpochRow(
            epoch_name(epoch),
            of.opened_ns,
            of.next_seq,
            low_seq,
            of.samples_committed,
            int(of.exact),
            of.line_ns,
        )
        self._db.execute(
            "INSERT INTO epoch VALUES (?1,?2,?3,?4,?5,?6,?7,?8) ON CONFLICT (epoch) DO UPDATE SET"
            " next_seq = ?3, low_seq = ?4, samples_committed = ?5, exact = ?6, line_ns = ?7, crc = ?8",
            row.cells(),
        )

    def find_low(self, epoch: int) -> None:
        """Move ``low_seq`` up to the first batch that waits; it never goes back."""
        of = self.epochs.get(epoch)
        if of is None or self.frozen:
            return
        row = self._db.execute(
            "SELECT seq FROM batch WHERE epoch = ? AND seq >= ? AND settled = 0 ORDER BY seq LIMIT 1",
            (epoch_name(epoch), of.low_seq),
        ).fetchone()
        of.low_seq = of.next_seq if row is None else row[0]

    def adopt(self, epoch: int, row: BatchRow) -> Epoch:
        """The books of the epoch of a batch from a damaged file, made up where they went with it."""
        of = self.epochs.get(epoch)
        if of is None:
            of = self.epochs[epoch] = Epoch(0, line_ns=row.committed_ns, exact=False)
        if not of.exact and of.next_seq <= row.seq:
            of.next_seq = row.seq + 1
            self.save(epoch)
        return of

    def thaw(self) -> None:
        """Everything that can come in is there: ``low_seq`` moves again."""
        self.frozen = False
        for epoch, of in self.epochs.items():
            self.find_low(epoch)
            if of.next_seq:  # else it is in memory only
                self.save(epoch)

    def forget_drained(self, keep: int, current: int) -> None:
        """Drop the oldest epochs of which no batch is here, beyond the newest ``keep`` of them."""
        drained = [
            e for e, of in self.epochs.items() if of.drained and e != current and not self._any_batch(e)
        ]
        for epoch in drained[:-keep]:
            self._db.execute("DELETE FROM epoch WHERE epoch = ?", (epoch_name(epoch),))
            del self.epochs[epoch]

    def _any_batch(self, epoch: int) -> bool:
        query = "SELECT 1 FROM batch WHERE epoch = ? LIMIT 1"
        return self._db.execute(query, (epoch_name(epoch),)).fetchone() is not None

    def counters(self, epoch: int) -> Counters:
        of = self.epochs[epoch]
        return Counters(epoch, of.next_seq, min(of.low_seq, of.next_seq), of.samples_committed)
