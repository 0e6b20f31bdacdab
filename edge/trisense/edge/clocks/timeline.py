"""The line of time that samples are stamped with: boot time, plus an offset that is believed with a reason.

Wall time may step; boot time never does. So the line is boot time plus an offset, and only this module
decides which. While no offset can be trusted the line is *open*: its stamps are provisional, and what is
stamped stays on the box until ``switch`` says what they were. Once a time is final it never changes, and
the line never runs backward: where it turns out to be ahead, it runs at half speed until wall time has
caught up. Only where it is ahead by more than a day does it begin a new run, and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

import structlog
from trisense.core.model import ClockState
from trisense.edge.clocks.clock import PLAUSIBLE_NS, Clock, Stamp

__all__ = ["Fix", "Mode", "Plan", "TimeSource", "TimeStatus", "Timeline"]

log = structlog.get_logger(__name__)

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
JITTER_NS: Final = MS
"""Smaller changes of the offset are those of reading two clocks one after the other."""
STEP_NS: Final = 20 * MS
"""Larger changes of the offset are a step. The kernel slews boot time along with wall time, so a slew
changes nothing here, however fast."""
CONFIRM_NS: Final = 30 * SECOND
"""How long a new offset must stand, with the kernel synchronised, before it is believed."""
RUN_NS: Final = 86_400 * SECOND
"""A line that is further ahead than this had its time from a clock in the far future."""
HOLDOVER_PPM: Final = 100
"""Drift of a crystal in the sun and in the frost, while nobody disciplines it."""
SETTLED: Final = 8
"""Plans remembered for samples that still wait in memory, for a disk that does not take them."""
TIGHT_NS: Final = MS
TRIES: Final = 3
"""Both clocks are read within this time, or what they say together is not used."""


class Mode(StrEnum):
    """How the offset is known."""

    UNKNOWN = "unknown"
    """Nobody has said yet: open."""
    ANCHORED = "anchored"
    """The kernel, or GNSS, says it now."""
    HOLDOVER = "holdover"
    """It was said earlier in this boot; boot time has gone on since."""
    DOUBT = "doubt"
    """Wall time has stepped: open, until the new offset stands or the hold is over."""
    UNSYNCHRONISED = "unsynchronised"
    """The hold is over and nobody has said it in this boot: the best guess, flagged."""


@dataclass(frozen=True, slots=True)
class Fix:
    """What a source of time other than the kernel says."""

    offset_ns: int
    """UTC minus boot time."""
    error_ms: int


class TimeSource(Protocol):
    """A source that is asked where the kernel is not synchronised."""

    def fix(self) -> Fix | None:
        """What it says now; None when it has nothing fresh."""
        ...


@dataclass(frozen=True, slots=True)
class TimeStatus:
    """How the box stands with time, for those who look at it."""

    mode: Mode
    synced: bool
    error_ms: int | None
    offset_age_s: float | None
    """Since the offset was last confirmed; None where it never was."""
    held_back_s: float
    """How far the line is ahead of wall time, and being held back."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Boot time plus ``offset_ns``, and an excess that melts at half the speed of time."""

    offset_ns: int
    excess_ns: int = 0
    since_ns: int = 0

    def ahead_ns(self, boot_ns: int) -> int:
        return max(0, self.excess_ns - (boot_ns - self.since_ns) // 2)

    def at(self, boot_ns: int) -> int:
        return boot_ns + self.offset_ns + self.ahead_ns(boot_ns)


@dataclass(frozen=True, slots=True)
class _Word:
    """An offset and how far it can be trusted."""

    mode: Mode
    offset_ns: int
    error_ms: int | None
    by_wall: bool = True
    """False: it is not wall time that says it, so that a step of wall time means nothing."""

    @property
    def jitter_ns(self) -> int:
        """Smaller changes are noise of the source."""
        return JITTER_NS if self.by_wall else (self.error_ms or 0) * MS

    @property
    def step_ns(self) -> int:
        """Larger changes are a step."""
        return STEP_NS if self.by_wall else 2 * self.jitter_ns


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of open samples."""

    word: _Word
    offset_ns: int
    """Their final times are boot time plus this."""
    clock: ClockState


class Timeline:
    """A ``Clock`` whose ``now_ns`` is the line. One task ticks and switches it; any thread may read it."""

    def __init__(self, clock: Clock, *, hold_s: float, source: TimeSource | None = None) -> None:
        """``hold_s`` after boot, or after a step, the line is final without a trusted offset too; 0: always.

        It counts from boot and not from here, so that a box that nobody ever synchronises waits once,
        however often it starts.
        """
        self._clock = clock
        self._hold_ns = int(hold_s * SECOND)
        self._source = source
        self._mode = Mode.UNKNOWN
        self._open = True
        self._seen_ns = self._wall_offset_ns() or 0
        self._final_ns = 0
        self._begun_ns = self._open_since_ns = clock.boot_ns()
        self._word = _Word(Mode.UNKNOWN, self._seen_ns, None)
        self._line = _Line(self._guess_ns(self._open_since_ns, 0))
        self._sure_ns: int | None = None
        self._before_ns = self._candidate_ns = 0
        self._doubt_since_ns = self._candidate_since_ns = 0
        self._trusted_since_ns: int | None = None
        self._by_hand = False
        self._settled: dict[int, Plan] = {}
        self.target: _Word | None = None
        """What an open line is to become: ``plan`` and ``switch`` are due."""

    # --- what a Clock gives ---

    @property
    def boot_id(self) -> str:
        return self._clock.boot_id

    def boot_ns(self) -> int:
        return self._clock.boot_ns()

    def now_ns(self) -> int:
        """Time on the line: provisional while it is open."""
        return self._line.at(self._clock.boot_ns())

    def state(self) -> ClockState:
        """How far the line can be trusted now."""
        return self._state(self._clock.boot_ns())

    def _state(self, boot_ns: int) -> ClockState:
        if self._mode not in (Mode.ANCHORED, Mode.HOLDOVER):
            return ClockState(synced=False)
        return self._judged(self._word, boot_ns, self._line.ahead_ns(boot_ns))

    def _judged(self, word: _Word, boot_ns: int, ahead_ns: int) -> ClockState:
        """Trust in a time that is ``ahead_ns`` beyond what ``word`` says."""
        if word.error_ms is None:
            return ClockState(synced=False)
        drift_ns = 0
        if word.mode is Mode.HOLDOVER and self._sure_ns is not None:
            drift_ns = (boot_ns - self._sure_ns) * HOLDOVER_PPM // 1_000_000
        error_ms = word.error_ms + math.ceil((ahead_ns + drift_ns) / MS)
        return ClockState(word.mode is Mode.ANCHORED and ahead_ns <= STEP_NS, error_ms)

    # --- stamps ---

    @property
    def open(self) -> bool:
        """Whether stamps are provisional."""
        return self._open

    def stamp(self) -> Stamp:
        """The time of what is sensed now. A step of wall time is noticed here, before it can do harm."""
        boot_ns = self._clock.boot_ns()
        if self._mode in (Mode.ANCHORED, Mode.HOLDOVER) and self._word.by_wall:
            wall = self._wall_offset_ns()
            if wall is not None and abs(wall - self._seen_ns) > STEP_NS:
                self._doubt(boot_ns, wall)
        time_ns = self._line.at(boot_ns)
        if self._open:
            return Stamp(time_ns, ClockState(synced=False), self._line.offset_ns)
        self._final_ns = max(self._final_ns, time_ns)
        return Stamp(time_ns, self._state(boot_ns), line_ns=time_ns)

    def status(self) -> TimeStatus:
        boot_ns = self._clock.boot_ns()
        state = self._state(boot_ns)
        age_s = None if self._sure_ns is None else (boot_ns - self._sure_ns) / SECOND
        return TimeStatus(
            self._mode, state.synced, state.error_ms, age_s, self._line.ahead_ns(boot_ns) / SECOND
        )

    # --- what the clock-watch does ---

    def begin(self, floor_ns: int) -> None:
        """Take the newest final time that the spool knows, before anything is stamped."""
        self._final_ns = floor_ns
        boot_ns = self._open_since_ns = self._begun_ns = self._clock.boot_ns()
        self._line = _Line(self._guess_ns(boot_ns, floor_ns))
        self.tick()

    def tick(self) -> None:
        """Look at the clocks; to be called about once a second. May set ``target``."""
        wall = self._wall_offset_ns()
        if wall is None:
            return  # the machine is too busy to read two clocks together
        boot_ns = self._clock.boot_ns()
        trusted = self._trusted(wall)
        self.target = None
        if self._mode is Mode.UNKNOWN:
            self._wait(boot_ns, wall, trusted)
        elif self._mode is Mode.DOUBT:
            self._weigh(boot_ns, wall, trusted)
        elif self._mode is Mode.UNSYNCHRONISED:
            self._hope(boot_ns, wall, trusted)
        else:
            self._follow(boot_ns, wall, trusted)

    def place(self, first_boot_ns: int, last_boot_ns: int, offset_ns: int, *, floor_ns: int) -> int:
        """The offset for open samples of an earlier boot, which nobody will ever know.

        Their provisional one, where it puts them behind ``floor_ns`` and before this boot; else they are
        put right behind ``floor_ns``: power that comes back soon is the likely case.
        """
        word = self.target
        if word is None:
            raise RuntimeError("nothing to switch to")
        floor_ns = max(_next_ms(floor_ns), PLAUSIBLE_NS)
        ours = word.offset_ns
        if word.mode is Mode.UNSYNCHRONISED:
            ours = self._guess_ns(self._begun_ns, floor_ns)
        if floor_ns <= first_boot_ns + offset_ns and last_boot_ns + offset_ns < self._begun_ns + ours:
            return offset_ns
        return floor_ns - first_boot_ns

    def plan(self, floor_ns: int, first_boot_ns: int | None) -> Plan:
        """Final times for open samples, all behind ``floor_ns``, the newest final time in the spool.

        ``first_boot_ns`` is the boot time of the first open sample in the spool, None when there is none.
        """
        word = self.target
        if word is None:
            raise RuntimeError("nothing to switch to")
        first_ns = min(self._open_since_ns, first_boot_ns or self._open_since_ns)
        floor_ns = _next_ms(max(floor_ns, self._final_ns))
        if word.mode is Mode.UNSYNCHRONISED:
            offset_ns = self._guess_ns(first_ns, floor_ns)
            return Plan(_Word(word.mode, offset_ns, None), offset_ns, ClockState(synced=False))
        excess_ns = self._excess_ns(first_ns, word.offset_ns, floor_ns)
        # A millisecond more: their times were cut to one before they move by another part of one.
        clock = self._judged(word, self._clock.boot_ns(), excess_ns + MS)
        return Plan(word, word.offset_ns + excess_ns, clock)

    def switch(self, plan: Plan) -> int:
        """Make the line final from now on; gives the time behind which all of it will be.

        Samples stamped before are final with ``plan``; see ``final``.
        """
        boot_ns = self._clock.boot_ns()
        begin_ns = _next_ms(boot_ns + plan.offset_ns)
        self._settled[self._line.offset_ns] = plan
        for old in list(self._settled)[:-SETTLED]:
            del self._settled[old]
        self._open, self.target = False, None
        self._enter(plan.word, boot_ns)
        self._line = _Line(plan.word.offset_ns, begin_ns - boot_ns - plan.word.offset_ns, boot_ns)
        self._final_ns = begin_ns - 1
        return self._final_ns

    def final(self, offset_ns: int) -> Plan | None:
        """The plan for samples stamped with that provisional offset; None while it is not known."""
        if self._open and self._line.offset_ns == offset_ns:
            return None
        return self._settled.get(offset_ns)

    # --- the states ---

    def _wait(self, boot_ns: int, wall: int, trusted: _Word | None) -> None:
        """UNKNOWN: the first word counts at once; the kernel says it after its clock was set."""
        self._seen_ns = wall
        if trusted is not None:
            self.target = trusted
        elif boot_ns >= self._hold_ns:
            self.target = _Word(Mode.UNSYNCHRONISED, wall, None)

    def _follow(self, boot_ns: int, wall: int, trusted: _Word | None) -> None:
        """ANCHORED or HOLDOVER."""
        if trusted is not None:
            away_ns = abs(trusted.offset_ns - self._line.offset_ns)
            if away_ns > max(trusted.step_ns, self._word.step_ns):
                self._doubt(boot_ns, wall)
                return
            self._seen_ns = wall
            if away_ns > trusted.jitter_ns:
                self._aim(boot_ns, trusted.offset_ns)
            else:
                error_ms = (trusted.error_ms or 0) + away_ns // MS
                trusted = replace(trusted, offset_ns=self._line.offset_ns, error_ms=error_ms)
            self._enter(trusted, boot_ns)
        elif self._word.by_wall and abs(wall - self._seen_ns) > STEP_NS:
            self._doubt(boot_ns, wall)
        elif self._mode is Mode.ANCHORED:
            self._enter(replace(self._word, mode=Mode.HOLDOVER), boot_ns)

    def _doubt(self, boot_ns: int, wall: int) -> None:
        """Wall time has stepped, or does not agree: open, on the line as it was."""
        log.warning("clock_stepped", by_s=round((wall - self._seen_ns) / SECOND, 3))
        self._mode = Mode.DOUBT
        self._before_ns, self._seen_ns = self._seen_ns, wall
        self._doubt_since_ns = self._candidate_since_ns = boot_ns
        self._candidate_ns, self._trusted_since_ns = wall, None
        if self._hold_ns:
            self._open, self._open_since_ns = True, boot_ns
            self._line = _Line(self._line.at(boot_ns) - boot_ns)

    def _weigh(self, boot_ns: int, wall: int, trusted: _Word | None) -> None:
        """DOUBT: a new offset is believed once it has stood, trusted, for a while."""
        offset_ns = wall if trusted is None else trusted.offset_ns
        if abs(offset_ns - self._candidate_ns) > STEP_NS:
            self._candidate_ns, self._candidate_since_ns = offset_ns, boot_ns
        self._seen_ns = wall
        if trusted is None:
            self._trusted_since_ns = None
        elif self._trusted_since_ns is None:
            self._trusted_since_ns = boot_ns
        since_ns = max(self._candidate_since_ns, self._trusted_since_ns or 0)
        stands = boot_ns - since_ns >= CONFIRM_NS
        undone = trusted is None and abs(wall - self._before_ns) <= STEP_NS
        over = boot_ns - self._doubt_since_ns >= max(self._hold_ns, CONFIRM_NS)
        if trusted is not None and (stands or over):
            self._settle(boot_ns, trusted)
        elif over or (undone and stands):
            # The kernel does not stand by its new time: the crystal is the better witness.
            self._settle(boot_ns, replace(self._word, mode=Mode.HOLDOVER))

    def _hope(self, boot_ns: int, wall: int, trusted: _Word | None) -> None:
        """UNSYNCHRONISED: final and flagged; somebody may set the clock by hand."""
        if trusted is not None:
            self._seen_ns = wall
            self._settle(boot_ns, trusted)
        elif abs(wall - self._seen_ns) > STEP_NS:
            self._seen_ns, self._candidate_since_ns, self._by_hand = wall, boot_ns, True
        elif self._by_hand and boot_ns - self._candidate_since_ns >= CONFIRM_NS:
            self._by_hand = False
            if boot_ns + wall >= PLAUSIBLE_NS:
                self._settle(boot_ns, _Word(Mode.UNSYNCHRONISED, wall, None))

    def _settle(self, boot_ns: int, word: _Word) -> None:
        if self._open:
            self.target = word
        else:
            self._enter(word, boot_ns)
            self._aim(boot_ns, word.offset_ns)

    def _enter(self, word: _Word, boot_ns: int) -> None:
        if word.mode is not self._mode:
            say = log.info if word.mode is Mode.ANCHORED else log.warning
            say("clock", state=word.mode.value, before=self._mode.value, error_ms=word.error_ms)
        self._mode, self._word = word.mode, word
        if word.mode is Mode.ANCHORED:
            self._sure_ns = boot_ns

    # --- the line ---

    def _aim(self, boot_ns: int, offset_ns: int) -> None:
        """Go over to another offset, forward at once, backward by waiting."""
        floor_ns = _next_ms(max(self._final_ns, self._line.at(boot_ns)))
        self._line = _Line(offset_ns, self._excess_ns(boot_ns, offset_ns, floor_ns), boot_ns)

    def _excess_ns(self, boot_ns: int, offset_ns: int, floor_ns: int) -> int:
        """How far a line must be ahead of ``offset_ns`` to begin at ``floor_ns`` or later."""
        excess_ns = max(0, floor_ns - boot_ns - offset_ns)
        if excess_ns > RUN_NS:
            log.error("clock_new_run", back_s=excess_ns // SECOND)
            return 0
        if excess_ns > STEP_NS:
            log.warning("clock_held_back", by_s=round(excess_ns / SECOND, 3))
        return excess_ns

    def _guess_ns(self, boot_ns: int, floor_ns: int) -> int:
        """Wall time where it can be, else to go on from ``floor_ns``; no box lives before its software."""
        floor_ns = max(floor_ns, PLAUSIBLE_NS)
        return max(self._seen_ns, floor_ns - boot_ns)

    def _trusted(self, wall: int) -> _Word | None:
        state = self._clock.state()
        if state.synced:
            return _Word(Mode.ANCHORED, wall, state.error_ms or 0)
        fix = self._source.fix() if self._source is not None else None
        return None if fix is None else _Word(Mode.ANCHORED, fix.offset_ns, fix.error_ms, by_wall=False)

    def _wall_offset_ns(self) -> int | None:
        """Wall minus boot time; None when they could not be read close together."""
        for _ in range(TRIES):
            before_ns = self._clock.boot_ns()
            wall_ns = self._clock.now_ns()
            after_ns = self._clock.boot_ns()
            if after_ns - before_ns <= TIGHT_NS:
                return wall_ns - (before_ns + after_ns) // 2
        return None


def _next_ms(time_ns: int) -> int:
    """The beginning of the millisecond after the one of ``time_ns``."""
    return (time_ns // MS + 1) * MS
