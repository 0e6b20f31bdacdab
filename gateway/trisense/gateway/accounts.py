"""The audit's arithmetic: what became of every sample that a box committed (design: Audit).

Per box and epoch, up to the last ``next_seq`` that the box reported: committed = stored + refused +
declared lost + waiting in the spool. Precedence is that order, so a loss declared of something that is
stored counts as stored. Younger batches are in flight. Nothing is invented: a loss whose count nobody
knows is ``unknown``.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

from trisense.core.errors import SpoolError
from trisense.core.messages import SEQ_MAX
from trisense.gateway.ledger import EpochFacts, Ledger, Outcome, hex16
from trisense.gateway.stores.base import Store

__all__ = [
    "Account",
    "Deep",
    "Facts",
    "Waiting",
    "as_json",
    "balance",
    "deep_of",
    "facts_from_json",
    "facts_json",
    "facts_of",
    "read_spool",
]

Ranges: TypeAlias = list[tuple[int, int]]
"""Sorted, disjoint, inclusive."""

PATIENCE_S: Final = 600.0
"""Without the spool file the box's word that it still holds batches is taken for this long after its
``low_seq`` last rose; then they count as missing."""
MISSING_SHOWN: Final = 20
SPOOL_ID: Final = 0x74726973


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gateway knows of one epoch of one box; JSON-ready but for ``asdict``."""

    box: str
    epoch: str
    next_seq: int | None
    low_seq: int | None
    committed: int | None
    """Samples, by the box's last report; None: it never reported this epoch."""
    progress_ms: int | None
    stored: int
    refused: int
    """Samples of batches below ``next_seq``."""
    in_flight: int
    """Samples of batches stored that are younger than the last report."""
    stored_seqs: Ranges
    refusals: list[tuple[int, int, str]]
    """(seq, samples, reason)."""
    losses: list[tuple[int, int, int | None, int | None, str]]
    """(first, last, samples declared, of these already stored or refused, reason); None: unknown."""
    forks: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Batches of one epoch in a spool file, unreceipted: seq -> samples."""

    batches: Mapping[int, int]


@dataclass(slots=True)
class Account:
    """The balance of one epoch."""

    box: str
    epoch: str
    committed: int | None
    stored: int
    refused: int
    lost: int
    lost_unknown: bool
    """Some declared loss has no count; what is missing within it is not invented."""
    waiting: int
    """Unreceipted in the spool file given."""
    pending: int
    """Not seen here, but the box says that it still holds them (no spool file given)."""
    in_flight: int
    unaccounted: int
    missing: Ranges = field(default_factory=list)
    """Seqs below ``next_seq`` that nobody can explain."""
    forks: int = 0
    balanced: bool = False


@dataclass(frozen=True, slots=True)
class Deep:
    """The ledger and the store's own rows of one box, at one moment."""

    ledger: int
    """Samples stored, by the ledger."""
    rows: int
    retired: int
    twice: int
    broken_media: int

    def faults(self) -> str:
        """What does not agree; empty where all does."""
        found = []
        if self.rows + self.retired != self.ledger:
            found.append(f"ledger {self.ledger} samples, store {self.rows} rows and {self.retired} retired")
        if self.twice:
            found.append(f"{self.twice} rows twice")
        if self.broken_media:
            found.append(f"{self.broken_media} pictures changed")
        return "; ".join(found)


def deep_of(store: Store, box: str) -> Deep:
    """Look at one box, on the writer's thread: nothing is written meanwhile.

    Raises:
        NotSupported: a store that cannot count.
    """
    stored = sum(f.stored + f.in_flight for f in facts_of(store.ledger) if f.box == box)
    count = store.count(box)
    return Deep(stored, count.rows, count.retired, count.twice, count.broken_media)


def facts_of(ledger: Ledger) -> list[Facts]:
    """Everything the ledger has, an entry per box and epoch."""
    return [_facts(box, epoch, facts) for (box, epoch), facts in sorted(ledger.epochs.items())]


def _facts(box: str, epoch: int, facts: EpochFacts) -> Facts:
    counters = facts.reported.counters if facts.reported else None
    bound = counters.next_seq if counters else SEQ_MAX
    below = {seq: known for seq, known in facts.rows.items() if seq < bound}
    stored = {seq: known.samples for seq, known in below.items() if known.outcome is Outcome.STORED}
    refusals = [
        (seq, known.samples, known.reason)
        for seq, known in sorted(below.items())
        if known.outcome is Outcome.REFUSED
    ]
    losses = []
    seqs = sorted(facts.rows) if facts.losses else []
    sums = list(accumulate((facts.rows[seq].samples for seq in seqs), initial=0))
    for loss in facts.losses:
        folded = any(first <= loss.last and last >= loss.first for first, last, _ in facts.folded)
        inside = sums[bisect_right(seqs, loss.last)] - sums[bisect_left(seqs, loss.first)]
        losses.append((loss.first, loss.last, loss.samples, None if folded else inside, loss.reason))
    return Facts(
        box=box,
        epoch=hex16(epoch),
        next_seq=counters.next_seq if counters else None,
        low_seq=counters.low_seq if counters else None,
        committed=counters.samples_committed if counters else None,
        progress_ms=facts.reported.progress_ms if facts.reported else None,
        stored=sum(stored.values()) + sum(samples for _, _, samples in facts.folded),
        refused=sum(samples for _, samples, _ in refusals),
        in_flight=sum(known.samples for seq, known in facts.rows.items() if seq >= bound),
        stored_seqs=_union([*((s, s) for s in stored), *((a, b) for a, b, _ in facts.folded)]),
        refusals=refusals,
        losses=losses,
        forks=facts.forks,
    )


