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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog
from trisense.core.errors import SpoolError, SpoolFull
from trisense.core.messages import EpochReceipt
from trisense.core.model import Batch, BatchClass, ClockState, Counters, Value
from trisense.edge.clock import Clock
from trisense.edge.once import Fault
from trisense.edge.ordinals import Ordinals
from trisense.edge.spool import file as files
from trisense.edge.spool import reading, room
from trisense.edge.spool.finalise import Unfinished, finalise, unfinished
from trisense.edge.spool.model import Cut, Head, Loss, Settled, SpoolOptions, Summary
from trisense.edge.spool.salvage import Salvage
from trisense.edge.spool.shelf import Shelf
from trisense.edge.spool.trim import forget

__all__ = ["Spool"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

ROUNDS: Final = 40
"""Times a commit may make room before it gives up: more than any one batch can need."""
EPOCHS_KEPT: Final = 256
"""Drained epochs remembered for the birth message."""
REPLAY_BATCHES: Final = 500
"""Batches handled in one transaction: a commit may wait behind it."""


class Spool:
    """The disk queue of one box. ``open`` it first; not safe for two threads at a time."""

    def __init__(self, path: Path, clock: Clock, options: SpoolOptions | None = None) -> None:
        self.path = path
        self.epoch = 0
        self._options = options or SpoolOptions()
        self._clock = clock
        self._ballast = room.Ballast(path, self._options.ballast_bytes)
        self._note = files.EpochNote(path)
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._shelf: Shelf
        # What the disk does to us it does again: at each commit, until somebody comes.
        self._full = Fault(log, "spool_full", forget_s=3600.0)
        self._no_room = Fault(log, "spool_room_failed", forget_s=3600.0)
        self._rows_damaged = Fault(log, "spool_row_damaged", level="error", forget_s=3600.0)
        self._damaged = Fault(log, "spool_damaged", level="error", forget_s=3600.0)

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
        if files.salvage_pending(self.path):
            self._start_afresh("a crash came into its salvage")
            return
        try:
            self._open_file()
        except sqlite3.Error as error:
            if _code(error) not in files.CORRUPT_CODES:
                raise SpoolError(f"{self.path}: cannot open: {error}") from error
            self._start_afresh(str(error))

    def _open_file(self) -> None:
        self._connection, tail_lost = files.connect(self.path, max_bytes=self._options.max_bytes)
        try:
            self._shelf = Shelf(self._db, self._clock)
        except BaseException:
            self._let_go()
            raise
        before = self._note.read()[-1:]
        self._begin_epoch()
        if tail_lost:
            log.error("spool_tail_lost", path=str(self.path))
            self._durably(lambda: self._shelf.declare([self._tail(epoch).values() for epoch in before]))

    def _tail(self, epoch: int) -> Loss:
        """All that may have followed what the file still has of ``epoch``."""
        known = self._shelf.books.epochs.get(epoch)
        return Loss("corrupt", epoch, 0 if known is None else known.next_seq, None)

    def _begin_epoch(self) -> None:
        """Mint the epoch of this opening; it reaches the file with its first batch."""
        self.epoch = secrets.randbits(64)
        self._shelf.begin(self.epoch)
        # Of an epoch that is drained already nothing more can be lost.
        self._note.write(
            [e for e, of in self._shelf.books.epochs.items() if not of.drained or e == self.epoch]
        )

    # --- writing ---

    def commit(self, cuts: Sequence[Cut], losses: Iterable[Loss] = ()) -> list[Head]:
        """Make each cut a batch, and ``losses`` one of class alarm, all in one durable transaction.

        Raises:
            SpoolFull: no room, even after the policy dropped what it may; nothing was committed.
            SpoolError: the disk failed; nothing was committed.
        """
        rows = [loss.values() for loss in losses]
        return self._durably(lambda: self._commit(cuts, rows))

    def _commit(self, cuts: Sequence[Cut], losses: Sequence[tuple[Value, ...]]) -> list[Head]:
        shelf = self._shelf
        heads = [*map(shelf.commit, cuts), *shelf.declare(losses)]
        for excess in room.over_quota(shelf, self._options):
            heads += shelf.drop(excess, "quota")
        return heads

    def drop(self, ids: Iterable[int], reason: str) -> list[Head]:
        """Give up batches that can never be sent; gives the batch that declares them lost."""
        wanted = list(ids)
        return self._durably(lambda: self._shelf.drop(reading.heads_of(self._db, wanted), reason))

    def durably(self, work: Callable[[Shelf], T]) -> T:
        """Run ``work`` on what lies in the file, in one durable transaction.

        Raises:
            SpoolFull: no room, even after the policy dropped what it may; nothing of it was done.
            SpoolError: the disk failed; nothing of it was done.
        """
        return self._durably(lambda: work(self._shelf))

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
            self._start_afresh(str(error))
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
        before = self._shelf.snapshot()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._shelf.restore(before)
            raise
        return result

    # --- room ---

    def _make_room(self, error: sqlite3.Error) -> bool:
        """Free some room: a damaged copy, the ballast, receipted batches, then what the policy drops.

        Gives False when nothing is left to free.
        """
        short = self._ballast.disk_is_short()
        helped = short and (files.discard_aside(self.path) or self._ballast.release())
        self._full.failed(why=str(error), disk_is_short=short, helped=helped)
        if short:
            # What the ballast gave is for the WAL: the file itself must not grow into it.
            room.set_cap(self._db, None)
        room.fold_log(self._db)
        try:
            freed = self._transact(lambda: room.free(self._shelf, "disk_full" if short else "cap"))
        except sqlite3.Error as again:
            self._no_room.failed(why=str(again))
            return helped
        room.fold_log(self._db)
        return freed or helped

    def tidy(self) -> int:
        """Delete receipted batches older than ``keep_s``, set the ballast aside again, look for lost rows.

        Gives the number of batches deleted; to be called every few minutes.
        """
        if self._ballast.load():
            room.set_cap(self._db, self._options.max_bytes)

        def work() -> int:
            count = forget(self._shelf, self._options.keep_s)
            self._shelf.books.forget_drained(EPOCHS_KEPT, self.epoch)
            self._shelf.none_hidden()
            return count

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
            "WHERE settled = 0 AND state = 'final' AND class = ? AND preview = ?"
            f" AND id {beyond} ? ORDER BY id {order} LIMIT ?"
        )
        behind = after_id or (files.ID_MAX if newest else 0)
        arguments = (batch_class.value, int(preview), behind, limit)
        return self._guarded(lambda: self._shelf.heads(query, *arguments))

    def load(self, ids: Iterable[int]) -> list[tuple[Head, Batch]]:
        """The batches themselves; a damaged row is declared lost and left out."""
        wanted = list(ids)
        return self._guarded(lambda: self._load_batches(wanted))

    def waiting(self) -> int:
        """Batches without a receipt."""
        return sum(held.batches for held in self._shelf.tally.waiting.values())

    def horizon_ns(self) -> int | None:
        """Wall time since which every batch receipted as stored can be replayed; None when none is kept."""
        return self._guarded(lambda: Shelf.horizon_ns(self._shelf))

    def summary(self) -> Summary:
        """What it holds now; cheap."""
        return Summary(
            waiting=self._shelf.tally.by_name(),
            kept=self._shelf.tally.kept,
            file_bytes=self.path.stat().st_size,
            max_bytes=self._options.max_bytes,
            horizon_ns=self.horizon_ns(),
            losses=dict(self._shelf.tally.losses),
            lost=dict(self._shelf.tally.lost),
        )

    def _load_batches(self, ids: Sequence[int]) -> list[tuple[Head, Batch]]:
        found = []
        for identity in ids:
            row = reading.row(self._db, identity)
            if row is None or row.state == "open":
                continue
            batch = self._shelf.batch(row)
            if batch is None:
                self._shelf.doubt(row)
                self.condemn(row.id)
                continue
            kind, preview = batch.batch_class, bool(row.preview)
            head = Head(identity, batch.epoch, row.seq, kind, row.samples, row.size_bytes, preview)
            found.append((head, batch))
        return found

    def condemn(self, identity: int) -> None:
        """Mark a damaged row, keep its bytes for a look, and declare what it held."""
        self._rows_damaged.failed(id=identity)

        def work() -> None:
            epoch, seq = self._shelf.condemn(identity)
            known = epoch in self._shelf.books.epochs
            self._shelf.declare([(Loss("corrupt", epoch, seq, seq) if known else Loss("corrupt")).values()])

        self._durably(work)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Run a read; when it meets a damaged file, start afresh and read that."""
        try:
            return work()
        except sqlite3.Error as error:
            if _code(error) not in files.CORRUPT_CODES and self._connection is not None:
                raise SpoolError(f"{self.path}: {error}") from error
            self._recover(error)
            return work()

    # --- times ---

    def line_ns(self) -> int:
        """Newest final time of the box's own line of time; -1 where there is none."""
        return self._shelf.books.line_ns()

    def unfinished(self) -> list[Unfinished]:
        """Boots with open batches, in their order."""
        return self._guarded(lambda: unfinished(self._shelf))

    def finalise(self, boot_id: str, offset_ns: int, clock: ClockState, limit: int = 64) -> int:
        """Make the oldest open batches of a boot final, at most ``limit``, in one transaction.

        Their times become boot time plus ``offset_ns`` and never change again. Gives how many; none is
        left when it gives 0.

        Raises:
            SpoolError: the disk failed; they are open still.
        """
        done, damaged = self._durably(lambda: finalise(self._shelf, boot_id, offset_ns, clock, limit))
        for identity in damaged:
            self.condemn(identity)
        return done + len(damaged)

    # --- receipts and counters ---

    def settle(self, receipts: Iterable[EpochReceipt]) -> Settled:
        """Mark batches as receipted. What is not this box's own is counted and ignored.

        Not durable on its own, for a mark lost in a power cut costs one re-send.
        """
        wanted = list(receipts)
        with self._loosely():
            return self._durably(lambda: self._shelf.settle(wanted))

    def replay(self, since_ns: int, until_ns: int) -> int:
        """Let batches wait again that are kept though the gateway had them; gives how many.

        Those that were committed before ``until_ns`` and receipted after ``since_ns``, wall time: a store
        restored from a copy of that time lacks what was receipted since, whenever it was sensed. Where the
        clock was wrong then, they count as such. They travel as backlog, under the names they had. Long:
        ``SpoolThread.replay`` lets commits between.
        """
        count, after_id = 0, 0
        while ids := self.replay_some(since_ns, until_ns, after_id=after_id):
            count, after_id = count + len(ids), ids[-1]
        return count

    def replay_some(self, since_ns: int, until_ns: int, *, after_id: int = 0) -> list[int]:
        """A part of ``replay``: the ids of the next batches behind ``after_id``, none at the end."""

        def work() -> list[int]:
            return self._shelf.replay(since_ns, until_ns, after_id=after_id, limit=REPLAY_BATCHES)

        with self._loosely():
            return self._durably(work)

    @contextlib.contextmanager
    def _loosely(self) -> Iterator[None]:
        """Within it commits are not durable until the next one outside."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA synchronous = FULL")

    def counters(self) -> Counters:
        """Counters of the current epoch."""
        return self._shelf.books.counters(self.epoch)

    def all_counters(self) -> list[Counters]:
        """Counters of every epoch whose numbers are known, the current one last."""
        return [self._shelf.books.counters(e) for e, of in self._shelf.books.epochs.items() if of.exact]

    def ordinals(self, key: tuple[str, str]) -> Ordinals:
        """Ordinals of a stream that go on where the committed ones stopped."""
        return self._shelf.books.ordinals(key)

    # --- damage ---

    def rebuild(self, why: str) -> None:
        """Put the file aside and carry over into a new one what is whole, as after damage.

        Raises:
            SpoolError: the disk does not allow it.
        """
        self._start_afresh(why)

    def _start_afresh(self, why: str) -> None:
        """Put a damaged file aside, begin a new one, and carry over what can be read in time.

        Nothing else is committed before what is gone has been declared: until then a crash, or a disk that
        allows nothing, only means to begin again.

        Raises:
            SpoolError: the disk does not allow it now; the next call tries again.
        """
        # This opening's own epoch may be noted and hold nothing yet.
        noted = [e for e in self._note.read() if e != self.epoch or self._shelf.books.epochs[e].next_seq]
        try:
            self._let_go()
            aside = files.set_aside(self.path)
            self._damaged.failed(path=str(self.path), why=why)
            salvage = Salvage(aside, limit_s=self._options.salvage_s)
            self._connection, _ = files.connect(self.path, max_bytes=self._options.max_bytes)
            salvage.run(self._db)
            self._shelf = Shelf(self._db, self._clock)
            losses = [loss.values() for loss in salvage.losses(noted)]
            self._begin_epoch()
            self._declare_in_new_file(losses)
            kept_as = files.keep_aside(self.path)
        except (sqlite3.Error, OSError) as again:
            self._let_go()
            raise SpoolError(f"{self.path}: cannot begin a new spool: {again}") from again
        log.error(
            "spool_salvaged",
            waiting=salvage.waiting,
            kept=salvage.kept,
            losses=len(losses),
            kept_as=str(kept_as),
        )

    def _declare_in_new_file(self, losses: Sequence[tuple[Value, ...]]) -> None:
        for _ in range(ROUNDS):
            try:
                self._transact(lambda: self._shelf.declare(losses))
                return
            except sqlite3.Error as error:
                if _code(error) in files.CORRUPT_CODES or not self._make_room(error):
                    raise


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the binding itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
