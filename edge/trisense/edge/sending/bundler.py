"""From picked batches to payloads: load, pack, split."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from trisense.core.errors import WireError
from trisense.core.model import Batch
from trisense.core.wire import Header, split
from trisense.edge.once import Fault
from trisense.edge.sending.outbox import Pick
from trisense.edge.spool import Head
from trisense.edge.spool.thread import SpoolThread

__all__ = ["Ahead", "Bundle", "Bundler"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Ready to be published."""

    payload: bytes
    pick: Pick
    spool_bytes: int
    """What its batches take in the spool: what was asked for, to learn from what came out."""


class Bundler:
    """Makes bundles of the batches that the outbox picked."""

    def __init__(
        self, box: str, site: str, spool: SpoolThread, *, given_up: Callable[[Sequence[int]], None]
    ) -> None:
        """``given_up`` is told the ids of batches that were declared lost, for nothing can carry them."""
        self.site = site
        self.box = box
        self._spool = spool
        self._given_up = given_up
        self._fault = Fault(log, "batch_cannot_travel", level="error", forget_s=3600.0)

    async def bundles(self, pick: Pick) -> list[Bundle]:
        """Load and pack the batches of ``pick``; empty when none of them can be sent."""
        found, counters = await self._spool.run(lambda spool: (spool.load(pick.ids), spool.counters()))
        packed = await self._packed(Header(self.box, self.site, counters), found)
        return [
            Bundle(payload, Pick(pick.lane, tuple(h.id for h in heads)), sum(h.size_bytes for h in heads))
            for payload, heads in packed
        ]

    async def _packed(
        self, header: Header, found: Sequence[tuple[Head, Batch]]
    ) -> list[tuple[bytes, list[Head]]]:
        """Bundles of the batches; one that can never travel is declared lost instead."""
        if not found:
            return []
        by_identity = {(batch.epoch, batch.seq): head for head, batch in found}
        try:
            parts = await asyncio.to_thread(split, header, [batch for _, batch in found])
        except WireError as error:
            if len(found) > 1:
                middle = len(found) // 2
                first = await self._packed(header, found[:middle])
                return first + await self._packed(header, found[middle:])
            (head, _), reason = found[0], error.reason
            self._fault.failed(seq=head.seq, why=str(error))
            await self._spool.run(lambda spool: spool.drop([head.id], reason))
            self._given_up([head.id])
            return []
        return [(payload, [by_identity[b.epoch, b.seq] for b in batches]) for payload, batches in parts]


class Ahead:
    """One call of ``make`` at a time, begun before its result is asked for."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, list[Bundle]]]) -> None:
        self._make = make
        self._task: asyncio.Task[list[Bundle]] | None = None

    async def __aenter__(self) -> Ahead:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    def begin(self) -> asyncio.Task[list[Bundle]]:
        if self._task is None:
            self._task = asyncio.create_task(self._make(), name="uplink-ahead")
        return self._task

    async def result(self) -> list[Bundle]:
        task = self.begin()
        self._task = None
        return await task

    async def drop(self) -> None:
        """Give up what was begun: it is out of date."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
