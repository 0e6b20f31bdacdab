"""Lines: TCP and UART byte streams by URL, on real sockets and ptys."""

from __future__ import annotations

import asyncio
import os
import socket
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from trisense.core.errors import LineError
from trisense.drivers.lines import Lines, Traffic, check_url


class Wire:
    """A pty; the test is the device at the master."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self.slave = slave

    def close(self) -> None:
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.fixture
def forbidden(wire: Wire) -> Wire:
    """A pty that only root may open."""
    Path(wire.path).chmod(0)
    return wire


@asynccontextmanager
async def server(answer: bytes = b"", *, ends: bool = False) -> AsyncIterator[int]:
    """A TCP peer that says ``answer``, then echoes or ends."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if not ends:
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listening.wait_closed()


# --- URLs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "serial:///dev/ttyUSB0",
        "serial:///dev/serial/by-id/usb-FTDI_FT232R-if00-port0?baud=9600&format=8E1",
        "serial:///dev/ttyS0?format=7e2",
        "tcp://127.0.0.1:502",
        "tcp://meter.example:4001/",
        "tcp://[::1]:502",
        "udp://:30003",
        "udp://127.0.0.1:30003",
        "replay:///captured/beast.bin",
    ],
)
def test_good_urls_pass(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/dev/ttyUSB0", "a line: serial"),
        ("rfcomm://host:1", "a line: serial"),
        ("udp://host", "udp://:PORT"),
        ("udp://:1/x", "nothing behind"),
        ("replay://file", "three slashes"),
        ("serial://host/dev/x", "three slashes"),
        ("serial:///dev/x?baud=", "a baud rate"),
        ("serial:///dev/x?baud=0", "a baud rate"),
        ("tcp://127.0.0.1", "with a port"),
        ("tcp://:502", "with a host"),
        ("tcp://a:1/x", "nothing behind"),
        ("tcp://a:1?baud=1", "nothing behind"),
        ("serial://ttyUSB0", "three slashes"),
        ("serial:///dev/x?speed=9600", "options baud, format and rs485, not speed"),
        ("serial:///dev/x?baud=fast", "a baud rate"),
        ("serial:///dev/x?rs485=yes", "rs485=high or rs485=low"),
        ("serial:///dev/x?rs485_after_ms=1", "with its delays"),
        ("serial:///dev/x?rs485=high&rs485_before_ms=101", "up to 100"),
        ("serial:///dev/x?format=9N1", "a character format"),
        ("tcp://a:999999", "out of range"),
    ],
)
def test_a_wrong_url_is_told_with_what_was_expected(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match="(?i)" + expected):
        check_url(url)


# --- TCP --------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_over_tcp() -> None:
    async with server(b"hello") as port:
        line = await Lines().open(f"tcp://127.0.0.1:{port}")
        assert await line.read() == b"hello"
        await line.write(b"ping")
        assert await line.read() == b"ping"
        await line.close()
        await line.close()


async def test_what_goes_over_a_line_is_counted_by_its_url_however_often_it_is_opened() -> None:
    lines = Lines()
    async with server() as port:
        url = f"tcp://127.0.0.1:{port}"
        for _ in range(2):
            line = await lines.open(url)
            await line.write(b"hello")
            assert await line.read() == b"hello"
            await line.close()
    assert lines.traffic == {url: Traffic(opened=2, received_bytes=10, sent_bytes=10)}


async def test_a_peer_that_closes_is_a_line_error() -> None:
    async with server(b"bye", ends=True) as port:
        line = await Lines().open(f"tcp://127.0.0.1:{port}")
        assert await line.read() == b"bye"
        with pytest.raises(LineError, match="closed by the other side"):
            await line.read()
        await line.close()


async def test_nobody_listening_is_a_line_error() -> None:
    async with server() as port:
        pass
    with pytest.raises(LineError, match=f"tcp://127.0.0.1:{port}: cannot open"):
        await Lines().open(f"tcp://127.0.0.1:{port}")


async def test_flushing_throws_away_what_came_in_unread() -> None:
    async with server(b"stale") as port:
        line = await Lines().open(f"tcp://127.0.0.1:{port}")
        await line.write(b"x")
        got = await line.read()
        while not got.endswith(b"x"):
            got += await line.read()
        await line.flush_input()
        await line.write(b"fresh")
        assert await line.read() == b"fresh"
        await line.close()


# --- UART -------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_over_a_uart_untranslated(wire: Wire) -> None:
    line = await Lines().open(f"serial://{wire.path}?baud=115200")
    os.write(wire.master, bytes(range(256)))
    got = b""
    while len(got) < 256:
        got += await line.read()
    assert got == bytes(range(256))
    await line.write(b"\r\n\x00\xff")
    assert os.read(wire.master, 10) == b"\r\n\x00\xff"
    await line.close()
    await line.close()


async def test_the_baud_rate_is_set(wire: Wire) -> None:
    line = await Lines().open(f"serial://{wire.path}?baud=19200")
    assert termios.tcgetattr(wire.slave)[4] == termios.B19200
    await line.close()


