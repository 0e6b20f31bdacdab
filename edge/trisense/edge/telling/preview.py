"""Gap preview: what an outage looked like, minute by minute, for those who cannot wait for all of it.

While nothing that was committed is receipted, the numbers of each periodic stream are summed up by minute
into a stream of its own, ``MEASUREMENT_preview``: ``samples``, and for each field its ``_min``, ``_mean`` and
``_max`` over good, unchecked and suspect values. Its batches go first when the link is back and are dropped
first when the spool is full: everything they tell is in the readings that follow.

Streams about things (tags, aircraft, pictures, scenes), those with several rows at one time, and those slower
than ``SLOW_S``, whose preview would be larger than they are, have none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from trisense.core.errors import SpoolError
from trisense.core.model import NAME, BatchClass, ClockState, Field, FieldType, Quality, Sample, Stream, Value
from trisense.edge.clocks.clock import Stamp, worst
from trisense.edge.config import Device
from trisense.edge.once import Fault
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.spool import Cut

__all__ = ["MINUTE_NS", "GapPreview", "Outage", "Preview", "preview_of", "previewed"]

log = structlog.get_logger(__name__)

MINUTE_NS: Final = 60 * 1_000_000_000
LATE_NS: Final = 2 * 1_000_000_000
"""A minute is closed so much after its end: a sample is stamped when its read began to count."""
SLOW_S: Final = 20.0
FIELDS_MAX: Final = 4_000
"""Fields with a preview; the streams listed after them have none, which is logged. About 2 MB."""
ROWS_MAX: Final = 500
"""Rows of one batch, so that it fits into a bundle."""
THINGS: Final = frozenset({"rfid", "air", "camera", "sky"})
"""Families whose rows are about things that come and go."""
UNUSABLE: Final = frozenset({Quality.FAIL, Quality.MISSING})
TICK_S: Final = 1.0
GRACE_S: Final = 5.0
"""So long a receipt may take before its lack looks like an outage: then batches go again, too."""
DIGITS: Final = 7
"""Of a mean whose field has no resolution."""


@dataclass(slots=True)
class _Column:
    """One field of one stream, and what was seen of it in a minute."""

    index: int
    decimals: int | None
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        self.total += value
        self.count += 1

    def cells(self) -> tuple[Value, Value, Value]:
        if not self.count:
            return None, None, None
        mean = self.total / self.count
        mean = round(mean, self.decimals) if self.decimals is not None else float(f"{mean:.{DIGITS}g}")
        return self.low, max(self.low, min(self.high, mean)), self.high


@dataclass(slots=True)
class _Row:
    """One stream in one minute."""

    columns: list[_Column]
    samples: int = 0
    several: bool = False

    def add(self, sample: Sample) -> None:
        self.samples += 1
        self.several = self.several or sample.n > 0
        bad = {index for index, code in sample.quality if code in UNUSABLE} if sample.quality else ()
        for column in self.columns:
            value = sample.values[column.index]
            if value is not None and not isinstance(value, str) and column.index not in bad:
                column.add(value)


@dataclass(slots=True)
class _Minute:
    offset_ns: int | None
    clock: ClockState
    rows: dict[tuple[str, str], _Row] = field(default_factory=dict)


def previewed(devices: Iterable[Device]) -> list[Stream]:
    """The streams of ``devices`` that have a preview."""
    found: list[Stream] = []
    left = FIELDS_MAX
    without = 0
    for device in devices:
        polled = device.driver.kind == "polled"
        if device.driver.family in THINGS or (polled and device.driver.config.interval_s > SLOW_S):
            continue
        for stream in device.streams:
            fields = len(_numbers(stream))
            if not fields or preview_of(stream) is None:
                continue
            if fields > left:
                without += 1
                continue
            left -= fields
            found.append(stream)
    if without:
        log.warning("streams_without_preview", streams=without, fields_max=FIELDS_MAX)
    return found


def preview_of(stream: Stream) -> Stream | None:
    """The stream of the preview of ``stream``; None where a name would be too long."""
    fields = [Field("samples", "1", FieldType.INT)]
    for _, of in _numbers(stream):
        mean = replace(
            of, name=f"{of.name}_mean", type=FieldType.FLOAT, resolution=of.resolution and of.resolution / 10
        )
        fields += [replace(of, name=f"{of.name}_min"), mean, replace(of, name=f"{of.name}_max")]
    measurement = f"{stream.measurement}_preview"
    if not all(NAME.fullmatch(name) for name in (measurement, *(of.name for of in fields))):
        return None
    return replace(stream, measurement=measurement, fields=tuple(fields), tick_ns=1_000_000_000)


def _numbers(stream: Stream) -> list[tuple[int, Field]]:
    return [(i, of) for i, of in enumerate(stream.fields) if of.type is not FieldType.STR]


def _decimals(of: Field) -> int | None:
    """One more than the resolution has."""
    if of.type is FieldType.INT and of.resolution is None:
        return 1
    return None if not of.resolution else max(0, math.ceil(-math.log10(of.resolution))) + 1


class Preview:
    """Sums up samples by minute; bounded by the streams it is told to watch and two minutes of each."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], tuple[Stream, Ordinals]] = {}
        self._numbers: dict[tuple[str, str], tuple[Stream, list[tuple[int, int | None]]]] = {}
        self._minutes: dict[int, _Minute] = {}

    def watch(self, streams: Iterable[Stream], ordinals: Callable[[tuple[str, str]], Ordinals]) -> None:
        """Have previews of these from now on, after ``close``; ``ordinals`` gives those of the previews."""
        self._streams, self._numbers = {}, {}
        for stream in streams:
            made = preview_of(stream)
            if made is not None:
                self._streams[stream.key] = made, ordinals(made.key)
                self._numbers[stream.key] = stream, [(i, _decimals(of)) for i, of in _numbers(stream)]

    def heard(self, sample: Sample, at: Stamp) -> list[Cut]:
        """Take a sample, stamped as ``at``: previews are worth as much as the worst time in them.

        Gives the cuts of minutes that another provisional offset ends.
        """
        key = sample.stream.key
        known = self._numbers.get(key)
        if known is None or (known[0] is not sample.stream and known[0] != sample.stream):
            return []
        ended = self.close() if any(m.offset_ns != at.offset_ns for m in self._minutes.values()) else []
        begin_ns = sample.time_ns - sample.time_ns % MINUTE_NS
        minute = self._minutes.get(begin_ns)
        if minute is None:
            if len(self._minutes) == 2 and begin_ns < min(self._minutes):
                return ended  # its source gives old times: nothing of now
            minute = self._minutes[begin_ns] = _Minute(at.offset_ns, at.clock)
        minute.clock = worst((minute.clock, at.clock))
        row = minute.rows.get(key)
        if row is None:
            row = minute.rows[key] = _Row([_Column(i, decimals) for i, decimals in known[1]])
        row.add(sample)
        while len(self._minutes) > 2:
            ended += self._cuts(min(self._minutes))
        return ended

    def close(self, now_ns: int | None = None) -> list[Cut]:
        """The cuts of all minutes that are over at ``now_ns``; None: of all."""
        begun = sorted(self._minutes)
        over = [m for m in begun if now_ns is None or not m <= now_ns < m + MINUTE_NS + LATE_NS]
        return [cut for begin_ns in over for cut in self._cuts(begin_ns)]

    def _cuts(self, begin_ns: int) -> list[Cut]:
        minute = self._minutes.pop(begin_ns)
        samples = [
            self._sample(key, row, begin_ns, final=minute.offset_ns is None)
            for key, row in minute.rows.items()
            if key in self._streams and not row.several
        ]
        return [
            Cut(
                BatchClass.DATA,
                tuple(samples[start : start + ROWS_MAX]),
                preview=True,
                offset_ns=minute.offset_ns,
                clock=minute.clock,
            )
            for start in range(0, len(samples), ROWS_MAX)
        ]

    def _sample(self, key: tuple[str, str], row: _Row, begin_ns: int, *, final: bool) -> Sample:
        stream, ordinals = self._streams[key]
        values: list[Value] = [row.samples]
        for column in row.columns:
            values += column.cells()
        cells = [_typed(of, value) for of, value in zip(stream.fields, values, strict=True)]
        missing = tuple((i, int(Quality.MISSING)) for i, value in enumerate(cells) if value is None)
        return Sample(stream, begin_ns, tuple(cells), ordinals.take(begin_ns, final=final), missing)


