"""Keeps the retained report of the box's configuration true: at each connect, and whenever it changes."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from trisense.core import topics
from trisense.core.errors import LinkError
from trisense.core.remote import Reported, report_text
from trisense.edge.sending.uplink import Uplink

__all__ = ["Reporter"]

log = structlog.get_logger(__name__)

AGAIN_S: Final = 1.0
"""Between two tries over a connection that breaks just then."""


class Reporter:
    """Publishes the newest report until the broker has it."""

    def __init__(self, box: str, uplink: Uplink) -> None:
        self.report: Reported | None = None
        self.connections = 0
        """Connections since the start."""
        self._told: tuple[Reported | None, int] = (None, 0)
        """The report that the broker acknowledged last, and on which connection."""
        self._topic = topics.reported(box)
        self._uplink = uplink
        self._news = asyncio.Event()

    def connected(self) -> None:
        """A new connection: brokers forget, so it begins with the report."""
        self.connections += 1
        self._news.set()

    def heard(self, report: Reported, connection: int) -> bool:
        """Whether the link is up, and the broker took ``report`` on that connection or a later one."""
        told, on = self._told
        return told is report and on >= connection and self._uplink.connected

    def say(self, report: Reported) -> None:
        """Replace the report; a box without a link tells the newest when it has one."""
        if self.report is None or report != self.report.model_copy(update={"since": report.since}):
            log.info("configuration", state=report.state, running=report.running[:16], why=report.reason)
            self.report = report
        self._news.set()

    async def answer(self, report: Reported) -> None:
        """Tell the outcome of a dry run: once, and beside what is retained."""
        try:
            await self._uplink.publish(self._topic, report_text(report))
        except LinkError as error:
            log.info("answer_not_sent", why=str(error))

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            report, connection = self.report, self.connections
            if report is None or connection == 0:
                continue
            try:
                await self._uplink.publish(self._topic, report_text(report), retain=True)
            except LinkError:
                await asyncio.sleep(AGAIN_S)
                if self._uplink.connected:
                    self._news.set()  # else the next connection begins with it
            else:
                if connection == self.connections:
                    self._told = (report, connection)
