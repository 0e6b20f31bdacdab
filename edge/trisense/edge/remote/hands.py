"""The remote hands of one box, put together."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from trisense.core import topics
from trisense.core.errors import RemoteError
from trisense.edge.clocks.clock import Clock
from trisense.edge.config import BoxConfig
from trisense.edge.once import Fault
from trisense.edge.remote import record, watch
from trisense.edge.remote.changes import Changes, Changing
from trisense.edge.remote.commands import Commands
from trisense.edge.remote.door import closed
from trisense.edge.remote.keeper import Keeper
from trisense.edge.remote.reporter import Reporter
from trisense.edge.remote.verbs import Hands, Verbs
from trisense.edge.tasks import together

__all__ = ["Remote", "RemoteBox", "subscriptions"]


class RemoteBox(Changing, Hands, Protocol):
    """A box that remote hands can work on."""

    clock: Clock


log = structlog.get_logger(__name__)


def subscriptions(box: str) -> list[str]:
    """Topics whose messages go to ``Remote.take``."""
    return [topics.command(box, "+"), topics.desired(box)]


class Remote:
    """Takes what the link brings for one box."""

    def __init__(self, box: RemoteBox, local: BoxConfig) -> None:
        """``local`` is the box's own file."""
        self._keeper = Keeper(local, record.path_beside(local.spool.path), box.clock)
        self._desired = topics.desired(local.box.id)
        self._reload = asyncio.Event()
        self._box = box
        self._refused = Fault(log, "remote_refused", forget_s=3600.0)
        self.reporter = Reporter(local.box.id, box.uplink)
        self.changes = Changes(box, self._keeper, self.reporter)
        self._commands = Commands(box, box.clock, Verbs(box, self.changes))

    async def begin(self) -> BoxConfig:
        """What to run after a start; the spool is ours by now, so the record beside it is too."""
        start = await asyncio.to_thread(self._keeper.begin)
        self.reporter.say(start.reported)
        self._tell_refused(start.config)
        return start.config

    def _tell_refused(self, config: BoxConfig) -> None:
        if (why := closed(config)) is not None:
            self._refused.failed(why=why)

    def reload(self) -> None:
        """Read the box's own file again, soon; what comes of it is logged."""
        self._reload.set()

    async def _reloads(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                log.info("reloaded", changed=await self.changes.reload())
            except RemoteError as error:
                log.error("reload_refused", reason=error.reason, why=error.detail)

    async def take(self, topic: str, payload: bytes) -> None:
        """Take a message of ``subscriptions``; it is worked on apart from this."""
        self._tell_refused(self._box.config)
        if topic == self._desired:
            self.changes.put(payload)
        else:
            await self._commands.put(topic.rpartition("/")[2], payload)

    async def stopped(self) -> None:
        """Write down that the box was stopped in order."""
        await asyncio.to_thread(self._keeper.stopped)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(watch.AGE_EVERY_S)
            await asyncio.to_thread(self._keeper.aged)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            TrisenseError: the last good configuration could not be put back; the next start does it.
        """
        await together(
            {
                "remote-report": self.reporter.run(),
                "remote-config": self.changes.run(),
                "remote-commands": self._commands.run(),
                "remote-reload": self._reloads(),
                "remote-watch": self._watch(),
            }
        )
