"""Devices that say nothing when there is nothing: silence counts only where they answer when asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar

from trisense.core.errors import DeviceTimeout, LineError
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.sdk import Observed

__all__ = ["QuietDriver"]

C = TypeVar("C", bound=FramedConfig)


class QuietDriver(FramedDriver[C]):
    """Base of such a device: after ``silence_s`` without a frame it is asked for a sign of life.

    An answer makes the row of ``nothing``; without one within ``timeout_s`` the device is gone.
    """

    @abstractmethod
    async def ask_for_life(self, device: Dialogue) -> None:
        """Have it answer anything; raises DeviceTimeout where it does not."""

    @abstractmethod
    def nothing(self) -> Observed:
        """The row that says: it is there, and there is nothing."""

    async def observe(self) -> AsyncIterator[Observed]:
        while True:
            try:
                async with aclosing(super().observe()) as rows:  # type: ignore[type-var]  # an async generator
                    async for row in rows:
                        yield row
            except DeviceTimeout:
                await self.ask_for_life(self._dialogue())
                yield self.nothing()

    def _dialogue(self) -> Dialogue:
        if self._line is None:
            raise LineError(self.config.line, "is not open")
        return Dialogue(self._line, self.decoder, device=self.config.name, timeout_s=self.config.timeout_s)
