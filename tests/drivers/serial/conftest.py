"""A simulated sensor on a pty and the truth that it told, for every sensor on a UART."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from trisense.drivers import Lines, Observed, StreamingDriver
from trisense.sims.base import Faults, Simulator, Truth, World


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Truth]:
    with Truth(tmp_path / "truth.jsonl") as log:
        yield log


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """The lines of the truth so far."""
    return lambda: [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]


@pytest.fixture
def sensor(truth: Truth) -> Callable[..., Any]:
    """A simulated sensor of a class, at 115200 baud so that its bytes take no time worth waiting for."""

    def make(kind: type[Simulator], *, faults: str = "", **options: Any) -> Simulator:
        plan = Faults.parse(faults, seed=3)
        sim = kind(world=World(1), truth=truth, faults=plan, seed=1, name="device", **options)
        sim.baud = 115_200
        return sim

    return make


@pytest.fixture
def observe() -> Callable[..., Any]:
    """Connect a streaming driver, take the first rows and close it."""

    async def run(device: StreamingDriver[Any], count: int) -> list[Observed]:
        rows: list[Observed] = []
        try:
            await device.connect(Lines())
            async with aclosing(device.observe()) as observed:  # type: ignore[type-var]  # an async generator
                async for row in observed:
                    rows.append(row)
                    if len(rows) == count:
                        break
        finally:
            await device.close()
        return rows

    return run


@pytest.fixture
def every_split() -> Callable[..., None]:
    """Hold a decoder to giving the same pieces however its bytes are cut."""

    def check(decoder: Callable[[], Any], data: bytes) -> None:
        whole = decoder()
        expected = whole.feed(data) + whole.finish()
        for cut in range(len(data) + 1):
            split = decoder()
            assert split.feed(data[:cut]) + split.feed(data[cut:]) + split.finish() == expected

    return check
