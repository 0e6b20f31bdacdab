"""A damaged spool file beside the new one: put aside until it is carried over, then kept for a look.

While ``spool.db.salvage`` is there, the salvage is not done. Each step is a renaming, and a crash may come
between any two of them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from trisense.edge.spool.file import read_batches

__all__ = ["any_batch", "discard_aside", "finish_moving", "keep_aside", "pending", "set_aside"]


def discard_aside(path: Path) -> bool:
    """Delete the damaged file that was kept for a look; tells whether there was any."""
    kept = list(path.parent.glob(f"{path.name}.damaged*"))
    for old in kept:
        old.unlink(missing_ok=True)
    return bool(kept)


def pending(path: Path) -> Path | None:
    """The damaged file that was put aside and is not yet carried over, if there is one."""
    aside = _salvage(path)
    return aside if aside.exists() else None


def set_aside(path: Path) -> None:
    """Move a damaged spool and its WAL out of the way, to be salvaged.

    Where the salvage of another is not done yet, that one is deleted: what it still held is missing from
    the books in this one, too, and will be declared. But a file that tells no batch never takes its place.
    """
    discard_aside(path)
    aside = _salvage(path)
    if aside.exists() and not any_batch(path):
        for suffix in ("-wal", ""):
            _with(path, suffix).unlink(missing_ok=True)
    else:
        for suffix in ("-shm", "-wal", ""):
            _with(aside, suffix).unlink(missing_ok=True)
        for suffix in ("-wal", ""):  # the file last: it is what tells
            if _with(path, suffix).exists():
                _with(path, suffix).rename(_with(aside, suffix))
    _with(path, "-shm").unlink(missing_ok=True)


def keep_aside(path: Path) -> Path:
    """The salvage is done and declared: keep the damaged file for a look, until its room is needed."""
    aside, kept = _salvage(path), _kept(path)
    for suffix in ("", "-wal"):  # the file first: without its log it would tell of the past
        if _with(aside, suffix).exists():
            _with(aside, suffix).rename(_with(kept, suffix))
    _with(aside, "-shm").unlink(missing_ok=True)
    return kept


def finish_moving(path: Path) -> None:
    """Finish what a crash broke off between a file and its log; before anything is opened."""
    aside, kept = _salvage(path), _kept(path)
    log = _with(aside, "-wal")
    if aside.exists() or not log.exists():
        return
    if kept.exists():
        log.rename(_with(kept, "-wal"))
    elif path.exists():
        path.rename(aside)
    else:
        log.unlink()


def any_batch(path: Path) -> bool:
    """Whether a file, however damaged, still tells a whole batch."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            return any(row.whole() for row in read_batches(db))
    except sqlite3.Error:
        return False


def _salvage(path: Path) -> Path:
    return _with(path, ".salvage")


def _kept(path: Path) -> Path:
    return _with(path, ".damaged")


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
