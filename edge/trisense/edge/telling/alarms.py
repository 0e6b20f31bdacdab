"""Rules on the box: every sample and every device judged, what is raised or cleared told at once.

It needs no gateway: a transition becomes a sample of the stream ``box/alarm`` of class alarm, which is
committed by itself and waits in the spool like any other until it can travel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog
from trisense.core.alarms import ALARM, Evaluator, Rule, Subject, Transition, alarm_values, bind
from trisense.core.model import BatchClass, Sample
from trisense.drivers import Observed
from trisense.edge.clocks.clock import Clock
from trisense.edge.config import Device
from trisense.edge.sensing.supervisor import Supervisor
from trisense.edge.telling.alarm_tables import sources

__all__ = ["AlarmWatch"]

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5


class AlarmWatch:
    """Judges what the box senses by its rules, with boot time for durations, which never steps."""

    def __init__(self, clock: Clock, tell: Callable[[Sequence[Observed]], None]) -> None:
        """``tell`` is given rows of ``core.alarms.ALARM``."""
        self._clock = clock
        self._tell = tell
        self._evaluator = Evaluator()

    def apply(self, rules: Sequence[Rule], devices: Iterable[Device]) -> None:
        """Watch by these rules from now on; what stays as it was goes on undisturbed.

        A subject that is watched no more while its alarm is active is cleared. Rules that ask for what the
        devices do not have watch what is there: the configuration was to be checked before.
        """
        subjects, _ = bind(rules, sources(devices))
        self._say(self._evaluator.watch(subjects, self._now_s(), self._clock.now_ns()))

    def heard(self, sample: Sample) -> None:
        """A listener of the box: judge one sample."""
        self._say(self._evaluator.feed(sample, self._now_s()))

    def look(self, supervisors: Mapping[str, Supervisor]) -> None:
        """Judge what time decides: devices that fail, silence, and what was held back."""
        now_s, now_ns = self._now_s(), self._clock.now_ns()
        for name, supervisor in supervisors.items():
            health = supervisor.health
            if health.error is not None:
                self._say(self._evaluator.device(name, True, health.error, now_s, now_ns))
            elif health.reads or health.connected:
                self._say(self._evaluator.device(name, False, "", now_s, now_ns))
        self._say(self._evaluator.tick(now_s))

    async def run(self, supervisors: Mapping[str, Supervisor]) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look(supervisors)
            await asyncio.sleep(TICK_S)

    @property
    def active(self) -> list[tuple[Subject, float]]:
        """What is raised now, and for how many seconds its condition has held."""
        now_s = self._now_s()
        return [(subject, now_s - since_s) for subject, since_s in self._evaluator.active]

    @property
    def held(self) -> int:
        """Transitions that were summed up in a later one because a subject had too many."""
        return self._evaluator.held

    def _say(self, told: Sequence[Transition]) -> None:
        for transition in told:
            values = alarm_values(transition)
            # That all is well after a start is no alarm: with many rules these are many rows, so they
            # travel with the readings.
            batch_class = BatchClass.ALARM if transition.occurrence else BatchClass.DATA
            self._tell([Observed(ALARM.measurement, values, batch_class=batch_class)])
            if transition.occurrence:
                facts = {k: v for k, v in values.items() if v is not None and k not in ("state", "rule")}
                say = log.warning if transition.raised else log.info
                say("alarm_raised" if transition.raised else "alarm_cleared", alarm=values["rule"], **facts)

    def _now_s(self) -> float:
        return self._clock.boot_ns() / 1e9
