"""Simulated devices on real ptys and sockets: what a host sees of them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trisense.sims.base import End, Faults, Simulator, Told, Truth, World, listening, plugged

WORLD = World(seed=1)


class Counter(Simulator):
    """Says ``#0001!`` and so on, and answers each ``?``."""

    kind = "counter"
    baud = 115_200

    def __init__(self, *, faults: Faults | None = None, truth: Truth | None = None, chatty: bool = True) -> None:
        super().__init__(world=WORLD, truth=truth or Truth(), faults=faults or Faults(), seed=1, name="counter")
        self.count = 0
        self.chatty = chatty

    async def talk(self, end: End) -> None:
        if not self.chatty:
            await end.read()
        while True:
            self.count += 1
            await end.send(b"#%04d!" % self.count, Told("count", {"count": self.count}))
            await asyncio.sleep(0.001)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "ttyTEST"


async def read_some(fd: int, size: int) -> bytes:
    """Read ``size`` bytes of a slave as a plain host does, without touching its settings."""
    data = b""
    async with asyncio.timeout(10):
        while len(data) < size:
            data += await asyncio.to_thread(os.read, fd, size - len(data))
    return data


async def test_a_host_that_opens_the_pty_reads_frames_untranslated(link: Path) -> None:
    async with plugged(Counter(), link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        assert await read_some(fd, 12) == b"#0001!#0002!"
        os.close(fd)


async def test_what_the_host_writes_is_not_echoed(link: Path) -> None:
    async with plugged(Counter(chatty=False), link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"\r\n?")
        assert await read_some(fd, 6) == b"#0001!"
        os.close(fd)


async def test_a_host_that_comes_back_reads_nothing_from_before(link: Path) -> None:
    sim = Counter()
    async with plugged(sim, link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        await read_some(fd, 6)
        before = link.readlink()
        os.close(fd)
        await until(lambda: link.readlink() != before)
        told = sim.count
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        assert int((await read_some(fd, 6))[1:5]) > told
        os.close(fd)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
