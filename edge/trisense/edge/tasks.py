"""Tasks that live and die together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping, Set
from typing import Any, Final

__all__ = ["serve", "together", "wait_for"]

IDLE_S: Final = 30.0


async def together(parts: Mapping[str, Coroutine[Any, Any, object]]) -> None:
    """Run named parts until one of them ends; end the others; raise what that one raised.

    Unlike a task group it raises the plain error: each part here fails in one way only.
    """
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def serve(server: asyncio.Server, clients: Set[asyncio.Task[None]]) -> None:
    """Take connections until cancelled; then end those of ``clients`` that are left."""
    try:
        await server.serve_forever()
    finally:
        server.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def wait_for(event: asyncio.Event, *until_s: float | None) -> None:
    """Wait for ``event``, at most until the first of those monotonic times, and never longer than 30 s."""
    now_s = time.monotonic()
    wait_s = min((max(until - now_s, 0.0) for until in until_s if until is not None), default=IDLE_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(wait_s, IDLE_S)):
            await event.wait()
