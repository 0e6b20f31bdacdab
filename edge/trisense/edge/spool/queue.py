"""The spool itself: commit, read, settle, replay.

Everything here blocks and belongs to one thread; ``thread.py`` gives the runtime an asynchronous door.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from trisense.core.messages import EpochReceipt
from trisense.core.model import Batch, BatchClass, ClockState, Counters, Value
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.spool import file as files
from trisense.edge.spool import reading, room
from trisense.edge.spool.finalise import Unfinished, finalise, unfinished
from trisense.edge.spool.holder import Holder
from trisense.edge.spool.model import Cut, Head, Loss, Settled, Summary
from trisense.edge.spool.shelf import Shelf
from trisense.edge.spool.trim import forget

__all__ = ["Spool"]

EPOCHS_KEPT: Final = 256
"""Drained epochs remembered for the birth message."""
SALVAGE_S: Final = 0.5
"""Of each ``tidy``, for what of a damaged file was not carried over at the start."""
REPLAY_BATCHES: Final = 500
"""Batches handled in one transaction: a commit may wait behind it."""


class Spool(Holder):
    """The disk queue of one box. ``open`` it first; not safe for two threads at a time."""

    def __enter__(self) -> Spool:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def tidy(self) -> int:
        """Delete receipted batches older than ``keep_s``, set the ballast aside again, look for lost rows.

        Gives the number of batches deleted; to be called every few minutes.
        """
        if self._ballast.load():
            self._guarded(lambda: room.set_cap(self._db, self._options.max_bytes))
            self._full.recovered()

        def work() -> int:
            count = forget(self._shelf, self._options.keep_s)
            self._shelf.books.forget_drained(EPOCHS_KEPT, self.epoch)
            self._shelf.none_hidden()
            return count

        count = self._durably(work)
        self._carry_on(SALVAGE_S)
        return count

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

    # --- times ---

    def line_ns(self) -> int:
        """Newest final time of the box's own line of time; -1 where there is none."""
        return self._shelf.books.line_ns()

    def unfinished(self) -> list[Unfinished]:
        """Boots with open batches, in their order."""
        return self._guarded(lambda: unfinished(self._shelf))

    def finalise(self, boot_id: str, offset_ns: int, clock: ClockState, limit: int | None = 64) -> int:
        """Make the oldest open batches of a boot final, ``limit`` or a MiB at most, in one transaction.

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

    def counters(self) -> Counters:
        """Counters of the current epoch."""
        return self._shelf.books.counters(self.epoch)

    def all_counters(self) -> list[Counters]:
        """Counters of every epoch whose numbers are known, the current one last."""
        return [self._shelf.books.counters(e) for e, of in self._shelf.books.epochs.items() if of.exact]

    def ordinals(self, key: tuple[str, str]) -> Ordinals:
        """Ordinals of a stream that go on where the committed ones stopped."""
        return self._shelf.books.ordinals(key)
