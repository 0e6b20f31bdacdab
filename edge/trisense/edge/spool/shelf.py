"""The batches of one open file, with its books and the sums of what it holds kept in step.

No transactions here: the spool begins and ends them, and takes ``snapshot`` and ``restore`` around
them, so that memory follows the file back.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass, Value, batch_hash
from trisense.edge.clocks.clock import PLAUSIBLE_NS, Clock
from trisense.edge.once import Fault
from trisense.edge.spool import reading
from trisense.edge.spool.books import Books, Epoch
from trisense.edge.spool.file import AGE_NEVER_NS, BatchRow, damaged, toggle
from trisense.edge.spool.model import (
    DAMAGED,
    KINDS,
    LOSS_NAMES,
    REFUSED,
    STORED,
    WAITING,
    Cut,
    Head,
    Held,
    Loss,
    Settled,
    epoch_name,
    epoch_number,
    loss_samples,
    runs,
)
from trisense.edge.spool.reading import HEAD
from trisense.edge.spool.rows import pack_rows

__all__ = ["HORIZON", "WAITING_FINAL", "WAITING_OPEN", "Shelf", "Snapshot", "Tally"]

log = structlog.get_logger(__name__)

AGE_MAX_NS: Final = 1 << 62
"""Larger ages come of damage."""
LOSSES_A_BATCH: Final = 1000
"""So that it fits into a bundle."""
LOSSES_TOLD: Final = 20
"""Most losses in one line of the log."""
LOSS_REASON: Final = LOSS_NAMES.index("reason")
LOSS_SAMPLES: Final = LOSS_NAMES.index("samples")
HORIZON: Final = (
    "SELECT settled_ns FROM batch INDEXED BY kept WHERE settled > 0 AND settled_ns >= ?"
    " ORDER BY age_ns LIMIT 1"
)
"""Receipt of the oldest batch that is kept, of those from a time that can be true."""
WAITING_FINAL: Final = "INDEXED BY waiting WHERE settled = 0 AND state = 'final'"
WAITING_OPEN: Final = "INDEXED BY unfinished WHERE state = 'open'"


@dataclass(slots=True)
class Tally:
    """What the file holds, in batches and bytes, without asking it."""

    waiting: dict[tuple[BatchClass, bool], Held] = field(default_factory=dict)
    """By class and preview: without a receipt, open ones included."""
    kept: Held = field(default_factory=Held)
    """Receipted, or damaged and declared."""
    losses: Counter[str] = field(default_factory=Counter)
    """Declared since it was opened, by reason."""
    lost: Counter[str] = field(default_factory=Counter)
    """Samples in them, where somebody can say how many."""

    def put(self, head: Head) -> None:
        key = (head.batch_class, head.preview)
        self.waiting[key] = self.waiting.get(key, Held()).plus(1, head.size_bytes)

    def take(self, head: Head) -> None:
        key = (head.batch_class, head.preview)
        self.waiting[key] = self.waiting.get(key, Held()).plus(-1, -head.size_bytes)

    def held(self, batch_class: BatchClass, *, preview: bool = False) -> Held:
        return self.waiting.get((batch_class, preview), Held())

    def by_name(self) -> dict[str, Held]:
        """What waits, by the names of ``KINDS``."""
        return {name: self.held(of, preview=preview) for name, (of, preview) in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What memory held when a transaction began."""

    books_of_epoch: Epoch
    tally: Tally


