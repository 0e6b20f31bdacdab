"""Sends what changes to every open page: encoded once a tick, however many pages look.

Messages are JSON texts, told apart by ``kind``:

- ``hello``: ``{generation, seq, now_ms, ...}``, first on every connection;
- ``delta``: ``{after, seq, now_ms, boxes, streams}``, what changed after ``after`` up to ``seq``. One is
  sent each tick even when nothing changed, so silence means that the link is dead. A page whose own
  ``seq`` is below ``after`` has lost one and loads the snapshot again;
- ``alarm``: ``{alarm}``, at once, never merged and never dropped.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import structlog
from trisense.gateway.live import FellBehind, LiveState

__all__ = ["Client", "Hub"]

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5
DELTAS_QUEUED: Final = 8
"""Per client; the oldest is dropped when a ninth comes: a slow page must not make the server grow."""
ALARMS_QUEUED: Final = 256
"""Per client; one more and it is cut off, to come back with a snapshot that holds them all."""
EXACT_INT: Final = 2**53
"""Beyond it a browser's numbers are not exact."""


class Client:
    """One open page: what still has to be sent to it."""

    def __init__(self) -> None:
        self.dropped = 0
        """Deltas it never got."""
        self._deltas: deque[str] = deque()
        self._alarms: deque[str] = deque()
        self._wake = asyncio.Event()
        self._cut_off = False

    def offer_delta(self, text: str) -> None:
        if len(self._deltas) == DELTAS_QUEUED:
            self._deltas.popleft()
            self.dropped += 1
        self._deltas.append(text)
        self._wake.set()

    def offer_alarm(self, text: str) -> None:
        if len(self._alarms) == ALARMS_QUEUED:
            self.cut_off()
            return
        self._alarms.append(text)
        self._wake.set()

    def cut_off(self) -> None:
        """End ``messages``: this client has to start again."""
        self._cut_off = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[str]:
        """Yield what to send, alarms first, until the client is cut off."""
        while not self._cut_off:
            if self._alarms:
                yield self._alarms.popleft()
            elif self._deltas:
                yield self._deltas.popleft()
            else:
                self._wake.clear()
                await self._wake.wait()


class Hub:
    """Follows one ``LiveState`` for all clients; does nothing while there are none."""

    def __init__(self, live: LiveState, *, tick_s: float = TICK_S) -> None:
        self._live = live
        self._tick_s = tick_s
        self._clients: set[Client] = set()
        self._someone = asyncio.Event()
        self._sent_seq = live.seq
        self._snapshot: tuple[int, str] = (-1, "")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send from here on; on leaving, cut off every client."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._send_deltas(), name="console deltas"),
                group.create_task(self._send_alarms(), name="console alarms"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                self._cut_off_all()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Register a page while it is open. Its first message is ``hello``."""
        client = Client()
        live = self._live
        hello = {"kind": "hello", "generation": live.generation, **live.changes_since(live.seq)}
        client.offer_delta(encode(hello))
        if not self._clients:
            self._sent_seq = live.seq
        self._clients.add(client)
        self._someone.set()
        try:
            yield client
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._someone.clear()
            if client.dropped:
                log.info("console_page_slow", deltas_dropped=client.dropped)

    def snapshot(self) -> str:
        """The whole state as JSON, encoded at most once a tick: good as long as no delta went past it."""
        seq, text = self._snapshot
        if not self._clients or seq < self._sent_seq:
            state = self._live.snapshot()
            text = encode(state)
            self._snapshot = (state["seq"], text)
        return text

    async def _send_deltas(self) -> None:
        while True:
            if not self._clients:
                await self._someone.wait()
            changes = self._live.changes_since(self._sent_seq)
            text = encode({"kind": "delta", "after": self._sent_seq, **changes})
            self._sent_seq = changes["seq"]
            for client in self._clients:
                client.offer_delta(text)
            await asyncio.sleep(self._tick_s)

    async def _send_alarms(self) -> None:
        while True:
            try:
                async for alarm in self._live.alarms():
                    text = encode({"kind": "alarm", "alarm": alarm.as_json()})
                    for client in self._clients:
                        client.offer_alarm(text)
            except FellBehind:
                self._cut_off_all()

    def _cut_off_all(self) -> None:
        for client in self._clients:
            client.cut_off()


def encode(message: Mapping[str, Any]) -> str:
    """JSON for a browser: a value that it would round becomes a text of digits."""
    for stream in message.get("streams", ()):
        for field in stream["fields"].values():
            if type(field["value"]) is int and abs(field["value"]) > EXACT_INT:
                field["value"] = str(field["value"])
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
