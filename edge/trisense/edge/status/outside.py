"""All that a box shows on its own machine, run beside its work and never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from trisense.core.model import BatchClass, Sample
from trisense.edge.once import Fault
from trisense.edge.status.gather import Gatherer, Parts
from trisense.edge.status.scrape import MetricsServer
from trisense.edge.status.server import StatusServer
from trisense.edge.status.table import loopback_address, socket_of
from trisense.edge.status.tap import Taps
from trisense.edge.tasks import together

__all__ = ["Outside"]

log = structlog.get_logger(__name__)

AGAIN_S: Final = 60.0
"""Until a socket that cannot be made is tried again."""


class Outside:
    """Give ``saw`` every sample, and ``run`` the time of the box."""

    def __init__(self, box: Parts) -> None:
        config = box.config
        self.taps = Taps()
        self.gatherer = Gatherer(box)
        self._socket = StatusServer(
            socket_of(config.status, config.spool.path), self.gatherer.status, self.taps
        )
        self._metrics = None
        if config.status.metrics is not None:
            host, port = loopback_address(config.status.metrics)
            self._metrics = MetricsServer(host, port, self.gatherer.status)

    def saw(self, batch_class: BatchClass, sample: Sample) -> None:
        self.gatherer.latest.saw(sample)
        self.taps.saw(batch_class, sample)

    async def run(self) -> None:
        """Show until cancelled. A socket that cannot be had is told, and costs the box nothing else."""
        parts = {"gatherer": self.gatherer.run(), "status-socket": _keep("status_socket", self._socket.run)}
        if self._metrics is not None:
            parts["metrics"] = _keep("metrics", self._metrics.run)
        await together(parts)


async def _keep(name: str, serve: Callable[[], Awaitable[None]]) -> None:
    fault = Fault(log, f"{name}_failed")
    while True:
        try:
            await serve()
        except OSError as error:
            fault.failed(why=str(error))
        await asyncio.sleep(AGAIN_S)
