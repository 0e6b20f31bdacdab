"""Lines: byte streams to devices, by URL, and the buses that share one.

``serial:///dev/serial/by-id/...?baud=9600&format=8N1`` · ``tcp://host:port`` · ``udp://:port`` ·
``replay:///captured.jsonl?speed=10``
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import termios
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator
from trisense.core.errors import LineError
from trisense.drivers import ports, rs485

__all__ = [
    "Bus",
    "CountedLine",
    "DatagramLine",
    "Line",
    "LineUrl",
    "Lines",
    "ReplayLine",
    "StreamLine",
    "Traffic",
    "check_url",
    "open_line",
]

READ_BYTES = 65_536
FORMAT = re.compile(r"[5-8][NEO][12]")
SPEED = re.compile(r"\d{1,6}(\.\d{1,3})?")


class Line(Protocol):
    """A byte stream to a device. Every method raises LineError once the line is gone."""

    url: str

    async def read(self) -> bytes:
        """Wait for at least one byte; give what is there, at most 64 KiB."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        ...

    async def flush_input(self) -> None:
        """Throw away what has come in unread."""
        ...

    async def close(self) -> None:
        """Close; safe twice."""
        ...


class LineWriter(Protocol):
    """What a line needs of an asyncio stream writer; serialx has one of its own."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool: ...
    async def wait_closed(self) -> None: ...


class Bus(Protocol):
    """What several devices on one line share: its one owner."""

    async def close(self) -> None: ...


class StreamLine:
    """A line over an asyncio stream: TCP, or a UART through serialx."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: LineWriter) -> None:
        self.url = url
        self._reader = reader
        self._writer = writer
        self._end = "closed by the other side"

    async def read(self) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise LineError(self.url, f"connection lost: {error}") from error
        if not data:
            raise LineError(self.url, self._end)
        return data

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise LineError(self.url, f"connection lost: {error}") from error

    async def flush_input(self) -> None:
        # One turn of the loop looks at the line, the next one hands what it found to the reader.
        for _ in range(2):
            await asyncio.sleep(0)
        self._drop_buffered()

    def _drop_buffered(self) -> None:
        """Throw away what the reader holds."""
        # StreamReader offers no look at its buffer, but a read that need not wait is over in one step.
        while True:
            step = self._reader.read(READ_BYTES)
            try:
                step.send(None)
            except StopIteration as done:
                if not done.value:
                    raise LineError(self.url, self._end) from None
            except OSError as error:
                raise LineError(self.url, f"connection lost: {error}") from error
            else:
                step.close()
                return

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class SerialLine(StreamLine):
    """A line over a UART."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: LineWriter, file: int) -> None:
        super().__init__(url, reader, writer)
        self._file = file
        self._path = Path(urlsplit(url).path)
        self._number = os.fstat(file).st_rdev

    def shared(self) -> bool:
        """Several adapters answer to its name by now."""
        return ports.THIS.shared_name(self._path) is not None

    def moved(self) -> bool:
        """Its name means another port by now. A name that is gone says nothing: the kernel hangs up then."""
        return ports.device_number(self._path) not in (None, self._number)

    def drop(self) -> None:
        """End it, for its name is not its own any more: whoever reads or writes gets a LineError."""
        self._end = "its name means another adapter now, or several"
        self._writer.close()

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise LineError(self.url, self._end)
        await super().write(data)

    async def flush_input(self) -> None:
        # The kernel drops what it holds without a turn of the loop: on a bus each one is idle wire.
        try:
            termios.tcflush(self._file, termios.TCIFLUSH)
        except termios.error as error:
            raise LineError(self.url, f"connection lost: {error}") from error
        self._drop_buffered()


class DatagramLine(asyncio.DatagramProtocol):
    """A line over UDP: what anybody sends to our port; answers go to whoever spoke last."""

    QUEUE = 256
    """Datagrams kept for a driver that is busy; the oldest go first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._received: deque[bytes] = deque(maxlen=self.QUEUE)
        self._news = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self._peer: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._peer = addr
        if data:
            self._received.append(data)
            self._news.set()

    async def read(self) -> bytes:
        while not self._received:
            if self._transport is None:
                raise LineError(self.url, "is closed")
            self._news.clear()
            await self._news.wait()
        return self._received.popleft()

    async def write(self, data: bytes) -> None:
        if self._transport is None:
            raise LineError(self.url, "is closed")
        if self._peer is None:
            raise LineError(self.url, "nobody to answer: nothing has come in yet")
        self._transport.sendto(data, self._peer)

    async def flush_input(self) -> None:
        self._received.clear()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            self._news.set()


