"""What a bundle shows at once: the newest value of each field, pictures, alarms; for ``LiveState``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from trisense.core.alarms import ALARM
from trisense.core.messages import LOSS
from trisense.core.model import BatchClass, Counters, Quality, Stream, Value
from trisense.core.wire import Block, Bundle, Column
from trisense.gateway.live import LiveState
from trisense.gateway.stores.columns import Picture, Portion, pictures

if TYPE_CHECKING:
    from trisense.core.wire.bundle import Integers

__all__ = ["AlarmSeen", "Glimpse", "look", "show"]

LOOK_BACK: Final = 64
"""Rows from the end in which a field's newest value is looked for; older ones are no news."""
TOLD: Final = frozenset({ALARM.key, LOSS.key})
"""Streams of events, each about something else: told as alarms, for newest values of them would mix."""
ALARMS_PER_BUNDLE: Final = 1_000


@dataclass(frozen=True, slots=True)
class AlarmSeen:
    """One alarm to be told."""

    box: str
    kind: str
    values: Mapping[str, Value]
    device: str = ""
    time_ms: int | None = None
    identity: tuple[str, int, int] | None = None
    """Batch it came in: the same batch sent again tells nothing."""

    @property
    def all_well(self) -> bool:
        """It only says that a rule found nothing to raise since its box began."""
        return self.kind == ALARM.measurement and self.values.get("occurrence") == 0


@dataclass(slots=True)
class Reading:
    stream: Stream
    newest_ns: int
    values: dict[str, tuple[Value, int, int]]
    flags: dict[str, int]


@dataclass(slots=True)
class Glimpse:
    """One bundle at a glance."""

    box: str
    site: str
    counters: Counters
    readings: list[Reading] = field(default_factory=list)
    pictures: list[tuple[Stream, Picture]] = field(default_factory=list)
    alarms: list[AlarmSeen] = field(default_factory=list)


def look(portion: Portion) -> Glimpse:
    """Take the newest of the chosen batches of a bundle."""
    bundle = portion.bundle
    glimpse = Glimpse(bundle.box, bundle.site, bundle.counters)
    streams = {}
    for block in bundle.blocks:
        if not any(head in portion.heads for head, _ in block.counts) or len(block.times_ns) == 0:
            continue
        streams[block.stream.key] = block.stream
        if block.stream.key not in TOLD:
            glimpse.readings.append(_reading(block))
        glimpse.alarms += _alarms(bundle, block, portion.heads)
    glimpse.pictures = [(streams[p.device, p.measurement], p) for p in pictures(portion)]
    return glimpse


def show(live: LiveState, glimpse: Glimpse) -> None:
    """Put a glimpse into what is live, but for its alarms, which are told once for good."""
    live.note_seen(glimpse.box, glimpse.site, glimpse.counters)
    for reading in glimpse.readings:
        live.note_reading(
            glimpse.box,
            glimpse.site,
            reading.stream,
            newest_ns=reading.newest_ns,
            values=reading.values,
            flags=reading.flags,
        )
    for stream, picture in glimpse.pictures:
        live.note_media(glimpse.box, glimpse.site, stream, media_id=picture.id, time_ns=picture.time_ns)


def _reading(block: Block) -> Reading:
    times = block.times_ns
    last = len(times) - 1
    if last and times[last] != np.max(times):
        # Batches of a backlog may lie in any order; the last of the newest rows counts.
        last = int(np.flatnonzero(times == np.max(times))[-1])
    reading = Reading(block.stream, int(times[last]), {}, {})
    for column in block.columns:
        if last in column.quality:
            reading.flags[column.field.name] = column.quality[last]
        found = _newest(column, times, last)
        if found is not None:
            reading.values[column.field.name] = found
    return reading


def _newest(column: Column, times: Integers, last: int) -> tuple[Value, int, int] | None:
    if not column.quality and not len(column.nulls):
        return _plain(column.values[last]), int(times[last]), int(Quality.GOOD)
    nulls = column.nulls if len(column.nulls) <= LOOK_BACK else set(column.nulls)
    for row in range(last, max(-1, last - LOOK_BACK), -1):
        quality = column.quality.get(row, int(Quality.GOOD))
        if row in nulls or quality in (Quality.FAIL, Quality.MISSING):
            continue
        return _plain(column.values[row]), int(times[row]), quality
    return None


def _plain(value: Value | np.generic) -> Value:
    plain: Value = value.item() if isinstance(value, np.generic) else value
    return plain


def _alarms(bundle: Bundle, block: Block, heads: frozenset[int]) -> list[AlarmSeen]:
    found: list[AlarmSeen] = []
    row = 0
    for index, count in block.counts:
        head = bundle.heads[index]
        # That a rule finds all well after a start of its box comes as data: it may end an alarm of before.
        if (head.batch_class is BatchClass.ALARM or block.stream.key == ALARM.key) and index in heads:
            rows = range(row, min(row + count, row + ALARMS_PER_BUNDLE - len(found)))
            cells = [column.to_list() for column in block.columns] if rows else []
            found += [_alarm(bundle, block, cells, r, (bundle.box, head.epoch, head.seq)) for r in rows]
        row += count
    return found


def _alarm(
    bundle: Bundle,
    block: Block,
    cells: Sequence[Sequence[Value]],
    row: int,
    identity: tuple[str, int, int],
) -> AlarmSeen:
    values = {column.field.name: cells[i][row] for i, column in enumerate(block.columns)}
    stream = block.stream
    time_ms = int(block.times_ns[row]) // 1_000_000
    return AlarmSeen(bundle.box, stream.measurement, values, stream.device, time_ms, identity)
