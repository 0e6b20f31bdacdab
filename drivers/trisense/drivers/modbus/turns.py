"""Whose turn it is on a bus: the most urgent first, and nobody more than a share while others wait."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final

__all__ = ["Turns"]

SHARE: Final = 0.25
"""Most of the bus's time that one unit gets while others wait; a bus is never idle for it."""


@dataclass(slots=True, eq=False)
class _Waiting:
    unit: int | None
    due_s: float
    called: asyncio.Future[None]


class Turns:
    """One holder at a time. Of those that wait the one with the earliest deadline is called next.

    Earliest deadline first alone would let a unit that takes long for each answer starve the others. So
    one that held the bus for a time yields to others for ``1 / SHARE - 1`` times that; of several that yield
    the one that may stop first is next.
    """

    def __init__(self) -> None:
        self.taken_s = 0.0
        """How long units have held the bus in all, turns that are over."""
        self._taken = False
        self._waiting: list[_Waiting] = []
        self._yields_until_s: dict[int | None, float] = {}

    @property
    def waiting(self) -> int:
        """How many wait for the bus now."""
        return len(self._waiting)

    def turn(self, unit: int | None = None, *, due_s: float = -math.inf) -> Turn:
        """Hold the bus in the block; ``unit`` None is the bus's own business, and first as a rule."""
        return Turn(self, unit, due_s)

    def give(self, unit: int | None, began_s: float) -> None:
        """The turn of ``unit`` that began at ``began_s`` is over."""
        now_s = asyncio.get_running_loop().time()
        if unit is not None:
            self.taken_s += now_s - began_s
            self._yields_until_s[unit] = now_s + (now_s - began_s) * (1 / SHARE - 1)
        self._pass_on(now_s)

    async def take(self, unit: int | None, due_s: float) -> None:
        """Wait until the bus is ours; ``give`` must follow."""
        if not self._taken:
            self._taken = True
            return
        entry = _Waiting(unit, due_s, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry.called
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:  # called already, but it will not come
                self._pass_on(asyncio.get_running_loop().time())
            raise

    def _pass_on(self, now_s: float) -> None:
        # Whoever was cancelled at this very moment is still in the list.
        ready = [entry for entry in self._waiting if not entry.called.done()]
        if not ready:
            self._taken = False
            return
        entry = min(
            ready,
            key=lambda one: (max(now_s, self._yields_until_s.get(one.unit, 0.0)), one.due_s),
        )
        self._waiting.remove(entry)
        entry.called.set_result(None)


class Turn:
    """One turn of a unit: a block that holds the bus."""

    __slots__ = ("_began_s", "_due_s", "_turns", "_unit")

    def __init__(self, turns: Turns, unit: int | None, due_s: float) -> None:
        self._turns = turns
        self._unit = unit
        self._due_s = due_s

    async def __aenter__(self) -> None:
        await self._turns.take(self._unit, self._due_s)
        self._began_s = asyncio.get_running_loop().time()

    async def __aexit__(self, *_: object) -> None:
        self._turns.give(self._unit, self._began_s)