class ReplayLine:
    """A captured file as a line: gives its bytes once, takes and forgets what is written."""

    PIECE_BYTES = 256
    """What one read gives; small, as a device's own pieces are."""

    def __init__(self, url: str, data: bytes) -> None:
        self.url = url
        self._rest = data

    async def read(self) -> bytes:
        await asyncio.sleep(0)  # others have their turn between two pieces
        piece, self._rest = self._rest[: self.PIECE_BYTES], self._rest[self.PIECE_BYTES :]
        if not piece:
            raise LineError(self.url, "the recording is over")
        return piece

    async def write(self, data: bytes) -> None:
        """Nobody hears it."""

    async def flush_input(self) -> None:
        """A recording holds nothing stale."""

    async def close(self) -> None:
        self._rest = b""


def check_url(url: str) -> SplitResult:
    """Check a line's URL without opening it.

    Raises:
        ValueError: what is wrong with it, for a config validator to pass on.
    """
    parts = urlsplit(url)
    checks = {"tcp": _check_tcp, "udp": _check_udp, "serial": _check_serial, "replay": _check_replay}
    if parts.scheme not in checks:
        raise ValueError(
            "a line: serial:///dev/...?baud=9600, tcp://HOST:PORT, udp://:PORT or replay:///FILE"
        )
    checks[parts.scheme](parts)
    return parts


def _check_tcp(parts: SplitResult) -> None:
    if not parts.hostname:
        raise ValueError("tcp://HOST:PORT with a host")
    if parts.port is None:
        raise ValueError("tcp://HOST:PORT with a port")
    try:
        parts.hostname.encode("idna")
    except UnicodeError as error:
        raise ValueError("a host name: parts of 1 to 63 characters between dots") from error
    if parts.query or parts.path.strip("/"):
        raise ValueError("tcp://HOST:PORT and nothing behind it")


def _check_udp(parts: SplitResult) -> None:
    if parts.port is None:
        raise ValueError("udp://:PORT, or udp://ADDRESS:PORT to listen on one address alone")
    if parts.query or parts.path.strip("/"):
        raise ValueError("udp://:PORT and nothing behind it")


def _check_replay(parts: SplitResult) -> None:
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError("replay:///path/of/captured.bin with three slashes")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - {"speed"}:
        raise ValueError("option speed and no other")
    if not SPEED.fullmatch(options.get("speed", "1")) or float(options.get("speed", "1")) == 0:
        raise ValueError("a speed such as 1, 10 or 0.5")


def _check_serial(parts: SplitResult) -> None:
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError("serial:///dev/... with three slashes")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = set(options) - {"baud", "format", *rs485.OPTIONS}
    if unknown:
        raise ValueError(f"options baud, format and rs485, not {', '.join(sorted(unknown))}")
    baud = options.get("baud", "9600")
    if not baud.isdigit() or int(baud) == 0:
        raise ValueError(f"a baud rate in bit/s, not {baud!r}")
    if not FORMAT.fullmatch(options.get("format", "8N1").upper()):
        raise ValueError("a character format such as 8N1, 8E1 or 7E1")
    rs485.Rs485.of(options)


def _line_url(url: str) -> str:
    check_url(url)
    return url


LineUrl = Annotated[str, AfterValidator(_line_url)]
"""A config field that holds a line's URL."""


async def open_line(url: str, *, timeout_s: float = 5.0) -> Line:
    """Open a line; what a UART held from before is thrown away, so no stale value is restamped.

    Raises:
        LineError: nobody there, no such port, no right to it, or no answer within ``timeout_s``.
    """
    parts = check_url(url)
    try:
        async with asyncio.timeout(timeout_s):
            if parts.scheme == "tcp":
                reader, writer = await asyncio.open_connection(str(parts.hostname), parts.port)
                return StreamLine(url, reader, writer)
            if parts.scheme == "udp":
                return await _open_udp(url, parts)
            if parts.scheme == "replay":
                return _replayed(url, parts, await asyncio.to_thread(Path(parts.path).read_bytes))
            return await _open_serial(url, parts)
    except TimeoutError as error:
        raise LineError(url, f"no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise LineError(url, f"cannot open: {error}") from error


async def _open_udp(url: str, parts: SplitResult) -> Line:
    address = (parts.hostname or "0.0.0.0", parts.port or 0)  # noqa: S104  # udp://:PORT asks for every address
    _, line = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: DatagramLine(url), local_addr=address
    )
    return line


