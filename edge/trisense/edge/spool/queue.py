"""The spool itself: commit, read, settle, make room, survive damage.

Everything here blocks and belongs to one thread; ``thread.py`` gives the runtime an asynchronous
door. Measured truths behind the choices: WAL with ``synchronous=FULL`` lost no committed row in 40
simulated power cuts where NORMAL lost some in 38; a full disk refuses even a DELETE, hence the
ballast; a flipped bit passes every check of SQLite's, hence a CRC in each row.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import structlog
from trisense.core.errors import SpoolError, SpoolFull
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass, Counters, Value, batch_hash
from trisense.edge.clock import Clock
from trisense.edge.ordinals import Ordinals
from trisense.edge.spool import file as files
from trisense.edge.spool import reading
from trisense.edge.spool.books import Books, Epoch
from trisense.edge.spool.model import (
    LOSS_NAMES,
    Cut,
    Head,
    Loss,
    Settled,
    SpoolOptions,
    epoch_name,
    loss_samples,
    runs,
)
from trisense.edge.spool.reading import HEAD
from trisense.edge.spool.rows import pack_rows
from trisense.edge.spool.salvage import Salvage

__all__ = ["Spool"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

WAITING, STORED, REFUSED, DAMAGED = range(4)
DROP_ORDER: Final = (BatchClass.MEDIA, BatchClass.DATA, BatchClass.ALARM)
ROUND_BYTES: Final = 256 * 1024
"""At least so much is freed at a time, so that declared losses stay few."""
ROUNDS: Final = 40
"""Times a commit may make room before it gives up: more than any one batch can need."""
EPOCHS_KEPT: Final = 256
"""Drained epochs remembered for the birth message."""


class Spool:
    """The disk queue of one box. ``open`` it first; not safe for two threads at a time."""

    def __init__(self, path: Path, clock: Clock, options: SpoolOptions | None = None) -> None:
        self.path = path
        self.epoch = 0
        self._options = options or SpoolOptions()
        self._clock = clock
        self._ballast = files.Ballast(path, self._options.ballast_bytes)
        self._note = files.EpochNote(path)
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._books: Books
        self._loss_ordinals = Ordinals()

    def __enter__(self) -> Spool:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening and closing ---

    def open(self) -> None:
        """Take the file, whatever its state, and begin a new epoch.

        Raises:
            SpoolLocked: another process has it.
            SpoolError: the folder cannot be written, or another version made the file.
        """
        self._lock = files.lock(self.path)
        try:
            self._open_or_start_afresh()
            self._ballast.load()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file and let go of it."""
        self._let_go()
        os.close(self._lock)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the spool has no file open")
        return self._connection

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open_or_start_afresh(self) -> None:
        try:
            self._open_file()
        except sqlite3.Error as error:
            if _code(error) not in files.CORRUPT_CODES:
                raise SpoolError(f"{self.path}: cannot open: {error}") from error
            self._start_afresh(error)

    def _open_file(self) -> None:
        self._connection, tail_lost = files.connect(self.path, max_bytes=self._options.max_bytes)
        try:
            self._books = Books(self._db)
            self._books.load()
        except BaseException:
            self._let_go()
            raise
        self._loss_ordinals = self._books.ordinals(LOSS.key)
        before = self._note.read()[-1:]
        self._begin_epoch()
        if tail_lost:
            log.error("spool_tail_lost", path=str(self.path))
            self._durably(lambda: self._insert_losses([self._tail(epoch).values() for epoch in before]))

    def _tail(self, epoch: int) -> Loss:
        """All that may have followed what the file still has of ``epoch``."""
        known = self._books.epochs.get(epoch)
        return Loss("corrupt", epoch, 0 if known is None else known.next_seq, None)

    def _begin_epoch(self) -> None:
        """Mint the epoch of this opening; it reaches the file with its first batch."""
        self.epoch = secrets.randbits(64)
        self._books.epochs[self.epoch] = Epoch(self._clock.now_ns())
        self._note.write(self._books.epochs)

    # --- writing ---

    def commit(self, cuts: Sequence[Cut], losses: Iterable[Loss] = ()) -> list[Head]:
        """Make each cut a batch, and ``losses`` one of class alarm, all in one durable transaction.

        Raises:
            SpoolFull: no room, even after the policy dropped what it may; nothing was committed.
            SpoolError: the disk failed; nothing was committed.
        """
        rows = [loss.values() for loss in losses]
        return self._durably(lambda: [*map(self._insert, cuts), *self._insert_losses(rows)])

    def drop(self, ids: Iterable[int], reason: str) -> list[Head]:
        """Give up batches that can never be sent; gives the batch that declares them lost."""
        wanted = list(ids)
        return self._durably(lambda: self._drop(reading.heads_of(self._db, wanted), reason))

    def _insert(self, cut: Cut) -> Head:
        clock = self._clock.state()
        row = files.BatchRow(
            id=0,
            epoch=epoch_name(self.epoch),
            seq=self._books.epochs[self.epoch].next_seq,
            batch_class=cut.batch_class.value,
            preview=int(cut.preview),
            state="final" if cut.offset_ns is None else "open",
            settled=WAITING,
            committed_ns=self._clock.now_ns(),
            boot_id=self._clock.boot_id,
            mono_ns=self._clock.boot_ns(),
            offset_ns=cut.offset_ns,
            synced=int(clock.synced),
            error_ms=clock.error_ms,
            samples=len(cut.samples),
            hash=batch_hash(cut.samples),
            rows=pack_rows(cut.samples, self._books.stream_id),
            blob=cut.blob,
        )
        identity = row.insert(self._db)
        self._books.mark(cut.samples)
        self._books.count(self.epoch, row.samples)
        return Head(identity, self.epoch, row.seq, cut.batch_class, row.samples, row.size_bytes, cut.preview)

    def _insert_losses(self, rows: Sequence[tuple[Value, ...]]) -> list[Head]:
        if not rows:
            return []
        log.warning(
            "samples_lost", count=len(rows), losses=[dict(zip(LOSS_NAMES, r, strict=True)) for r in rows[:20]]
        )
        samples = loss_samples(rows, self._clock.now_ns(), self._loss_ordinals)
        return [self._insert(Cut(BatchClass.ALARM, samples))]

    # --- transactions ---

    def _durably(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one transaction; make room or start afresh when the disk asks for it."""
        for _ in range(ROUNDS):
            try:
                return self._transact(work)
            except sqlite3.Error as error:
                if not self._recover(error):
                    break
        raise SpoolFull(f"{self.path}: no room on the disk or below the cap, and nothing left to drop")

    def _recover(self, error: sqlite3.Error) -> bool:
        """Do what helps against ``error``; False when there is no room and nothing to free.

        Raises:
            SpoolError: nothing helps but time.
        """
        if _code(error) in files.CORRUPT_CODES:
            self._start_afresh(error)
            return True
        if self._connection is None:
            self._open_or_start_afresh()  # an earlier attempt found a disk that allowed nothing
            return True
        # A disk that is full answers either way, depending on which file could not grow.
        if _code(error) == sqlite3.SQLITE_FULL or (
            _code(error) == sqlite3.SQLITE_IOERR and self._ballast.disk_is_short()
        ):
            return self._make_room(error)
        raise SpoolError(f"{self.path}: {error}") from error

    def _transact(self, work: Callable[[], T]) -> T:
        current = replace(self._books.epochs[self.epoch])
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            # Memory follows the file back; an epoch without a batch is in memory only.
            with contextlib.suppress(sqlite3.Error):
                self._books.load()
            self._books.epochs[self.epoch] = current
            raise
        return result

    # --- room ---

    def _make_room(self, error: sqlite3.Error) -> bool:
        """Free some room: a damaged copy, the ballast, receipted batches, then what the policy drops.

        Gives False when nothing is left to free.
        """
        short = self._ballast.disk_is_short()
        helped = short and (files.discard_aside(self.path) or self._ballast.release())
        log.warning("spool_full", why=str(error), disk_is_short=short, helped=helped)
        if short:
            # What the ballast gave is for the WAL: the file itself must not grow into it.
            self._cap(grow=False)
        self._fold_wal()
        try:
            freed = self._transact(lambda: self._free("disk_full" if short else "cap"))
        except sqlite3.Error as again:
            log.warning("spool_room_failed", why=str(again))
            return helped
        self._fold_wal()
        return freed or helped

    def _cap(self, *, grow: bool) -> None:
        """Let the file grow up to its cap, or not beyond what it has."""
        pages = self._options.max_bytes // files.PAGE_BYTES if grow else 1  # never less than it has
        self._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    def _fold_wal(self) -> None:
        """Begin the WAL anew within the room it has: given back, others might take it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _free(self, reason: str) -> bool:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        goal_bytes = max(ROUND_BYTES, pages * files.PAGE_BYTES // 50)
        kept = self._heads(f"{HEAD} WHERE settled > 0 ORDER BY settled_ns", goal_bytes)
        if kept:
            self._delete(kept)
            return True
        for batch_class in DROP_ORDER:
            query = f"{HEAD} WHERE settled = 0 AND class = ? ORDER BY id"
            heads = self._heads(query, goal_bytes, batch_class.value)
            if heads:
                self._drop(heads, reason)
                return True
        return False

    def _drop(self, heads: Sequence[Head], reason: str) -> list[Head]:
        """Delete batches and declare them lost, in the caller's transaction."""
        times_ns = {head.id: reading.committed_ns(self._db, head.id) for head in heads}
        lost = [values for head in heads for values in self._declared_in(head)]
        for run in runs(heads):
            span = [times_ns[head.id] for head in run]
            samples = sum(head.samples for head in run)
            loss = Loss(reason, run[0].epoch, run[0].seq, run[-1].seq, samples)
            lost.append(replace(loss, t0_ns=min(span), t1_ns=max(span)).values())
        self._delete(heads)
        return self._insert_losses(lost)

    def _declared_in(self, head: Head) -> list[tuple[Value, ...]]:
        """Losses a batch declares: they must be said again when it is itself dropped."""
        row = reading.row(self._db, head.id) if head.batch_class is BatchClass.ALARM else None
        batch = None if row is None else self._batch(row)
        return [] if batch is None else [s.values for s in batch.samples if s.stream == LOSS]

    def _delete(self, heads: Iterable[Head]) -> None:
        heads = list(heads)
        self._db.executemany("DELETE FROM batch WHERE id = ?", [(head.id,) for head in heads])
        for epoch in {head.epoch for head in heads}:
            self._books.find_low(epoch)

    def tidy(self) -> int:
        """Delete receipted batches older than ``keep_s``, set the ballast aside again.

        Gives the number of batches deleted; to be called every few minutes.
        """
        if self._ballast.load():
            self._cap(grow=True)
        before_ns = self._clock.now_ns() - int(self._options.keep_s * 1e9)
        query = f"{HEAD} WHERE settled > 0 AND settled_ns < ? ORDER BY settled_ns LIMIT 2000"

        def work() -> int:
            old = self._heads(query, None, before_ns)
            self._delete(old)
            self._books.forget_drained(EPOCHS_KEPT, self.epoch)
            return len(old)

        return self._durably(work)

    # --- reading ---

    def heads(
        self,
        batch_class: BatchClass,
        *,
        after_id: int = 0,
        limit: int = 500,
        newest: bool = False,
        preview: bool = False,
    ) -> list[Head]:
        """Final batches without a receipt, oldest first, from behind ``after_id``.

        With ``newest`` the newest first, from below ``after_id`` where it is not 0. With ``preview``
        previews only, else none of them.
        """
        beyond, order = ("<", "DESC") if newest else (">", "ASC")
        query = (
            f"{HEAD} WHERE settled = 0 AND state = 'final' AND class = ? AND preview = ?"
            f" AND id {beyond} ? ORDER BY id {order} LIMIT ?"
        )
        behind = after_id or (files.ID_MAX if newest else 0)
        arguments = (batch_class.value, int(preview), behind, limit)
        return self._guarded(lambda: self._heads(query, None, *arguments))

    def load(self, ids: Iterable[int]) -> list[tuple[Head, Batch]]:
        """The batches themselves; a damaged row is declared lost and left out."""
        wanted = list(ids)
        return self._guarded(lambda: self._load_batches(wanted))

    def waiting(self) -> int:
        """Batches without a receipt."""
        query = "SELECT count(*) FROM batch WHERE settled = 0"
        return int(self._guarded(lambda: self._db.execute(query).fetchone())[0])

    def _load_batches(self, ids: Sequence[int]) -> list[tuple[Head, Batch]]:
        found = []
        for identity in ids:
            row = reading.row(self._db, identity)
            if row is None:
                continue
            batch = self._batch(row)
            if batch is None:
                self._condemn(identity)
                continue
            kind, preview = batch.batch_class, bool(row.preview)
            head = Head(identity, batch.epoch, row.seq, kind, row.samples, row.size_bytes, preview)
            found.append((head, batch))
        return found

    def _condemn(self, identity: int) -> None:
        """Mark a damaged row, keep its bytes for a look, and declare what it held."""
        log.error("spool_row_damaged", id=identity)

        def work() -> None:
            self._db.execute(
                "UPDATE batch SET settled = ?, settled_ns = ? WHERE id = ?",
                (DAMAGED, self._clock.now_ns(), identity),
            )
            epoch, seq = reading.identity_in_index(self._db, identity) or (-1, -1)
            known = epoch in self._books.epochs
            self._insert_losses([(Loss("corrupt", epoch, seq, seq) if known else Loss("corrupt")).values()])
            self._books.find_low(epoch)

        self._durably(work)

    def _heads(self, query: str, up_to_bytes: int | None, *arguments: object) -> list[Head]:
        return reading.heads(self._db, query, up_to_bytes, *arguments)

    def _batch(self, row: files.BatchRow) -> Batch | None:
        return reading.batch(row, self._books.stream)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Run a read; when it meets a damaged file, start afresh and read that."""
        try:
            return work()
        except sqlite3.Error as error:
            if _code(error) not in files.CORRUPT_CODES and self._connection is not None:
                raise SpoolError(f"{self.path}: {error}") from error
            self._recover(error)
            return work()

    # --- receipts and counters ---

    def settle(self, receipts: Iterable[EpochReceipt]) -> Settled:
        """Mark batches as receipted. What is not this box's own is counted and ignored.

        Not durable on its own, for a mark lost in a power cut costs one re-send.
        """
        wanted = list(receipts)
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            return self._durably(lambda: self._settle(wanted))
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA synchronous = FULL")

    def _settle(self, receipts: Iterable[EpochReceipt]) -> Settled:
        heads: list[Head] = []
        refused = beyond = unknown = 0
        for receipt in receipts:
            epoch = self._books.epochs.get(receipt.epoch)
            if epoch is None:
                unknown += 1
                continue
            spans = [(first, last, STORED) for first, last in receipt.stored]
            spans += [(seq, seq, REFUSED) for seq, _, _ in receipt.refused]
            for first, last, mark in spans:
                if last >= epoch.next_seq:
                    beyond += 1
                    continue
                marked = self._mark_settled(receipt.epoch, max(first, epoch.low_seq), last, mark)
                refused += len(marked) if mark == REFUSED else 0
                heads += marked
            self._books.find_low(receipt.epoch)
        return Settled(tuple(heads), refused, beyond, unknown)

    def _mark_settled(self, epoch: int, first: int, last: int, mark: int) -> list[Head]:
        rows = self._db.execute(
            "UPDATE batch SET settled = ?, settled_ns = ? WHERE epoch = ? AND seq BETWEEN ? AND ?"
            " AND settled = 0 RETURNING id, seq, class, samples",
            (mark, self._clock.now_ns(), epoch_name(epoch), first, last),
        ).fetchall()
        return [Head(i, epoch, seq, BatchClass(kind), samples, 0) for i, seq, kind, samples in rows]

    def counters(self) -> Counters:
        """Counters of the current epoch."""
        return self._books.counters(self.epoch)

    def all_counters(self) -> list[Counters]:
        """Counters of every epoch whose numbers are known, the current one last."""
        return [self._books.counters(e) for e, of in self._books.epochs.items() if of.exact]

    def ordinals(self, key: tuple[str, str]) -> Ordinals:
        """Ordinals of a stream that go on where the committed ones stopped."""
        return self._books.ordinals(key)

    # --- damage ---

    def _start_afresh(self, error: sqlite3.Error) -> None:
        """Put a damaged file aside, begin a new one, and carry over what can be read in time.

        Raises:
            SpoolError: the disk does not allow it now; the next call tries again.
        """
        try:
            self._let_go()
            aside = files.set_aside(self.path)
            log.error("spool_damaged", path=str(self.path), why=str(error), kept_as=str(aside))
            salvage = Salvage(aside)
            self._connection, _ = files.connect(self.path, max_bytes=self._options.max_bytes)
            self._fill(salvage)
            self._books = Books(self._db)
            self._books.load()
        except (sqlite3.Error, OSError) as again:
            self._let_go()
            raise SpoolError(f"{self.path}: cannot begin a new spool: {again}") from again
        self._loss_ordinals = self._books.ordinals(LOSS.key)
        losses = salvage.losses(self._note.read())
        self._begin_epoch()
        log.error("spool_salvaged", batches=salvage.count, losses=len(losses))
        self._durably(lambda: self._insert_losses([loss.values() for loss in losses]))

    def _fill(self, salvage: Salvage) -> None:
        """Carry batches over, all or, where the disk is full too, none: they are in the file put aside."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            salvage.run(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            log.error("spool_salvage_failed", why=str(error))
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            salvage.nothing_kept()


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the binding itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
