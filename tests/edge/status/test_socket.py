"""The box's local socket: who may come, what is answered, and what hostile clients cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import ConfigError
from trisense.core.model import BatchClass, Sample, Stream
from trisense.edge.status import server as module
from trisense.edge.status.model import Status
from trisense.edge.status.server import CLIENTS, REQUEST_BYTES, StatusServer
from trisense.edge.status.tap import Condition, Tap, TapRequest, Taps

from .terminal import TRISENSE, Terminal

Reader = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A server on a socket of its own, asked by real clients."""

    def __init__(self, path: Path, status: Status) -> None:
        self.path = path
        self.taps = Taps()
        self.asked = 0
        self._status = status
        self.server = StatusServer(path, self._picture, self.taps)

    async def _picture(self) -> Status:
        self.asked += 1
        return self._status

    async def client(self) -> Reader:
        return await asyncio.open_unix_connection(str(self.path), limit=1 << 24)

    async def ask(self, request: bytes) -> dict[str, Any]:
        """The first line of the answer on a connection of its own."""
        reader, writer = await self.client()
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        answer = await answered(reader)
        writer.close()
        return answer


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110  # a socket tells nobody who has left it
            await asyncio.sleep(0.001)


async def answered(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line; empty at the end."""
    async with asyncio.timeout(10):
        line = await reader.readline()
    answer: dict[str, Any] = json.loads(line) if line else {}
    return answer


@asynccontextmanager
async def serving(path: Path, status: Status) -> AsyncIterator[Served]:
    served = Served(path, status)
    task = asyncio.create_task(served.server.run())
    try:
        while True:
            try:
                _, writer = await served.client()
            except (FileNotFoundError, ConnectionRefusedError):
                if task.done():
                    await task
                await asyncio.sleep(0)
                continue
            writer.close()
            break
        yield served
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def served(tmp_path: Path, good: Status) -> AsyncIterator[Served]:
    async with serving(tmp_path / "box.sock", good) as made:
        yield made


async def test_the_whole_picture_is_one_line_as_often_as_it_is_asked_for(
    served: Served, good: Status
) -> None:
    reader, writer = await served.client()
    for _ in range(2):
        writer.write(b'{"ask": "status"}\n')
        assert Status.model_validate(await answered(reader)) == good
    writer.close()
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"hello\n", "JSON"),
        (b'{"ask": "reboot"}\n', "'tap'"),
        (b'{"ask": "status", "more": 1}\n', "more"),
        (b'{"ask": "tap", "device": 7}\n', "device"),
        (b'{"ask": "tap", "where": ["__import__(1)"]}\n', "FIELD OP NUMBER"),
        (b'{"ask": "tap", "batch_class": "gold"}\n', "batch_class"),
        (b"[" * 3000 + b"\n", "JSON"),
        (b"\xff\xfe\n", "JSON"),
        (b"x" * 2 * REQUEST_BYTES, f"more than {REQUEST_BYTES} bytes"),
    ],
)
async def test_what_is_no_request_is_told_and_ends_the_connection(
    served: Served, request_: bytes, told: str
) -> None:
    assert told in (await served.ask(request_))["error"]
    assert served.asked == 0


async def test_garbage_in_any_form_harms_nobody_who_asks_well(served: Served) -> None:
    rng = random.Random(1)
    good = b'{"ask": "status"}\n{"ask": "tap", "device": "*"}\n'
    for _ in range(200):
        data = bytearray(good if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 400)))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        _, writer = await served.client()
        writer.write(bytes(data[: rng.randrange(1, len(data) + 1)]))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
    assert "box" in await served.ask(b'{"ask": "status"}\n')


async def test_ten_megabytes_without_an_end_of_line_are_never_taken_in(served: Served) -> None:
    _, writer = await served.client()
    sent_bytes = 0
    with contextlib.suppress(ConnectionError):
        while sent_bytes < 10_000_000:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent_bytes += 65_536
    assert sent_bytes < 1_000_000
    writer.close()
    assert "box" in await served.ask(b'{"ask": "status"}\n')


async def test_clients_that_say_nothing_are_let_go_and_leave_their_place(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [await served.client() for _ in range(CLIENTS)]
    assert "already" in (await served.ask(b'{"ask": "status"}\n'))["error"]
    for _, writer in held:
        writer.close()
    await until(lambda: not served.server.clients)
    assert "box" in await served.ask(b'{"ask": "status"}\n')

    monkeypatch.setattr(module, "IDLE_S", 0.01)
    reader, writer = await served.client()
    assert await answered(reader) == {}
    writer.close()


async def test_a_client_that_never_reads_is_cut(
    tmp_path: Path, big: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_S", 0.05)
    async with serving(tmp_path / "box.sock", big) as served:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(served.path))
            deaf.sendall(b'{"ask": "status"}\n' * 100)
            await until(lambda: served.asked and not served.server.clients)
        assert served.asked < 10


# --- the file ---


async def test_the_socket_of_a_dead_box_is_replaced(tmp_path: Path, good: Status) -> None:
    path = tmp_path / "box.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path, good) as served:
        assert "box" in await served.ask(b'{"ask": "status"}\n')
    assert not path.exists()


async def test_the_socket_of_a_living_box_is_left_alone(served: Served, good: Status) -> None:
    with pytest.raises(OSError, match="another box"):
        await Served(served.path, good).server.run()
    assert "box" in await served.ask(b'{"ask": "status"}\n')


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path, good: Status) -> None:
    path = tmp_path / "precious"
    path.write_text("readings")
    with pytest.raises(OSError, match="no socket"):
        await Served(path, good).server.run()
    assert path.read_text() == "readings"


# --- taps ---


@pytest.fixture
def sample(stream: Stream) -> Callable[..., Sample]:
    def make(temperature: float | None, vehicles: int = 0, state: str | None = "dry") -> Sample:
        codes = ((0, 9),) if temperature is None else ()
        return Sample(stream, 1_780_000_000_000_000_000, (temperature, vehicles, state), quality=codes)

    return make


async def test_a_tap_shows_what_was_asked_for_and_nothing_else(
    served: Served, sample: Callable[..., Sample]
) -> None:
    reader, writer = await served.client()
    request = {
        "ask": "tap",
        "device": "ma*",
        "field": "*_*",
        "where": ["air_temperature > 30", "vehicle_count<5"],
    }
    writer.write(json.dumps(request).encode() + b"\n")
    assert await answered(reader) == {"tap": "open"}
    for one in (sample(20.0), sample(None), sample(31.5, 9), sample(30.5, 4), sample(40.0, 0)):
        served.taps.saw(BatchClass.DATA, one)
    rows = [await answered(reader), await answered(reader)]
    writer.close()
    assert [row["values"] for row in rows] == [
        {"air_temperature": 30.5, "vehicle_count": 4},
        {"air_temperature": 40.0, "vehicle_count": 0},
    ]
    assert rows[0]["units"] == {"air_temperature": "Cel", "vehicle_count": "{vehicle}"}
    assert (rows[0]["device"], rows[0]["measurement"], rows[0]["class"]) == ("mast", "weather", "data")


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({"batch_class": "alarm"}, 1),
        ({"device": "mas"}, 0),
        ({"measurement": "wea?her"}, 2),
        ({"field": "snow_depth"}, 0),
        ({"where": ["snow_depth >= 0"]}, 0),
        ({"where": ["state = 1"]}, 0),
        ({"where": ["air_temperature != -1.5e0"]}, 1),
    ],
)
def test_a_tap_filters_by_class_names_and_conditions(
    sample: Callable[..., Sample], wanted: dict[str, Any], shown: int
) -> None:
    tap = Tap(TapRequest.model_validate(wanted))
    tap.offer(BatchClass.DATA, sample(-1.5))
    tap.offer(BatchClass.ALARM, sample(7.0))
    assert tap.waiting == shown


async def test_a_slow_tap_loses_the_oldest_and_is_told_how_many(sample: Callable[..., Sample]) -> None:
    tap = Tap(TapRequest(), queue=10)
    for number in range(25):
        tap.offer(BatchClass.DATA, sample(float(number)))
    lines = [json.loads(line) for line in (await tap.take()).splitlines()]
    assert lines[0] == {"lost": 15}
    assert [line["values"]["air_temperature"] for line in lines[1:]] == [float(n) for n in range(15, 25)]
    tap.offer(BatchClass.DATA, sample(99.0))
    assert json.loads(await tap.take())["values"]["air_temperature"] == 99.0


async def test_a_tap_that_never_reads_is_cut_and_forgotten(
    served: Served, sample: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(served.path))
        deaf.sendall(b'{"ask": "tap"}\n')
        await until(lambda: served.taps.count)

        def cut() -> bool:
            served.taps.saw(BatchClass.DATA, sample(1.0, state="wet" * 10_000))
            return not served.taps.count

        await until(cut)


async def test_whoever_hangs_up_is_no_tap_any_more(served: Served) -> None:
    reader, writer = await served.client()
    writer.write(b'{"ask": "tap"}\n')
    await answered(reader)
    assert served.taps.count == 1
    writer.close()
    await until(lambda: not served.taps.count)


@pytest.mark.parametrize(
    "text", ["", "a", "a >", "a > b", "a > 1; b", "a > 1 or 1", "a in 3", "x" * 70 + " > 1", "a > nan"]
)
def test_what_is_no_condition_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match="FIELD OP NUMBER"):
        Condition.parse(text)


# --- the program ---


async def test_all_is_well_ends_with_0(tmp_path: Path, served: Served) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[status]\nsocket = "{served.path.name}"\n')
    command = [*TRISENSE, "edge", "status", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert "All is well.\n" in out.decode()
    assert process.returncode == 0


async def test_a_box_of_another_version_is_told_as_such(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"v": 2}\n')
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "spool.db.sock"):
        (tmp_path / "edge.toml").write_text("")
        command = [*TRISENSE, "edge", "status", str(tmp_path / "edge.toml")]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    assert "of another version than this program, restart it: v: expected 1, got 2" in said.decode()
    assert "Traceback" not in said.decode()
    assert process.returncode == 2


async def test_top_waits_for_a_box_that_restarts(tmp_path: Path, good: Status) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[status]\nsocket = "box.sock"\n')
    async with serving(tmp_path / "box.sock", good):
        screen = Terminal(24, 80, "top", str(config))
        await asyncio.to_thread(screen.until, "All is well.")
    await asyncio.to_thread(screen.until, "Asked again each second")
    screen.clear()
    async with serving(tmp_path / "box.sock", good):
        await asyncio.to_thread(screen.until, "All is well.")
        screen.type(b"q")
        assert await asyncio.to_thread(screen.end) == 0
