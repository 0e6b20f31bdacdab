"""Simulated devices on real ptys and sockets: what a host sees of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.sims.base import End, Faults, Simulator, Told, Truth, World, listening, plugged

WORLD = World(seed=1)


class Counter(Simulator):
    """Says ``#0001!`` and so on, and answers each ``?``."""

    kind = "counter"
    baud = 115_200

    def __init__(
        self, *, faults: Faults | None = None, truth: Truth | None = None, chatty: bool = True
    ) -> None:
        super().__init__(
            world=WORLD, truth=truth or Truth(), faults=faults or Faults(), seed=1, name="counter"
        )
        self.count = 0
        self.talking = False
        self.chatty = chatty

    async def talk(self, end: End) -> None:
        self.talking = True
        try:
            if not self.chatty:
                await end.read()
            while True:
                self.count += 1
                await end.send(b"#%04d!" % self.count, Told("count", {"count": self.count}))
                await asyncio.sleep(0.001)
        finally:
            self.talking = False


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "ttyTEST"


async def read_some(fd: int, size: int) -> bytes:
    """Read ``size`` bytes of a slave as a plain host does, without touching its settings."""
    data = b""
    async with asyncio.timeout(10):
        while len(data) < size:
            data += await asyncio.to_thread(os.read, fd, size - len(data))
    return data


async def test_a_host_that_opens_the_pty_reads_frames_untranslated(link: Path) -> None:
    async with plugged(Counter(), link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        assert await read_some(fd, 12) == b"#0001!#0002!"
        os.close(fd)


async def test_what_the_host_writes_is_not_echoed(link: Path) -> None:
    async with plugged(Counter(chatty=False), link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"\r\n?")
        assert await read_some(fd, 6) == b"#0001!"
        os.close(fd)


async def test_a_host_that_comes_back_reads_nothing_from_before(link: Path) -> None:
    sim = Counter()
    async with plugged(sim, link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        await read_some(fd, 6)
        await until(lambda: sim.count > 9)
        os.close(fd)
        await until(lambda: not sim.talking)
        told = sim.count
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        assert int((await read_some(fd, 6))[1:5]) > told
        os.close(fd)


def target(link: Path) -> str | None:
    return str(link.readlink()) if link.is_symlink() else None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # a device tells nobody what it has said
            await asyncio.sleep(0.005)


async def test_a_hang_up_gives_a_new_pty_under_the_same_link(link: Path) -> None:
    async with plugged(Counter(faults=Faults.parse("hangup@1"), chatty=False), link):
        before = target(link)
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"?")
        with pytest.raises(OSError, match="Input/output error"):
            await read_some(fd, 6)
        os.close(fd)
        assert target(link) != before
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"?")
        assert await read_some(fd, 6) == b"#0002!"
        os.close(fd)


