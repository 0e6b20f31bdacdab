"""From samples to commits: a bounded queue, cut by time, by rows, or at once for an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from trisense.core import limits
from trisense.core.errors import SpoolError
from trisense.core.model import BatchClass, Sample
from trisense.edge.backoff import Backoff
from trisense.edge.clocks.clock import Stamp, worst
from trisense.edge.once import Fault
from trisense.edge.sensing.progress import Progress
from trisense.edge.spool import Cut, Loss

__all__ = ["Batcher"]

log = structlog.get_logger(__name__)

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Most that waits for a disk that does not answer (about 40,000 samples of ten numbers, or 20 pictures);
then the oldest goes, and is declared lost."""
CUT_BYTES: Final = 128 * 1024
CUT_ROWS: Final = 1000
"""Bounds of one batch, so that it fits into a bundle."""
BLOB_BYTES: Final = limits.PAYLOAD_BYTES - 8 * 1024
"""Largest picture that can travel; the rest of the payload is its sample and the bundle's head."""
COMMIT_TOOK_MAX_S: Final = 0.5
"""A disk slower than that gets its batches later than promised, but not one by one."""
COMMITS_KEPT: Final = 600
"""Last commits whose time is known: ten minutes of a quiet box."""
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 30.0
"""Waits between two tries of a commit that failed."""


@dataclass(slots=True)
class _Waiting:
    batch_class: BatchClass
    sample: Sample
    blob: bytes | None
    stamp: Stamp | None
    size_bytes: int


class Batcher:
    """Collects samples and commits them; when the queue is full its policy is ``drop_oldest``."""

    def __init__(
        self,
        commit: Callable[[Sequence[Cut], Sequence[Loss]], Awaitable[None]],
        *,
        queue_bytes: int = QUEUE_BYTES,
        commit_s: float = limits.COMMIT_INTERVAL_S,
        commit_rows: int = limits.COMMIT_ROWS,
    ) -> None:
        """``commit`` makes cuts and declared losses durable, or raises SpoolError.

        It is called ``commit_s`` after the first sample that waits, with ``commit_rows`` waiting, or at
        once for an alarm.
        """
        self._commit = commit
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = queue_bytes
        self._commit_s = commit_s
        self._commit_rows = commit_rows
        self._size_bytes = 0
        self._losses: dict[tuple[str, str], Loss] = {}
        self._some = asyncio.Event()
        self._now = asyncio.Event()
        self._stop = asyncio.Event()
        self._oldest_s = 0.0
        self._took_s = 0.0
        self.progress = Progress()
        """A commit that hangs in the disk is no progress; one that fails, and is tried again, is."""
        self.committed = 0
        """Samples committed since the start."""
        self.dropped = 0
        """Samples dropped because the disk did not keep up."""
        self.error: str | None = None
        """Why the last commit failed; None while they work."""
        self.commits: deque[tuple[float, float]] = deque(maxlen=COMMITS_KEPT)
        """(monotonic time, seconds it took) of the last commits, oldest first."""

    @property
    def pending(self) -> int:
        """Samples that wait for their commit."""
        return len(self._queue)

    def add(
        self,
        batch_class: BatchClass,
        sample: Sample,
        blob: bytes | None = None,
        *,
        stamp: Stamp | None = None,
    ) -> None:
        """Take one sample; never waits. Without its stamp it is as good as the clock at its commit."""
        if blob is not None and len(blob) > BLOB_BYTES:
            # The row about the picture is worth keeping; the picture cannot travel.
            self._lose("too_large", sample, samples=0)
            blob, batch_class = None, BatchClass.DATA
        size_bytes = _size_bytes(sample) + len(blob or b"")
        if not self._queue:
            self._oldest_s = time.monotonic()
        self._queue.append(_Waiting(batch_class, sample, blob, stamp, size_bytes))
        self._size_bytes += size_bytes
        while self._size_bytes > self._queue_bytes and len(self._queue) > 1:
            self._drop_oldest()
        self._some.set()
        if batch_class is BatchClass.ALARM or len(self._queue) >= self._commit_rows:
            self._now.set()

    async def run(self) -> None:
        """Commit until ``stop``, then once more; a failing disk is tried again with back-off."""
        backoff = Backoff(first_s=RETRY_S, longest_s=RETRY_MAX_S)
        fault = Fault(log, "commit_failed", "commit_recovered", level="error")
        while not self._stop.is_set():
            await self._some.wait()
            await _either(self._now, self._wait_s())
            try:
                await self.flush()
                backoff.reset()
                fault.recovered()
                self.error = None
            except SpoolError as error:
                wait_s = backoff.next_s()
                self.error = str(error)
                fault.failed(why=str(error), waiting=len(self._queue), retry_in_s=wait_s)
                await _either(self._stop, wait_s)
        try:
            await self.flush()
        except SpoolError as error:
            log.error("samples_left_behind", why=str(error), waiting=len(self._queue))

    def _wait_s(self) -> float:
        """How long the oldest sample may still wait, so that it is on disk within the commit interval."""
        waited_s = time.monotonic() - self._oldest_s
        return max(0.0, self._commit_s - min(self._took_s, COMMIT_TOOK_MAX_S) - waited_s)

    def stop(self) -> None:
        """End ``run`` after a last commit of what waits: never cancel it, for a commit may be under way."""
        self._stop.set()
        self._some.set()
        self._now.set()

    async def flush(self) -> None:
        """Commit everything that waits now.

        Raises:
            SpoolError: nothing of it is committed; it waits on.
        """
        taken, self._queue = list(self._queue), deque()
        losses, self._losses = self._losses, {}
        self._size_bytes = 0
        self._some.clear()
        self._now.clear()
        if not taken and not losses:
            return
        began_s = time.monotonic()
        self.progress.at("commit", limit_s=None)
        try:
            await self._commit(list(_cuts(taken)), list(losses.values()))
        except BaseException:
            self._put_back(taken, losses)
            raise
        finally:
            self.progress.at("idle")
        self.committed += len(taken)
        now_s = time.monotonic()
        self._took_s = now_s - began_s
        self.commits.append((now_s, self._took_s))

    def _put_back(self, taken: list[_Waiting], losses: dict[tuple[str, str], Loss]) -> None:
        self._queue.extendleft(reversed(taken))
        self._size_bytes += sum(item.size_bytes for item in taken)
        for loss in losses.values():
            self._add_loss(loss)
        while self._size_bytes > self._queue_bytes and len(self._queue) > 1:
            self._drop_oldest()
        self._some.set()

    def _drop_oldest(self) -> None:
        item = self._queue.popleft()
        self._size_bytes -= item.size_bytes
        self.dropped += 1
        self._lose("queue_full", item.sample, samples=1)

    def _lose(self, reason: str, sample: Sample, *, samples: int) -> None:
        name = "/".join(sample.stream.key)
        time_ns = sample.time_ns
        self._add_loss(Loss(reason, samples=samples, stream=name, t0_ns=time_ns, t1_ns=time_ns))

    def _add_loss(self, loss: Loss) -> None:
        key = (loss.reason, loss.stream or "")
        known = self._losses.get(key)
        self._losses[key] = loss if known is None else known.merged(loss)
        self._some.set()