async def test_what_a_uart_held_from_before_is_thrown_away_at_open(wire: Wire) -> None:
    os.write(wire.master, b"yesterday")
    line = await Lines().open(f"serial://{wire.path}")
    os.write(wire.master, b"today")
    assert await line.read() == b"today"
    await line.close()


@pytest.mark.parametrize("form", ["8N1", "8E1", "8N2", "7O1"])
async def test_every_character_format_opens(wire: Wire, form: str) -> None:
    line = await Lines().open(f"serial://{wire.path}?format={form}")
    os.write(wire.master, b"\x2a")
    assert await line.read() == b"\x2a"
    await line.close()


async def test_a_device_that_hangs_up_is_a_line_error(wire: Wire) -> None:
    line = await Lines().open(f"serial://{wire.path}")
    wire.close()
    with pytest.raises(LineError):
        await line.read()
    await line.close()


async def test_writing_to_a_device_that_hung_up_is_a_line_error(wire: Wire) -> None:
    line = await Lines().open(f"serial://{wire.path}")
    wire.close()

    async def shout() -> None:
        while True:
            await line.write(b"hello?")

    with pytest.raises(LineError):
        await shout()
    await line.close()


async def test_a_missing_device_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(LineError, match=r"ttyNONE: cannot open: .*No such file"):
        await Lines().open(f"serial://{tmp_path}/ttyNONE")


async def test_a_file_that_is_no_device_is_a_line_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(LineError, match="cannot open"):
        await Lines().open(f"serial://{file}")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may open every device, so a test about rights gives root's up for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    yield
    os.seteuid(0)


async def test_a_device_one_may_not_open_is_told_as_such(forbidden: Wire, nobody: None) -> None:
    with pytest.raises(LineError, match=r"cannot open: .*Permission denied"):
        await Lines().open(f"serial://{forbidden.path}")


async def test_a_uart_in_use_is_a_line_error_and_free_again_after_close(wire: Wire) -> None:
    first = await Lines().open(f"serial://{wire.path}")
    with pytest.raises(LineError, match="cannot open"):
        await Lines().open(f"serial://{wire.path}")
    await first.close()
    second = await Lines().open(f"serial://{wire.path}")
    await second.close()


# --- UDP and recordings -----------------------------------------------------------------------------


@pytest.fixture
def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_datagrams_come_in_and_answers_go_to_who_spoke_last(free_udp_port: int) -> None:
    line = await Lines().open(f"udp://127.0.0.1:{free_udp_port}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        device.setblocking(False)
        with pytest.raises(LineError, match="nobody to answer"):
            await line.write(b"hello?")
        device.sendto(b"one", ("127.0.0.1", free_udp_port))
        device.sendto(b"two", ("127.0.0.1", free_udp_port))
        assert [await line.read(), await line.read()] == [b"one", b"two"]
        await line.write(b"answer")
        assert await asyncio.get_running_loop().sock_recv(device, 100) == b"answer"
    await line.close()
    await line.close()
    with pytest.raises(LineError, match="is closed"):
        await line.read()


async def test_a_udp_port_in_use_is_a_line_error(free_udp_port: int) -> None:
    line = await Lines().open(f"udp://127.0.0.1:{free_udp_port}")
    with pytest.raises(LineError, match="cannot open"):
        await Lines().open(f"udp://127.0.0.1:{free_udp_port}")
    await line.close()


async def test_a_reader_that_waits_hears_of_the_close(free_udp_port: int) -> None:
    line = await Lines().open(f"udp://127.0.0.1:{free_udp_port}")
    waiting = asyncio.create_task(line.read())
    await asyncio.sleep(0)
    await line.close()
    with pytest.raises(LineError, match="is closed"):
        await waiting


async def test_a_recording_gives_its_bytes_once_and_is_over(tmp_path: Path) -> None:
    file = tmp_path / "captured.bin"
    file.write_bytes(bytes(range(256)) * 3)
    line = await Lines().open(f"replay://{file}")
    await line.flush_input()
    await line.write(b"ignored")
    got = b""
    while len(got) < 768:
        got += await line.read()
    assert got == bytes(range(256)) * 3
    with pytest.raises(LineError, match="the recording is over"):
        await line.read()
    await line.close()


async def test_a_missing_recording_is_a_line_error() -> None:
    with pytest.raises(LineError, match=r"cannot open: .*No such file"):
        await Lines().open("replay:///no/such/file")


# --- buses ------------------------------------------------------------------------------------------


class Bus:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_a_bus_is_made_once_and_closed_by_the_last_who_gives_it_back() -> None:
    lines = Lines()
    one, other = lines.share("line", Bus), lines.share("line", Bus)
    assert one is other
    await lines.release("line")
    assert one.closed == 0
    await lines.release("line")
    assert one.closed == 1
    assert lines.share("line", Bus) is not one
