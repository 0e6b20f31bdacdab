"""Devices that are asked: one question, one answer, on a line that one device has for itself."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from trisense.core.errors import DeviceError, DeviceTimeout, FrameError, LineError
from trisense.drivers.framing import Damage, Decoder, FramedConfig
from trisense.drivers.lines import Line, Lines
from trisense.drivers.sdk import Frame, Observed, PolledDriver

__all__ = ["AskedDriver", "Dialogue"]

QUIET_S: Final = 0.2
"""What came damaged or cut short and then stopped for so long will not be followed by a good answer:
longer than any gap inside a frame, serial servers included."""


class Dialogue:
    """Questions to one device and its answers, as frames of a ``Decoder``."""

    def __init__(self, line: Line, decoder: Callable[[], Decoder], *, device: str, timeout_s: float) -> None:
        self._line = line
        self._decoder = decoder
        self._device = device
        self._timeout_s = timeout_s

    async def tell(self, command: bytes) -> None:
        """Send what nobody answers, or what is not worth waiting for.

        Raises:
            LineError: the line is gone.
        """
        await self._line.write(command)

    async def ask(
        self, question: bytes, is_answer: Callable[[Frame], bool], *, timeout_s: float | None = None
    ) -> Frame:
        """Send ``question`` and wait for the frame that answers it; others that come meanwhile are skipped.

        What lay on the line before, such as an answer that came too late, is thrown away.

        Raises:
            DeviceTimeout: no answer within ``timeout_s``.
            FrameError: what came is damaged, and nothing more came.
            LineError: the line is gone.
        """
        await self._line.flush_input()
        await self._line.write(question)
        return await self._answer(is_answer, self._timeout_s if timeout_s is None else timeout_s)

    async def hear(self, is_answer: Callable[[Frame], bool], *, timeout_s: float) -> Frame:
        """Wait for a frame that the device sends by itself behind its last answer.

        Raises:
            DeviceTimeout: it did not come within ``timeout_s``.
            FrameError: what came is damaged, and nothing more came.
            LineError: the line is gone.
        """
        return await self._answer(is_answer, timeout_s)

    async def _answer(self, is_answer: Callable[[Frame], bool], timeout_s: float) -> Frame:
        loop, decoder = asyncio.get_running_loop(), self._decoder()
        last = loop.time() + timeout_s
        waits_until, damage = last, None
        while True:
            try:
                async with asyncio.timeout_at(waits_until):
                    pieces = decoder.feed(await self._line.read())
                over = False
            except TimeoutError:
                pieces, over = decoder.finish(), True
            for piece in pieces:
                if isinstance(piece, Damage):
                    damage = piece
                elif is_answer(piece):
                    return piece
            if over and damage is not None:
                raise FrameError(self._device, f"answer damaged: {damage.reason}", damage.start)
            if over:
                raise DeviceTimeout(self._device, "no answer", timeout_s=timeout_s)
            unsettled = damage is not None or decoder.unsettled
            waits_until = min(last, loop.time() + QUIET_S) if unsettled else last


C = TypeVar("C", bound=FramedConfig)


class AskedDriver(PolledDriver[C]):
    """Base of a device that answers questions on a line of its own.

    ``begin`` brings it into a known state, when it is connected and again after a read that failed: a
    sensor that lost its power has forgotten what it was told.
    """

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self._line: Line | None = None
        self._begun = False

    @abstractmethod
    def decoder(self) -> Decoder:
        """A fresh decoder for one answer."""

    @abstractmethod
    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        """Ask for the readings of now."""

    async def begin(self, device: Dialogue) -> None:
        """Wake the device and set its mode; nothing by default."""

    async def connect(self, lines: Lines) -> None:
        self._begun = False
        self._line = await lines.open(self.config.line, timeout_s=self.config.timeout_s)
        await self._begin_once()

    async def read(self) -> Sequence[Observed]:
        await self._begin_once()
        try:
            return await self.poll(self._dialogue())
        except DeviceError:
            self._begun = False
            raise

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def _begin_once(self) -> None:
        if not self._begun:
            await self.begin(self._dialogue())
            self._begun = True

    def _dialogue(self) -> Dialogue:
        if self._line is None:
            raise LineError(self.config.line, "is not open")
        return Dialogue(self._line, self.decoder, device=self.config.name, timeout_s=self.config.timeout_s)
