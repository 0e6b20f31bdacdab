"""Time from a GNSS receiver: valid sentences only, and a line that may fail as it likes."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from functools import reduce
from operator import xor

import pytest
from trisense.edge.clocks.gnss import Gnss, RmcDecoder, utc_ns

from tests.edge.conftest import FakeClock

AT_NS = int(datetime(2026, 6, 1, 12, 35, 19, tzinfo=UTC).timestamp()) * 1_000_000_000
RMC = "GPRMC,123519.25,A,4807.038,N,01131.000,E,022.4,084.4,010626,003.1,W"


class Told(Gnss):
    """Says when a sentence came."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        super().__init__(url, clock)
        self.came = asyncio.Event()

    def take(self, utc_ns: int) -> None:
        super().take(utc_ns)
        self.came.set()

    async def fixed(self) -> None:
        while self.fix() is None:
            await self.came.wait()
            self.came.clear()


def sentence(text: str) -> bytes:
    return f"${text}*{reduce(xor, text.encode()):02X}\r\n".encode()


@pytest.mark.parametrize("text", [RMC, RMC + ",A", RMC.replace("GPRMC", "GNRMC") + ",D,V"])
def test_a_valid_rmc_sentence_gives_its_time(text: str) -> None:
    assert utc_ns(text) == AT_NS + 250_000_000


@pytest.mark.parametrize(
    "text",
    [
        RMC.replace(",A,", ",V,"),
        RMC + ",N",
        RMC + ",E",
        RMC.replace("010626", "160906"),
        RMC.replace("010626", "320626"),
        RMC.replace("010626", ""),
        RMC.replace("123519.25", "1235"),
        RMC.replace("123519.25", ""),
        RMC.replace("GPRMC", "GPGGA"),
        "GPZDA,123519.00,01,06,2026,00,00",
        "GPRMC",
        "",
    ],
    ids=[
        "no fix", "mode N", "dead reckoning", "weeks counted wrong", "no such day", "no date", "half a time",
        "no time", "other sentence", "ZDA has no flag", "address only", "nothing",
    ],
)  # fmt: skip
def test_a_sentence_without_valid_time_gives_none(text: str) -> None:
    assert utc_ns(text) is None


def test_a_damaged_sentence_gives_no_time() -> None:
    whole = sentence(RMC)
    for at in range(1, len(whole) - 2):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        pieces = RmcDecoder().feed(damaged)
        assert not any(isinstance(piece, dict) and "utc_ns" in piece for piece in pieces), damaged


def test_sentences_that_agree_make_a_fix_of_the_one_that_came_soonest(clock: FakeClock) -> None:
    gnss = Gnss("serial:///dev/null", clock)
    for number in range(5):
        assert gnss.fix() is None
        late_ns = 300_000_000 if number != 2 else 50_000_000
        gnss.take(clock.wall_ns - late_ns)
        clock.advance(1)
    fix = gnss.fix()
    assert fix is not None
    assert fix.offset_ns == clock.wall_ns - clock.since_boot_ns - 50_000_000
    assert fix.error_ms == 1000


def test_a_receiver_that_falls_silent_or_jumps_is_not_believed(clock: FakeClock) -> None:
    gnss = Gnss("serial:///dev/null", clock)
    for _ in range(6):
        gnss.take(clock.wall_ns)
        clock.advance(1)
    clock.advance(11)
    assert gnss.fix() is None
    gnss.take(clock.wall_ns + 5_000_000_000)
    assert gnss.fix() is None


async def test_a_receiver_on_a_line_is_read_again_after_its_line_broke(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.clocks.gnss.RETRY_S", 0.01)
    holders: list[asyncio.StreamWriter] = []
    connected = asyncio.Queue[asyncio.StreamWriter]()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        holders.append(writer)
        await connected.put(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gnss = Told(f"tcp://127.0.0.1:{port}", clock)
    task = asyncio.create_task(gnss.run())
    try:
        async with asyncio.timeout(10):
            first = await connected.get()
            first.write(b"\x00noise" + sentence(RMC))
            first.close()
            second = await connected.get()
            for _ in range(5):
                second.write(sentence(RMC))
            await gnss.fixed()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for writer in holders:
            writer.close()
        server.close()
