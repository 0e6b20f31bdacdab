"""What is true right now, in memory: boxes, the latest value of every field, last pictures, alarms.

One writer (ingest, on the event loop's thread), any number of readers there. Every change has a rising
``seq``; a reader that knows a ``seq`` asks for what changed since and can never fall too far behind,
for changes are kept per box and per stream, not as a log. Alarms alone are a log: each is told once,
none is merged with another; what the rules of boxes say now is kept beside it, for the log ends. Everything
here is JSON-ready: times are milliseconds since 1970 UTC, epochs 16 hex digits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from trisense.core.alarms import ALARM
from trisense.core.errors import TrisenseError
from trisense.core.messages import Birth, DeviceBirth, State
from trisense.core.model import BOX_DEVICE, Counters, Quality, Stream, Value
from trisense.gateway.alarms import Alarm, RuleWords

__all__ = ["Alarm", "FellBehind", "LiveState"]

ALARMS_KEPT: Final = 1_000
BOXES_KEPT: Final = 10_000
STREAMS_KEPT: Final = 100_000
SKIPPED: Final = frozenset({Quality.FAIL, Quality.MISSING})
"""Latest values skip these: an error is never a value (design: Quality code)."""


class FellBehind(TrisenseError):
    """A reader of alarms missed some: it must start again from a snapshot."""


@dataclass(slots=True)
class _Stream:
    box: str
    stream: Stream
    site: str
    fields: dict[str, tuple[Value, int, int]] = field(default_factory=dict)
    """Name -> (value, time_ns, quality) of the newest reading that is a value."""
    newest_ns: int = -1
    """Time of the newest sample, whatever its values."""
    step_ns: int | None = None
    """Between the two newest times that were told: its pace, by which a reader knows old from slow."""
    flags: dict[str, int] = field(default_factory=dict)
    """Name -> quality code of the newest sample, where not good."""
    media: tuple[str, int] | None = None
    """(SHA-256 in hex, time_ns) of the newest picture."""


@dataclass(slots=True)
class _Box:
    site: str = ""
    birth: Birth | None = None
    devices: dict[str, DeviceBirth] = field(default_factory=dict)
    state: State | None = None
    seen_ms: int | None = None
    counters: dict[int, Counters] = field(default_factory=dict)


_Key = tuple[str, str, str]
"""(box, device, measurement)."""


class LiveState:
    """The present, for the page and the API."""

    def __init__(self) -> None:
        self.generation: Final = secrets.token_hex(4)
        """Another one after each start of the gateway: a reader that sees it change reloads."""
        self.seq = 0
        self.overflowed = 0
        """Boxes and streams not shown because the bounds above were reached."""
        self._boxes: dict[str, _Box] = {}
        self._streams: dict[_Key, _Stream] = {}
        self._changed_boxes: OrderedDict[str, int] = OrderedDict()
        self._changed_streams: OrderedDict[_Key, int] = OrderedDict()
        self._alarms: deque[Alarm] = deque(maxlen=ALARMS_KEPT)
        self._alarm_seq = 0
        self._words = RuleWords()
        self._wake = asyncio.Event()
        self._wake_alarm = asyncio.Event()

    # Reading

    def snapshot(self) -> dict[str, Any]:
        """Everything: what ``changes_since`` gives, with ``generation``, ``alarms`` and ``raised``.

        ``raised`` is what rules have raised and not cleared since; it may be older than all of ``alarms``.
        """
        return self.changes_since(-1) | {
            "generation": self.generation,
            "alarms": [alarm.as_json() for alarm in self._alarms],
            "raised": [alarm.as_json() for alarm in self._words.raised()],
        }

    def changes_since(self, seq: int) -> dict[str, Any]:
        """What changed after ``seq``: ``{seq, now_ms, alarm_seq, boxes: {box: ...}, streams: [...]}``.

        Each box and stream that changed is given whole, so the reader replaces what it has.
        """
        boxes = {box: self._box_json(box) for box in _newer(self._changed_boxes, seq)}
        streams = [self._stream_json(key) for key in _newer(self._changed_streams, seq)]
        return {
            "seq": self.seq,
            "now_ms": _now_ms(),
            "alarm_seq": self._alarm_seq,
            "boxes": boxes,
            "streams": streams,
        }

    async def changed(self, seq: int) -> int:
        """Wait until there is something newer than ``seq``; return the newest ``seq``."""
        while self.seq <= seq:
            await self._wake.wait()
        return self.seq

    async def follow(self, *, tick_s: float = 0.5) -> AsyncIterator[dict[str, Any]]:
        """Yield ``changes_since`` again and again, at most every ``tick_s``, from now on."""
        seq = self.seq
        while True:
            await self.changed(seq)
            changes = self.changes_since(seq)
            seq = changes["seq"]
            yield changes
            await asyncio.sleep(tick_s)

    async def alarms(self, after: int | None = None) -> AsyncIterator[Alarm]:
        """Yield each alarm after ``after`` (None: from now on) as soon as it is known.

        Raises:
            FellBehind: the reader was slower than the log is long.
        """
        last = self._alarm_seq if after is None else after
        while True:
            missed = self._alarm_seq - last
            if missed > len(self._alarms):
                raise FellBehind
            for alarm in list(self._alarms)[len(self._alarms) - missed :]:
                last = alarm.seq
                yield alarm
            if last == self._alarm_seq:
                await self._wake_alarm.wait()

    def counters(self) -> Mapping[str, Mapping[int, Counters]]:
        """What each box last said of its epochs."""
        return {box: dict(known.counters) for box, known in self._boxes.items()}

    # Writing: ingest only

    def note_birth(self, birth: Birth) -> None:
        known = self._box(birth.box)
        if known is not None:
            known.birth = birth
            known.site = birth.site
            known.devices = {device.name: device for device in birth.devices}
            self._touch_box(birth.box)
            for key in [k for k in self._streams if k[0] == birth.box]:
                self._touch_stream(key)

    def note_state(self, box: str, state: State) -> None:
        known = self._box(box)
        if known is not None:
            known.state = state
            self._touch_box(box)

    def note_seen(self, box: str, site: str, counters: Counters) -> None:
        """A bundle came: the box lives, whatever its state topic says."""
        known = self._box(box)
        if known is not None:
            known.site = site
            known.seen_ms = _now_ms()
            known.counters = {counters.epoch: counters}
            self._touch_box(box)

    def note_reading(
        self,
        box: str,
        site: str,
        stream: Stream,
        *,
        newest_ns: int,
        values: Mapping[str, tuple[Value, int, int]],
        flags: Mapping[str, int],
    ) -> None:
        """Take the newest readings of a stream: ``values`` maps a field to (value, time_ns, quality).

        Older than what is known changes nothing, so a backlog never overwrites the present.
        """
        known = self._stream(box, site, stream)
        if known is None:
            return
        for name, (value, time_ns, quality) in values.items():
            if quality not in SKIPPED and (name not in known.fields or time_ns >= known.fields[name][1]):
                known.fields[name] = (value, time_ns, quality)
        if newest_ns > known.newest_ns >= 0:
            known.step_ns = newest_ns - known.newest_ns
        if newest_ns >= known.newest_ns:
            known.newest_ns = newest_ns
            known.flags = dict(flags)
            known.stream, known.site = stream, site
        self._touch_stream((box, *stream.key))

    def note_media(self, box: str, site: str, stream: Stream, *, media_id: str, time_ns: int) -> None:
        known = self._stream(box, site, stream)
        if known is not None and (known.media is None or time_ns >= known.media[1]):
            known.media = (media_id, time_ns)
            self._touch_stream((box, *stream.key))

    def note_alarm(
        self,
        box: str,
        kind: str,
        values: Mapping[str, Value],
        *,
        device: str = "",
        time_ms: int | None = None,
    ) -> None:
        self._alarm_seq += 1
        alarm = Alarm(self._alarm_seq, _now_ms() if time_ms is None else time_ms, box, device, kind, values)
        self._words.note(alarm)
        self._alarms.append(alarm)
        self._wake_alarm.set()
        self._wake_alarm = asyncio.Event()
        self._bump()

    def note_well(self, box: str, values: Mapping[str, Value], *, time_ms: int) -> None:
        """A rule has found all well after a start of its box: news only where its last word was an alarm.

        ``values`` are those of a row of ``core.alarms.ALARM``.
        """
        last = self._words.last(box, values)
        if last is not None and last.raised and last.time_ms <= time_ms:
            self.note_alarm(box, ALARM.measurement, values, device=BOX_DEVICE, time_ms=time_ms)
        else:
            self._words.note(Alarm(0, time_ms, box, BOX_DEVICE, ALARM.measurement, values))

    def note_recalled(self, alarm: Alarm) -> None:
        """Tell what the store says was raised before this gateway started.

        Unless something newer is known of it, or its box has no such rule or device any more.
        """
        last = self._words.last(alarm.box, alarm.values)
        if self._names(alarm) and (last is None or last.time_ms < alarm.time_ms):
            self.note_alarm(alarm.box, alarm.kind, alarm.values, device=alarm.device, time_ms=alarm.time_ms)

    # Inside

    def _names(self, alarm: Alarm) -> bool:
        """Whether the last birth of its box names the rule and the device of an alarm."""
        known = self._boxes.get(alarm.box)
        if known is None or known.birth is None or known.birth.alarms is None:
            return True
        there = (BOX_DEVICE, *known.devices)
        return alarm.values["rule"] in known.birth.alarms and alarm.values["source"] in there

    def _box(self, box: str) -> _Box | None:
        known = self._boxes.get(box)
        if known is None:
            if len(self._boxes) >= BOXES_KEPT:
                self.overflowed += 1
                return None
            known = self._boxes[box] = _Box()
        return known

    def _stream(self, box: str, site: str, stream: Stream) -> _Stream | None:
        key = (box, *stream.key)
        known = self._streams.get(key)
        if known is None:
            if len(self._streams) >= STREAMS_KEPT:
                self.overflowed += 1
                return None
            known = self._streams[key] = _Stream(box, stream, site)
        return known

    def _bump(self) -> None:
        self.seq += 1
        self._wake.set()
        self._wake = asyncio.Event()

    def _touch_box(self, box: str) -> None:
        self._bump()
        self._changed_boxes[box] = self.seq
        self._changed_boxes.move_to_end(box)

    def _touch_stream(self, key: _Key) -> None:
        self._bump()
        self._changed_streams[key] = self.seq
        self._changed_streams.move_to_end(key)

    def _box_json(self, box: str) -> dict[str, Any]:
        known = self._boxes[box]
        birth, state = known.birth, known.state
        return {
            "site": known.site,
            "position": birth.position.model_dump() if birth and birth.position else None,
            "version": birth.version if birth else None,
            "alarms": birth.alarms if birth else None,
            "online": state.online if state else None,
            "since": state.since if state else None,
            "seen_ms": known.seen_ms,
            "counters": [
                {
                    "epoch": f"{c.epoch:016x}",
                    "next_seq": c.next_seq,
                    "low_seq": c.low_seq,
                    "samples_committed": c.samples_committed,
                }
                for c in known.counters.values()
            ],
            "devices": {
                d.name: {
                    "driver": d.driver,
                    "layer": d.layer.value,
                    "site": d.site,
                    "position": d.position.model_dump() if d.position else None,
                }
                for d in known.devices.values()
            },
        }

    def _stream_json(self, key: _Key) -> dict[str, Any]:
        known = self._streams[key]
        stream = known.stream
        device = self._boxes[known.box].devices.get(stream.device) if known.box in self._boxes else None
        position = device.position if device else None
        calibrated = {
            field.name: [certificate.model_dump() for certificate in field.calibration]
            for of in (device.streams if device else ())
            if of.measurement == stream.measurement
            for field in of.fields
        }
        return {
            "box": known.box,
            "device": stream.device,
            "measurement": stream.measurement,
            "driver": device.driver if device else None,
            "layer": stream.layer.value,
            "site": stream.site or known.site,
            "position": position.model_dump() if position else None,
            "time_ms": known.newest_ns // 1_000_000 if known.newest_ns >= 0 else None,
            "step_ms": None if known.step_ns is None else known.step_ns // 1_000_000,
            "fields": {
                f.name: self._field_json(known, f.name)
                | {"unit": f.unit, "type": f.type.value, "calibration": calibrated.get(f.name, [])}
                for f in stream.fields
            },
            "media": (
                {"id": known.media[0], "time_ms": known.media[1] // 1_000_000} if known.media else None
            ),
        }

    @staticmethod
    def _field_json(known: _Stream, name: str) -> dict[str, Any]:
        value, time_ns, quality = known.fields.get(name, (None, None, None))
        return {
            "value": value,
            "time_ms": None if time_ns is None else time_ns // 1_000_000,
            "quality": quality,
            "now": known.flags.get(name, int(Quality.GOOD)),
        }


def _newer(changed: OrderedDict[Any, int], seq: int) -> Iterator[Any]:
    """Keys that changed after ``seq``; costs what it yields, for the newest stand last."""
    return (key for key, _ in takewhile(lambda item: item[1] > seq, reversed(changed.items())))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
