"""Simulated devices on real ptys and TCP sockets.

A device is a ``Simulator`` with one coroutine, ``talk``: a conversation with one host over an ``End``.
The end paces bytes, injects faults, logs the truth and notices a host that leaves. A device says what it
says whether or not somebody listens: with no host on the line its words are lost, never kept for later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import termios
import time
import tty
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from trisense.sims.faults import Faults, Told, Truth
from trisense.sims.world import World

__all__ = [
    "End",
    "Faults",
    "Hangup",
    "Simulator",
    "Told",
    "Truth",
    "World",
    "listening",
    "plugged",
    "serve_pty",
    "serve_tcp",
    "together",
]

READ_BYTES: Final = 4096
INPUT_BYTES: Final = 65_536
"""A host that sends more than this unread is cut off."""
FIFO_BYTES: Final = 16
"""Bytes handed over at once on a pty, as a UART with the usual FIFO does."""
LOOK_S: Final = 0.05
"""A pty does not tell when its other side is opened: look this often."""


class Hangup(Exception):
    """The conversation is over: the host left, or the ``hangup`` fault struck."""


class Simulator(ABC):
    """One simulated device. Its state (counters, warm-up, settings) outlives a conversation."""

    kind: ClassVar[str]
    """Name in ``trisense sim run KIND``."""
    baud: int = 9600
    """Pace on a pty, bit/s."""
    bits_per_char: int = 10
    """8N1 has 10, 8E1 and 8N2 have 11."""
    opening_s: float = 0.0
    """Silence on a pty that was just opened. A host throws away what it finds there, so what is said so
    early is told to nobody: a log of the truth that is to be exact needs it."""

    def __init__(self, *, world: World, truth: Truth, faults: Faults, seed: int, name: str) -> None:
        self.world = world
        self.truth = truth
        self.faults = faults
        self.name = name
        """Device name in the log of the truth."""
        self.random = random.Random(f"{seed}/{name}")
        self._stuck: tuple[int, float] | None = None

    @abstractmethod
    async def talk(self, end: End) -> None:
        """Hold one conversation; returns or raises ``Hangup`` when it is over."""

    def now_ns(self) -> int:
        """UTC time whose values to tell: now, or while the ``stuck`` fault lasts when it began."""
        return self._stuck[0] if self._stuck is not None and self.stuck else time.time_ns()

    @property
    def stuck(self) -> bool:
        """Whether it repeats itself just now."""
        return self._stuck is not None and time.monotonic() < self._stuck[1]

    def get_stuck(self) -> None:
        """From the next frame on repeat the last values for ``stuck_s``; an end calls it."""
        self._stuck = (time.time_ns(), time.monotonic() + self.faults.stuck_s)


class End(ABC):
    """The device's end of a line while one host is on the other."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._silent_until = 0.0
        self._one_at_a_time = asyncio.Lock()

    @abstractmethod
    async def read(self) -> bytes:
        """Wait for at least one byte from the host.

        Raises:
            Hangup: the host left.
        """

    async def write(self, data: bytes) -> None:
        """Hand over bytes as they are, without faults or truth (greetings, noise, a foreign reply).

        Two tasks of one device never mix their bytes.

        Raises:
            Hangup: the host left.
        """
        async with self._one_at_a_time:
            await self._put(data)

    @abstractmethod
    async def _put(self, data: bytes) -> None:
        """Hand over bytes at the line's pace."""

    async def send(self, frame: bytes, *told: Told, check: int = -1, device: str = "") -> None:
        """Send a frame that tells the host ``told``, with the fault that is due, and log the truth.

        ``check`` is the index of a byte of the frame's check, for the ``checksum`` fault. ``device`` is who
        says it, where several devices share the line.

        Raises:
            Hangup: the host left, or the fault ``hangup`` struck.
        """
        repeats = self._sim.stuck
        fault = self._fault()
        sent = self._damaged(fault, frame, check)
        if fault == "late":
            await asyncio.sleep(self._sim.faults.late_s)
        began_ns = time.time_ns()
        try:
            if sent:
                await self.write(sent)
        except (Hangup, asyncio.CancelledError):
            fault = "hangup"  # whether the host got it before it left, nobody can say
            raise
        finally:
            if fault is None and repeats:
                fault = "stuck"
            for row in told:
                who = device or self._sim.name
                self._sim.truth.write(who, row, fault=fault, sent=sent, t_ns=began_ns)
        if fault == "hangup":
            raise Hangup("fault")

    def _fault(self) -> str | None:
        if time.monotonic() < self._silent_until:
            return "silence"
        fault = self._sim.faults.draw()
        if fault == "stuck":
            self._sim.get_stuck()
            return None
        if fault == "silence":
            self._silent_until = time.monotonic() + self._sim.faults.silence_s
        return fault

    def _damaged(self, fault: str | None, frame: bytes, check: int) -> bytes:
        """What of the frame goes out."""
        chance = self._sim.faults.random
        match fault:
            case "silence" | "hangup":
                return b""
            case "garbage":
                return chance.randbytes(chance.randint(1, 24)) + frame
            case "cut":
                return frame[: chance.randint(1, len(frame) - 1)] if len(frame) > 1 else b""
            case "checksum":
                damaged = bytearray(frame)
                damaged[check] ^= 1 << chance.randrange(8)
                return bytes(damaged)
        return frame


