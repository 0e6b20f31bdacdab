"""A box at work: devices, quality, batches, spool and uplink, from start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from pydantic import JsonValue
from trisense.core import logs
from trisense.core.alarms import ALARM
from trisense.core.errors import LinkError, SpoolError
from trisense.core.messages import CALIBRATION, State
from trisense.core.model import BatchClass, Sample, Stream
from trisense.drivers import Lines, Observed
from trisense.edge.clocks.clock import Clock, SystemClock
from trisense.edge.clocks.clockwatch import ClockWatch
from trisense.edge.clocks.gnss import Gnss
from trisense.edge.clocks.timeline import Timeline
from trisense.edge.config import BoxConfig, Device
from trisense.edge.once import Fault
from trisense.edge.remote import Remote
from trisense.edge.remote.hands import subscriptions
from trisense.edge.sending.allowance import Allowance
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.daybook import Daybook
from trisense.edge.sending.link import Connector
from trisense.edge.sending.uplink import Uplink
from trisense.edge.sensing.batcher import Batcher
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.hotplug import HotPlug
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.stamping import Stamper, stamp_of
from trisense.edge.sensing.supervisor import Supervisor
from trisense.edge.sensing.treatment import Treatment
from trisense.edge.service.manager import Service
from trisense.edge.service.notify import Notifier
from trisense.edge.spool import Cut, Loss, Spool, SpoolOptions
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.status.outside import Outside
from trisense.edge.tasks import together
from trisense.edge.telling.alarms import AlarmWatch
from trisense.edge.telling.health import HEALTH, HealthTeller
from trisense.edge.telling.preview import GapPreview, preview_of, previewed

__all__ = ["Box"]

log = structlog.get_logger(__name__)

TIDY_S: Final = 60.0
TELL_S: Final = 5.0
"""Longest wait for the broker to take the birth of a box that was configured anew."""
STOP_COMMIT_S: Final = 1.5
STOP_LINK_S: Final = 1.5
STOP_NOTE_S: Final = 0.5
"""Together, and with what devices take, within the 5 s that a service may take to leave."""


class Box:
    """One field box. Its parts are made here and opened by ``run``."""

    def __init__(
        self, config: BoxConfig, clock: Clock | None = None, notifier: Notifier | None = None
    ) -> None:
        self.config = config
        gnss = None if config.clock.gnss is None else Gnss(config.clock.gnss, clock or SystemClock())
        self.timeline = Timeline(clock or SystemClock(), hold_s=config.clock.hold_s, source=gnss)
        self.clock: Clock = self.timeline
        self._began_boot_ns = self.clock.boot_ns()
        self.listeners: list[Callable[[Sample], None]] = []
        """Each is given every sample once it waits for its commit; it is quick and never raises."""
        self.door = SpoolThread(Spool(config.spool.path, self.clock, _options(config)))
        self.uplink = Uplink(
            Connector(config.box.id, config.mqtt),
            self.door,
            BirthMaker(config),
            Allowance(config.link, self.clock, Daybook(_beside(config.spool.path, ".link"), self.clock)),
            state=self.state,
            topics=subscriptions(config.box.id),
            on_message=self._message,
            on_connect=self._connected,
        )
        self.batcher = Batcher(
            self._commit, commit_s=config.spool.commit_s, commit_rows=config.spool.commit_rows
        )
        self.devices = DeviceSet(self._supervise)
        self.remote = Remote(self, config)
        self._notifier = notifier or Notifier({})
        self._service = Service(self._notifier, self.devices, self.batcher, self.uplink, self.door)
        self.lines = Lines()
        self.stampers: dict[str, Stamper] = {}
        """By device; what each counted of refused and flagged values begins anew with its device."""
        self._ordinals: dict[tuple[str, str], Ordinals] = {}
        self._clock_watch = ClockWatch(
            self.timeline, self.door, self._ordinals, lambda: self.uplink.committed([]), gnss
        )
        self.alarms = AlarmWatch(self.clock, self.emit)
        self._outside = Outside(self)
        self._own: Stamper
        self._health = HealthTeller(
            self._outside.gatherer.status,
            self.emit,
            alarms_held=lambda: self.alarms.held,
            link_today_bytes=lambda: self.uplink.status().used_bytes,
        )
        self._previews = GapPreview(
            lambda cuts: self._commit(cuts, ()),
            counters=lambda: (self.batcher.committed, self.uplink.counts["data_receipted"]),
            stamp=self.timeline.stamp,
        )
        self.listeners += [self.alarms.heard, self._previews.heard]

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``; what was sensed is in the spool when it returns.

        Raises:
            SpoolError: the spool cannot be opened.
        """
        async with self.door:
            await self._adopt(await self.remote.begin())
            await self._clock_watch.begin()
            log.info("box_starts", box=self.config.box.id, devices=len(self.config.devices))
            committing = asyncio.create_task(self.batcher.run(), name="batcher")
            sending = asyncio.create_task(self.uplink.run(), name="uplink")
            try:
                self._own = await self.stamper([ALARM, HEALTH, CALIBRATION])
                await self._observe(self.config.devices)
                await together(
                    {
                        "stop": _until(stop),
                        "batcher-watch": _watch(committing),
                        "uplink-watch": _watch(sending),
                        "tidy": self._tidy(),
                        "clock": self._clock_watch.run(),
                        "remote": self.remote.run(),
                        "devices": self.devices.run(self.config.devices),
                        "alarms": self.alarms.run(self.devices.supervisors),
                        "health": self._health.run(),
                        "previews": self._previews.run(),
                        "hotplug": HotPlug(self.devices, self.lines).run(),
                        "outside": self._outside.run(),
                        "service": self._service.run([committing, sending]),
                    }
                )
            finally:
                self._notifier.stopping()
                # Only a stop that was asked for: what ends the box otherwise may be its configuration.
                noting = asyncio.create_task(self._note_end(stop), name="remote-stop")
                self.batcher.stop()
                await _within(STOP_COMMIT_S, committing)
                sending.cancel()
                await _within(STOP_LINK_S, sending)
                await _within(STOP_NOTE_S, noting)
                log.info("box_stops", committed=self.batcher.committed, **self.uplink.counts)

    async def _note_end(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            await self.remote.stopped()

    async def told(self) -> dict[str, JsonValue]:
        """The picture of ``edge status`` without the values, for which there is ``read``."""
        picture = await self._outside.gatherer.status()
        told: dict[str, JsonValue] = picture.model_dump(
            mode="json", exclude={"devices": {"__all__": {"streams"}}}
        )
        return told

    def reload(self) -> None:
        """Take over what changed in the box's own file, soon; what comes of it is logged."""
        self.remote.reload()

    async def apply(self, config: BoxConfig) -> None:
        """Work by ``config`` from now on; what it leaves as it is notices nothing.

        ``[box]`` id and site, ``[spool]`` and what is opened at the start stay as they were.
        """
        self._notifier.reloading()
        try:
            await self._adopt(config)
            await self.devices.apply(config.devices)
            await self._observe(self.devices.devices.values())
        finally:
            self._notifier.ready()

    async def _observe(self, devices: Collection[Device]) -> None:
        """Let alarms and previews follow the configuration and these devices."""
        config = self.config
        self.alarms.apply(config.alarms, devices)
        streams = previewed(devices) if config.link.preview else []
        await self._number([made for stream in streams if (made := preview_of(stream)) is not None])
        self._previews.watch(streams, self._ordinals.__getitem__, after_s=config.link.preview_after_s)

    async def _adopt(self, config: BoxConfig) -> None:
        """``apply`` for all but the devices."""
        before, self.config = self.config, config
        if config is before:
            return
        logs.set_level(config.log.level)
        if config.mqtt != before.mqtt:
            self.uplink.use(Connector(config.box.id, config.mqtt))
        self.uplink.limit(config.link)
        with contextlib.suppress(LinkError, TimeoutError):  # the next connection begins with it
            async with asyncio.timeout(TELL_S):
                await self.uplink.tell(BirthMaker(config))

    def _connected(self) -> None:
        self.remote.reporter.connected()

    async def _message(self, topic: str, payload: bytes) -> None:
        await self.remote.take(topic, payload)

    async def stamper(
        self,
        treated: Treatment | Sequence[Stream],
        tell: Callable[[Observed], None] | None = None,
    ) -> Stamper:
        """A stamper for a device or for streams of the box's own, going on where their committed ordinals
        stopped; ``tell`` as in ``Stamper``.
        """
        streams = treated.streams if isinstance(treated, Treatment) else treated
        await self._number(streams)
        return Stamper(treated, self._ordinals.__getitem__, tell)

    async def _number(self, streams: Iterable[Stream]) -> None:
        """Have ordinals of these streams."""
        fresh = [stream.key for stream in streams if stream.key not in self._ordinals]
        known = await self.door.run(lambda spool: {key: spool.ordinals(key) for key in fresh})
        for key, ordinals in known.items():
            self._ordinals.setdefault(key, ordinals)

    def take(self, stamper: Stamper, rows: Sequence[Observed]) -> None:
        """Stamp ``rows``, queue them for the next commit, and show them to the listeners."""
        at = self.timeline.stamp()
        for row, sample in stamper.stamp(rows, at):
            batch_class = BatchClass.MEDIA if row.blob is not None else row.batch_class
            self.batcher.add(batch_class, sample, row.blob, stamp=stamp_of(row, at))
            self._outside.saw(batch_class, sample)
            for listener in self.listeners:
                listener(sample)

    def emit(self, rows: Sequence[Observed]) -> None:
        """Take ``rows`` of the box's own streams; only while it runs."""
        self.take(self._own, rows)

    async def _supervise(self, device: Device, phase: float) -> Supervisor:
        stamper = await self.stamper(device.treatment, lambda row: self.emit([row]))
        self.stampers = {name: self.stampers[name] for name in self.stampers if name in self.devices.devices}
        self.stampers[device.name] = stamper
        return Supervisor(device.driver, self.lines, partial(self.take, stamper), phase=phase)

    async def _tidy(self) -> None:
        fault = Fault(log, "tidy_failed", "tidy_works", level="error")
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await self.door.run(Spool.tidy)
                waiting = await self.door.run(Spool.waiting)
            except SpoolError as error:
                fault.failed(why=str(error))
                continue
            fault.recovered()
            failing = [name for name, s in self.devices.supervisors.items() if s.health.error is not None]
            log.info(
                "box",
                committed=self.batcher.committed,
                dropped=self.batcher.dropped,
                waiting_batches=waiting,
                connected=self.uplink.connected,
                failing=failing,
                **self.uplink.counts,
            )

    def state(self, online: bool) -> State:
        """What its topic says: online since it began, as its time is known now; offline since now.

        In a will that is when the connection was made: what breaks it comes later.
        """
        now_ns = self.clock.now_ns()
        since_ns = now_ns - (self.clock.boot_ns() - self._began_boot_ns) if online else now_ns
        since = datetime.fromtimestamp(since_ns / 1e9, UTC).isoformat(timespec="seconds")
        return State(online=online, boot_id=self.clock.boot_id, since=since)

    async def _commit(self, cuts: Sequence[Cut], losses: Sequence[Loss]) -> None:
        final = [self._clock_watch.final(cut) for cut in cuts]
        self.uplink.committed(await self.door.run(lambda spool: spool.commit(final, losses)))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _options(config: BoxConfig) -> SpoolOptions:
    return SpoolOptions(
        max_bytes=config.spool.max_bytes,
        media_share=config.spool.media_share,
        preview_share=config.spool.preview_share,
        keep_s=config.spool.keep_hours * 3600,
        ballast_bytes=config.spool.ballast_bytes,
    )


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _watch(task: asyncio.Task[None]) -> None:
    """End with ``task`` but never end it."""
    await asyncio.wait([task])
    task.result()


async def _within(limit_s: float, task: asyncio.Task[None]) -> None:
    """Wait for a task that is to end; what it raised has been seen by ``_watch`` or is logged here."""
    await asyncio.wait([task], timeout=limit_s)
    if not task.done():
        log.error("task_did_not_end", task=task.get_name(), waited_s=limit_s)
        task.cancel()
    elif not task.cancelled() and task.exception() is not None:
        log.error("task_failed", task=task.get_name(), why=repr(task.exception()))