class Shelf:
    """What lies in one open file."""

    def __init__(self, db: sqlite3.Connection, clock: Clock, *, frozen: bool = False) -> None:
        """Read the books and the sums; ``frozen`` while a damaged file is being carried over.

        Raises:
            sqlite3.DatabaseError: the file is damaged here.
        """
        self.db = db
        self.books = Books(db, frozen=frozen)
        self.books.load()
        self.tally = Tally()
        self.epoch = 0
        """That of new batches, set by ``begin``."""
        self._clock = clock
        self._loss_ordinals = self.books.ordinals(LOSS.key)
        # At the cap something is lost again and again: every loss is declared, but not each is told aloud.
        self._fault = Fault(log, "samples_lost", forget_s=3600.0)
        self._reasons_told: set[str] = set()
        self.count()
        query = "SELECT max(age_ns) FROM batch WHERE settled > 0 AND age_ns < ?"
        (oldest,) = db.execute(query, (AGE_MAX_NS,)).fetchone()
        self._age_base_ns = max(AGE_NEVER_NS, oldest or 0) + 1 - clock.boot_ns()

    @property
    def age_ns(self) -> int:
        """How long spools have run on this file, as far as it shows.

        Receipted batches age by it: wall time may jump by decades, and boot time ends with each boot.
        """
        return self._age_base_ns + self._clock.boot_ns()

    def count(self) -> None:
        """Make the sums anew from the indexes."""
        tally = Tally(losses=self.tally.losses, lost=self.tally.lost)
        for where in (WAITING_FINAL, WAITING_OPEN):
            query = (
                "SELECT class, preview, count(*), sum(size_bytes) FROM batch"  # noqa: S608  # constants
                f" {where} GROUP BY class, preview"
            )
            for kind, preview, batches, size_bytes in self.db.execute(query):
                key = (reading.CLASSES.get(str(kind), BatchClass.DATA), preview == 1)
                tally.waiting[key] = tally.waiting.get(key, Held()).plus(batches, int(size_bytes or 0))
        query = "SELECT count(*), sum(size_bytes) FROM batch WHERE settled > 0"
        batches, size_bytes = self.db.execute(query).fetchone()
        tally.kept = Held(batches, int(size_bytes or 0))
        self.tally = tally

    # --- transactions ---

    def begin(self, epoch: int) -> None:
        """New batches are of ``epoch``; it reaches the file with the first of them."""
        self.epoch = epoch
        self.books.epochs[epoch] = Epoch(self._clock.now_ns())

    def doubt_marks(self) -> None:
        """Commits are gone that told how far the ordinals of the streams went."""
        self.books.doubt_marks(self._clock.now_ns())
        self._loss_ordinals = self.books.ordinals(LOSS.key)

    def snapshot(self) -> Snapshot:
        """Memory as it is before a transaction."""
        tally = replace(
            self.tally,
            waiting=dict(self.tally.waiting),
            losses=self.tally.losses.copy(),
            lost=self.tally.lost.copy(),
        )
        return Snapshot(replace(self.books.epochs[self.epoch]), tally)

    def restore(self, before: Snapshot) -> None:
        """Bring memory back to the file after a rollback.

        Raises:
            sqlite3.DatabaseError: the file is damaged here.
        """
        self.tally = before.tally
        try:
            self.books.load()
        finally:
            # An epoch without a batch is in memory only.
            self.books.epochs[self.epoch] = before.books_of_epoch

    # --- new batches ---

    def commit(self, cut: Cut) -> Head:
        """Make ``cut`` a batch."""
        cut = self._moved(cut)
        clock, now_ns = cut.clock or self._clock.state(), self._clock.now_ns()
        row = BatchRow(
            id=0,
            epoch=epoch_name(self.epoch),
            seq=self.books.epochs[self.epoch].next_seq,
            batch_class=cut.batch_class.value,
            preview=int(cut.preview and cut.batch_class is BatchClass.DATA),
            state="final" if cut.offset_ns is None else "open",
            settled=WAITING,
            settled_ns=now_ns,
            age_ns=AGE_NEVER_NS,
            committed_ns=now_ns,
            boot_id=self._clock.boot_id,
            mono_ns=self._clock.boot_ns(),
            offset_ns=cut.offset_ns,
            synced=int(clock.synced),
            error_ms=clock.error_ms,
            samples=len(cut.samples),
            hash=batch_hash(cut.samples),
            rows=pack_rows(cut.samples, self.books.stream_id),
            blob=cut.blob,
        )
        identity = row.insert(self.db)
        if cut.offset_ns is None:  # provisional times are marked when they are final
            self.books.mark(cut.samples)
        if cut.line_ns is not None:
            self.books.epochs[self.epoch].line_ns = cut.line_ns
        self.books.count(self.epoch, row.samples)
        size_bytes, preview = row.size_bytes, bool(row.preview)
        head = Head(identity, self.epoch, row.seq, cut.batch_class, row.samples, size_bytes, preview)
        self.tally.put(head)
        return head

    def _moved(self, cut: Cut) -> Cut:
        """The cut at its final times, where they are known."""
        if cut.offset_ns is None:
            self.books.others(cut.samples)
        elif cut.final_offset_ns is not None:
            samples = self.books.move(cut.samples, epoch_name(self.epoch), cut.offset_ns, cut.final_offset_ns)
            line_ns = None if cut.preview else max(sample.time_ns for sample in samples)
            cut = replace(cut, samples=samples, offset_ns=None, final_offset_ns=None, line_ns=line_ns)
        return cut

    def declare(
        self, fresh: Sequence[tuple[Value, ...]], again: Sequence[tuple[Value, ...]] = ()
    ) -> list[Head]:
        """Make ``Loss.values`` a batch of class alarm; none, no batch. ``again``: those declared before."""
        losses = [*again, *fresh]
        if not losses:
            return []
        for values in fresh:
            reason, count = str(values[LOSS_REASON]), values[LOSS_SAMPLES]
            self.tally.losses[reason] += 1
            self.tally.lost[reason] += count if isinstance(count, int) else 0
        told = [dict(zip(LOSS_NAMES, values, strict=True)) for values in losses[:LOSSES_TOLD]]
        reasons = {str(values[LOSS_REASON]) for values in fresh}
        self._fault.failed(count=len(losses), losses=told, anew=not reasons <= self._reasons_told)
        self._reasons_told |= reasons
        samples = loss_samples(losses, self._clock.now_ns(), self._loss_ordinals)
        parts = [samples[at : at + LOSSES_A_BATCH] for at in range(0, len(samples), LOSSES_A_BATCH)]
        return [self.commit(Cut(BatchClass.ALARM, part)) for part in parts]

    def drop(self, heads: Sequence[Head], reason: str) -> list[Head]:
        """Delete waiting batches and declare them lost; gives the batch that says so."""
        times_ns = {head.id: reading.committed_ns(self.db, head.id) for head in heads}
        again = [values for head in heads for values in self._declared_in(head)]
        lost = []
        for run in runs(heads):
            span = [times_ns[head.id] for head in run]
            samples = sum(head.samples for head in run)
            loss = Loss(reason, run[0].epoch, run[0].seq, run[-1].seq, samples)
            lost.append(replace(loss, t0_ns=min(span), t1_ns=max(span)).values())
        for head in heads:
            self.tally.take(head)
        self._delete(heads)
        return self.declare(lost, again)

    def _declared_in(self, head: Head) -> list[tuple[Value, ...]]:
        """Losses a batch declares: they must be said again when it is itself dropped."""
        row = reading.row(self.db, head.id) if head.batch_class is BatchClass.ALARM else None
        batch = None if row is None else self.batch(row)
        return [] if batch is None else [s.values for s in batch.samples if s.stream == LOSS]

    def take_over(self, rows: Iterable[BatchRow]) -> None:
        """Insert batches of a damaged file, each as it was; not what is here, or had its receipt since."""
        for row in rows:
            of = self.books.adopt(epoch_number(row.epoch), row)
            receipted = row.seq < of.low_seq and row.age_ns == AGE_NEVER_NS
            if (row.settled == WAITING and receipted) or self._is_here(row):
                continue
            try:
                identity = row.insert(self.db)
            except sqlite3.IntegrityError:  # its id is another's now
                identity = row.without_id().insert(self.db)
            (head,) = self.heads("WHERE id = ?", identity)
            if row.settled == WAITING:
                self.tally.put(head)
                if row.age_ns != AGE_NEVER_NS:
                    of.replay_low = min(of.replay_low, row.seq)
            else:
                self.tally.kept = self.tally.kept.plus(1, head.size_bytes)

    def _is_here(self, row: BatchRow) -> bool:
        query = "SELECT 1 FROM batch WHERE epoch = ? AND seq = ?"
        return self.db.execute(query, (row.epoch, row.seq)).fetchone() is not None

    # --- rows ---

    def heads(self, query: str, *arguments: object, up_to_bytes: int | None = None) -> list[Head]:
        """Heads of ``WHERE`` and what follows it, until their sizes pass ``up_to_bytes``."""
        return reading.heads(self.db, f"{HEAD} {query}", up_to_bytes, *arguments)

    def batch(self, row: BatchRow) -> Batch | None:
        """The batch in a row, or None where the row is damaged."""
        return reading.batch(row, self.books.stream)

    def rewrite(self, row: BatchRow, size_before_bytes: int) -> None:
        """Write a batch anew that was open and waits."""
        self.db.execute(
            "UPDATE batch SET state = ?, settled_ns = ?, committed_ns = ?, offset_ns = ?, synced = ?,"
            " error_ms = ?, size_bytes = ?, hash = ?, rows = ?, crc = ? WHERE id = ?",
            (
                row.state,
                row.settled_ns,
                row.committed_ns,
                row.offset_ns,
                row.synced,
                row.error_ms,
                row.size_bytes,
                row.hash,
                row.rows,
                row.checksum(),
                row.id,
            ),
        )
        key = (BatchClass(row.batch_class), bool(row.preview))
        self.tally.waiting[key] = self.tally.waiting[key].plus(0, row.size_bytes - size_before_bytes)

    def delete_kept(self, heads: Sequence[Head]) -> None:
        self.tally.kept = self.tally.kept.plus(-len(heads), -sum(head.size_bytes for head in heads))
        self._delete(heads)

    def _delete(self, heads: Sequence[Head]) -> None:
        self.db.executemany("DELETE FROM batch WHERE id = ?", [(head.id,) for head in heads])
        for epoch in {head.epoch for head in heads} & self.books.epochs.keys():
            self.books.find_low(epoch)
            self.books.save(epoch)  # a damaged file must still tell what had its receipt and is gone

    def doubt(self, row: BatchRow) -> None:
        """Look at a damaged row that an index gave as waiting.

        Raises:
            sqlite3.DatabaseError: the row says otherwise, so that no mark could take it from the index.
        """
        if row.settled != WAITING or row.state != "final":
            raise damaged(f"an index of the row {row.id}")

    def condemn(self, identity: int) -> tuple[int, int]:
        """Mark a damaged row, keeping its bytes for a look; gives (epoch, seq), -1 where unknown."""
        self.db.execute(
            "UPDATE batch SET state = 'final', settled = ?, settled_ns = ?, age_ns = ? WHERE id = ?",
            (DAMAGED, self._clock.now_ns(), self.age_ns, identity),
        )
        epoch, seq = reading.identity_in_index(self.db, identity) or (-1, -1)
        self.books.find_low(epoch)
        self.count()
        return epoch, seq

    def none_hidden(self) -> None:
        """Where the indexes say that nothing waits, hold against it what the books say.

        Raises:
            sqlite3.DatabaseError: some batch waits that no index tells of.
        """
        if (
            self.books.frozen
            or self.heads(f"{WAITING_FINAL} LIMIT 1")
            or self.heads(f"{WAITING_OPEN} LIMIT 1")
        ):
            return
        for epoch, of in self.books.epochs.items():
            self.books.find_low(epoch)
            if of.low_seq < of.next_seq:
                raise damaged("an index of what waits")

    # --- receipts ---

    def settle(self, receipts: Iterable[EpochReceipt]) -> Settled:
        """Mark batches as receipted; what is not this box's own is counted and ignored."""
        heads: list[Head] = []
        refused = beyond = unknown = 0
        for receipt in receipts:
            epoch = self.books.epochs.get(receipt.epoch)
            if epoch is None:
                unknown += 1
                continue
            spans = [(first, last, STORED) for first, last in receipt.stored]
            spans += [(seq, seq, REFUSED) for seq, _, _ in receipt.refused]
            for first, last, mark in spans:
                if last >= epoch.next_seq:
                    beyond += 1
                    continue
                lowest = min(epoch.low_seq, epoch.replay_low)
                marked = self._mark(receipt.epoch, max(first, lowest), last, mark)
                refused += len(marked) if mark == REFUSED else 0
                heads += marked
            self.books.find_low(receipt.epoch)
        return Settled(tuple(heads), refused, beyond, unknown)

    def _mark(self, epoch: int, first: int, last: int, mark: int) -> list[Head]:
        # An open batch was never sent: a receipt for it cannot be true.
        rows = self.db.execute(
            f"UPDATE batch SET settled = ?, settled_ns = ?, age_ns = ?, {toggle(mark)}"  # noqa: S608  # a constant
            " WHERE epoch = ? AND seq BETWEEN ? AND ? AND settled = 0 AND state = 'final'"
            " RETURNING id, epoch, seq, class, samples, size_bytes, preview",
            (mark, self._clock.now_ns(), self.age_ns, epoch_name(epoch), first, last),
        ).fetchall()
        heads = [reading.head(cells) for cells in rows]
        for head in heads:
            self.tally.take(head)
        self.tally.kept = self.tally.kept.plus(len(heads), sum(head.size_bytes for head in heads))
        return heads

    def old(self, keep_ns: int, limit: int) -> list[Head]:
        """Receipted batches of more than that age, oldest receipt first."""
        query = "WHERE settled > 0 AND age_ns < ? ORDER BY age_ns LIMIT ?"
        return self.heads(query, self.age_ns - keep_ns, limit)

    def horizon_ns(self) -> int | None:
        """Wall time of the oldest receipt whose batch is still here; None when there is none."""
        found = self.db.execute(HORIZON, (PLAUSIBLE_NS,)).fetchone()
        return None if found is None else int(found[0])

    def replay(self, since_ns: int, until_ns: int, *, after_id: int, limit: int) -> list[int]:
        """Let receipted batches wait again; gives the ids of those looked at, in rising order."""
        # A time that cannot be true says nothing: such batches are not left out. Nor are refused ones: a
        # gateway restored from an older copy knows nothing of its refusal, and its audit misses them.
        query = (
            "SELECT id, settled FROM batch INDEXED BY kept WHERE settled > 0 AND settled IN (?, ?)"
            " AND (settled_ns >= ? OR settled_ns < ?) AND (committed_ns <= ? OR committed_ns > ?)"
            " AND id > ? ORDER BY id LIMIT ?"
        )
        span = (since_ns, PLAUSIBLE_NS, until_ns, self._clock.now_ns())
        arguments = (STORED, REFUSED, *span, after_id, limit)
        found = self.db.execute(query, arguments).fetchall()
        for identity, mark in found:
            row = reading.row(self.db, identity)
            if row is not None and row.whole():  # else an index would take over what is damaged in it
                self._wait_again(identity, mark)
        return [identity for identity, _ in found]

    def _wait_again(self, identity: int, mark: int) -> None:
        cells = self.db.execute(
            f"UPDATE batch SET settled = 0, {toggle(mark)} WHERE id = ? AND settled = ?"  # noqa: S608  # a constant
            " RETURNING id, epoch, seq, class, samples, size_bytes, preview",
            (identity, mark),
        ).fetchall()
        for head in map(reading.head, cells):
            self.tally.kept = self.tally.kept.plus(-1, -head.size_bytes)
            self.tally.put(head)
            of = self.books.epochs.get(head.epoch)
            if of is not None:
                of.replay_low = min(of.replay_low, head.seq)
