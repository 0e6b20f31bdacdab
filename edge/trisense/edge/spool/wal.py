"""SQLite's write-ahead log, read from outside: what was committed into it, and what of that is whole.

At a damaged frame SQLite takes that frame and all behind it for a commit that was never finished, and
says nothing. Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log; frames left from
before the last reset carry older salts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["PAGE_BYTES", "marked_commits", "whole_commits"]

HEAD: Final = struct.Struct(">III I 8s 8s")
FRAME: Final = struct.Struct(">II 8s 8s")
PAGE_BYTES: Final = 4096
"""Of every spool."""
SUMMED_OF_HEAD: Final = 24
SUMMED_OF_FRAME: Final = 8
BIG_ENDIAN: Final = 1
"""Bit of the magic number: byte order of the words that are summed."""


def marked_commits(wal: Path) -> int:
    """Frames up to the last commit, going by the marks alone; 0 where there is no log."""
    last = 0
    for number, (frame, _) in enumerate(_frames(wal), start=1):
        _, size_after_commit, _, _ = FRAME.unpack(frame)
        if size_after_commit:
            last = number
    return last


def whole_commits(wal: Path) -> int:
    """Frames up to the last commit before the first damaged frame; slow, for a check only."""
    head = _head(wal)
    if not _head_is_whole(head):
        return 0
    order, last = _order(head), 0
    sums = _summed(order, head[:SUMMED_OF_HEAD], (0, 0))
    for number, (frame, page) in enumerate(_frames(wal), start=1):
        if len(page) % SUMMED_OF_FRAME:
            break
        sums = _summed(order, page, _summed(order, frame[:SUMMED_OF_FRAME], sums))
        _, size_after_commit, _, told = FRAME.unpack(frame)
        if struct.pack(">II", *sums) != told:
            break
        if size_after_commit:
            last = number
    return last


def _frames(wal: Path) -> Iterator[tuple[bytes, bytes]]:
    """(head, page) of each frame; those from before the last reset without a mark.

    Where the log's own head is damaged, nobody can tell which these are, and SQLite takes none of them.
    """
    head = _head(wal)
    if len(head) < HEAD.size:
        return
    whole = _head_is_whole(head)
    _, _, page_bytes, _, salts, _ = HEAD.unpack(head)
    with wal.open("rb") as file:
        file.seek(HEAD.size)
        while len(frame := file.read(FRAME.size)) == FRAME.size:
            page = file.read(page_bytes if whole else PAGE_BYTES)
            if whole and FRAME.unpack(frame)[2] != salts:
                yield FRAME.pack(0, 0, salts, bytes(8)), page
            else:
                yield frame, page


def _head(wal: Path) -> bytes:
    try:
        with wal.open("rb") as file:
            return file.read(HEAD.size)
    except FileNotFoundError:
        return b""


def _head_is_whole(head: bytes) -> bool:
    if len(head) < HEAD.size:
        return False
    sums = _summed(_order(head), head[:SUMMED_OF_HEAD], (0, 0))
    return struct.pack(">II", *sums) == head[SUMMED_OF_HEAD:] and any(head)


def _order(head: bytes) -> str:
    return ">" if head[3] & BIG_ENDIAN else "<"


def _summed(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for a, b in struct.iter_unpack(order + "II", data):
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return first, second
