"""The simulated sensors that talk in text, looked at with nothing but the sheet's rules and its examples."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import reduce
from operator import xor
from typing import Any

import pytest
from trisense.sims.base import Faults, Simulator, Truth, World, listening
from trisense.sims.nmea import NmeaStation
from trisense.sims.sdi12 import Sdi12
from trisense.sims.wxt import Wxt, letters


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
    "checked",
    [
        b"0+3.14OqZ",
        b"0AP@",
        b"1+2.7+85.2-0.2-2.7+770.5CAH",
        b"0r1Goe",
        b"0r2,Ta=22.7C,Ua=55.5P,Pa=1004.7H@Fn",
    ],
)
def test_its_crc_is_that_of_the_sheets_examples(checked: bytes) -> None:
    assert letters(checked[:-3]) == checked[-3:]


# --- WXT --------------------------------------------------------------------------------------------


async def test_a_station_answers_the_polls_of_the_guide() -> None:
    async with talking_to(Wxt) as (reader, writer):
        writer.write(b"?\r\n0r1Goe\r\n0R2\r\n")
        assert await reader.readline() == b"0\r\n"
        wind, ptu = (await reader.readline())[:-2], await reader.readline()
    assert wind.startswith(b"0r1,Dn=")
    assert letters(wind[:-3]) == wind[-3:]
    assert re.fullmatch(rb"0R2,Ta=-?\d+\.\dC,Ua=\d+\.\dP,Pa=\d+\.\dH\r\n", ptu)


async def test_a_station_names_the_crc_that_a_question_should_have() -> None:
    async with talking_to(Wxt) as (reader, writer):
        writer.write(b"0r1Gof\r\n")
        complaint = (await reader.readline())[:-2]
    assert complaint == b"0tX,Use chksum Goe" + letters(b"0tX,Use chksum Goe")


async def test_the_combined_poll_gives_one_message_after_another() -> None:
    async with talking_to(Wxt) as (reader, writer):
        writer.write(b"0R\r\n")
        assert [(await reader.readline())[:3] for _ in range(4)] == [b"0R1", b"0R2", b"0R3", b"0R5"]


# --- NMEA -------------------------------------------------------------------------------------------


async def test_sentences_of_a_station_have_their_check() -> None:
    async with talking_to(NmeaStation, wxt=True, period_s=0.0) as (reader, _):
        lines = [await reader.readline() for _ in range(6)]
    for line in lines:
        found = re.fullmatch(rb"\$(WI(?:MWV|MDA|XDR),[^*]+)\*([0-9A-F]{2})\r\n", line)
        assert found is not None
        assert reduce(xor, found[1], 0) == int(found[2], 16)
    assert lines[1].count(b",") == 20


# --- SDI-12 -----------------------------------------------------------------------------------------


async def test_a_sensor_says_who_it_is_and_what_it_will_tell() -> None:
    async with talking_to(Sdi12, addresses="3") as (reader, writer):
        writer.write(b"?!3!3I!4!3M!3C!")
        assert await reader.readline() == b"3\r\n"
        assert await reader.readline() == b"3\r\n"
        assert re.fullmatch(rb"314.{8}.{6}.{3}.{0,13}\r\n", await reader.readline())
        assert await reader.readline() == b"30007\r\n"
        assert await reader.readline() == b"300007\r\n"


async def test_values_come_in_pages_of_35_characters_with_a_crc_each() -> None:
    async with talking_to(Sdi12) as (reader, writer):
        writer.write(b"0MC!0D0!0D1!0D2!")
        await reader.readline()
        pages = [(await reader.readline())[:-2] for _ in range(3)]
    assert all(letters(page[:-3]) == page[-3:] for page in pages)
    assert [len(re.findall(rb"[+-]", page[:-3])) for page in pages[:2]] in ([5, 2], [4, 3])
    assert all(len(page) <= 1 + 35 + 3 for page in pages)
    assert pages[2] == b"0AP@"  # no more


async def test_data_that_are_asked_for_too_early_abort_the_measurement() -> None:
    async with talking_to(Sdi12, ready_s=1, takes_s=60.0) as (reader, writer):
        writer.write(b"0M!0D0!")
        assert await reader.readline() == b"00017\r\n"
        assert await reader.readline() == b"0\r\n"
