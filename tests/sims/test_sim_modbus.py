"""Simulated Modbus stations: what they answer, what they refuse, and what they do wrong on demand (D)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import serialx
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.modbus import FOREIGN, ModbusLine, SenseCap, Ws90, crc

SHARED = Path(__file__).parents[2] / ".." / "shared" / "protocols" / "environment_vectors.json"
NOON_NS = 1_750_000_000_000_000_000
REQUEST = bytes.fromhex("900301650009")
QUICK: dict[str, Any] = {"latency_ms": 0.0, "jitter_ms": 0.0, "baud": 115_200}


def base(faults: str = "", truth: Truth | None = None, name: str = "weather") -> dict[str, Any]:
    return {
        "world": World(seed=1),
        "truth": truth or Truth(),
        "faults": Faults.parse(faults, seed=1),
        "seed": 1,
        "name": name,
    }


def framed(body: bytes) -> bytes:
    return body + crc(body)


@asynccontextmanager
async def on_pty(sim: ModbusLine, folder: Path) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    async with plugged(sim, folder / "tty") as link:
        reader, writer = await serialx.open_serial_connection(url=str(link), baudrate=sim.baud)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def on_tcp(sim: ModbusLine) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with listening(sim) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


def test_the_crc_is_that_of_the_specification() -> None:
    assert crc(b"123456789") == bytes.fromhex("374b")
    assert crc(bytes.fromhex("1234234534564567")) == bytes.fromhex("e2db")


@pytest.mark.skipif(not SHARED.exists(), reason="the protocol vectors are not beside this checkout")
def test_the_crc_agrees_with_every_good_vector() -> None:
    vectors = json.loads(SHARED.read_text())["vectors"]
    good = [v for v in vectors if v.get("transport") == "modbus-rtu" and v["kind"] == "valid"]
    assert len(good) > 30
    for vector in good:
        frame = bytes.fromhex(vector["hex"])
        assert crc(frame[:-2]) == frame[-2:], vector["id"]


async def test_a_station_answers_its_own_unit_with_what_it_logs(tmp_path: Path) -> None:
    with Truth(tmp_path / "truth") as truth:
        async with on_pty(Ws90(**base(truth=truth), **QUICK), tmp_path) as (reader, writer):
            writer.write(framed(REQUEST))
            answer = await reader.readexactly(5 + 18)
    assert answer[:3] == bytes.fromhex("900312")
    assert framed(answer[:-2]) == answer
    (line,) = [json.loads(line) for line in (tmp_path / "truth").read_text().splitlines()]
    assert line["device"] == "weather"
    assert line["bytes"] == answer.hex()
    raw = [int.from_bytes(answer[at : at + 2], "big") for at in range(3, 21, 2)]
    assert line["values"]["air_temperature"] == pytest.approx((raw[2] - 400) / 10)
    assert line["values"]["illuminance"] == raw[0] * 10
    assert "rain_amount_total" not in line["values"]


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        ("0401650001", "8401"),
        ("0301640001", "8302"),
        ("03016e0002", "8302"),
        ("0301650000", "8303"),
        ("0301650021", "8303"),
        ("0601650001", "8601"),
        ("2b0e0100", "ab01"),
    ],
)
def test_what_its_map_does_not_hold_is_refused(pdu: str, answer: str) -> None:
    given = Ws90(**base()).answer(144, bytes.fromhex(pdu))
    assert given is not None
    assert given.pdu == bytes.fromhex(answer)
    assert given.told is None


def test_some_devices_stay_silent_on_a_bad_address() -> None:
    assert Ws90(**base(), silent_on_bad_address=True).answer(144, bytes.fromhex("0301640001")) is None


@pytest.mark.parametrize(
    "unheard",
    [
        framed(b"\x91" + REQUEST[1:]),
        framed(b"\0" + REQUEST[1:]),
        REQUEST + b"\0\0",
        b"\xff\xfe",
        framed(REQUEST)[:5],
    ],
)
async def test_other_units_broadcasts_and_damaged_frames_get_no_answer(
    unheard: bytes, tmp_path: Path
) -> None:
    async with on_pty(Ws90(**base(), **QUICK), tmp_path) as (reader, writer):
        writer.write(unheard)
        writer.write(framed(REQUEST))
        assert (await reader.readexactly(23))[:3] == bytes.fromhex("900312")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)


async def test_several_stations_share_a_line(tmp_path: Path) -> None:
    with Truth(tmp_path / "truth") as truth:
        async with on_pty(ModbusLine(**base(truth=truth, name="bus"), **QUICK), tmp_path) as (reader, writer):
            writer.write(framed(REQUEST))
            assert (await reader.readexactly(23))[0] == 0x90
            writer.write(framed(bytes.fromhex("010400400002")))
            assert (await reader.readexactly(9))[:3] == bytes.fromhex("010404")
    devices = [json.loads(line)["device"] for line in (tmp_path / "truth").read_text().splitlines()]
    assert devices == ["bus-144", "bus-1"]


async def test_over_tcp_it_speaks_mbap_in_order() -> None:
    async with on_tcp(SenseCap(**base(), **QUICK)) as (reader, writer):
        writer.write(bytes.fromhex("00070000000601040000000200080000000601040002000200090000000601030000"))
        writer.write(bytes.fromhex("0001"))
        assert (await reader.readexactly(13))[:9] == bytes.fromhex("000700000007010404")
        assert (await reader.readexactly(13))[:9] == bytes.fromhex("000800000007010404")
        assert await reader.readexactly(9) == bytes.fromhex("000900000003018301")


async def test_over_tcp_a_wrong_header_ends_the_conversation() -> None:
    async with on_tcp(SenseCap(**base(), **QUICK)) as (reader, writer):
        writer.write(framed(REQUEST))
        assert await reader.read() == b""


async def test_it_speaks_raw_rtu_over_tcp_when_told_to() -> None:
    async with on_tcp(SenseCap(**base(), **QUICK, framing="rtu")) as (reader, writer):
        writer.write(framed(bytes.fromhex("010400000002")))
        answer = await reader.readexactly(9)
        assert framed(answer[:-2]) == answer


async def test_zeros_echo_and_foreign_frames_come_on_demand(tmp_path: Path) -> None:
    sim = Ws90(**base(), **QUICK, glitch_prefix=2, glitch_suffix=1, echo=True, foreign=1.0, boot_text="hello")
    foreign = framed(FOREIGN)
    async with on_pty(sim, tmp_path) as (reader, writer):
        assert await reader.readexactly(5) == b"hello"
        writer.write(framed(REQUEST))
        assert await reader.readexactly(8) == framed(REQUEST)
        assert await reader.readexactly(len(foreign)) == foreign
        answer = await reader.readexactly(2 + 23 + 1)
        assert answer[:2] == b"\0\0"
        assert answer[-1:] == b"\0"
        assert framed(answer[2:-3]) == answer[2:-1]


async def test_a_checksum_fault_damages_the_crc_and_is_logged(tmp_path: Path) -> None:
    with Truth(tmp_path / "truth") as truth:
        sim = Ws90(**base("checksum@1", truth), **QUICK, glitch_suffix=1)
        async with on_pty(sim, tmp_path) as (reader, writer):
            writer.write(framed(REQUEST))
            answer = (await reader.readexactly(24))[:23]
    assert framed(answer[:-2]) != answer
    assert json.loads((tmp_path / "truth").read_text())["fault"] == "checksum"


async def test_the_first_exchange_can_fail(tmp_path: Path) -> None:
    async with on_pty(Ws90(**base(), **QUICK, fail_first=True), tmp_path) as (reader, writer):
        writer.write(framed(REQUEST))
        writer.write(framed(bytes.fromhex("900301650001")))
        assert (await reader.readexactly(7))[:3] == bytes.fromhex("900302")


@pytest.mark.parametrize("cls", [Ws90, SenseCap])
def test_a_broken_sensor_tells_its_sentinel_and_no_value(cls: type[ModbusLine]) -> None:
    sim = cls(**base(), broken="wind_speed")
    (station,) = sim.stations.values()
    _, told = station.model.snapshot(sim.world, NOON_NS, station.broken)
    values = {quantity.name: value for quantity, value in told.values()}
    assert (values["wind_speed"] is None) is (cls is Ws90)  # the SenseCAP map has no invalid value
    assert values["air_temperature"] is not None


def test_two_makes_at_one_place_agree() -> None:
    world = World(seed=1)
    told = []
    for cls in (Ws90, SenseCap):
        (station,) = cls(**base()).stations.values()
        _, values = station.model.snapshot(world, NOON_NS, frozenset())
        told.append({quantity.name: value for quantity, value in values.values()})
    ws90, sensecap = told
    assert ws90["air_temperature"] == pytest.approx(sensecap["air_temperature"], abs=0.06)
    assert ws90["barometric_pressure"] == pytest.approx(sensecap["barometric_pressure"], abs=0.06)
    assert ws90["wind_speed"] == pytest.approx(sensecap["wind_speed"], abs=0.06)


@pytest.mark.parametrize("options", [{"units": "7=nothing"}, {"framing": "mbap"}])
def test_a_wrong_option_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"station|framing"):
        ModbusLine(**base(), **options)
