"""From what a driver saw to a sample: time stamp, ordinal, value checks and quality codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from trisense.core import limits
from trisense.core.errors import ValueRefused
from trisense.core.model import Field, FieldType, Quality, Sample, Stream, Value, check_value
from trisense.core.vocabulary import judge
from trisense.drivers import Observed
from trisense.edge.clock import Clock
from trisense.edge.ordinals import Ordinals

__all__ = ["Stamper"]

log = structlog.get_logger(__name__)


class Stamper:
    """Turns the rows of one device into samples of its streams.

    ``counts`` tells what was refused: ``value_refused``, ``unknown_field``,
    ``unknown_measurement`` and ``time_refused``; each kind is logged once per name.
    """

    def __init__(
        self,
        streams: Iterable[Stream],
        clock: Clock,
        ordinals: Callable[[tuple[str, str]], Ordinals],
    ) -> None:
        self._streams = {s.measurement: s for s in streams}
        self._fields = {s.measurement: frozenset(f.name for f in s.fields) for s in self._streams.values()}
        self._ordinals = {s.measurement: ordinals(s.key) for s in self._streams.values()}
        self._clock = clock
        self._told: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()

    def stamp(self, rows: Sequence[Observed]) -> list[tuple[Observed, Sample]]:
        """The samples of rows that were read together: one time for all that bring none."""
        now_ns = self._clock.now_ns()
        made = ((row, self._sample(row, now_ns)) for row in rows)
        return [(row, sample) for row, sample in made if sample is not None]

    def _sample(self, row: Observed, now_ns: int) -> Sample | None:
        stream = self._streams.get(row.measurement)
        if stream is None:
            self._refuse("unknown_measurement", row.measurement)
            return None
        sensed_ns = now_ns if row.sensed_at_ns is None else row.sensed_at_ns
        if not limits.TIME_MIN_NS <= sensed_ns <= limits.TIME_MAX_NS:
            self._refuse("time_refused", row.measurement)
            return None
        time_ns = sensed_ns - sensed_ns % stream.tick_ns
        values: list[Value] = []
        codes: list[tuple[int, int]] = []
        for index, field in enumerate(stream.fields):
            value = self._value(field, row.values)
            code = _code(field, value, row.quality.get(field.name, Quality.GOOD))
            values.append(value)
            if code is not Quality.GOOD:
                codes.append((index, int(code)))
        for name in row.values.keys() - self._fields[row.measurement]:
            self._refuse("unknown_field", f"{row.measurement}.{name}")
        n = self._ordinals[row.measurement].take(time_ns)
        return Sample(stream, time_ns, tuple(values), n, tuple(codes))

    def _value(self, field: Field, values: Mapping[str, Value]) -> Value:
        try:
            return check_value(values.get(field.name), field.type)
        except ValueRefused as error:
            self._refuse("value_refused", field.name, why=str(error))
            return None

    def _refuse(self, what: str, name: str, why: str | None = None) -> None:
        self.counts[what] += 1
        if (what, name) not in self._told:
            self._told.add((what, name))
            log.warning(what, device=next(iter(self._streams.values())).device, name=name, why=why)


def _code(field: Field, value: Value, given: Quality) -> Quality:
    """The worse of the device's own code and the range check; null is never good."""
    if value is None:
        return Quality.MISSING if given is Quality.GOOD else given
    if field.type is FieldType.STR or isinstance(value, str):
        return given
    return max(given, judge(field, value))
