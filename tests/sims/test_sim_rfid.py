"""The simulated RFID modules, looked at with nothing but the sheet's rules and its captured frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trisense.sims.base import Faults, Simulator, Truth, World, listening
from trisense.sims.pn532 import Pn532
from trisense.sims.r200 import R200Module
from trisense.sims.uhfreader18 import UhfReader18, crc16

ACK = bytes.fromhex("0000ff00ff00")
WAKE_SAM = bytes.fromhex("55550000000000000000000000000000ff03fdd414011700")


@asynccontextmanager
async def talking_to(
    kind: type[Simulator], **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sim = kind(world=World(1), truth=Truth(), faults=Faults(), seed=1, name="device", **options)
    async with listening(sim) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("dialect", "poll", "stop", "stopped"),
    [
        ("aa", "aa0022000022dd", "aa0028000028dd", "aa01280001002add"),
        ("bb", "bb00220000227e", "bb00280000287e", "bb01280001002a7e"),
    ],
)
async def test_an_r200_speaks_its_dialect(dialect: str, poll: str, stop: str, stopped: str) -> None:
    async with talking_to(R200Module, dialect=dialect, tags_per_hour=0) as (reader, writer):
        writer.write(bytes.fromhex(poll))
        assert (await reader.readexactly(8))[1:6].hex() == "01ff000115"  # no tag
        writer.write(bytes.fromhex(stop))
        assert (await reader.readexactly(8)).hex() == stopped


async def test_an_r200_that_polls_hears_nothing_but_stop() -> None:
    async with talking_to(R200Module, round_s=0.01, tags_per_hour=0) as (reader, writer):
        writer.write(bytes.fromhex("bb00270003222710837e"))
        assert (await reader.readexactly(8)).hex() == "bb01ff000115167e"
        writer.write(bytes.fromhex("bb00b6000207d08f7e") + bytes.fromhex("bb00280000287e"))
        frames: list[str] = []
        while not frames or frames[-1] != "bb01280001002a7e":
            frames.append((await reader.readexactly(8)).hex())
    assert set(frames[:-1]) <= {"bb01ff000115167e"}


async def test_a_uhfreader18_answers_at_its_address_with_a_right_crc() -> None:
    async with talking_to(UhfReader18, scan_s=0, tags_per_hour=0) as (reader, writer):
        writer.write(bytes.fromhex("040001db4b"))
        assert (await reader.readexactly(6)).hex() == "050001fbf23d"  # no tag
        writer.write(bytes.fromhex("040021d96a"))
        size = (await reader.readexactly(1))[0]
        assert crc16(bytes((size,)) + await reader.readexactly(size)) == 0


async def test_a_pn532_must_be_woken_and_acknowledges() -> None:
    async with talking_to(Pn532, cards_per_hour=0) as (reader, writer):
        writer.write(bytes.fromhex("0000ff02fed4022a00"))  # it sleeps
        writer.write(WAKE_SAM)
        assert await reader.readexactly(15) == ACK + bytes.fromhex("0000ff02fed5151600")
        writer.write(bytes.fromhex("0000ff02fed4022a00"))
        assert await reader.readexactly(19) == ACK + bytes.fromhex("0000ff06fad50332010607e800")


async def test_a_pn532_with_unbounded_retries_waits_for_a_card_in_silence() -> None:
    async with talking_to(Pn532, cards_per_hour=0, asleep=False) as (reader, writer):
        writer.write(bytes.fromhex("0000ff04fcd44a0100e100"))
        assert await reader.readexactly(6) == ACK
        writer.write(bytes.fromhex("0000ff02fed4022a00"))
        assert (await reader.readexactly(19))[6:14].hex() == "0000ff06fad50332"
