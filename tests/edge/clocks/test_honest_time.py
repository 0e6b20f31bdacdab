"""Whatever clocks do: no sample is lost, doubled or renumbered, and none has a wrong time without a flag."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trisense.core.errors import SpoolError
from trisense.core.model import BatchClass, ClockState, Field, FieldType, Layer, Stream
from trisense.drivers import Observed
from trisense.edge.clocks.clock import PLAUSIBLE_NS
from trisense.edge.clocks.clockwatch import ClockWatch
from trisense.edge.clocks.timeline import Timeline
from trisense.edge.sensing.batcher import Batcher
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.stamping import Stamper, stamp_of
from trisense.edge.spool import Cut, Loss, Spool, SpoolOptions

from tests.edge.conftest import T0_NS, FakeClock

T = TypeVar("T")
MS, SECOND, HOUR, DAY = 1_000_000, 1_000_000_000, 3_600_000_000_000, 86_400_000_000_000
HOLD_S = 600.0
UID = Field("uid", "", FieldType.INT)
STREAMS = (
    Stream("mast", "weather", Layer.GROUND, (UID,)),
    Stream("gate", "tags", Layer.GROUND, (UID,)),
    Stream("scene", "own_time", Layer.SKY, (UID,)),
    Stream("box", "alarm", Layer.GROUND, (UID,)),
    Stream("slow", "minutes", Layer.GROUND, (UID,), tick_ns=60 * SECOND),
    Stream("odd", "mixed", Layer.GROUND, (UID,)),
)
TIMED_BY_BOX = frozenset({("mast", "weather"), ("gate", "tags")})


class Door:
    """The spool without its thread; fails when told, and lets others in first when told."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.failing = 0
        self.meanwhile: Callable[[], None] | None = None

    async def run(self, work: Callable[[Spool], T]) -> T:
        if self.failing:
            self.failing -= 1
            raise SpoolError("told to fail")
        result = work(self.spool)
        if self.meanwhile is not None:
            self.meanwhile()
        return result


@dataclass
class Final:
    """A sample as it left, or would leave, the box."""

    key: tuple[str, str]
    time_ns: int
    n: int
    uid: int
    clock: ClockState