class PtyEnd(End):
    """The master side of a pty whose slave a host has open."""

    def __init__(self, sim: Simulator, master: int) -> None:
        super().__init__(sim)
        self._master = master
        self._input = bytearray()
        self.gone = False
        self._news = asyncio.Event()
        self._second_per_byte = sim.bits_per_char / sim.baud
        asyncio.get_running_loop().add_reader(master, self._receive)

    def _receive(self) -> None:
        try:
            data = os.read(self._master, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last host closed the slave
            data = b""
        if not data or len(self._input) > INPUT_BYTES:
            self.gone = True
            self.detach()
        self._input += data
        self._news.set()

    def detach(self) -> None:
        """Stop looking at the pty, which stays open."""
        asyncio.get_running_loop().remove_reader(self._master)

    async def read(self) -> bytes:
        while not self._input:
            if self.gone:
                raise Hangup("host left")
            self._news.clear()
            await self._news.wait()
        data = bytes(self._input)
        self._input.clear()
        return data

    async def _put(self, data: bytes) -> None:
        for start in range(0, len(data), FIFO_BYTES):
            piece = data[start : start + FIFO_BYTES]
            await asyncio.sleep(len(piece) * self._second_per_byte)
            if self.gone:
                raise Hangup("host left")
            # A UART drops what its host does not fetch; it never waits for it.
            with contextlib.suppress(BlockingIOError):
                os.write(self._master, piece)

    async def left(self) -> None:
        """Wait until the host is gone."""
        while not self.gone:
            self._news.clear()
            await self._news.wait()


class TcpEnd(End):
    """One accepted connection; bytes are not paced."""

    def __init__(self, sim: Simulator, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(sim)
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise Hangup(str(error)) from error
        if not data:
            raise Hangup("host left")
        return data

    async def _put(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise Hangup("host left")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Hangup(str(error)) from error


class Pty:
    """A raw pty with a symbolic link to its slave."""

    def __init__(self, link: Path) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)  # no echo, no CR/LF translation; holds for whoever opens the slave later
        self.slave = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self.master, False)
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.slave)
        fresh.replace(link)

    async def host(self) -> None:
        """Wait until a host has the slave open."""
        poller = select.poll()
        poller.register(self.master, select.POLLIN)
        while any(event & select.POLLHUP for _, event in poller.poll(0)):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(LOOK_S)

    def forget(self) -> None:
        """Throw away what a host left unread, as a UART does when it is closed."""
        with contextlib.suppress(OSError):  # a new host may hold the slave for itself already
            slave = os.open(self.slave, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            termios.tcflush(slave, termios.TCIFLUSH)
            os.close(slave)

    def close(self) -> None:
        os.close(self.master)


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run the parts of a device side by side until the first one ends; raises what that one raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(sim: Simulator, end: PtyEnd) -> None:
    """Talk until the conversation ends by either side."""
    try:
        with contextlib.suppress(Hangup):
            await together(sim.talk(end), end.left())
    finally:
        end.detach()


async def _run_pty(sim: Simulator, link: Path, pty: Pty) -> None:
    try:
        while True:
            await pty.host()
            await asyncio.sleep(sim.opening_s)
            end = PtyEnd(sim, pty.master)
            await _converse(sim, end)
            if end.gone:
                pty.forget()
            else:  # the device hung up
                old, pty = pty, Pty(link)
                old.close()
    finally:
        pty.close()
        link.unlink(missing_ok=True)  # noqa: ASYNC240  # devpts and tmpfs answer at once


@asynccontextmanager
async def plugged(sim: Simulator, link: Path) -> AsyncIterator[Path]:
    """The device is plugged in at ``link`` inside the block; gives the link.

    Raises what ``talk`` raised, if it failed, at the end of the block.
    """
    task = asyncio.create_task(_run_pty(sim, link, Pty(link)))
    await asyncio.sleep(0)  # a task that has not begun would not put its pty away when cancelled
    try:
        yield link
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def serve_pty(sim: Simulator, link: Path) -> None:
    """Run the device at ``link`` until cancelled; after a hang-up it is there again under the same link."""
    await _run_pty(sim, link, Pty(link))


@asynccontextmanager
async def listening(sim: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """The device listens on TCP inside the block; gives the port. Several hosts may talk at once."""
    failures: list[BaseException] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await sim.talk(TcpEnd(sim, reader, writer))
        except Hangup:
            pass
        except Exception as error:  # noqa: BLE001  # asyncio would only log it: raised at the block's end
            failures.append(error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    talks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(accept(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    server = await asyncio.start_server(accepted, host, port)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.wait_closed()
    if failures:
        raise failures[0]


async def serve_tcp(sim: Simulator, host: str, port: int) -> None:
    """Run the device on TCP until cancelled."""
    async with listening(sim, host, port):
        await asyncio.Event().wait()