def _replayed(url: str, parts: SplitResult, data: bytes) -> Line:
    """A recording with its times, or plain bytes at once."""
    from trisense.drivers.recording import RecordedLine, is_recording, parse  # noqa: PLC0415  # knows lines

    speed = dict(parse_qsl(parts.query)).get("speed")
    if not is_recording(data):
        if speed is not None:
            raise LineError(url, "a speed is for recordings; plain bytes have no times")
        return ReplayLine(url, data)
    try:
        return RecordedLine(url, parse(data), speed=float(speed or 1))
    except ValueError as error:
        raise LineError(url, f"no recording: {error}") from error


def _switch(url: str, file: int, mode: rs485.Rs485) -> None:
    try:
        mode.apply(file)
    except OSError as error:
        raise LineError(url, f"its driver has no RS-485 mode: {error}") from error


def _check_name(url: str, path: Path) -> None:
    shared = ports.THIS.shared_name(path)
    if shared is not None:
        raise LineError(url, f"cannot tell which port is meant: {shared}")


async def _open_serial(url: str, parts: SplitResult) -> Line:
    import serialx  # noqa: PLC0415  # a box with network devices only loads no serial library

    options = dict(parse_qsl(parts.query))
    await asyncio.to_thread(_check_name, url, Path(parts.path))
    size, parity, stop = list(options.get("format", "8N1").upper())
    reader, writer = await serialx.open_serial_connection(
        url=parts.path,
        baudrate=int(options.get("baud", "9600")),
        byte_size=int(size),
        parity=serialx.Parity(parity),
        stopbits=serialx.StopBits(int(stop)),
        exclusive=True,
    )
    file = writer.transport.serial.fileno()
    line = SerialLine(url, reader, writer, file)
    mode = rs485.Rs485.of(options)
    try:
        if line.moved():
            raise LineError(url, "its name moved to another adapter while it was opened")
        if mode is not None:
            _switch(url, file, mode)
        await line.flush_input()
    except BaseException:  # cancelled here, nobody else could ever close the port
        await line.close()
        raise
    return line


B = TypeVar("B", bound=Bus)


@dataclass(slots=True)
class Traffic:
    """What went over the lines of one URL."""

    opened: int = 0
    """Times it was opened."""
    received_bytes: int = 0
    sent_bytes: int = 0


class CountedLine:
    """A line that counts its bytes."""

    def __init__(self, line: Line, traffic: Traffic) -> None:
        self.url = line.url
        self._line = line
        self._traffic = traffic
        self.flush_input = line.flush_input
        self.close = line.close

    async def read(self) -> bytes:
        data = await self._line.read()
        self._traffic.received_bytes += len(data)
        return data

    async def write(self, data: bytes) -> None:
        self._traffic.sent_bytes += len(data)
        await self._line.write(data)


class Lines:
    """The lines and buses of one box. Give it to each driver's ``connect``."""

    REMEMBERED = 256
    """URLs whose traffic is known; beyond it the one first opened is forgotten."""

    def __init__(self) -> None:
        self.traffic: dict[str, Traffic] = {}
        """By URL."""
        self._buses: dict[str, tuple[Bus, int]] = {}
        self._serial: weakref.WeakSet[SerialLine] = weakref.WeakSet()
        self._sockets = ports.THIS.sockets()

    @property
    def buses(self) -> Mapping[str, Bus]:
        """The buses in use, by key."""
        return {key: bus for key, (bus, _) in self._buses.items()}

    async def open(self, url: str, *, timeout_s: float = 5.0) -> Line:
        """Open a line for one device alone."""
        line = await open_line(url, timeout_s=timeout_s)
        if isinstance(line, SerialLine):
            self._serial.add(line)
        traffic = self.traffic.setdefault(url, Traffic())
        traffic.opened += 1
        if len(self.traffic) > self.REMEMBERED:
            del self.traffic[next(iter(self.traffic))]
        return CountedLine(line, traffic)

    def drop_moved(self) -> list[str]:
        """End the serial lines whose names mean other ports by now, or several; gives their URLs."""
        before, self._sockets = self._sockets, ports.THIS.sockets()
        news = self._sockets != before
        moved = [line for line in self._serial if (news and line.shared()) or line.moved()]
        for line in moved:
            self._serial.discard(line)
            line.drop()
        return [line.url for line in moved]

    def share(self, key: str, make: Callable[[], B]) -> B:
        """The bus on ``key``, made at the first call; each caller gives it back with ``release``."""
        bus, users = self._buses.get(key, (None, 0))
        if bus is None:
            bus = make()
        self._buses[key] = (bus, users + 1)
        return bus  # type: ignore[return-value]  # one key is always one kind of bus

    async def release(self, key: str) -> None:
        """Give a shared bus back; the last one closes it."""
        bus, users = self._buses[key]
        if users > 1:
            self._buses[key] = (bus, users - 1)
        else:
            del self._buses[key]
            await bus.close()
