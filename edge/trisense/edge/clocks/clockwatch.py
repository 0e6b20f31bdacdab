"""Keeps the line of time: looks at the clocks each second, and makes open samples final when it is known.

The order of a switch is what keeps it simple. First all open batches of the spool get their final times,
a part at a time, while stamps are still provisional. Then, in one step of the event loop, the line becomes
final and the few batches that were committed meanwhile are sent after the others, ahead of any later commit
(one thread owns the spool). What still waits in memory gets its final times on the way to its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog
from trisense.core.errors import SpoolError
from trisense.core.model import ClockState
from trisense.edge.clocks.gnss import Gnss
from trisense.edge.clocks.timeline import Plan, Timeline
from trisense.edge.once import Fault
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.spool import Cut, Spool
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.tasks import together

__all__ = ["ClockWatch"]

log = structlog.get_logger(__name__)

TICK_S: Final = 1.0
FEW: Final = 2
"""Batches that may be committed while others become final: these are left for the switch itself."""


class ClockWatch:
    """Ticks a timeline and carries out its switches. ``begin`` first, then ``run`` until cancelled."""

    def __init__(
        self,
        timeline: Timeline,
        door: SpoolThread,
        ordinals: dict[tuple[str, str], Ordinals],
        finalised: Callable[[], None],
        gnss: Gnss | None = None,
    ) -> None:
        """``ordinals`` are those that number samples; ``finalised`` is called when batches became final."""
        self._timeline = timeline
        self._door = door
        self._ordinals = ordinals
        self._finalised = finalised
        self._gnss = gnss
        self._fault = Fault(log, "finalise_failed", "finalise_recovered", level="error")
        self._left: Plan | None = None

    async def begin(self) -> None:
        """Take up the line where the spool has it, before anything is stamped.

        Raises:
            SpoolError: the spool cannot be read.
        """
        self._timeline.begin(await self._door.run(Spool.line_ns))
        await self._look()

    async def run(self) -> None:
        parts = {"clock-tick": self._tick()}
        if self._gnss is not None:
            parts["clock-gnss"] = self._gnss.run()
        await together(parts)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._timeline.tick()
            await self._look()

    async def _look(self) -> None:
        try:
            if self._timeline.target is not None:
                await self._switch()
            elif self._left is not None and not self._timeline.open:
                await self._finalise(self._timeline.boot_id, self._left.offset_ns, self._left.clock)
                self._left = None
            self._fault.recovered()
        except SpoolError as error:
            self._fault.failed(why=str(error))

    async def _switch(self) -> None:
        timeline, first_boot_ns = self._timeline, None
        for found in await self._door.run(Spool.unfinished):
            if found.boot_id == timeline.boot_id:
                first_boot_ns = found.first_boot_ns
                continue
            floor_ns = await self._door.run(Spool.line_ns)
            # Boot time of another boot says nothing here: the best guess, flagged.
            offset_ns = timeline.place(
                found.first_boot_ns, found.last_boot_ns, found.offset_ns, floor_ns=floor_ns
            )
            await self._finalise(found.boot_id, offset_ns, ClockState(synced=False))
        plan = timeline.plan(await self._door.run(Spool.line_ns), first_boot_ns)
        await self._finalise(timeline.boot_id, plan.offset_ns, plan.clock, but=FEW)
        keys = list(self._ordinals)
        moved = await self._door.run(lambda spool: {key: spool.ordinals(key).max_n for key in keys})
        after_ns = timeline.switch(plan)
        for key, ordinals in self._ordinals.items():
            ordinals.resume(after_ns, moved.get(key, -1))
        self._left = plan
        # Whatever was committed meanwhile, at once: before it nothing of the new time may be committed.
        await self._door.run(
            lambda spool: spool.finalise(timeline.boot_id, plan.offset_ns, plan.clock, limit=None)
        )
        self._finalised()
        self._left = None

    async def _finalise(self, boot_id: str, offset_ns: int, clock: ClockState, *, but: int = 0) -> None:
        """Make all open batches of a boot final, ``but`` so few."""
        while await self._door.run(lambda spool: spool.finalise(boot_id, offset_ns, clock)) > but:
            self._finalised()

    def final(self, cut: Cut) -> Cut:
        """The cut with what its times are, where that is known by now."""
        plan = None if cut.offset_ns is None else self._timeline.final(cut.offset_ns)
        if plan is None:
            return cut
        return replace(cut, final_offset_ns=plan.offset_ns, clock=plan.clock)
