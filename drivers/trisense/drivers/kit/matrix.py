"""Running the conformance matrix: a score card for each driver."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from trisense.drivers.kit.cells import RUNS
from trisense.drivers.kit.contract import CELLS, CellName
from trisense.drivers.kit.subject import Subject
from trisense.drivers.kit.trial import Broken

__all__ = ["Card", "Verdict", "judge", "judge_all"]

AT_ONCE: Final = 16
"""Drivers tested at a time: they mostly wait."""
ATTEMPTS: Final = 3
"""A test that failed while the machine stalled is no proof against the driver: it is run again."""
CELL_S: Final = 30.0
URL_S: Final = 600.0
"""Longest time for one test, however the driver or the device behaves."""
STALL_S: Final = 0.04
LOOK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one test found."""

    cell: CellName
    verdict: Literal["pass", "fail", "n/a"]
    detail: str
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "verdict": self.verdict,
            "detail": self.detail,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Card:
    """A driver's score card."""

    driver: str
    note: str
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        return not any(verdict.verdict == "fail" for verdict in self.verdicts)

    def count(self, verdict: str) -> int:
        return sum(one.verdict == verdict for one in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        return {
            "driver": self.driver,
            "passed": self.passed,
            "note": self.note,
            "cells": [verdict.as_json() for verdict in self.verdicts],
        }


async def judge(subject: Subject, cells: Sequence[CellName] = tuple(CELLS)) -> Card:
    """Run the matrix against one driver."""
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="trisense-kit-") as folder:
        for cell in cells:
            if any(one.cell == "examples" and one.verdict == "fail" for one in verdicts):
                verdicts.append(Verdict(cell, "fail", "not tried, for the examples fail"))
            else:
                verdicts.append(await _judge(subject, cell, Path(folder)))
    return Card(subject.name, subject.note, verdicts)


async def _judge(subject: Subject, cell: CellName, folder: Path) -> Verdict:
    reason = subject.not_applicable.get(cell)
    if reason is not None:
        return Verdict(cell, "n/a", reason)
    began = time.monotonic()
    for attempt in range(ATTEMPTS):
        stalls: list[float] = []
        watch = asyncio.create_task(_watch(stalls), name="kit: watch")
        try:
            async with asyncio.timeout(URL_S if subject.url else CELL_S):
                detail = await RUNS[cell](subject, folder)
        except TimeoutError:
            return Verdict(cell, "fail", "comes to no end", time.monotonic() - began)
        except Broken as broken:
            if stalls and attempt + 1 < ATTEMPTS:
                continue
            return Verdict(cell, "fail", str(broken), time.monotonic() - began)
        finally:
            watch.cancel()
        return Verdict(cell, "pass", detail, time.monotonic() - began)
    raise AssertionError("the last attempt returns")


async def _watch(stalls: list[float]) -> None:
    """Note when this machine did nothing for so long that a good driver's time-outs may have struck."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        if loop.time() - due > STALL_S:
            stalls.append(loop.time() - due)


def judge_all(subjects: Sequence[Subject], cells: Sequence[CellName] = tuple(CELLS)) -> list[Card]:
    """Run the matrix against several drivers side by side, each in a loop of its own."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda subject: asyncio.run(judge(subject, cells)), subjects))
