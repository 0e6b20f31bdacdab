"""Room: what is set aside on the disk, what may be held, and what goes first when there is no more.

Policy at the cap and on a full disk (design: Delivery): receipted batches, replayed ones, pictures,
previews, the oldest readings, alarms last. All but the receipted are declared lost.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
from trisense.core.model import BatchClass
from trisense.edge.once import Fault
from trisense.edge.spool.file import AGE_NEVER_NS, PAGE_BYTES
from trisense.edge.spool.model import KINDS, Head, SpoolOptions
from trisense.edge.spool.shelf import WAITING_FINAL, WAITING_OPEN, Shelf

__all__ = ["ROUND_BYTES", "Ballast", "fold_log", "free", "oldest", "over_quota", "set_cap"]

log = structlog.get_logger(__name__)

ROUND_BYTES: Final = 256 * 1024
"""At least so much is freed at a time, so that declared losses stay few."""
ROUND_PART: Final = 200
"""And at least this part of the file, or of a quota."""
ROUND_BATCHES: Final = 5000
"""But no more batches than a commit can wait for."""
REPLAYED: Final = f"INDEXED BY replayed WHERE settled = 0 AND age_ns > {AGE_NEVER_NS} ORDER BY id LIMIT ?"
OF_CLASS: Final = "AND class = ? AND preview = ? ORDER BY id LIMIT ?"


def free(shelf: Shelf, reason: str) -> bool:
    """Delete what goes next, in the caller's transaction, and declare it; False when nothing is left."""
    (pages,) = shelf.db.execute("PRAGMA page_count").fetchone()
    goal_bytes = max(ROUND_BYTES, pages * PAGE_BYTES // ROUND_PART)
    kept = shelf.heads("WHERE settled > 0 ORDER BY age_ns LIMIT ?", ROUND_BATCHES, up_to_bytes=goal_bytes)
    if kept:
        shelf.delete_kept(kept)
        return True
    heads = _to_drop(shelf, goal_bytes)
    shelf.drop(heads, reason)
    return bool(heads)


def _to_drop(shelf: Shelf, goal_bytes: int) -> list[Head]:
    """What goes next, of as many classes as it takes: one small batch makes no room for its declaration."""
    found = shelf.heads(REPLAYED, ROUND_BATCHES, up_to_bytes=goal_bytes)
    chosen = {head.id for head in found}
    left_bytes = goal_bytes - sum(head.size_bytes for head in found)
    for batch_class, preview in KINDS.values():
        if left_bytes <= 0:
            break
        some = oldest(shelf, batch_class, preview=preview, goal_bytes=left_bytes)
        some = [head for head in some if head.id not in chosen]
        found += some
        left_bytes -= sum(head.size_bytes for head in some)
    return found


def set_cap(db: sqlite3.Connection, max_bytes: int | None) -> None:
    """Let the file grow up to that, or with None not beyond what it has."""
    pages = 1 if max_bytes is None else max_bytes // PAGE_BYTES  # never less than it has
    db.execute(f"PRAGMA max_page_count = {pages}").fetchone()


def fold_log(db: sqlite3.Connection) -> None:
    """Begin the log anew within the room it has: given back, others might take it."""
    with contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()


def over_quota(shelf: Shelf, options: SpoolOptions) -> Iterator[list[Head]]:
    """Oldest pictures, then previews, that are more than their classes may hold."""
    for batch_class, preview, share in (
        (BatchClass.MEDIA, False, options.media_share),
        (BatchClass.DATA, True, options.preview_share),
    ):
        quota_bytes = int(options.max_bytes * share)
        excess = shelf.tally.held(batch_class, preview=preview).size_bytes - quota_bytes
        if excess > 0:
            goal_bytes = excess + quota_bytes // ROUND_PART
            yield oldest(shelf, batch_class, preview=preview, goal_bytes=goal_bytes)


def oldest(shelf: Shelf, batch_class: BatchClass, *, preview: bool, goal_bytes: int) -> list[Head]:
    """Oldest final batches of a class, or where there are none the oldest open ones, which are younger."""
    arguments = (batch_class.value, int(preview), ROUND_BATCHES)
    return shelf.heads(f"{WAITING_FINAL} {OF_CLASS}", *arguments, up_to_bytes=goal_bytes) or shelf.heads(
        f"{WAITING_OPEN} {OF_CLASS}", *arguments, up_to_bytes=goal_bytes
    )


class Ballast:
    """Room set aside on the disk, given back when SQLite finds none: even a DELETE needs some."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path.with_name(path.name + ".ballast")
        self._size_bytes = size_bytes
        self._fault = Fault(log, "spool_ballast_failed", "spool_ballast_set_aside")

    def release(self) -> bool:
        """Give the room back; False when it had been given already."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def disk_is_short(self) -> bool:
        """Whether the disk has less free than the ballast would give."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize < self._size_bytes

    def load(self) -> bool:
        """Set the room aside where the disk has twice that free; tells whether it is."""
        try:
            if self._path.exists() and self._path.stat().st_size == self._size_bytes:
                return True
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < 2 * self._size_bytes:
                return False
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
        except OSError as error:
            self._fault.failed(why=str(error))
            return False
        self._fault.recovered()
        return True
