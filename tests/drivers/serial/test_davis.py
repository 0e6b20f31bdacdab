"""The Davis driver against a simulated console on a pty, and its decoders against damage."""

from __future__ import annotations

from binascii import crc_hqx
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceRefused, DeviceTimeout, LineError
from trisense.drivers.davis import Vantage, VantageConfig
from trisense.drivers.davis import driver as davis_driver
from trisense.drivers.davis.codec import ArchiveCodec, LoopCodec, LoopDecoder, TimeCodec
from trisense.sims.base import plugged
from trisense.sims.davis import Vantage as Console

GOOD = bytes.fromhex(
    "4c4f4f14003e032175da0239d10204056301ffffffffffffffffffffffffffffff4effffffffffffff0000ffff7f0000ffff"
    "000000000000000000000000ffffffffffffff0000000000000000000000000000000000002703064b26023e070a0d1163"
)
CODEC = LoopCodec()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console on a pty needs no half second to fall silent."""
    monkeypatch.setattr(davis_driver, "SETTLE_S", 0.02)


def driver(link: Path, **options: Any) -> Vantage:
    line = f"serial://{link}?baud=19200"
    settings = {"name": "weather", "driver": "davis", "line": line, "rain_collector": "0.2mm", **options}
    return Vantage(VantageConfig.model_validate(settings))


def packet(**changes: bytes) -> bytes:
    """The captured packet with bytes changed at an offset (``at_16=...``) and a right CRC."""
    made = bytearray(GOOD[:97])
    for where, value in changes.items():
        at = int(where.removeprefix("at_"))
        made[at : at + len(value)] = value
    return bytes(made) + crc_hqx(made, 0).to_bytes(2, "big")


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(0, len(GOOD), 7))
def test_every_damaged_bit_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_packet_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(0, len(GOOD), 5):
        assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1
    every_split(LoopDecoder, b"\x06LLO" + GOOD[:40] + GOOD + b"\n\r")


def test_dashes_on_the_console_are_no_value() -> None:
    dashes = packet(at_7=b"\0\0", at_12=b"\xff\x7f", at_14=b"\xff\xff", at_16=b"\0\0", at_33=b"\xff")
    (frame,) = CODEC.frames(dashes)
    told = ("sea_level_pressure", "air_temperature", "wind_speed", "wind_direction", "relative_humidity")
    assert [frame["values"][name] for name in told] == [None] * 5


def test_north_is_zero_and_frost_is_below_zero() -> None:
    (frame,) = CODEC.frames(packet(at_16=(360).to_bytes(2, "little"), at_12=b"\xff\xff"))
    assert frame["values"]["wind_direction"] == 0
    assert frame["values"]["air_temperature"] == pytest.approx(-17.83)


def test_the_gust_of_the_second_packet_is_in_whole_miles() -> None:
    (frame,) = CODEC.frames(packet(at_4=b"\x01", at_22=b"\x14\0", at_18=b"\x14\0", at_30=b"\x32\0"))
    assert frame["values"]["wind_gust"] == pytest.approx(8.941)
    assert frame["values"]["wind_speed_10min"] == pytest.approx(0.894)
    assert frame["values"]["dew_point"] == 10


def test_a_clock_that_cannot_be_is_refused() -> None:
    wrong = bytes((37, 53, 10, 31, 2, 112))
    assert TimeCodec().frames(wrong + crc_hqx(wrong, 0).to_bytes(2, "big")) == []


def test_the_own_request_for_the_archive_is_read_back() -> None:
    asked = bytes.fromhex("c6cea203e2b4")
    (frame,) = ArchiveCodec().frames(asked)
    assert ArchiveCodec().encode(frame) == asked


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loop", "loop2"])
async def test_it_reads_what_the_console_tells(
    kind: str, tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty", packet=kind)
    async with plugged(sensor(Console, packet_s=0.01), tmp_path / "tty"):
        rows = await observe(device, 3)
    (stream,) = device.streams()
    for row, line in zip(rows, told(), strict=False):
        assert set(row.values) == {field.name for field in stream.fields}
        for name, value in line["values"].items():
            assert row.values[name] == pytest.approx(value, abs=0.01), name


async def test_packets_are_asked_for_again_behind_the_last_one_of_a_batch(
    tmp_path: Path, sensor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(davis_driver, "BATCH", 2)
    sim = sensor(Console, packet_s=0.01)
    async with plugged(sim, tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        assert len(await observe(device, 5)) == 5
    assert sim.batches == 3
    assert sim.wakes == 1
    assert device.damaged_count == 0


async def test_a_batch_that_ends_early_is_followed_by_another(
    tmp_path: Path, sensor: Any, observe: Any
) -> None:
    sim = sensor(Console, packet_s=0.01, most_packets=2)
    async with plugged(sim, tmp_path / "tty"):
        assert len(await observe(driver(tmp_path / "tty", timeout_s=0.1), 5)) == 5
    assert sim.batches == 3


async def test_damaged_packets_are_counted_and_never_believed(
    tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    faults = "checksum=0.2,cut=0.1,garbage=0.1,silence=0.1"
    async with plugged(sensor(Console, faults=faults, packet_s=0.01), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        rows = await observe(device, 15)
    good = [line["values"]["air_temperature"] for line in told() if line["fault"] in (None, "garbage")]
    assert device.damaged_count > 2
    for row in rows:
        assert any(row.values["air_temperature"] == pytest.approx(value, abs=0.006) for value in good)


async def test_a_console_that_still_sends_is_brought_to_answer(
    tmp_path: Path, sensor: Any, observe: Any
) -> None:
    sim = sensor(Console, packet_s=0.005)
    async with plugged(sim, tmp_path / "tty"):
        for _ in range(2):  # the first driver leaves in the middle of its batch
            assert len(await observe(driver(tmp_path / "tty"), 2)) == 2


async def test_an_old_console_refuses_the_second_packet(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Console, old_firmware=True), tmp_path / "tty"):
        with pytest.raises(DeviceRefused, match="code 21"):
            await observe(driver(tmp_path / "tty", packet="loop2"), 1)


async def test_a_console_that_acknowledges_and_sends_nothing_is_a_timeout(
    tmp_path: Path, sensor: Any, observe: Any
) -> None:
    async with plugged(sensor(Console, packet_s=60), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="no packet"):
            await observe(driver(tmp_path / "tty", timeout_s=0.1), 1)


async def test_a_silent_line_is_a_timeout_after_three_tries(
    tmp_path: Path, sensor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(davis_driver, "WAKE_S", 0.03)
    sim = sensor(Console)

    async def deaf(end: Any) -> None:
        while True:
            await end.read()

    sim.talk = deaf
    async with plugged(sim, tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="the console does not answer"):
            await observe(driver(tmp_path / "tty"), 1)


async def test_a_console_that_was_unplugged_is_read_again(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Console, faults="hangup@4", packet_s=0.01), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        with pytest.raises(LineError):
            await observe(device, 20)
        assert len(await observe(device, 3)) == 3
