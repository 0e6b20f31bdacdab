"""The store's questions for the event loop: each runs on a thread of its own, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from trisense.gateway.stores.base import (
    Circle,
    Found,
    Function,
    Media,
    Span,
    Store,
    StreamRef,
    Table,
)

__all__ = ["StoreHistory"]

T = TypeVar("T")


class StoreHistory:
    """``History`` over any store."""

    def __init__(self, store: Store, reader: Executor) -> None:
        self._store = store
        self._reader = reader

    async def latest(self, box: str | None = None, device: str | None = None) -> list[Found]:
        return await self._ask(lambda: self._store.latest(box, device))

    async def range(
        self, stream: StreamRef, fields: Sequence[str], span: Span, *, limit: int = 10_000
    ) -> Table:
        return await self._ask(lambda: self._store.range(stream, fields, span, limit))

    async def aggregate(
        self,
        stream: StreamRef,
        field: str,
        span: Span,
        *,
        buckets: int = 600,
        functions: Sequence[Function] = ("mean", "min", "max"),
    ) -> Table:
        return await self._ask(
            lambda: self._store.aggregate(stream, field, span, buckets=buckets, functions=functions)
        )

    async def near(self, circle: Circle, span: Span, *, limit: int = 1_000) -> list[Found]:
        return await self._ask(lambda: self._store.near(circle, span, limit))

    async def media(self, media_id: str) -> Media | None:
        return await self._ask(lambda: self._store.media(media_id))

    async def _ask(self, question: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, question)