class Rig:
    """A box without devices and link: clocks, line, batcher, spool. Wall time is true time plus an error."""

    def __init__(self, folder: Path, hold_s: float = HOLD_S, error_ns: int = 0) -> None:
        self.path = folder / "spool.db"
        self.clock = FakeClock(since_boot_ns=5 * SECOND, clock_state=ClockState(synced=False))
        self.true_ns = T0_NS
        self.hold_s = hold_s
        self.uid = 0
        self.true: dict[int, int] = {}
        self.committed: set[int] = set()
        self.own_time: dict[int, int] = {}
        self._pending: list[int] = []
        self._boots = 1
        self.step(error_ns)

    # --- what happens to a box ---

    async def start(self) -> None:
        self.spool = Spool(self.path, self.clock, SpoolOptions(ballast_bytes=1 << 18))
        self.timeline = Timeline(self.clock, hold_s=self.hold_s)
        self.spool._clock = self.timeline  # made of each other, as in the box
        self.spool.open()
        self.door = Door(self.spool)
        ordinals: dict[tuple[str, str], Ordinals] = {}
        self.finalised = 0
        self.watch = ClockWatch(self.timeline, self.door, ordinals, self._count)  # type: ignore[arg-type]  # a door
        await self.watch.begin()
        for stream in STREAMS:
            ordinals[stream.key] = self.spool.ordinals(stream.key)
        self.stamper = Stamper(STREAMS, ordinals.__getitem__)
        self.batcher = Batcher(self._commit)

    async def _commit(self, cuts: Sequence[Cut], losses: Sequence[Loss]) -> None:
        final = [self.watch.final(cut) for cut in cuts]
        await self.door.run(lambda spool: spool.commit(final, losses))
        alarms = [cut for cut in final if cut.batch_class is BatchClass.ALARM]
        assert all(cut.offset_ns is None for cut in alarms), "an alarm waits"

    def _count(self) -> None:
        self.finalised += 1

    def rush(self) -> None:
        """A sample is taken and committed while the clock-watch waits for the spool."""
        door, self.door.meanwhile = self.door.meanwhile, None
        self.sense()
        coroutine = self.commit()
        with contextlib.suppress(StopIteration):
            coroutine.send(None)  # nothing in it really waits
        self.door.meanwhile = door

    def sense(self, rows: int = 1) -> None:
        self.pass_time(0.0003)
        observed = [
            Observed("weather", self._next()),
            *(Observed("tags", self._next()) for _ in range(rows)),
            Observed("minutes", self._next()),
            Observed("own_time", self._next(), sensed_at_ns=self.true_ns - HOUR),
            Observed("alarm", self._next(), batch_class=BatchClass.ALARM),
            Observed("mixed", self._next()),
            Observed("mixed", self._next(), batch_class=BatchClass.ALARM),
            Observed("mixed", self._next(), sensed_at_ns=self.true_ns + 1000 * SECOND),
        ]
        self.own_time[self.uid - 5] = self.true_ns - HOUR
        self.own_time[self.uid - 1] = self.true_ns + 1000 * SECOND
        at = self.timeline.stamp()
        for row, sample in self.stamper.stamp(observed, at):
            self.batcher.add(row.batch_class, sample, stamp=stamp_of(row, at))

    def _next(self) -> dict[str, Any]:
        self.true[self.uid] = self.true_ns
        self._pending.append(self.uid)
        self.uid += 1
        return {"uid": self.uid - 1}

    async def commit(self) -> None:
        try:
            await self.batcher.flush()
        except SpoolError:
            return
        self.committed.update(self._pending)
        self._pending.clear()

    async def tick(self) -> None:
        self.timeline.tick()
        await self.watch._look()  # what its loop does each second

    async def rushed_tick(self) -> None:
        self.door.meanwhile = self.rush
        await self.tick()
        self.door.meanwhile = None

    async def live(self, times: int) -> None:
        for _ in range(times):
            self.sense()
        await self.commit()

    def fail(self, times: int) -> None:
        self.door.failing = times

    def pass_time(self, seconds: float) -> None:
        self.true_ns += int(seconds * SECOND)
        self.clock.advance(seconds)

    def step(self, error_ns: int) -> None:
        """Somebody sets the clock, wrongly as a rule: the kernel forgets that it was synchronised."""
        self.clock.wall_ns = max(0, self.true_ns + error_ns)
        self.clock.clock_state = ClockState(synced=False)

    def synchronise(self) -> None:
        self.clock.wall_ns = self.true_ns
        self.clock.clock_state = ClockState(synced=True, error_ms=3)

    def lose(self) -> None:
        self.clock.clock_state = ClockState(synced=False)

    async def restart(self, reboot_s: float | None = None, error_ns: int = 0, *, crash: bool = False) -> None:
        self.door.failing = 0
        if crash:
            self._pending.clear()
        else:
            await self.commit()
        self.spool.close()
        if self._pending:
            self._pending.clear()  # the disk did not take them
        self.pass_time(0.5 if reboot_s is None else reboot_s)
        if reboot_s is not None:
            self._boots += 1
            self.clock.boot_id = f"boot-{self._boots}"
            self.clock.since_boot_ns = 5 * SECOND
            self.step(error_ns)
        await self.start()

    # --- what came of it ---

    async def settle(self) -> list[Final]:
        """Let the clock be right and everything be final; all samples in the order of their commits."""
        self.door.failing = 0
        await self.commit()
        self.synchronise()
        for _ in range(5):
            self.pass_time(20)
            await self.tick()
        assert self.spool.unfinished() == []
        ids = [
            head.id
            for of in (BatchClass.DATA, BatchClass.ALARM)
            for head in self.spool.heads(of, limit=100_000)
        ]
        loaded = self.spool.load(sorted(ids))
        return [
            Final(s.stream.key, s.time_ns, s.n, int(s.values[0] or 0), batch.clock)
            for _, batch in loaded
            for s in batch.samples
            if s.stream.key != ("box", "loss")
        ]


def check(rig: Rig, found: list[Final]) -> None:
    uids = [sample.uid for sample in found]
    assert sorted(uids) == sorted(rig.committed), "lost or doubled"
    assert len({(s.key, s.time_ns, s.n) for s in found}) == len(found), "two samples of one name"
    last: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (-1, -1))
    for sample in found:
        if sample.uid in rig.own_time:
            assert sample.time_ns == rig.own_time[sample.uid] // MS * MS, "a time of the source was moved"
            continue
        tick = 120 * SECOND if sample.key[0] == "slow" else MS
        off_ns = abs(sample.time_ns - rig.true[sample.uid])
        if sample.clock.synced or sample.clock.error_ms is not None:
            assert off_ns <= (sample.clock.error_ms or 0) * MS + tick, f"wrong and not flagged: {sample}"
        assert sample.time_ns >= PLAUSIBLE_NS - tick, "a time that cannot be"
        if sample.key in TIMED_BY_BOX:
            before = last[sample.key]
            back = (sample.time_ns, sample.n) <= before
            assert not back or before[0] - sample.time_ns > DAY - HOLD_S * SECOND, "out of order"
            last[sample.key] = (sample.time_ns, sample.n)


ERRORS_NS = st.one_of(
    st.sampled_from([0, -HOUR, DAY, -DAY, 30 * MS, -30 * MS, -T0_NS, 4 * 365 * DAY, -2 * DAY]),
    st.integers(-2 * DAY, 2 * DAY),
)
ACTIONS = st.one_of(
    st.tuples(st.just("live"), st.integers(1, 3)),
    st.tuples(st.just("live"), st.integers(1, 3)),
    st.tuples(st.just("sense"), st.integers(1, 3)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("rushed tick")),
    st.tuples(st.just("pass"), st.sampled_from([0.0001, 0.0004, 0.4, 31.0, 601.0])),
    st.tuples(st.just("step"), ERRORS_NS),
    st.tuples(st.just("synchronise")),
    st.tuples(st.just("synchronise")),
    st.tuples(st.just("lose")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("reboot"), st.sampled_from([2.0, 40.0, 5000.0]), ERRORS_NS),
    st.tuples(st.just("disk fails"), st.integers(1, 3)),
)
Actions = Sequence[tuple[Any, ...]]


