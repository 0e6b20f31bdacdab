"""The simulated LLRP reader as a client sees it that was written from the sheet, too."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trisense.sims.base import Faults, Truth, World, listening
from trisense.sims.llrp import LlrpReader
from trisense.sims.llrp_bytes import tag_number

# The minimal ADD_ROSPEC of the sheet (section 1.5): ROSpec 1, 3000 ms, antenna 1, no report settings.
ADD_MINIMAL = bytes.fromhex(
    "0414000000 5c 0000000f 00b1 0052 00000001 00 00 00b2 0012 00b3 0005 01 00b6 0009 01 00000bb8"
    "00b7 0036 0001 0001 00b8 0009 00 00000000 00ba 0025 04d2 01 00de 001e 0001 014a 0018 00"
    "014f 0008 0000 0000 0150 000b 40 0001 00000000"
)
SET_CONFIG = bytes.fromhex(
    "04030000006e000000030000f4004300f5000700000000f5000700010000f5000700028000f5000700030000f5000700040000f500"
    "0700050000f5000700068000f5000700070000f5000700080000ed000d02000000ee0006ffc000ef00050100dc00090100001388"
    "00e2000580"
)


def reader(**options: Any) -> LlrpReader:
    options = {"tags_per_hour": 0, "antenna_faults_per_hour": 0, **options}
    return LlrpReader(world=World(1), truth=Truth(), faults=Faults(), seed=1, name="gate", **options)


class Peer:
    """A client that sends bytes and reads whole messages."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.reader, self.writer = streams

    async def read(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(10):
            head, length, id_ = struct.unpack(">HII", await self.reader.readexactly(10))
            assert head >> 10 == 1
            return head & 0x3FF, id_, await self.reader.readexactly(length - 10)

    async def wait_for(self, *types: int) -> tuple[int, int, bytes]:
        while (found := await self.read())[0] not in types:
            pass
        return found

    async def ask(self, type_: int, answer: int, body: bytes = b"", id_: int = 7) -> int:
        """Send a request; gives the status code of its response."""
        self.writer.write(struct.pack(">HII", 1 << 10 | type_, len(body) + 10, id_) + body)
        _, got_id, said = await self.wait_for(answer, 100)
        assert got_id in (id_, 0)
        assert struct.unpack_from(">H", said)[0] == 287
        return int(struct.unpack_from(">H", said, 4)[0])


@asynccontextmanager
async def peer(sim: LlrpReader) -> AsyncIterator[Peer]:
    """The reader's one client, greeted."""
    async with listening(sim) as port:
        client = Peer(await asyncio.open_connection("127.0.0.1", port))
        assert status_of(await client.read()) == 0
        try:
            yield client
        finally:
            client.writer.close()


def status_of(said: tuple[int, int, bytes]) -> int:
    """Status of the ConnectionAttemptEvent that the message is."""
    type_, _, body = said
    assert type_ == 63
    assert body[16:20] == bytes.fromhex("01000006")
    return int(struct.unpack(">H", body[20:])[0])


def rospec(*, n: int = 1, selector: int = 0x1700, memory: int = 0xC0, stop_ms: int = 0) -> bytes:
    """ROSpec 1 with null triggers, or a duration, on all antennas."""

    def tlv(type_: int, body: bytes) -> bytes:
        return struct.pack(">HH", type_, len(body) + 4) + body

    stop = struct.pack(">BI", bool(stop_ms), stop_ms)
    boundary = tlv(178, tlv(179, b"\0") + tlv(182, stop))
    aispec = tlv(183, struct.pack(">HH", 1, 0) + tlv(184, bytes(5)) + tlv(186, struct.pack(">HB", 1, 1)))
    content = tlv(238, struct.pack(">H", selector) + tlv(348, bytes([memory])))
    reporting = tlv(237, struct.pack(">BH", 2, n) + content)
    return tlv(177, struct.pack(">IBB", 1, 0, 0) + boundary + aispec + reporting)


ONE = struct.pack(">I", 1)


async def run_rospec(client: Peer, body: bytes) -> None:
    assert await client.ask(20, 30, body) == 0
    assert await client.ask(24, 34, ONE) == 0
    assert await client.ask(22, 32, ONE) == 0


async def test_a_second_client_is_turned_away_and_the_first_is_told() -> None:
    sim = reader()
    async with listening(sim) as port:
        first = Peer(await asyncio.open_connection("127.0.0.1", port))
        assert status_of(await first.read()) == 0
        second = Peer(await asyncio.open_connection("127.0.0.1", port))
        assert status_of(await second.read()) == 2
        assert await second.reader.read() == b""
        assert status_of(await first.read()) == 4
        for each in (first, second):
            each.writer.close()


async def test_the_minimal_rospec_of_the_sheet_is_accepted_once() -> None:
    async with peer(reader()) as client:
        client.writer.write(ADD_MINIMAL)
        assert (await client.read())[:2] == (30, 15)
        assert await client.ask(20, 30, ADD_MINIMAL[10:]) == 101
        assert await client.ask(21, 31, bytes(4)) == 0
        assert await client.ask(20, 30, ADD_MINIMAL[10:]) == 0


async def test_what_is_out_of_order_is_refused() -> None:
    async with peer(reader()) as client:
        assert await client.ask(22, 32, ONE) == 101  # start what is not there
        assert await client.ask(24, 34, ONE) == 101
        assert await client.ask(21, 31, ONE) == 101
        assert await client.ask(21, 31, bytes(4)) == 0  # all of none
        assert await client.ask(20, 30, rospec()[:9] + b"\1" + rospec()[10:]) == 101  # not disabled
        assert await client.ask(20, 30, rospec()) == 0
        assert await client.ask(22, 32, ONE) == 101  # start what is disabled
        assert await client.ask(24, 34, ONE) == 0
        assert await client.ask(22, 32, bytes(4)) == 101  # start all
        assert await client.ask(22, 32, ONE) == 0
        assert await client.ask(22, 32, ONE) == 101  # start what runs
        assert await client.ask(23, 33, ONE) == 0
        assert await client.ask(23, 33, ONE) == 101


async def test_unknown_messages_and_bytes_that_are_no_llrp_are_answered_by_an_error() -> None:
    async with peer(reader()) as client:
        assert await client.ask(40, 50) == 109
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        type_, _, body = await client.read()
        assert (type_, struct.unpack_from(">H", body, 4)[0]) == (100, 100)
        assert await client.reader.read() == b""


@pytest.mark.parametrize("body", [b"", b"\x00\xb1\x00\x04", rospec()[:-1], bytes(8)])
async def test_a_rospec_that_is_none_is_an_error_and_no_crash(body: bytes) -> None:
    async with peer(reader()) as client:
        assert await client.ask(20, 30, body) in (100, 101)


async def test_keepalives_come_at_their_period_and_missed_acks_end_the_connection() -> None:
    async with peer(reader()) as client:
        assert await client.ask(3, 13, b"\0" + struct.pack(">HHBI", 220, 9, 1, 20)) == 0
        assert [(await client.read())[0] for _ in range(3)] == [62] * 3
        type_, _, body = await client.read()
        assert type_ == 63
        assert body[-4:] == bytes.fromhex("01010004")
        assert await client.reader.read() == b""


async def test_acks_keep_the_connection() -> None:
    async with peer(reader()) as client:
        assert await client.ask(3, 13, b"\0" + struct.pack(">HHBI", 220, 9, 1, 20)) == 0
        for _ in range(8):
            type_, id_, _ = await client.read()
            assert type_ == 62
            client.writer.write(struct.pack(">HII", 1 << 10 | 72, 10, id_))


async def test_the_golden_configuration_is_understood() -> None:
    sim = reader()
    async with peer(sim) as client:
        client.writer.write(SET_CONFIG)
        assert (await client.wait_for(13))[1] == 3
        assert sim._keepalive_s == 5.0
        assert [event for event, on in sim._events.items() if on] == [2, 6]


async def test_reports_hold_what_was_selected_and_n_tags() -> None:
    sim = reader(tags_per_hour=1e6, read_every_s=0.05)
    async with peer(sim) as client:
        await run_rospec(client, rospec(n=3, selector=0x0400, memory=0))
        _, _, body = await client.wait_for(61)
    tags = 0
    while body:
        type_, size = struct.unpack_from(">HH", body)
        assert type_ == 240
        assert body[size - 2] == 0x86  # PeakRSSI, and nothing behind it
        body, tags = body[size:], tags + 1
    assert tags == 3


async def test_a_duration_ends_the_rospec_and_is_told_where_asked_for() -> None:
    async with peer(reader()) as client:
        events = struct.pack(">HHHHHB", 244, 11, 245, 7, 2, 0x80)
        assert await client.ask(3, 13, b"\0" + events) == 0
        await run_rospec(client, rospec(stop_ms=30))
        told = [(await client.wait_for(63))[2][16:] for _ in range(2)]
    assert [(event[:2], event[4]) for event in told] == [(b"\x00\xf9", 0), (b"\x00\xf9", 1)]


async def test_a_reader_without_a_clock_reports_uptime() -> None:
    sim = reader(tags_per_hour=1e6, utc_clock=False)
    async with peer(sim) as client:
        await run_rospec(client, rospec(selector=0x0300, memory=0))
        _, _, body = await client.wait_for(61)
    assert body[-18] == 0x83
    assert body[-9] == 0x85


async def test_a_closed_connection_is_answered_first() -> None:
    async with peer(reader()) as client:
        assert await client.ask(14, 4) == 0
        assert await client.reader.read() == b""


def test_tags_are_of_several_kinds_and_lengths() -> None:
    numbers = [tag_number(random.Random(seed)) for seed in range(200)]
    assert {len(number) for number in numbers} == {12, 16}
    assert {number[0] for number in numbers} == {0x30, 0x34, 0xE2, 0xA5}
