"""An asynchronous door to the spool: one thread owns it, so that no fsync holds up the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from trisense.edge.spool.queue import Spool

__all__ = ["SpoolThread"]

T = TypeVar("T")


class SpoolThread:
    """Runs work on the spool in its thread, in the order it was asked for."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def __aenter__(self) -> SpoolThread:
        try:
            await self.run(Spool.open)
        except BaseException:
            self._executor.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.run(Spool.close)
        self._executor.shutdown()

    async def run(self, work: Callable[[Spool], T]) -> T:
        """Give ``work`` the spool and wait for its result; work begun goes on when this is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, self._spool)

    async def replay(self, since_ns: int, until_ns: int) -> int:
        """``Spool.replay`` in parts, so that commits need not wait for all of it."""
        count, after_id = 0, 0
        while ids := await self.run(partial(_replay_some, since_ns, until_ns, after_id)):
            count, after_id = count + len(ids), ids[-1]
        return count


def _replay_some(since_ns: int, until_ns: int, after_id: int, spool: Spool) -> list[int]:
    return spool.replay_some(since_ns, until_ns, after_id=after_id)