async def play(rig: Rig, actions: Actions) -> None:
    acts: dict[str, Callable[..., Any]] = {
        "live": rig.live,
        "sense": rig.sense,
        "commit": rig.commit,
        "tick": rig.tick,
        "rushed tick": rig.rushed_tick,
        "pass": rig.pass_time,
        "step": rig.step,
        "synchronise": rig.synchronise,
        "lose": rig.lose,
        "restart": rig.restart,
        "crash": partial(rig.restart, crash=True),
        "reboot": partial(rig.restart, crash=True),
        "disk fails": rig.fail,
    }
    for what, *args in actions:
        done = acts[what](*args)
        if done is not None:
            await done


def tell(actions: Actions, hold_s: float, error_ns: int) -> None:
    async def told() -> None:
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(Path(folder), hold_s, error_ns)
            await rig.start()
            await play(rig, actions)
            check(rig, await rig.settle())
            rig.spool.close()

    with structlog.testing.capture_logs():
        asyncio.run(told())


LIVE, SENSE, SYNC, TICK = ("live", 3), ("sense", 2), ("synchronise",), ("tick",)
EXPIRE, REBOOT = ("pass", 601.0), ("reboot", 2.0, -T0_NS)
STORIES: dict[str, Actions] = {
    "woken in 1970, then synchronised": [LIVE, ("pass", 1.0), LIVE, SYNC, ("rushed tick",), LIVE],
    "within one minute": [LIVE, SYNC, TICK, LIVE, ("restart",), LIVE, ("crash",), LIVE, TICK, LIVE],
    "two runs before the time is known": [LIVE, ("crash",), LIVE, ("restart",), LIVE, SYNC, TICK, LIVE],
    "sensed in doubt, committed after": [SYNC, TICK, LIVE, ("step", DAY), SENSE, EXPIRE, TICK, LIVE],
    "sensed on a wrong clock, committed on a right one": [EXPIRE, TICK, SENSE, SYNC, TICK, ("commit",)],
    "two runs that nobody synchronised": [LIVE, ("pass", 300.0), ("crash",), LIVE, EXPIRE, TICK, LIVE],
    "two boots that nobody synchronised": [LIVE, ("pass", 300.0), REBOOT, LIVE, EXPIRE, TICK, LIVE],
    "from the far future": [EXPIRE, TICK, LIVE, SYNC, TICK, LIVE, ("restart",), LIVE],
    "back by a reboot": [LIVE, EXPIRE, TICK, LIVE, ("reboot", 40.0, 0), LIVE, SYNC, TICK, LIVE],
    "the disk fails in the middle": [LIVE, LIVE, SYNC, ("disk fails", 2), TICK, LIVE, TICK, LIVE, TICK, LIVE],
}  # fmt: skip


@pytest.mark.parametrize("hold_s", [HOLD_S, 0.0])
@pytest.mark.parametrize("error_ns", [0, -T0_NS, -HOUR, 4 * 365 * DAY, 30 * MS])
@pytest.mark.parametrize("story", STORIES)
def test_a_story_that_went_wrong_once(story: str, error_ns: int, hold_s: float) -> None:
    tell(STORIES[story], hold_s, error_ns)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, min_size=5, max_size=40), st.sampled_from([HOLD_S, HOLD_S, 0.0]), ERRORS_NS)
def test_no_story_of_clocks_loses_doubles_reorders_or_lies(
    actions: Actions, hold_s: float, error_ns: int
) -> None:
    tell(actions, hold_s, error_ns)


async def test_a_switch_that_the_disk_broke_off_is_finished_and_whoever_sends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    for _ in range(70):
        await rig.live(1)
    rig.synchronise()
    rig.pass_time(1)
    finalise = rig.spool.finalise

    def broken_at_last(boot_id: str, offset_ns: int, clock: ClockState, limit: int | None = 64) -> int:
        if limit is None:
            raise SpoolError("told to fail")
        return finalise(boot_id, offset_ns, clock, limit)

    with structlog.testing.capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(rig.spool, "finalise", broken_at_last)
        await rig.rushed_tick()
    assert "finalise_failed" in [entry["event"] for entry in logs]
    assert (rig.timeline.open, len(rig.spool.unfinished())) == (False, 1), "sensed meanwhile, and left"
    told = rig.finalised
    assert told > 0, "most may be sent"

    await rig.tick()
    assert rig.spool.unfinished() == []
    assert rig.finalised > told
    check(rig, await rig.settle())
    rig.spool.close()
