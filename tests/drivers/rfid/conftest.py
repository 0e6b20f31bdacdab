"""A simulated reader, the truth that it told, and rows of a driver that streams."""

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
def reader(truth: Truth) -> Callable[..., Any]:
    """A simulated reader of a class, with a steady stream of tags."""

    def make(kind: type[Simulator], *, faults: str = "", **options: Any) -> Simulator:
        plan = Faults.parse(faults, seed=3)
        return kind(world=World(1), truth=truth, faults=plan, seed=1, name="device", **options)

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