async def test_a_host_that_reads_nothing_loses_bytes_and_holds_up_nobody(link: Path) -> None:
    class Talker(Counter):
        async def talk(self, end: End) -> None:
            while True:
                await end.send(bytes(256))
                self.count += 1

    sim = Talker()
    sim.baud = 10_000_000
    async with plugged(sim, link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        await until(lambda: sim.count * 256 > 3 * 4096)  # far more than a pty holds
        os.close(fd)


async def test_a_pty_is_paced_at_its_baud_rate(link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        slept.append(delay)
        await real_sleep(0)

    sim = Counter()
    sim.baud = 9600
    async with plugged(sim, link):
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        monkeypatch.setattr("trisense.sims.base.asyncio.sleep", sleep)
        await read_some(fd, 60)
        monkeypatch.undo()
        os.close(fd)
    assert 6 * 10 / 9600 in slept  # one frame of six characters, ten bits each


async def test_the_link_is_gone_when_the_device_is(link: Path) -> None:
    async with plugged(Counter(), link):
        assert target(link)
    assert not target(link)


async def test_a_device_that_fails_is_told_at_the_end_of_the_block(link: Path) -> None:
    class Broken(Counter):
        async def talk(self, end: End) -> None:  # noqa: ARG002  # it fails before it speaks
            raise ZeroDivisionError

    async def meet() -> None:
        async with plugged(Broken(), link):
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
            await until(lambda: not target(link))
            os.close(fd)

    with pytest.raises(ZeroDivisionError):
        await meet()


# --- TCP --------------------------------------------------------------------------------------------


async def test_several_hosts_talk_to_one_device_over_tcp() -> None:
    async with listening(Counter()) as port:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            frame = await reader.readexactly(6)
            assert (frame[:1], frame[-1:]) == (b"#", b"!")
            writer.close()


async def test_a_host_that_leaves_ends_its_conversation_over_tcp() -> None:
    sim = Counter()
    async with listening(sim) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: sim.talking)
        writer.close()
        await until(lambda: not sim.talking)


async def test_a_hang_up_over_tcp_is_the_end_of_the_stream_and_one_may_come_back() -> None:
    async with listening(Counter(faults=Faults.parse("hangup@2"))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b"#0001!"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(6) == b"#0003!"
        writer.close()


async def test_a_device_that_fails_over_tcp_is_told_at_the_end_of_the_block() -> None:
    class Broken(Counter):
        async def talk(self, end: End) -> None:  # noqa: ARG002  # it fails before it speaks
            raise ZeroDivisionError

    async def meet() -> None:
        async with listening(Broken()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()

    with pytest.raises(ZeroDivisionError):
        await meet()


# --- faults and truth -------------------------------------------------------------------------------


async def talked(tmp_path: Path, faults: str, size: int) -> tuple[bytes, list[dict[str, Any]]]:
    """What a TCP host read, and the truth about it."""
    path = tmp_path / "truth.jsonl"
    with Truth(path) as truth:
        async with listening(Counter(faults=Faults.parse(faults, seed=2), truth=truth)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = await reader.readexactly(size)
            writer.close()
    return data, [json.loads(line) for line in path.read_text().splitlines()]


async def test_the_truth_has_a_line_for_each_frame_with_what_it_told(tmp_path: Path) -> None:
    data, lines = await talked(tmp_path, "", 12)
    assert data == b"#0001!#0002!"
    assert lines[0] == {
        "t_ns": lines[0]["t_ns"],
        "device": "counter",
        "measurement": "count",
        "values": {"count": 1},
        "fault": None,
        "bytes": b"#0001!".hex(),
    }


@pytest.mark.parametrize(
    ("fault", "size"),
    [("checksum", 12), ("cut", 8), ("garbage", 13), ("silence", 6), ("late", 12), ("stuck", 12)],
)
async def test_each_fault_hits_its_frame_and_is_in_the_truth(tmp_path: Path, fault: str, size: int) -> None:
    data, lines = await talked(tmp_path, f"{fault}@1,late_s=0.01", size)
    first, second = b"#0001!", b"#0002!"
    seen = {
        "checksum": data[:5] == first[:5] and data[5:6] != b"!" and data[6:12] == second,
        "cut": first.startswith(data.partition(b"#0002")[0]),
        "garbage": first in data or len(data) < 30,
        "silence": data == second,
        "late": data == first + second,
        "stuck": data == first + second,
    }
    assert seen[fault]
    assert lines[0]["fault"] == (None if fault == "stuck" else fault)
    assert lines[1]["fault"] == ("stuck" if fault == "stuck" else None)
    assert bytes.fromhex(lines[0]["bytes"]) in data + b"#0001!" or fault == "garbage"


def test_the_same_seed_draws_the_same_faults() -> None:
    one, other = Faults.parse("cut=0.3,late=0.3", seed=7), Faults.parse("cut=0.3,late=0.3,seed=7")
    drawn = [one.draw() for _ in range(200)]
    assert drawn == [other.draw() for _ in range(200)]
    assert {"cut", "late", None} == set(drawn)


@pytest.mark.parametrize("text", ["boom=0.1", "cut=x", "cut=0.7,late=0.7", "cut=-0.1", "hangup@soon", "cut"])
def test_a_wrong_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Faults.parse(text)


def test_a_stuck_device_tells_the_time_it_got_stuck_at() -> None:
    sim = Counter(faults=Faults(durations_s={"stuck_s": 60}))
    sim.get_stuck()
    assert sim.stuck
    assert sim.now_ns() == sim.now_ns()


def test_long_frames_are_in_the_truth_by_their_hash(tmp_path: Path) -> None:
    with Truth(tmp_path / "truth.jsonl") as truth:
        truth.write("camera", Told("picture", {}), fault=None, sent=bytes(10_000))
    assert json.loads((tmp_path / "truth.jsonl").read_text())["bytes"].startswith("sha256:")
