"""From reads of a tag to its passage: arrival, departure, dwell, best antenna, smoothed signal.

A tag has arrived when it was read often enough or strongly enough, and has departed when it was not read for
a while. However long it stays, that is one arrival and one departure. Times are seconds of any clock that
never goes back; rows tell spans only, so a step of the wall clock changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import Field as Constrained
from trisense.core.config import ConfigModel
from trisense.core.model import Field, FieldType, Layer, Stream, Value
from trisense.drivers.epc import SIGHTING
from trisense.drivers.sdk import Observed

__all__ = ["PASSAGE", "TagWindow", "WindowConfig", "passage_stream", "with_passages"]

PASSAGE: Final = "tag_passage"
ALPHA: Final = 0.3
"""Weight of a new read in the smoothed signal (sheet, section 6)."""
MAX_TAGS: Final = 4096
"""Tags in the field at once; beyond it the one that was not read for longest departs early."""
MAX_ANTENNAS: Final = 64
FIELDS: Final = (
    Field("event", "", FieldType.STR),
    Field("tag", "", FieldType.STR),
    Field("antenna", "1", FieldType.INT),
    Field("rssi", "dB{mW}", resolution=0.1, valid=(-120.0, 20.0)),
    Field("reads", "1", FieldType.INT),
    Field("dwell", "s", resolution=0.001),
    Field("peak_after", "s", resolution=0.001),
)


class WindowConfig(ConfigModel):
    """When a tag counts as arrived and as departed."""

    depart_s: Annotated[float, Constrained(gt=0, le=86_400)] = 2.0
    """Not read for so long it has departed; above the longest gap between two reads inside the field."""
    min_reads: Annotated[int, Constrained(ge=1, le=1000)] = 2
    """So many reads are an arrival."""
    strong_dbm: Annotated[float, Constrained(ge=-120, le=20)] | None = None
    """One read at least so strong is an arrival, too. Unset: none is."""


def passage_stream(device: str, site: str) -> Stream:
    return Stream(device, PASSAGE, Layer.GROUND, FIELDS, site)


@dataclass(slots=True)
class _AtAntenna:
    reads: int = 0
    smoothed: float | None = None
    peak: float | None = None
    peak_s: float = 0.0

    def read(self, at_s: float, rssi: float | None) -> None:
        self.reads += 1
        if rssi is None:
            return
        self.smoothed = rssi if self.smoothed is None else self.smoothed + ALPHA * (rssi - self.smoothed)
        if self.peak is None or self.smoothed > self.peak:
            self.peak, self.peak_s = self.smoothed, at_s


@dataclass(slots=True)
class _Tag:
    first_s: float
    last_s: float
    arrived: bool = False
    antennas: dict[int | None, _AtAntenna] = field(default_factory=dict)


class TagWindow:
    """The tags in one reader's field; ``at_s`` and ``now_s`` never fall from call to call."""

    def __init__(self, config: WindowConfig) -> None:
        self._config = config
        self._tags: dict[str, _Tag] = {}
        """In the order of their last read, the oldest first."""

    @property
    def due_s(self) -> float | None:
        """When the next tag departs unless it is read again; None with an empty field."""
        oldest = next(iter(self._tags.values()), None)
        return None if oldest is None else oldest.last_s + self._config.depart_s

    def seen(
        self, tag: str, at_s: float, *, antenna: int | None = None, rssi: float | None = None
    ) -> list[Observed]:
        """One read of a tag; gives the departures that were due before it and its own arrival."""
        rows = self.departed(at_s)
        state = self._tags.pop(tag, None) or _Tag(at_s, at_s)
        if len(self._tags) >= MAX_TAGS:
            rows += self._depart(next(iter(self._tags)))
        self._tags[tag] = state
        state.last_s = at_s
        known = antenna in state.antennas or len(state.antennas) < MAX_ANTENNAS
        if known:
            state.antennas.setdefault(antenna, _AtAntenna()).read(at_s, rssi)
        reads = sum(one.reads for one in state.antennas.values())
        strong = self._config.strong_dbm
        loud = strong is not None and rssi is not None and rssi >= strong
        enough = loud or reads >= self._config.min_reads
        if enough and not state.arrived:
            state.arrived = True
            rows.append(_row("arrived", tag, state))
        return rows

    def departed(self, now_s: float) -> list[Observed]:
        """Departures that are due."""
        rows: list[Observed] = []
        while (due_s := self.due_s) is not None and due_s <= now_s:
            rows += self._depart(next(iter(self._tags)))
        return rows

    def observed(self, row: Observed, at_s: float) -> list[Observed]:
        """What a row of a driver means to the window: only sightings of a tag with a number count."""
        values = row.values
        tag = values.get("epc", values.get("uid"))
        if row.measurement != SIGHTING or not isinstance(tag, str):
            return []
        antenna, rssi = values.get("antenna"), values.get("rssi")
        return self.seen(
            tag,
            at_s,
            antenna=antenna if isinstance(antenna, int) else None,
            rssi=rssi if isinstance(rssi, int | float) else None,
        )

    def _depart(self, tag: str) -> list[Observed]:
        state = self._tags.pop(tag)
        return [_row("departed", tag, state)] if state.arrived else []


def _row(event: str, tag: str, state: _Tag) -> Observed:
    # Where the reader tells no signal, the antenna with the most reads is the best.
    antenna, best = max(
        state.antennas.items(),
        key=lambda item: (item[1].peak is not None, item[1].peak or 0.0, item[1].reads),
    )
    values: dict[str, Value] = {
        "event": event,
        "tag": tag,
        "antenna": antenna,
        "rssi": None if best.peak is None else round(best.peak, 1),
        "reads": sum(one.reads for one in state.antennas.values()),
        "dwell": round(state.last_s - state.first_s, 3),
        "peak_after": None if best.peak is None else round(best.peak_s - state.first_s, 3),
    }
    return Observed(PASSAGE, {name: value for name, value in values.items() if value is not None})


async def with_passages(rows: AsyncIterator[Observed], window: TagWindow | None) -> AsyncGenerator[Observed]:
    """The rows as they come and what they mean to the window; departures come when they are due.

    Raises what ``rows`` raises. Without a window it is ``rows``. ``rows`` is the caller's to close.
    """
    if window is None:
        async for row in rows:
            yield row
        return
    loop = asyncio.get_running_loop()
    coming: asyncio.Future[Observed] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(rows))
            due_s = window.due_s
            wait_s = None if due_s is None else max(0.0, due_s - loop.time())
            done, _ = await asyncio.wait((coming,), timeout=wait_s)
            for departure in window.departed(loop.time()):
                yield departure
            if done:
                try:
                    row = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield row
                for event in window.observed(row, loop.time()):
                    yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
