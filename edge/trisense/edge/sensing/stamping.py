"""From what a driver saw to a sample: time stamp, ordinal, calibrated values and their codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from trisense.core import limits
from trisense.core.model import BatchClass, Quality, Sample, Stream, Value
from trisense.drivers import Observed
from trisense.edge.clocks.clock import Stamp
from trisense.edge.sensing.columns import Column
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.treatment import Treatment

__all__ = ["Stamper", "stamp_of"]

log = structlog.get_logger(__name__)


def stamp_of(row: Observed, at: Stamp) -> Stamp:
    """The stamp of one of the rows that were read ``at`` a time."""
    if row.sensed_at_ns is not None:
        return Stamp(row.sensed_at_ns, at.clock)  # the source's own clock: final, whatever ours is worth
    if at.offset_ns is not None and row.batch_class is BatchClass.ALARM:
        return Stamp(at.time_ns, at.clock)  # cannot wait: final and flagged
    return at


class _Plan:
    """One stream and how its columns are made."""

    __slots__ = ("columns", "ordinals", "sources", "stream")

    def __init__(self, stream: Stream, columns: Sequence[Column], ordinals: Ordinals) -> None:
        self.stream = stream
        self.columns = tuple(enumerate(columns))
        self.sources = frozenset(column.source for column in columns)
        self.ordinals = ordinals


class Stamper:
    """Turns the rows of one device into samples of its streams.

    ``counts`` tells what was refused: ``value_refused``, ``unknown_field``,
    ``unknown_measurement`` and ``time_refused``; each kind is logged once per name.
    """

    def __init__(
        self,
        streams: Treatment | Iterable[Stream],
        ordinals: Callable[[tuple[str, str]], Ordinals],
        tell: Callable[[Observed], None] | None = None,
    ) -> None:
        """``streams`` alone are taken as they come; ``tell`` is given a row of the stream ``box/calibration``
        whenever another certificate comes into use.
        """
        treatment = streams if isinstance(streams, Treatment) else Treatment.none(streams)
        self._device = treatment.streams[0].device if treatment.streams else ""
        self._tell = tell or (lambda _: None)
        self._columns = {
            stream.measurement: tuple(
                Column(stream, plan, treatment.gap_s, refuse=self._refuse, tell=self._tell)
                for plan in treatment.columns[stream.measurement]
            )
            for stream in treatment.streams
        }
        self._plans = {
            s.measurement: _Plan(s, self._columns[s.measurement], ordinals(s.key)) for s in treatment.streams
        }
        self._told: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()

    def flags(self) -> dict[str, dict[str, int]]:
        """``MEASUREMENT.FIELD`` -> test -> readings that did not pass it, ``missing`` among them."""
        return {
            f"{measurement}.{column.name}": dict(counts)
            for measurement, columns in self._columns.items()
            for column in columns
            if (counts := column.counts())
        }

    def stamp(self, rows: Sequence[Observed], at: Stamp) -> list[tuple[Observed, Sample]]:
        """The samples of rows that were read together ``at`` a time, which is that of all that bring none."""
        return [(row, sample) for row in rows if (sample := self._sample(row, at)) is not None]

    def _sample(self, row: Observed, at: Stamp) -> Sample | None:
        plan = self._plans.get(row.measurement)
        if plan is None:
            self._refuse("unknown_measurement", row.measurement)
            return None
        at = stamp_of(row, at)
        sensed_ns = at.time_ns
        if not limits.TIME_MIN_NS <= sensed_ns <= limits.TIME_MAX_NS:
            self._refuse("time_refused", row.measurement)
            return None
        stream = plan.stream
        time_ns = sensed_ns - sensed_ns % stream.tick_ns
        given = row.values
        own = row.quality
        values: list[Value] = []
        codes: list[tuple[int, int]] = []
        # The hot path of the box: a good value of an untested field costs a look-up and a comparison.
        for index, column in plan.columns:
            value: Any = given.get(column.source)
            kind = type(value)
            if kind is column.quick_type and not own and column.low <= value <= column.high:
                values.append(value)
                continue
            value, code = column.cell(value, own.get(column.source, Quality.GOOD), time_ns)
            values.append(value)
            if code is not Quality.GOOD:
                codes.append((index, int(code)))
        if not given.keys() <= plan.sources:
            for name in given.keys() - plan.sources:
                self._refuse("unknown_field", f"{row.measurement}.{name}")
        n = plan.ordinals.take(time_ns, final=at.offset_ns is None)
        return Sample(stream, time_ns, tuple(values), n, tuple(codes))

    def _refuse(self, what: str, name: str, why: str | None = None) -> None:
        self.counts[what] += 1
        if (what, name) not in self._told:
            self._told.add((what, name))
            log.warning(what, device=self._device, name=name, why=why)