async def _either(event: asyncio.Event, limit_s: float) -> None:
    """Wait for ``event`` or until ``limit_s`` is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


def _cuts(taken: Sequence[_Waiting]) -> Iterator[Cut]:
    """One batch per class, provisional offset and bounds, alarms first; one per picture."""
    for batch_class in (BatchClass.ALARM, BatchClass.DATA):
        groups: dict[int | None, list[_Waiting]] = {}
        for item in taken:
            if item.batch_class is batch_class:
                groups.setdefault(None if item.stamp is None else item.stamp.offset_ns, []).append(item)
        for group in groups.values():
            yield from map(_cut, _pieces(group))
    for item in taken:
        if item.batch_class is BatchClass.MEDIA:
            yield _cut([item])


def _pieces(group: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
    """Parts that fit into a batch each."""
    piece: list[_Waiting] = []
    total_bytes = 0
    for item in group:
        if piece and (len(piece) == CUT_ROWS or total_bytes + item.size_bytes > CUT_BYTES):
            yield piece
            piece, total_bytes = [], 0
        piece.append(item)
        total_bytes += item.size_bytes
    if piece:
        yield piece


def _cut(items: Sequence[_Waiting]) -> Cut:
    """A batch is worth as much as the worst of its times."""
    stamps = [item.stamp for item in items if item.stamp is not None]
    return Cut(
        items[0].batch_class,
        tuple(item.sample for item in items),
        items[0].blob,
        offset_ns=stamps[0].offset_ns if stamps else None,
        clock=worst(stamp.clock for stamp in stamps) if stamps else None,
        line_ns=max((s.line_ns for s in stamps if s.line_ns is not None), default=None),
    )


def _size_bytes(sample: Sample) -> int:
    """What a sample takes at most in a bundle, about: nine bytes a number, texts in full."""
    size_bytes = 9 * (len(sample.values) + 1)
    for index in sample.stream.texts:
        size_bytes += 4 * len(str(sample.values[index] or ""))
    return size_bytes
