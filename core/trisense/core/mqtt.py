"""aiomqtt's client with one defect less; edge and gateway derive theirs from it (both bring aiomqtt)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

import aiomqtt

__all__ = ["Client"]

T = TypeVar("T")


class Client(aiomqtt.Client):
    """A client whose calls can be cancelled at any moment.

    aiomqtt waits for the broker's answers with ``asyncio.wait_for``, which before Python 3.12 swallows a
    cancellation that comes in the moment of the answer (python/cpython#86296): who was told to end goes on,
    and who waits for its end waits for ever.
    """

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109  # aiomqtt's signature
        limit_s = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None
