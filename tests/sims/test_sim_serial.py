"""The simulated sensors on UARTs, looked at with nothing but the sheet's rules and its captured frames."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trisense.sims.a02yyuw import A02yyuw
from trisense.sims.base import Faults, Simulator, Truth, World, listening
from trisense.sims.davis import Vantage, crc16
from trisense.sims.maxbotix import Maxbotix
from trisense.sims.nova import Nova
from trisense.sims.rg15 import Rg15
from trisense.sims.sps30 import Sps30
from trisense.sims.winsen import Winsen

ASK_GAS = bytes.fromhex("ff0186000000000079")
START = bytes.fromhex("7e0000020103f97e")
READ = bytes.fromhex("7e000300fc7e")


def made(kind: type[Simulator], **options: Any) -> Any:
    return kind(world=World(1), truth=Truth(), faults=Faults(), seed=1, name="device", **options)


class Host:
    """A host on the other end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, question: bytes, size: int) -> bytes:
        self._writer.write(question)
        return await self._reader.readexactly(size)

    async def tell(self, command: bytes) -> None:
        self._writer.write(command)
        await self._writer.drain()

    async def hear(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def until(self, end: bytes) -> bytes:
        return await self._reader.readuntil(end)


@asynccontextmanager
async def talking_to(sim: Simulator) -> AsyncIterator[Host]:
    async with listening(sim) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield Host(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()


# --- Nova -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "kind"), [("sds011", 0xC0), ("sds198", 0xCF)])
async def test_a_dust_report_has_its_kind_and_sum(model: str, kind: int) -> None:
    async with talking_to(made(Nova, model=model, report_s=0, fan_start_s=0)) as host:
        frame = await host.hear(10)
    assert (frame[0], frame[1], frame[9]) == (0xAA, kind, 0xAB)
    assert sum(frame[2:8]) % 256 == frame[8]
    assert any(frame[4:6])


async def test_a_fan_that_starts_tells_zeros() -> None:
    async with talking_to(made(Nova, report_s=0, fan_start_s=60)) as host:
        assert (await host.hear(10))[2:6] == bytes(4)


async def test_a_sleeping_dust_sensor_hears_work_alone() -> None:
    async with talking_to(made(Nova, asleep=True, report_s=60)) as host:
        await host.tell(bytes.fromhex("aab408000000000000000000000000ffff06ab"))
        woken = await host.ask(bytes.fromhex("aab406010100000000000000000000ffff06ab"), 15)
    assert woken[5:] == bytes.fromhex("aac506010100a16009ab")  # behind five bytes of noise


async def test_a_command_for_another_dust_sensor_is_not_obeyed() -> None:
    sim = made(Nova, report_s=60)
    async with talking_to(sim) as host:
        await host.tell(bytes.fromhex("aab40601000000000000000000000012344dab"))
        reply = await host.ask(bytes.fromhex("aab407000000000000000000000000a16008ab"), 10)
    assert reply == bytes.fromhex("aac5070f070aa16028ab")  # the maker's example
    assert not sim.asleep


# --- SPS30 ------------------------------------------------------------------------------------------


async def test_a_measurement_is_started_once_and_has_news_once_a_second() -> None:
    async with talking_to(made(Sps30, fresh_s=60)) as host:
        assert await host.ask(READ, 7) == bytes.fromhex("7e00034300b97e")  # not before it was started
        assert await host.ask(START, 7) == bytes.fromhex("7e00000000ff7e")
        assert await host.ask(START, 7) == bytes.fromhex("7e00004300bc7e")  # captured
        assert await host.ask(READ, 7) == bytes.fromhex("7e00030000fc7e")  # captured: nothing new


async def test_a_reading_is_stuffed_and_summed() -> None:
    sim = made(Sps30, fresh_s=0)
    async with talking_to(sim) as host:
        await host.ask(START, 7)
        for _ in range(30):
            await host.tell(READ)
            await host.hear(1)
            body = (await host.until(b"\x7e"))[:-1]
            assert not {0x11, 0x13} & set(body)
            plain = re.sub(rb"\x7d(.)", lambda pair: bytes((pair[1][0] ^ 0x20,)), body, flags=re.DOTALL)
            assert (plain[:4], len(plain)) == (bytes((0, 3, 0, 40)), 45)
            assert sum(plain) % 256 == 0xFF


async def test_a_sleeping_sps30_needs_the_extra_byte() -> None:
    async with talking_to(made(Sps30, asleep=True)) as host:
        await host.tell(bytes.fromhex("7e007d3100ee7e"))
        assert await host.ask(b"\xff" + bytes.fromhex("7e007d3100ee7e"), 8) == bytes.fromhex(
            "7e007d310000ee7e"
        )


# --- Winsen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mhz19", "ze07-ch2o", "ze07-co"])
async def test_an_answer_of_a_gas_sensor_has_its_sum(model: str) -> None:
    async with talking_to(made(Winsen, model=model, boot_s=0, upload_s=60)) as host:
        await host.tell(bytes.fromhex("ff0178410000000046"))
        frame = await host.ask(ASK_GAS, 9)
    assert frame[:2] == b"\xff\x86"
    assert sum(frame[1:]) % 256 == 0


async def test_a_co2_sensor_that_starts_tells_a_placeholder() -> None:
    async with talking_to(made(Winsen)) as host:
        frame = await host.ask(ASK_GAS, 9)
    assert int.from_bytes(frame[2:4], "big") == 410
    assert int.from_bytes(frame[6:8], "big") == 15_000


async def test_a_gas_module_sends_by_itself_until_it_is_told_to_answer() -> None:
    sim = made(Winsen, model="ze07-co", upload_s=0.01)
    async with talking_to(sim) as host:
        frame = await host.hear(9)
        await host.tell(bytes.fromhex("ff0178410000000046"))
        while (reply := await host.ask(ASK_GAS, 9))[1] != 0x86:
            pass
    assert frame[:4] == bytes.fromhex("ff040301")
    assert sum(frame[1:]) % 256 == sum(reply[1:]) % 256 == 0
    assert not sim.uploads


# --- A02YYUW and RG-15 ------------------------------------------------------------------------------


@pytest.mark.parametrize(("sum_of", "start"), [("frame", 0), ("distance", 1)])
async def test_a_distance_has_its_sum(sum_of: str, start: int) -> None:
    async with talking_to(made(A02yyuw, period_s=0, sum_of=sum_of)) as host:
        frame = await host.hear(4)
    assert frame[0] == 0xFF
    assert sum(frame[start:3]) % 256 == frame[3]
    assert 900 <= int.from_bytes(frame[1:3], "big") <= 2600


async def test_a_distance_as_text_has_its_form_but_for_stray_bytes() -> None:
    async with talking_to(made(Maxbotix, period_s=0, stray=0.5)) as host:
        texts = [await host.until(b"\r") for _ in range(20)]
    assert any(b"\xff" in text for text in texts)
    assert all(re.fullmatch(rb"R\d{4}\r", text.replace(b"\xff", b"")) for text in texts)


@pytest.mark.parametrize(("inches", "unit"), [(False, "mm"), (True, "in")])
async def test_a_rain_gauge_tells_its_unit_and_counts_since_the_last_read(inches: bool, unit: str) -> None:
    async with talking_to(made(Rg15, inches=inches, drizzle_mm=2.54)) as host:
        assert await host.ask(b"P\n", 3) == b"p\r\n"
        lines = []
        for _ in range(2):
            await host.tell(b"R\n")
            lines.append((await host.until(b"\n")).decode())
    numbers = [[float(number) for number in re.findall(rf"(\d+\.\d+) {unit}", line)] for line in lines]
    assert [(acc, total) for acc, _, total, *_ in numbers] == (
        [(0.1, 0.1), (0.1, 0.2)] if inches else [(2.54, 2.54), (2.54, 5.08)]
    )


async def test_a_rain_gauge_forgets_its_counts_when_it_is_restarted() -> None:
    async with talking_to(made(Rg15, drizzle_mm=1.0)) as host:
        await host.tell(b"R\nK\nR\n")
        text = ""
        while text.count("TotalAcc") < 2:
            text += (await host.until(b"\n")).decode()
    assert re.findall(r"TotalAcc +(\S+)", text) == ["1.00", "1.00"]


# --- Davis ------------------------------------------------------------------------------------------


def test_the_checksum_of_a_console_is_that_of_its_manual() -> None:
    assert crc16(bytes.fromhex("c6cea203")) == 0xE2B4


@pytest.mark.parametrize(("command", "kind"), [(b"LOOP 2\n", 0), (b"LPS 2 2\n", 1)])
async def test_a_console_wakes_acknowledges_and_sends_as_many_packets_as_asked(
    command: bytes, kind: int
) -> None:
    async with talking_to(made(Vantage, packet_s=0.01)) as host:
        await host.tell(b"LOOP 9\n")  # asleep it only wakes
        assert await host.ask(b"\n", 2) == b"\n\r"
        assert await host.ask(command, 1) == b"\x06"
        packets = [await host.hear(99) for _ in range(2)]
        assert await host.ask(b"\n", 2) == b"\n\r"  # and no third one in front of it
    for packet in packets:
        assert (packet[:3], packet[4], packet[95:97]) == (b"LOO", kind, b"\n\r")
        assert crc16(packet) == 0


async def test_an_old_console_knows_no_second_packet() -> None:
    async with talking_to(made(Vantage, old_firmware=True)) as host:
        await host.ask(b"\n", 2)
        assert await host.ask(b"LPS 2 9\n", 1) == b"\x15"
