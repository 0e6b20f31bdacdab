"""Where Prometheus finds the metrics: just enough HTTP for that, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from trisense.edge.status.metrics import exposition, series_of
from trisense.edge.status.model import Status
from trisense.edge.tasks import serve

__all__ = ["MetricsServer"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BYTES: Final = 8192
"""Longest head of a request."""
REQUEST_S: Final = 5.0
"""And the longest it may take to come, and its answer to be taken."""
CLIENTS: Final = 8
"""Most at a time; who comes then is hung up on."""


class MetricsServer:
    """``GET /metrics``, and nothing else."""

    def __init__(self, host: str, port: int, status: Callable[[], Awaitable[Status]]) -> None:
        self._host = host
        self._port = port
        self._status = status
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the port cannot be had.
        """
        server = await asyncio.start_server(self._client, self._host, self._port, limit=REQUEST_BYTES)
        await serve(server, self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            pass  # it left, says nothing, or says too much
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            return _response("400 Bad Request", "no HTTP\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", "there is /metrics\n")
        if words[0] != b"GET":
            return _response("405 Method Not Allowed", "GET only\n", "Allow: GET\r\n")
        return _response("200 OK", exposition(series_of(await self._status())))


def _response(status: str, text: str, headers: str = "") -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + body