def balance(facts: Facts, spool: Mapping[str, Waiting] | None, *, now_ms: int | None = None) -> Account:
    """Balance one epoch. ``spool`` maps epochs (hex) to what waits; None: no spool file was given."""
    account = Account(
        facts.box,
        facts.epoch,
        facts.committed,
        facts.stored,
        facts.refused,
        lost=0,
        lost_unknown=False,
        waiting=0,
        pending=0,
        in_flight=facts.in_flight,
        unaccounted=0,
        forks=facts.forks,
    )
    if facts.next_seq is None or facts.committed is None:
        # Only a loss names this epoch: nobody ever reported what was in it.
        account.lost = sum(samples or 0 for _, _, samples, _, _ in facts.losses)
        account.lost_unknown = any(samples is None for _, _, samples, _, _ in facts.losses)
        account.balanced = True
        return account
    known = _union([*facts.stored_seqs, *((seq, seq) for seq, _, _ in facts.refusals)])
    _count_losses(account, facts)
    gaps = _subtract([(0, facts.next_seq - 1)] if facts.next_seq else [], known)
    gaps = _subtract(gaps, _union((first, last) for first, last, _, _, _ in facts.losses))
    waiting = spool.get(facts.epoch) if spool is not None else None
    if waiting is not None:
        held = {seq: n for seq, n in waiting.batches.items() if _within(seq, gaps)}
        account.waiting = sum(held.values())
        gaps = _subtract(gaps, _union((seq, seq) for seq in held))
    explained = account.stored + account.refused + account.lost + account.waiting
    account.unaccounted = facts.committed - explained
    account.missing = gaps
    if waiting is None and _still_held(facts, gaps, now_ms):
        account.pending, account.unaccounted, account.missing = account.unaccounted, 0, []
    covered = account.unaccounted == 0 or (account.lost_unknown and account.unaccounted > 0)
    account.balanced = covered and not account.missing
    return account


def _count_losses(account: Account, facts: Facts) -> None:
    told_to = -1
    for first, last, samples, inside, _ in sorted(facts.losses, key=lambda loss: (loss[0], -loss[1])):
        if last <= told_to:
            continue  # said again, as a box does when it drops the batch that said it
        if samples is None or inside is None or first <= told_to:
            account.lost_unknown = True
        else:
            account.lost += max(0, samples - inside)
        told_to = last


def _still_held(facts: Facts, gaps: Ranges, now_ms: int | None) -> bool:
    if not gaps or facts.low_seq is None or facts.progress_ms is None or gaps[0][0] < facts.low_seq:
        return False
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    return now - facts.progress_ms <= PATIENCE_S * 1000


def as_json(account: Account) -> dict[str, Any]:
    shown = asdict(account)
    shown["missing"] = [list(pair) for pair in account.missing[:MISSING_SHOWN]]
    shown["missing_batches"] = sum(last - first + 1 for first, last in account.missing)
    return shown


def facts_json(facts: Facts | Deep) -> dict[str, Any]:
    return asdict(facts)


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """Undo ``facts_json`` after a journey as JSON.

    Raises:
        TypeError, KeyError: not of that form.
    """
    ready = dict(data)
    for name in ("stored_seqs", "refusals", "losses"):
        ready[name] = [tuple(item) for item in ready[name]]
    return Facts(**ready)


def read_spool(path: Path) -> dict[str, Waiting]:
    """What waits in a box's spool file, by epoch; also epochs where nothing does. Works beside the edge.

    Raises:
        SpoolError: missing, or no spool.
    """
    if not path.is_file():
        raise SpoolError(f"{path}: no such file")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            (found,) = connection.execute("PRAGMA application_id").fetchone()
            if found != SPOOL_ID:
                raise SpoolError(f"{path}: expected a spool file, got application id {found:#x}")
            waiting: dict[str, dict[int, int]] = {
                epoch: {} for (epoch,) in connection.execute("SELECT epoch FROM epoch")
            }
            rows = connection.execute("SELECT epoch, seq, samples FROM batch WHERE settled = 0")
            for epoch, seq, samples in rows:
                waiting.setdefault(epoch, {})[seq] = samples
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from error
    return {epoch: Waiting(batches) for epoch, batches in waiting.items()}


def _union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _subtract(ranges: Sequence[tuple[int, int]], without: Sequence[tuple[int, int]]) -> Ranges:
    left: Ranges = []
    for first, last in ranges:
        start = first
        for a, b in without:
            if b < start:
                continue
            if a > last:
                break
            if a > start:
                left.append((start, a - 1))
            start = b + 1
        if start <= last:
            left.append((start, last))
    return left


def _within(seq: int, ranges: Ranges) -> bool:
    return any(first <= seq <= last for first, last in ranges)
