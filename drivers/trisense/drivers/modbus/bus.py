"""One Modbus line and its one owner: every device on it asks through the bus, one at a time.

What it guards against, with the field evidence in environment.md A3:

- A late answer is never taken for the next one. On TCP the transaction tells. On a serial line an
  exchange that failed leaves its question *open*: its answer may still come. Before a question of the
  same shape (unit, function, byte count) goes out again, a probe of another shape must be answered; a
  device answers in order, so what was open before the probe is then over. A line just opened is first
  listened to for one time-out: the program may have asked something before it was restarted.
- After a failure the line must fall silent and is flushed before the next request.
- A slow unit costs its neighbours a bounded share (``turns``), and so does a dead one: from its second
  time-out on it is left alone for ``REST_FACTOR`` times what the time-out cost, doubled each time, at most
  ``REST_MAX_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from trisense.core.errors import DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.drivers.lines import Line, Lines
from trisense.drivers.modbus.finetimer import FineTimer
from trisense.drivers.modbus.framing import Framing, ReplySearch, search
from trisense.drivers.modbus.pdu import EXCEPTION_BIT, EXCEPTIONS, Question, Trouble
from trisense.drivers.modbus.timing import Pace
from trisense.drivers.modbus.turns import Turns

__all__ = ["BusSettings", "ModbusBus", "Party"]

SETTLE_S: Final = 0.02
"""Shortest silence that counts after a failure: USB adapters hold bytes back for up to 16 ms."""
BABBLE_S: Final = 1.0
"""A line that does not fall silent within this is given up and opened again."""
LISTEN_MAX_S: Final = 1.0
REST_FACTOR: Final = 10.0
REST_MAX_S: Final = 60.0
OPEN_FACTOR: Final = 10.0
OPEN_MIN_S: Final = 10.0
"""An open question is forgotten after ``OPEN_FACTOR`` time-outs, at least this: a device that is silent
to a probe it does not know (A3, "no reply to an illegal address") would else never be asked again."""


@dataclass(frozen=True, slots=True)
class BusSettings:
    """What all devices on one line must agree on."""

    url: str
    framing: Framing
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Party:
    """Who asks, and what it may expect of its device."""

    device: str
    timeout_s: float
    """Longest wait for the answer to begin; the time its bytes take on the wire comes on top."""
    gap_s: float = 0.0
    """Pause before a request that the device needs, where longer than T3.5."""
    ignore_unit_id: bool = False
    """TCP: take an answer in the name of another unit, as some gateways send it."""
    rests: bool = True
    """False: it is asked however often it was silent."""


@dataclass(slots=True)
class _Unit:
    """What the bus remembers of one unit."""

    counters: Counter[str] = field(default_factory=Counter)
    open: list[tuple[tuple[int, int], float]] = field(default_factory=list)
    """Shape and expiry of each question whose answer may still come, oldest first."""
    time_outs: int = 0
    asleep_until: float = 0.0


class ModbusBus:
    """Owner of one line. ``connect`` and ``ask`` may be called by several tasks at once."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._pace = Pace.of(settings.url)
        self._line: Line | None = None
        self.turns = Turns()
        """Who holds it, for how long, and who waits."""
        self._timer = FineTimer()
        self._units: dict[int, _Unit] = {}
        self._transaction = 0
        self._ready_at = 0.0
        self._settled = False
        self._fresh = True

    async def connect(self, lines: Lines) -> None:
        """Open the line, unless it is open already.

        Raises:
            LineError: it cannot be opened now.
        """
        async with self.turns.turn():
            if self._line is None:
                self._line = await lines.open(self.settings.url)
                self._settled, self._fresh = False, True

    async def close(self) -> None:
        """Close the line; safe twice. ``connect`` opens it again."""
        line, self._line = self._line, None
        self._timer.close()
        if line is not None:
            await line.close()

    def totals(self) -> Mapping[str, int]:
        """``counters`` of all units together."""
        return sum((unit.counters for unit in self._units.values()), Counter())

    def counters(self, unit: int) -> Mapping[str, int]:
        """Good answers (``answers``) and each ``Trouble`` seen since the bus was made."""
        return self._units[unit].counters if unit in self._units else {}

    async def ask(self, question: Question, party: Party, *, due_s: float = math.inf) -> bytes:
        """Put one question and give the PDU of its answer.

        ``due_s`` is the time of the loop's clock by which it is wanted: of several tasks that wait for
        the line, the most urgent one is next, save for a unit that has just had more than its share.

        Raises:
            DeviceTimeout: no answer in time, or the unit is left alone after too many of them.
            DeviceRefused: the unit answered with an exception; its code is the error's.
            FrameError: the answer was damaged.
            LineError: the line is gone; ``connect`` again.
        """
        unit = self._units.setdefault(question.unit, _Unit())
        self._check_awake(unit, party)
        async with self.turns.turn(question.unit, due_s=due_s):
            self._check_awake(unit, party)
            if self._fresh:
                # The first exchange after opening fails on several adapters, and boards greet in text
                # at power-up: one silent retry (A3).
                with contextlib.suppress(DeviceTimeout, FrameError):
                    return await self._ask(unit, question, party)
                self._fresh = False
            return await self._ask(unit, question, party)

    def _check_awake(self, unit: _Unit, party: Party) -> None:
        wait_s = unit.asleep_until - asyncio.get_running_loop().time()
        if wait_s > 0:
            raise DeviceTimeout(
                party.device,
                f"no answer {unit.time_outs} times, asked again in {wait_s:.1f} s",
                timeout_s=0,
            )

    async def _ask(self, unit: _Unit, question: Question, party: Party) -> bytes:
        if self._is_open(unit, question.shape):
            with contextlib.suppress(DeviceRefused):
                await self._exchange(unit, question.probe(), party)
            # An exception proves less: whose it is nobody can say.
            if self._is_open(unit, question.shape):
                what = "answers still due to questions that timed out"
                raise DeviceTimeout(party.device, what, timeout_s=party.timeout_s)
        return await self._exchange(unit, question, party)

    def _is_open(self, unit: _Unit, shape: tuple[int, int]) -> bool:
        now = asyncio.get_running_loop().time()
        unit.open = [entry for entry in unit.open if entry[1] > now]
        return any(entry[0] == shape for entry in unit.open)

    async def _exchange(self, unit: _Unit, question: Question, party: Party) -> bytes:
        if self._line is None:
            raise LineError(self.settings.url, "is not open")
        self._transaction = self._transaction % 0xFFFF + 1
        find = search(
            self.settings.framing,
            question,
            transaction=self._transaction,
            echo=self.settings.echo,
            ignore_unit_id=party.ignore_unit_id,
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._wait_until_ready(self._line, party)
            self._settled = False
            if self.settings.framing != "tcp":
                expiry = loop.time() + max(OPEN_MIN_S, OPEN_FACTOR * party.timeout_s)
                unit.open.append((question.shape, expiry))
            await self._line.write(find.request)
            answer = await self._await_answer(self._line, find, party)
        except LineError:
            await self.close()
            raise
        except asyncio.CancelledError:
            if find.in_frame:
                await self.close()
            raise
        except TimeoutError:
            await self._fail(unit, find, party, cost_s=loop.time() - began)
        finally:
            unit.counters.update({kind.value: count for kind, count in find.seen.items()})
        self._settled, self._fresh = True, False
        unit.time_outs = 0
        if answer[0] & EXCEPTION_BIT:
            self._refused(unit, answer[1], party)
        self._close_questions(unit, question.shape)
        unit.counters["answers"] += 1
        return answer

    async def _wait_until_ready(self, line: Line, party: Party) -> None:
        """Let the pause before a request pass; after a failure or opening wait for silence."""
        silence_s = max(self._pace.silence_s, party.gap_s)
        if self.settings.framing == "tcp":
            # A flush could tear a frame there; the transaction tells what is stale.
            await self._timer.wait_until(self._ready_at + silence_s)
        elif self._settled:
            await self._timer.wait_until(self._ready_at + silence_s)
            await line.flush_input()
        else:
            first_s = min(party.timeout_s, LISTEN_MAX_S) if self._fresh else 0.0
            await self._fall_silent(line, max(silence_s, SETTLE_S, first_s))

    async def _fall_silent(self, line: Line, quiet_s: float) -> None:
        """Throw away what comes in until nothing came for ``quiet_s``."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + quiet_s + BABBLE_S
        while loop.time() < give_up_at:
            try:
                async with asyncio.timeout(quiet_s):
                    await line.read()
            except TimeoutError:
                return
        raise LineError(self.settings.url, f"does not fall silent within {quiet_s + BABBLE_S:g} s")

    async def _await_answer(self, line: Line, find: ReplySearch, party: Party) -> bytes:
        """Read until the answer is whole.

        Raises:
            TimeoutError: the time is up, or a damaged answer was followed by silence.
        """
        loop = asyncio.get_running_loop()
        on_wire_s = (len(find.request) + find.answer_size) * self._pace.character_s
        async with asyncio.timeout(on_wire_s + party.timeout_s) as limit:
            while True:
                data = await line.read()
                self._ready_at = loop.time()
                try:
                    answer = find.feed(data)
                except FrameError as error:
                    raise LineError(self.settings.url, error.what) from error
                if answer is not None:
                    return answer
                if find.seen[Trouble.CRC]:
                    # The answer came, damaged: waiting out the time would only cost the neighbours.
                    limit.reschedule(min(limit.when() or 0.0, loop.time() + SETTLE_S))

    async def _fail(self, unit: _Unit, find: ReplySearch, party: Party, *, cost_s: float) -> NoReturn:
        kind = find.blame()
        if not find.seen[kind]:
            find.seen[kind] += 1
        if cost_s >= party.timeout_s:
            unit.time_outs += 1
            if unit.time_outs > 1 and party.rests:
                rest_s = cost_s * REST_FACTOR * 2 ** min(unit.time_outs - 2, 16)
                unit.asleep_until = asyncio.get_running_loop().time() + min(rest_s, REST_MAX_S)
        if find.in_frame:
            # Where the next frame begins is unknown for ever.
            await self.close()
            raise LineError(self.settings.url, "stopped inside a frame")
        if kind in (Trouble.CRC, Trouble.FUNCTION, Trouble.ECHO):
            raise FrameError(party.device, WORDS[kind])
        raise DeviceTimeout(party.device, WORDS[kind], timeout_s=party.timeout_s)

    def _refused(self, unit: _Unit, code: int, party: Party) -> NoReturn:
        unit.counters[Trouble.EXCEPTION] += 1
        # It belongs to any of the open questions: the oldest is over in either case.
        del unit.open[:1]
        raise DeviceRefused(party.device, EXCEPTIONS.get(code, "unknown exception"), code=code)

    def _close_questions(self, unit: _Unit, shape: tuple[int, int]) -> None:
        """Units answer in order: what was asked before the first question of this shape is over."""
        for index, (other, _) in enumerate(unit.open):
            if other == shape:
                del unit.open[: index + 1]
                return


WORDS: Final = {
    Trouble.NO_REPLY: "no answer",
    Trouble.SHORT: "the answer stopped half way",
    Trouble.CRC: "the answer was damaged",
    Trouble.FUNCTION: "answered with another function",
    Trouble.COUNT: "answered another question",
    Trouble.ECHO: "the echo setting does not fit: an echo is missing, or came though none is expected",
}
