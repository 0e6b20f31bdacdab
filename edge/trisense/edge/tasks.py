"""Tasks that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

__all__ = ["together"]


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
