"""A configuration from afar: checked, tried, proven healthy, or rolled back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Final, Protocol

import structlog
from trisense.core.errors import ConfigError, DeviceError, RemoteError, TrisenseError
from trisense.core.remote import (
    LIST_MAX,
    ConfigState,
    Desired,
    Difference,
    MistakeJson,
    Reported,
    check_content,
    desired_of,
)
from trisense.edge.config import BoxConfig, load
from trisense.edge.remote.checking import from_afar, needs_restart
from trisense.edge.remote.difference import difference
from trisense.edge.remote.door import closed
from trisense.edge.remote.keeper import Keeper
from trisense.edge.remote.reporter import Reporter
from trisense.edge.remote.trial import Before, Trial
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.supervisor import Supervisor

__all__ = ["Changes", "Changing"]

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.25
"""Between two looks at the devices on trial."""
SETTLE_S: Final = 15.0
"""After its start a box waits so long, before a change, for devices that have neither worked nor failed
yet: what they did before is the measure of what they do after it."""
STEADY_S: Final = 2.0
"""So long nothing may speak against a change before it counts as good."""
ASK_AGAIN_S: Final = 5.0
WAITING_MAX: Final = 8
"""Configurations that wait; at the limit the oldest goes (``drop_oldest``)."""


class Changing(Protocol):
    """A box that can be given another configuration while it works."""

    config: BoxConfig
    devices: DeviceSet

    async def apply(self, config: BoxConfig) -> None: ...


class Changes:
    """Does one change at a time. Between two changes the box runs what the keeper calls good."""

    def __init__(self, box: Changing, keeper: Keeper, reporter: Reporter) -> None:
        self._box = box
        self._keeper = keeper
        self._reporter = reporter
        self._waiting: deque[bytes] = deque(maxlen=WAITING_MAX)
        self._some = asyncio.Event()
        self._one = asyncio.Lock()
        self._settled_s = time.monotonic() + SETTLE_S

    def put(self, payload: bytes) -> None:
        """Take what was published as desired; an empty one withdraws it, and the box goes on as it is."""
        if payload:
            self._waiting.append(payload)
            self._some.set()

    async def run(self) -> None:
        """Handle what comes, until cancelled.

        Raises:
            TrisenseError: not even the last good configuration could be put back; a restart ends there.
        """
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                async with self._one:
                    await self._handle(self._waiting.popleft())

    async def reload(self) -> bool:
        """Put the box's own file to work, when it changed; whether it did.

        Raises:
            RemoteError: it cannot be used, or only by a restart; nothing changed.
        """
        if self._one.locked():
            raise RemoteError("busy", "a configuration from afar is being tried")
        async with self._one:
            try:
                local = await asyncio.to_thread(load, self._keeper.local.path)
            except ConfigError as error:
                raise RemoteError("invalid", str(error)) from error
            if local.text == self._keeper.local.text:
                return False
            fixed = [str(mistake) for mistake in needs_restart(self._keeper.local, local)]
            if fixed:
                raise RemoteError("cannot", "restart the box for this: " + "; ".join(fixed))
            before = self._box.config
            try:
                await self._box.apply(local)
            except TrisenseError as error:
                await self._box.apply(before)
                raise RemoteError("failed", str(error)) from error
            self._reporter.say(await asyncio.to_thread(self._keeper.own_file_wins, local))
            return True

    async def _handle(self, payload: bytes) -> None:
        try:
            desired = desired_of(payload)
        except RemoteError as error:
            self._reporter.say(self._now("rejected", None, reason=str(error)))
            return
        try:
            config, change = await asyncio.to_thread(self._checked, desired)
        except RemoteError as error:
            await self._answer(desired, self._now("rejected", desired, reason=str(error)))
        except ConfigError as error:
            mistakes = [MistakeJson.of(mistake) for mistake in error.mistakes[:LIST_MAX]]
            reason = "1 mistake" if len(error.mistakes) == 1 else f"{len(error.mistakes)} mistakes"
            await self._answer(desired, self._now("rejected", desired, reason=reason, mistakes=mistakes))
        except Exception as error:  # the edge: a driver's bug must not end the box, which would meet it again
            log.exception("configuration_broken", desired=desired.hash[:16])
            await self._answer(desired, self._now("rejected", desired, reason=f"a bug: {error!r}"))
        else:
            if desired.dry_run:
                await self._answer(desired, self._now("checked", desired, change=change))
            elif not self._done_before(desired):
                await self._try(desired, config, change)

    def _checked(self, desired: Desired) -> tuple[BoxConfig, Difference]:
        if not self._keeper.local.remote.config:
            raise RemoteError("not_allowed", "[remote] config = false on the box")
        if (why := closed(self._box.config)) is not None:
            raise RemoteError("not_allowed", why)
        check_content(desired)
        config = from_afar(self._keeper.local, desired.content)
        return config, difference(self._box.config, config)

    def _done_before(self, desired: Desired) -> bool:
        """Whether this one is at work, or was given up and is not tried again; says which."""
        tried = self._keeper.tried
        if tried is not None and (tried.hash, tried.attempt) == (desired.hash, desired.attempt):
            self._reporter.say(self._keeper.report())
            return True
        if self._keeper.report().running == desired.hash:
            self._reporter.say(self._now("running", desired))
            return True
        return False

    async def _try(self, desired: Desired, config: BoxConfig, change: Difference) -> None:
        before = self._box.config
        self._reporter.say(self._now("checking", desired, change=change))
        await self._settled()
        try:
            await asyncio.to_thread(self._keeper.put_on_trial, desired)
        except OSError as error:
            self._reporter.say(self._now("rejected", desired, reason=f"cannot be kept on the disk: {error}"))
            return
        health_s = desired.health_s or self._keeper.local.remote.health_s
        try:
            complaints = await self._prove(desired, config, change, health_s)
            if not complaints:
                await asyncio.to_thread(self._keeper.confirm)
        except (TrisenseError, OSError) as error:
            complaints = [str(error)]
        except Exception as error:  # the edge: whatever went wrong with it, the box goes back
            log.exception("configuration_broken", desired=desired.hash[:16])
            complaints = [repr(error)]
        if complaints:
            await self._box.apply(before)
            reason = f"not healthy within {health_s:g} s: " + "; ".join(complaints[:10])
            await asyncio.to_thread(self._keeper.roll_back, reason)
        self._reporter.say(self._keeper.report().model_copy(update={"difference": change}))

    async def _settled(self) -> None:
        while time.monotonic() < self._settled_s:
            health = [supervisor.health for supervisor in self._box.devices.supervisors.values()]
            if all(one.reads or one.failures for one in health):
                return
            await asyncio.sleep(LOOK_S)

    async def _prove(
        self, desired: Desired, config: BoxConfig, change: Difference, health_s: float
    ) -> list[str]:
        """Put ``config`` to work; what still speaks against it after ``health_s``, or nothing at once."""
        before = Before.of(self._box.devices)
        connection = self._reporter.connections + (config.mqtt != self._box.config.mqtt)
        await self._box.apply(config)
        trial = self._now("trial", desired, change=change)
        self._reporter.say(trial)
        judge = Trial(before, self._box.devices, health_s)
        asking = [asyncio.create_task(self._ask(supervisor)) for supervisor in judge.to_ask()]
        until_s = time.monotonic() + health_s
        steady_s = min(STEADY_S, health_s / 4)
        well_since_s: float | None = None
        try:
            while True:
                complaints = judge.complaints()
                if not self._reporter.heard(trial, connection):
                    complaints.append("the broker has not acknowledged the report")
                now_s = time.monotonic()
                well_since_s = None if complaints else well_since_s or now_s
                if now_s >= until_s or (well_since_s is not None and now_s - well_since_s >= steady_s):
                    return complaints
                await asyncio.sleep(LOOK_S)
        finally:
            for task in asking:
                task.cancel()

    @staticmethod
    async def _ask(supervisor: Supervisor) -> None:
        """Read a new device at once: its schedule may let it wait for an hour."""
        while not supervisor.health.reads:
            with contextlib.suppress(DeviceError):
                await supervisor.ask()
                return
            await asyncio.sleep(ASK_AGAIN_S)

    async def _answer(self, desired: Desired, report: Reported) -> None:
        if desired.dry_run:
            await self._reporter.answer(report)
        else:
            self._reporter.say(report)

    def _now(
        self,
        state: ConfigState,
        desired: Desired | None,
        *,
        reason: str = "",
        mistakes: list[MistakeJson] | None = None,
        change: Difference | None = None,
    ) -> Reported:
        """What the box runs, and where it stands with ``desired``."""
        standing: dict[str, object] = {
            "state": state,
            "desired": None if desired is None else desired.hash,
            "attempt": 0 if desired is None else desired.attempt,
            "reason": reason,
            "mistakes": mistakes or [],
            "difference": change,
        }
        if desired is not None and state == "trial":
            standing |= {"running": desired.hash, "source": "remote"}
        return self._keeper.report().model_copy(update=standing)
