"""Cutting frames out of a stream of bytes: one incremental decoder under every byte protocol.

A protocol says in ``Decoder.cut`` what stands at one place of the bytes; buffering, resynchronising, counting
damage and reading a line are done here once. Any split of the same bytes gives the same frames.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from trisense.core.errors import DeviceTimeout
from trisense.drivers.lines import Line, Lines, LineUrl
from trisense.drivers.sdk import DeviceConfig, Frame, Observed, StreamingDriver

__all__ = ["Cut", "Damage", "Decoder", "FramedCodec", "FramedConfig", "FramedDriver", "read_frames"]

SHOWN_BYTES = 24
RUN_BYTES = 4096
"""Noise without an end is told each time it reaches this length."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What stands at one place of a stream: a frame, a damaged frame, or noise where both are None."""

    size: int
    """Bytes it takes, at least 1. After damage take only what cannot begin the next frame: often 1."""
    frame: Frame | None = None
    damage: str | None = None
    """Why nothing of it may be used, such as ``checksum``."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged frame, with the noise behind it, or a run of noise."""

    reason: str
    size: int
    start: bytes
    """Its first bytes, for a person."""

    def __str__(self) -> str:
        shown = self.start.hex(" ") + (" ..." if self.size > len(self.start) else "")
        return f"{self.reason}, {self.size} bytes: {shown}"


class Decoder(ABC):
    """Bytes in, frames and damage out, in order; holds at most one unfinished frame."""

    max_frame: ClassVar[int]
    """Longest frame in bytes; whatever pretends to be longer is damage."""

    def __init__(self) -> None:
        self._rest = b""
        self._run = ""
        self._run_size = 0
        self._run_start = b""

    @property
    def unsettled(self) -> bool:
        """Whether it holds the beginning of a frame, or damage that it has not told yet."""
        return bool(self._rest or self._run)

    @abstractmethod
    def cut(self, data: bytes, start: int) -> Cut | None:
        """Judge what stands at ``data[start]``, which is there; None where more bytes are needed.

        The answer may depend on the bytes of the cut alone, never on how many follow, and None never
        comes once ``max_frame`` bytes are there.
        """

    def feed(self, data: bytes) -> list[Frame | Damage]:
        """Take bytes as they come; any split of them gives the same frames."""
        self._rest += data
        return self._cut_all(final=False)

    def finish(self) -> list[Frame | Damage]:
        """Nothing more comes: look for frames inside what was left unfinished."""
        found = self._cut_all(final=True)
        found += self._end_run()
        return found

    def _cut_all(self, *, final: bool) -> list[Frame | Damage]:
        data, start, end = self._rest, 0, len(self._rest)
        found: list[Frame | Damage] = []
        while start < end:
            cut = self.cut(data, start)
            if cut is None:
                if not final and end - start < self.max_frame:
                    break
                cut = Cut(1, damage="unfinished" if final else "too long")
            if cut.frame is not None:
                found += self._end_run()
                found.append(cut.frame)
            else:
                found += self._skip(data[start : start + cut.size], cut.damage)
            start += cut.size
        self._rest = data[start:]
        return found

    def _skip(self, skipped: bytes, damage: str | None) -> list[Frame | Damage]:
        found: list[Frame | Damage] = []
        again = damage == self._run == "unfinished"  # each byte of a cut-off frame would say it anew
        if (damage is not None and not again) or self._run_size >= RUN_BYTES:
            found = self._end_run()
        if not self._run:
            self._run = damage or "noise"
        self._run_size += len(skipped)
        if len(self._run_start) < SHOWN_BYTES:
            self._run_start = (self._run_start + skipped)[:SHOWN_BYTES]
        return found

    def _end_run(self) -> list[Frame | Damage]:
        if not self._run:
            return []
        ended = Damage(self._run, self._run_size, self._run_start)
        self._run, self._run_size, self._run_start = "", 0, b""
        return [ended]


class FramedCodec:
    """Base of a codec whose frames a ``Decoder`` cuts; a subclass adds ``observed`` and ``encode``."""

    decoder: Callable[[], Decoder]

    def pieces(self, data: bytes) -> list[Frame | Damage]:
        """Frames and damage of ``data`` in order."""
        decoder = self.decoder()
        return decoder.feed(data) + decoder.finish()

    def frames(self, data: bytes) -> Sequence[Frame]:
        return [piece for piece in self.pieces(data) if not isinstance(piece, Damage)]

    def damaged(self, data: bytes) -> Sequence[str]:
        return [str(piece) for piece in self.pieces(data) if isinstance(piece, Damage)]


async def read_frames(
    line: Line, decoder: Decoder, *, device: str, timeout_s: float, first: bytes = b""
) -> AsyncGenerator[Frame | Damage]:
    """Read a line for ever and give its frames and damage; ``first`` is what was read from it already.

    Raises:
        DeviceTimeout: no good frame for ``timeout_s``; noise alone does not keep a device alive.
        LineError: the line is gone.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    data = first
    while True:
        for piece in decoder.feed(data):
            if not isinstance(piece, Damage):
                deadline = loop.time() + timeout_s
            yield piece
        try:
            async with asyncio.timeout_at(deadline):
                data = await line.read()
        except TimeoutError as error:
            raise DeviceTimeout(device, "no good frame", timeout_s=timeout_s) from error


class FramedConfig(DeviceConfig):
    """A device that sends frames on a line by itself."""

    line: LineUrl
    """Where it is: ``serial:///dev/serial/by-id/...?baud=9600`` or ``tcp://host:port``."""


C = TypeVar("C", bound=FramedConfig)


class FramedDriver(StreamingDriver[C]):
    """Base of a device that sends frames on a line by itself; a subclass says what they mean."""

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self._line: Line | None = None

    @abstractmethod
    def decoder(self) -> Decoder:
        """A fresh decoder for a fresh connection."""

    @abstractmethod
    def rows(self, frame: Frame) -> Sequence[Observed]:
        """The rows that one good frame makes."""

    async def begin(self, line: Line) -> None:
        """Bring the device into a known state after the line was opened; nothing by default."""

    def silence_s(self) -> float:
        """How long it may say nothing before it is connected again."""
        return self.config.timeout_s

    async def connect(self, lines: Lines) -> None:
        self.damaged_count = 0
        self._line = await lines.open(self.config.line, timeout_s=self.config.timeout_s)
        await self.begin(self._line)

    async def good_frames(self) -> AsyncGenerator[Frame]:
        """Good frames as they come; damaged ones are counted.

        Raises:
            DeviceTimeout, LineError: as ``read_frames``.
        """
        assert self._line is not None, "connect comes first"  # noqa: S101  # the runtime's own contract
        pieces = read_frames(self._line, self.decoder(), device=self.config.name, timeout_s=self.silence_s())
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Damage):
                    self.damaged_count += 1
                else:
                    yield piece

    async def observe(self) -> AsyncIterator[Observed]:
        async with aclosing(self.good_frames()) as frames:
            async for frame in frames:
                for row in self.rows(frame):
                    yield row

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()
