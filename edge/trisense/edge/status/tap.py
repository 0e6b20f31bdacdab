"""Samples as they come, for whoever looks over the box's shoulder: filters and bounded queues."""

from __future__ import annotations

import asyncio
import json
import operator
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import Field as Constrained
from trisense.core.config import ConfigModel
from trisense.core.errors import ConfigError, Mistake
from trisense.core.model import BatchClass, Sample, Stream

__all__ = ["Condition", "Tap", "TapRequest", "Taps"]

QUEUE: Final = 1000
"""Samples that wait for one tap; beyond it the oldest goes and is counted."""
AT_ONCE: Final = 100
"""Samples given in one piece."""
CONDITION: Final = re.compile(
    r"\s*([a-z0-9][a-z0-9_-]{0,63})\s*(<=|>=|==|!=|=|<|>)\s*([+-]?\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?)\s*",
    re.IGNORECASE,
)
OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}

Glob = Annotated[str, Constrained(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class Condition:
    """``FIELD OP NUMBER``, such as ``air_temperature > 30``."""

    field: str
    holds: Callable[[float, float], bool]
    number: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            ConfigError: it is none.
        """
        found = CONDITION.fullmatch(text)
        if found is None:
            expected = "FIELD OP NUMBER with one of < <= > >= = !=, such as 'air_temperature > 30'"
            raise ConfigError("tap", [Mistake("where", expected, repr(text[:80]))])
        name, sign, number = found.groups()
        return cls(name, OPERATORS[sign], float(number))

    def met(self, value: Any) -> bool:
        """A null and a text meet no condition."""
        return isinstance(value, (int, float)) and self.holds(value, self.number)


class TapRequest(ConfigModel):
    """What a tap is to show; what is left out is everything. ``device``, ``measurement`` and ``field``
    are names with ``*`` and ``?``.
    """

    ask: Literal["tap"] = "tap"
    device: Glob = "*"
    measurement: Glob = "*"
    field: Glob = "*"
    """Only these fields, and only samples that have one of them."""
    where: Annotated[tuple[Annotated[str, Constrained(max_length=160)], ...], Constrained(max_length=8)] = ()
    """Conditions that all hold; a sample whose stream has no such field meets none."""
    batch_class: BatchClass | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request means for one stream."""

    stream: Stream
    shown: tuple[int, ...]
    """Columns; none: no sample of it is wanted."""
    conditions: tuple[tuple[int, Condition], ...]


class Tap:
    """One who looks on. ``offer`` never waits; ``take`` does."""

    def __init__(self, request: TapRequest, *, queue: int = QUEUE) -> None:
        """May raise ConfigError, for a condition that is none."""
        self.lost = 0
        """Samples dropped because they were not taken in time."""
        self._request = request
        self._conditions = [Condition.parse(text) for text in request.where]
        self._limit = queue
        self._plans: dict[tuple[str, str], _Plan] = {}
        self._queue: deque[tuple[BatchClass, Sample, _Plan]] = deque()
        self._some = asyncio.Event()
        self._told = 0

    @property
    def waiting(self) -> int:
        """Samples that wait to be taken."""
        return len(self._queue)

    def offer(self, batch_class: BatchClass, sample: Sample) -> None:
        """Queue ``sample`` if it is wanted; when the queue is full the oldest goes."""
        if self._request.batch_class not in (None, batch_class):
            return
        plan = self._plans.get(sample.stream.key)
        if plan is None or plan.stream is not sample.stream:
            plan = self._plans[sample.stream.key] = self._plan(sample.stream)
        if not plan.shown or not all(c.met(sample.values[at]) for at, c in plan.conditions):
            return
        self._queue.append((batch_class, sample, plan))
        if len(self._queue) > self._limit:
            self._queue.popleft()
            self.lost += 1
        self._some.set()

    async def take(self) -> bytes:
        """Wait for samples; give them as lines of JSON, behind a line that says how many were lost."""
        await self._some.wait()
        lines = []
        if self.lost > self._told:
            lines.append(json.dumps({"lost": self.lost - self._told}))
            self._told = self.lost
        taken = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
        lines += [json.dumps(_row(*one)) for one in taken]
        if not self._queue:
            self._some.clear()
        return "".join(line + "\n" for line in lines).encode()

    def _plan(self, stream: Stream) -> _Plan:
        names = [field.name for field in stream.fields]
        wanted = (
            fnmatchcase(stream.device, self._request.device)
            and fnmatchcase(stream.measurement, self._request.measurement)
            and all(condition.field in names for condition in self._conditions)
        )
        shown = [i for i, name in enumerate(names) if wanted and fnmatchcase(name, self._request.field)]
        conditions = [(names.index(c.field), c) for c in self._conditions] if wanted else []
        return _Plan(stream, tuple(shown), tuple(conditions))


def _row(batch_class: BatchClass, sample: Sample, plan: _Plan) -> dict[str, Any]:
    fields = sample.stream.fields
    codes = dict(sample.quality)
    return {
        "device": sample.stream.device,
        "measurement": sample.stream.measurement,
        "class": batch_class.value,
        "time_ns": sample.time_ns,
        "n": sample.n,
        "values": {fields[i].name: sample.values[i] for i in plan.shown},
        "units": {fields[i].name: fields[i].unit for i in plan.shown},
        "quality": {fields[i].name: codes[i] for i in plan.shown if i in codes},
    }


class Taps:
    """All who look on; give ``saw`` every sample."""

    def __init__(self) -> None:
        self._taps: Sequence[Tap] = ()

    @property
    def count(self) -> int:
        return len(self._taps)

    def saw(self, batch_class: BatchClass, sample: Sample) -> None:
        for tap in self._taps:
            tap.offer(batch_class, sample)

    @contextmanager
    def open(self, request: TapRequest) -> Iterator[Tap]:
        """A tap while the block lasts.

        Raises:
            ConfigError: a condition of the request is none.
        """
        tap = Tap(request)
        self._taps = (*self._taps, tap)
        try:
            yield tap
        finally:
            self._taps = tuple(one for one in self._taps if one is not tap)
