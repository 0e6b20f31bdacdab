"""What a broker's client owes to whoever stops it."""

from __future__ import annotations

import asyncio
import math

import aiomqtt
import pytest
from trisense.core.mqtt import Client


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_in_the_moment_of_the_answer_is_not_swallowed(turns: int) -> None:
    client, answer = Client("127.0.0.1"), asyncio.Event()
    waiting = asyncio.create_task(client._wait_for(answer.wait(), timeout=None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    taken = waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() == taken


async def test_an_answer_that_does_not_come_is_an_error_of_the_broker_after_the_time_out() -> None:
    client = Client("127.0.0.1", timeout=0.001)
    with pytest.raises(aiomqtt.MqttError, match="timed out"):
        await client._wait_for(asyncio.Event().wait(), timeout=None)
    answered = asyncio.Event()
    answered.set()
    assert await client._wait_for(answered.wait(), timeout=math.inf)
