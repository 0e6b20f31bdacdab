"""A box at work: devices, quality, batches, spool and uplink, from start to an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
from trisense.core.errors import SpoolError
from trisense.core.messages import State
from trisense.core.model import BatchClass
from trisense.drivers import Lines, Observed
from trisense.edge.batcher import Batcher
from trisense.edge.birth import BirthMaker
from trisense.edge.clock import Clock, SystemClock
from trisense.edge.config import BoxConfig
from trisense.edge.link import Connector
from trisense.edge.quality import Stamper
from trisense.edge.spool import Cut, Loss, Spool, SpoolOptions
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.supervisor import Supervisor
from trisense.edge.tasks import together
from trisense.edge.uplink import Uplink

__all__ = ["Box"]

log = structlog.get_logger(__name__)

TIDY_S: Final = 60.0
SPREAD: Final = 0.618_033_988_75
"""The golden ratio: any run of its multiples, modulo 1, lies apart, so that devices that are listed
together because they share a bus do not all ask for it at once."""
STOP_DEVICES_S: Final = 1.5
STOP_COMMIT_S: Final = 1.5
STOP_LINK_S: Final = 1.5
"""Together within the 5 s that a service may take to leave."""


class Box:
    """One field box."""

    def __init__(self, config: BoxConfig, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self.supervisors: dict[str, Supervisor] = {}
        self._lines = Lines()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``; what was sensed is in the spool when it returns.

        Raises:
            SpoolError: the spool cannot be opened.
        """
        spool = Spool(self.config.spool.path, self._clock, _options(self.config))
        async with SpoolThread(spool) as door:
            uplink = Uplink(
                Connector(self.config.box.id, self.config.mqtt),
                door,
                BirthMaker(self.config),
                media_share=self.config.mqtt.media_share,
                state=self._state,
            )
            batcher = Batcher(partial(self._commit, door, uplink))
            log.info("box_starts", box=self.config.box.id, devices=len(self.config.devices))
            committing = asyncio.create_task(batcher.run(), name="batcher")
            sending = asyncio.create_task(uplink.run(), name="uplink")
            try:
                await together(
                    {
                        "stop": _until(stop),
                        "batcher-watch": _watch(committing),
                        "uplink-watch": _watch(sending),
                        "tidy": self._tidy(door, batcher, uplink),
                        "devices": self._devices(door, batcher),
                    }
                )
            finally:
                batcher.stop()
                await _within(STOP_COMMIT_S, committing)
                sending.cancel()
                await _within(STOP_LINK_S, sending)
                log.info("box_stops", committed=batcher.committed, **uplink.counts)

    async def _devices(self, door: SpoolThread, batcher: Batcher) -> None:
        tasks = []
        polled = [d for d in self.config.devices if d.driver.kind == "polled"]
        for device in self.config.devices:
            streams = device.driver.streams()
            keys = [stream.key for stream in streams]
            ordinals = await door.run(lambda spool, keys=keys: {k: spool.ordinals(k) for k in keys})  # type: ignore[misc]
            stamper = Stamper(streams, self._clock, ordinals.__getitem__)
            phase = polled.index(device) * SPREAD % 1 if device in polled else 0.0
            take = partial(_take, stamper, batcher)
            supervisor = Supervisor(device.driver, self._lines, take, phase=phase)
            self.supervisors[device.name] = supervisor
            tasks.append(asyncio.create_task(supervisor.run(), name=f"device-{device.name}"))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_DEVICES_S)

    async def _tidy(self, door: SpoolThread, batcher: Batcher, uplink: Uplink) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await door.run(Spool.tidy)
                waiting = await door.run(Spool.waiting)
            except SpoolError as error:
                log.error("tidy_failed", why=str(error))
                continue
            devices = {name: s.health for name, s in self.supervisors.items()}
            log.info(
                "box",
                committed=batcher.committed,
                dropped=batcher.dropped,
                waiting_batches=waiting,
                connected=uplink.connected,
                failing=[name for name, health in devices.items() if health.error is not None],
                **uplink.counts,
            )

    def _state(self, online: bool) -> State:
        return State(online=online, boot_id=self._clock.boot_id, since=self._since)

    @staticmethod
    async def _commit(door: SpoolThread, uplink: Uplink, cuts: Sequence[Cut], losses: Sequence[Loss]) -> None:
        uplink.committed(await door.run(lambda spool: spool.commit(cuts, losses)))


def _take(stamper: Stamper, batcher: Batcher, rows: Sequence[Observed]) -> None:
    for row, sample in stamper.stamp(rows):
        batch_class = BatchClass.MEDIA if row.blob is not None else row.batch_class
        batcher.add(batch_class, sample, row.blob)


def _options(config: BoxConfig) -> SpoolOptions:
    return SpoolOptions(
        max_bytes=config.spool.max_bytes,
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
