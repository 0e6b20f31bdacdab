"""Which units are on a bus, and which profiles could be theirs. Only reads; nothing is written.

A unit is there when anything comes back in its name: a value, an exception, or a damaged answer. Which
profile is its own no register says; so every profile is read and judged: all its values must be possible,
and the more registers it explains with plausible values the likelier it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from trisense.core.errors import DeviceRefused, DeviceTimeout, FrameError
from trisense.core.model import Quality, Value
from trisense.core.vocabulary import PROPERTIES, judge
from trisense.drivers.lines import Lines
from trisense.drivers.modbus.bus import BusSettings, ModbusBus, Party
from trisense.drivers.modbus.framing import Framing
from trisense.drivers.modbus.pdu import READ_BITS, Question, ask, bits_of, registers_of
from trisense.drivers.modbus.profile import FieldTable, Profile, Request, profiles

__all__ = ["FoundUnit", "Scan", "Suggestion"]

GATEWAY_SILENCE: Final = (0x0A, 0x0B)
"""Exceptions of a TCP gateway: nobody answered it."""
BELIEVABLE_F32: Final = (1e-6, 1e9)
"""Registers that hold no float make numbers outside it, most of the time."""
SUGGESTIONS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A profile whose registers this unit has, and what they say."""

    profile: str
    options: Mapping[str, str]
    values: Mapping[str, Value]
    score: float
    """Sum over its fields: 1 for a good value, less for one that could be chance."""


@dataclass(frozen=True, slots=True)
class FoundUnit:
    unit: int
    state: Literal["answers", "damaged"]
    """``damaged``: something answers, but never undamaged: the wrong parity, or two units of one address."""
    suggestions: tuple[Suggestion, ...] = ()
    """The likeliest first."""


class Scan:
    """One walk over a bus."""

    def __init__(self, url: str, framing: Framing, *, timeout_s: float) -> None:
        self._bus = ModbusBus(BusSettings(url, framing))
        self._party = Party(device=url, timeout_s=timeout_s, rests=False)
        self.echo = False
        """The adapter hears itself: its devices need ``echo = true``."""

    async def run(self, units: Sequence[int], tell: Callable[[int, int], None]) -> list[FoundUnit]:
        """The units that are there; ``tell`` is given the unit now asked and how many were found so far.

        Raises:
            LineError: the line cannot be opened, or is lost.
        """
        found: list[FoundUnit] = []
        lines = Lines()
        await self._bus.connect(lines)
        try:
            for unit in units:
                tell(unit, len(found))
                one = await self._look_at(unit)
                if one is not None:
                    found.append(one)
        finally:
            await self._bus.close()
        return found

    async def _look_at(self, unit: int) -> FoundUnit | None:
        damaged = False
        for question in _first_questions(unit):
            try:
                await self._bus.ask(question, self._party)
            except DeviceTimeout:
                continue
            except DeviceRefused as error:
                if error.code in GATEWAY_SILENCE:
                    return None
            except FrameError:
                damaged = damaged or self._is_damage(unit)
                continue
            return FoundUnit(unit, "answers", await self._suggest(unit, question))
        return FoundUnit(unit, "damaged") if damaged else None

    def _is_damage(self, unit: int) -> bool:
        """Whether it was not just the echo of our own question."""
        counters = self._bus.counters(unit)
        self.echo = self.echo or counters.get("echo", 0) > 0
        return counters.get("crc", 0) > 0 or not counters.get("echo", 0)

    async def _suggest(self, unit: int, known_good: Question) -> tuple[Suggestion, ...]:
        reader = _UnitReader(self._bus, self._party, unit, known_good)
        found: list[tuple[bool, Suggestion]] = []
        for profile in sorted(profiles().values(), key=lambda p: p.device.unit != unit):
            for options in profile.variants():
                suggestion = await self._try(reader, profile, options)
                if suggestion is not None:
                    found.append((profile.device.unit == unit, suggestion))
        found.sort(key=lambda pair: (pair[1].score, pair[0]), reverse=True)
        return tuple(suggestion for _, suggestion in found[:SUGGESTIONS_MAX])

    async def _try(
        self, reader: _UnitReader, profile: Profile, options: Mapping[str, str]
    ) -> Suggestion | None:
        values: dict[str, Value] = {}
        score = 0.0
        for request in profile.requests(options):
            data = await reader.read(request)
            if data is None:
                continue
            read = request.values(data)
            for field in request.fields:
                weight = _weight(field, read[field.name])
                if weight is None:
                    return None
                score += weight
            values |= read
        return Suggestion(profile.device.name, options, values, round(score, 2)) if score >= 1 else None


class _UnitReader:
    """Reads one unit's registers, each request once."""

    def __init__(self, bus: ModbusBus, party: Party, unit: int, known_good: Question) -> None:
        self._bus = bus
        self._party = party
        self._unit = unit
        self._known_good = known_good
        self._read: dict[tuple[int, int, int], Sequence[int] | None] = {}

    async def read(self, request: Request) -> Sequence[int] | None:
        """Registers or bits, None where the unit refuses them or is silent."""
        key = (request.function, request.address, request.count)
        if key not in self._read:
            self._read[key] = await self._ask(request)
        return self._read[key]

    async def _ask(self, request: Request) -> Sequence[int] | None:
        question = ask(self._unit, request.function, request.address, request.count)
        try:
            answer = await self._bus.ask(question, self._party)
        except DeviceRefused:
            return None
        except (DeviceTimeout, FrameError):
            # Its answer to what it knows proves that none to this question is still to come.
            with contextlib.suppress(DeviceTimeout, DeviceRefused, FrameError):
                await self._bus.ask(self._known_good, self._party)
            return None
        return bits_of(answer) if request.function in READ_BITS else registers_of(answer)


def _first_questions(unit: int) -> list[Question]:
    """What to ask a unit that may not be there.

    Most devices answer to register 0, with an exception if with nothing else. Some are silent to what they
    do not have: those whose profile is delivered with this address are asked for what they have.
    """
    questions = [ask(unit, function, 0, 1) for function in (3, 4)]
    for profile in profiles().values():
        if profile.device.unit == unit != 1:
            first = profile.requests(next(profile.variants()))[0]
            questions.append(ask(unit, first.function, first.address, first.count))
    return list(dict.fromkeys(questions))


def _weight(field: FieldTable, value: Value) -> float | None:
    """How much a value speaks for its profile; None: it cannot be."""
    if not isinstance(value, int | float):
        return 0.0
    if judge(field.stream_field, value) is Quality.FAIL:
        return None
    if value == 0:
        return 0.1
    low, high = BELIEVABLE_F32
    if field.type in ("f32", "f64") and not low <= abs(value) <= high:
        return None
    if judge(field.stream_field, value) is Quality.SUSPECT:
        return 0.2
    return 1.0 if field.valid is not None or field.name in PROPERTIES else 0.5
