"""A bad link to a broker: a TCP proxy with delay, jitter, a rate, resets, silence, and a broker's lies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

PUBLISH: Final = 3
CHUNK_BYTES: Final = 1024
LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset at once."""


@dataclass
class BadLink:
    """One proxy; its settings may change while it runs, ``seed`` makes its chances come again."""

    target_port: int
    seed: int = 1
    delay_s: float = 0.0
    """One way, each way."""
    jitter_s: float = 0.0
    """Up to so much more, by chance; the order of bytes stays."""
    rate_bytes_s: float = float("inf")
    """Each way, all connections together."""
    reset_bytes: float = float("inf")
    """Mean of the bytes up after which a connection is reset."""
    swallow: Callable[[str, bytes], bool] = lambda topic, payload: False  # noqa: ARG005
    """Whether a publish of a client is acknowledged and goes nowhere."""

    reset_at: bytes = b""
    """First byte of the packet from a client that ends its connection."""

    port: int = 0
    connections: int = 0
    resets: int = 0
    swallowed: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    open: int = 0
    """Connections that stand now."""
    frozen: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _free_s: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    _thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BadLink]:
        self._rng = random.Random(self.seed)
        self._thawed.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._thawed.set()
            _reset(self._writers)
            while self._writers:  # noqa: ASYNC110  # the last connection tells nobody
                await asyncio.sleep(0.01)

    def reset(self) -> None:
        """Reset every connection."""
        self.resets += 1
        _reset(self._writers)

    def freeze(self) -> None:
        """Half-open: connections stand, new ones are taken, and no byte moves."""
        self.frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        self.frozen = False
        self._thawed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        self.open += 1
        pumps = [
            asyncio.create_task(self._pump("up", reader, there_writer, writer)),
            asyncio.create_task(self._pump("down", there_reader, writer, there_writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in (writer, there_writer):
                one.transport.abort()
                self._writers.discard(one)
            self.open -= 1

    async def _pump(
        self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        delivering = asyncio.create_task(self._deliver(way, queue, sink, back))
        loop = asyncio.get_running_loop()
        left = self._rng.expovariate(1 / self.reset_bytes) if self.reset_bytes < float("inf") else None
        due_s = 0.0
        try:
            while True:
                await self._thawed.wait()
                data = await source.read(CHUNK_BYTES)
                if not data:
                    await queue.put((due_s, b""))
                    await delivering
                    return
                begin_s = max(loop.time(), self._free_s[way])
                self._free_s[way] = begin_s + len(data) / self.rate_bytes_s
                late_s = self.delay_s + self._rng.uniform(0, self.jitter_s)
                due_s = max(due_s, self._free_s[way] + late_s)
                await queue.put((due_s, data))
                await asyncio.sleep(self._free_s[way] - loop.time())
                if way == "down":
                    self.down_bytes += len(data)
                else:
                    self.up_bytes += len(data)
                    if left is not None and (left := left - len(data)) < 0:
                        self.resets += 1
                        _reset([sink, back])
                        return
        except OSError:
            return
        finally:
            delivering.cancel()

    async def _deliver(
        self,
        way: str,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        held = bytearray()
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await queue.get()
                await asyncio.sleep(due_s - asyncio.get_running_loop().time())
                await self._thawed.wait()
                if not data:
                    return
                held += data
                for packet in packets(held):
                    if way == "up" and packet[:1] == self.reset_at[:1] != b"":
                        self.resets += 1
                        _reset([sink, back])
                        return
                    if way == "up" and (answer := self._lie(packet)) is not None:
                        back.write(answer)
                        continue
                    sink.write(packet)
                await sink.drain()

    def _lie(self, packet: bytes) -> bytes | None:
        """The acknowledgement of a publish that is to go nowhere."""
        if packet[0] >> 4 != PUBLISH or not packet[0] >> 1 & 3:
            return None
        at = 1 + next(i for i in range(1, 5) if packet[i] < 128)
        (length,) = struct.unpack_from(">H", packet, at)
        topic = packet[at + 2 : at + 2 + length].decode()
        if not self.swallow(topic, packet):
            return None
        self.swallowed += 1
        return b"\x40\x02" + packet[at + 2 + length : at + 4 + length]


def _reset(writers: Iterable[asyncio.StreamWriter]) -> None:
    for writer in writers:
        link = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        writer.transport.abort()


def packets(held: bytearray) -> Iterator[bytes]:
    """Take whole MQTT packets from the front of ``held``."""
    while len(held) >= 2:
        size, ends_at = 0, None
        for index in range(1, min(5, len(held))):
            size |= (held[index] & 127) << 7 * (index - 1)
            if held[index] < 128:
                ends_at = index + 1 + size
                break
        if ends_at is None or len(held) < ends_at:
            return
        yield bytes(held[:ends_at])
        del held[:ends_at]
