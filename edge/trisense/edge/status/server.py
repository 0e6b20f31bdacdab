"""The box's local socket: lines of JSON, one question each; ``status`` and ``tap``.

Whoever may open the socket (mode 0660) may ask; nothing that is asked changes the box.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal, cast

import structlog
from pydantic import Field as Constrained
from pydantic import TypeAdapter, ValidationError
from trisense.core.config import ConfigModel, mistakes_of
from trisense.core.errors import ConfigError
from trisense.edge.status.model import Status
from trisense.edge.status.tap import Tap, TapRequest, Taps
from trisense.edge.tasks import serve, together

__all__ = ["REQUEST_BYTES", "StatusRequest", "StatusServer"]

log = structlog.get_logger(__name__)

MODE: Final = 0o660
REQUEST_BYTES: Final = 4096
"""Longest request."""
CLIENTS: Final = 8
"""Most at a time; the policy beyond is ``refuse_newest``."""
IDLE_S: Final = 60.0
"""A client that asks nothing for so long is let go."""
STALLED_S: Final = 10.0
"""And one that does not take its answer."""


class StatusRequest(ConfigModel):
    """The whole box, once; may be asked again on the same connection."""

    ask: Literal["status"]


_REQUEST: Final[TypeAdapter[StatusRequest | TapRequest]] = TypeAdapter(
    Annotated[StatusRequest | TapRequest, Constrained(discriminator="ask")]
)


class StatusServer:
    """Answers on one unix socket."""

    def __init__(self, path: Path, status: Callable[[], Awaitable[Status]], taps: Taps) -> None:
        self._path = path
        self._status = status
        self._taps = taps
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def clients(self) -> int:
        return len(self._clients)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the socket cannot be made, or another box has it.
        """
        with _bound(self._path) as listening:
            server = await asyncio.start_unix_server(self._client, sock=listening, limit=REQUEST_BYTES)
            await serve(server, self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients.add(task)
        try:
            if len(self._clients) > CLIENTS:
                await _say(writer, _error(f"{CLIENTS} clients are connected already"))
                return
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            # It left, or does nothing: its slot is for others, and what it did not take it never will.
            writer.transport.abort()
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except ValueError:  # no end of line within the limit
                await _say(writer, _error(f"a request of more than {REQUEST_BYTES} bytes"))
                return
            if not line:
                return
            try:
                request = _REQUEST.validate_json(line)
            except ValidationError as error:
                await _say(writer, _error("; ".join(str(m) for m in mistakes_of(error))))
                return
            if isinstance(request, StatusRequest):
                status = await self._status()
                await _say(writer, status.model_dump_json().encode() + b"\n")
                continue
            try:
                with self._taps.open(request) as tap:
                    await _say(writer, b'{"tap": "open"}\n')
                    await together({"tap-send": _send(tap, writer), "tap-watch": _until_gone(reader)})
            except ConfigError as error:
                await _say(writer, _error("; ".join(str(m) for m in error.mistakes)))
            return


async def _send(tap: Tap, writer: asyncio.StreamWriter) -> None:
    while True:
        await _say(writer, await tap.take())


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Wait until the client hangs up: whatever else it says ends its tap too."""
    await reader.read(1)


async def _say(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(STALLED_S):
        await writer.drain()


def _error(what: str) -> bytes:
    return json.dumps({"error": what}).encode() + b"\n"


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    """A listening socket at ``path``, gone with the block.

    The lock beside it tells a dead box's socket, which is replaced, from a living one's.

    Raises:
        OSError: another box has it, something else is there, or the folder cannot be written.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another box has this socket", str(path)) from error
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(17, "there is something that is no socket", str(path))
            path.unlink()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            try:
                path.chmod(MODE)  # nobody can connect before it listens
                yield listening
            finally:
                path.unlink(missing_ok=True)
    finally:
        os.close(lock)