def _typed(of: Field, value: Value) -> Value:
    if value is None or isinstance(value, str):
        return value
    return int(value) if of.type is FieldType.INT else float(value)


class Outage:
    """Knows from two counters since when nothing that was committed has been receipted."""

    def __init__(self) -> None:
        self._receipts = 0
        self._committed = 0
        self._since_s: float | None = None

    def look(self, now_s: float, *, committed: int, receipts: int) -> float:
        """Seconds for which it has lasted, 0.0 while there is none; look every second or so."""
        if receipts != self._receipts:
            self._receipts, self._committed, self._since_s = receipts, committed, None
        elif committed != self._committed and self._since_s is None:
            self._since_s = now_s
        return 0.0 if self._since_s is None else now_s - self._since_s


class GapPreview:
    """Makes previews while an outage lasts, and commits them once it has lasted ``after_s``."""

    def __init__(
        self,
        commit: Callable[[Sequence[Cut]], Awaitable[None]],
        *,
        counters: Callable[[], tuple[int, int]],
        stamp: Callable[[], Stamp],
    ) -> None:
        """``counters`` gives samples committed and batches of data receipted: on a link that carries alarms
        only, theirs say nothing. ``stamp`` is what a sample is stamped with now.
        """
        self._preview = Preview()
        self.dropped = 0
        """Previews that the disk did not take; the readings are not concerned."""
        self._commit = commit
        self._counters = counters
        self._stamp = stamp
        self._after_s = 0.0
        self._outage = Outage()
        self._active = False
        self._telling = False
        self._closed: list[Cut] = []
        self._fault = Fault(log, "preview_failed", "preview_recovered")

    def watch(
        self, streams: Iterable[Stream], ordinals: Callable[[tuple[str, str]], Ordinals], *, after_s: float
    ) -> None:
        """Have previews of these from now on, of outages that last ``after_s``."""
        self._after_s = after_s
        self._closed += self._preview.close()
        self._preview.watch(streams, ordinals)

    def heard(self, sample: Sample) -> None:
        """A listener of the box."""
        if self._active:
            self._closed += self._preview.heard(sample, self._stamp())

    async def run(self) -> None:
        """Look at the link each second, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.look(time.monotonic())

    async def look(self, now_s: float) -> None:
        """Begin, go on, or end."""
        committed, receipts = self._counters()
        lasted_s = self._outage.look(now_s, committed=committed, receipts=receipts)
        if self._active:
            self._closed += self._preview.close(self._stamp().time_ns if lasted_s else None)
            self._telling = self._telling or lasted_s >= self._after_s
        self._active = lasted_s >= GRACE_S
        if self._telling:
            await self._tell()
        if not self._active:
            self._telling = False
            self._closed.clear()

    async def _tell(self) -> None:
        cuts, self._closed = self._closed, []
        if not cuts:
            return
        try:
            await self._commit(cuts)
            self._fault.recovered()
        except SpoolError as error:
            self.dropped += sum(len(cut.samples) for cut in cuts)
            self._fault.failed(why=str(error), previews=self.dropped)
