"""The device's end of a real line: a pty under a fixed name, or a TCP port. The kit plays devices on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

__all__ = ["PtyStage", "Stage", "TcpStage"]

READ_BYTES = 4096
FULL_S = 0.002
"""A pty whose host does not read is tried again this often."""


class Stage(ABC):
    """Where a device stands. It may go and come back; the name that a driver opens stays the same."""

    def __init__(self) -> None:
        self.on_bytes: Callable[[bytes], None] = lambda _: None
        self.on_host: Callable[[], None] = lambda: None
        """Called when a host connects; a pty cannot tell."""

    @abstractmethod
    async def plug(self) -> None:
        """The device is there from now on."""

    @abstractmethod
    async def unplug(self) -> None:
        """The device is gone; whoever has the line open loses it. Safe twice."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send to the host; without one the bytes are lost."""

    @abstractmethod
    def line(self, template: str) -> str:
        """The URL that a driver opens; ``template`` is the contract's ``line``."""


class PtyStage(Stage):
    """A pty behind a symbolic link, as udev makes one; each ``plug`` is another device node."""

    def __init__(self, link: Path) -> None:
        super().__init__()
        self._link = link
        self._master = self._slave = -1
        self._ballast: list[int] = []

    async def plug(self) -> None:
        master, slave = os.openpty()
        # The number of the pty that was given up last is free again: hold it until the new one is there.
        for fd in self._ballast:
            os.close(fd)
        self._ballast.clear()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._master, self._slave = master, slave
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(slave))
        asyncio.get_running_loop().add_reader(master, self._receive)

    def _receive(self) -> None:
        try:
            data = os.read(self._master, READ_BYTES)
        except OSError:  # nothing there, or just unplugged
            return
        self.on_bytes(data)

    async def unplug(self) -> None:
        if self._master < 0:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._link.unlink(missing_ok=True)

    async def send(self, data: bytes) -> None:
        while data and self._master >= 0:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(FULL_S)

    def line(self, template: str) -> str:
        return (template or "serial://{path}").format(path=self._link)


class TcpStage(Stage):
    """A listener on a free port of the loopback; a newer connection takes the place of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._newest: asyncio.StreamWriter | None = None

    async def plug(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._newest = writer
        self.on_host()
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while data := await reader.read(READ_BYTES):
                    self.on_bytes(data)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def unplug(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in tuple(self._writers):
            writer.close()
        await server.wait_closed()

    async def send(self, data: bytes) -> None:
        writer = self._newest
        if writer is None or writer.is_closing():
            return
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()

    def line(self, template: str) -> str:
        return (template or "tcp://127.0.0.1:{port}").format(port=self._port)
