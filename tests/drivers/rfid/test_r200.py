"""The R200 driver against a simulated module on a pty, and its decoder against damage."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceRefused, DeviceTimeout, LineError
from trisense.drivers import Lines
from trisense.drivers.r200 import R200, R200Config
from trisense.drivers.r200 import driver as driver_module
from trisense.drivers.r200.codec import R200Codec, R200Decoder, command
from trisense.sims.base import plugged
from trisense.sims.r200 import R200Module as Module

NOTICE = bytes.fromhex("aa02220011c73000e28068900000500e88c6a4a7119b29dd")
CODEC = R200Codec()
BUSY = 80_000.0
"""Tags an hour: with so many one is always there."""


def driver(link: Path, **options: Any) -> R200:
    settings = {"name": "door", "driver": "r200", "line": f"serial://{link}?baud=115200", **options}
    return R200(R200Config.model_validate(settings))


def framed(kind: int, code: int, parameter: bytes) -> bytes:
    body = bytes((kind, code)) + len(parameter).to_bytes(2, "big") + parameter
    return b"\xbb" + body + bytes((sum(body) & 0xFF, 0x7E))


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(NOTICE)))
def test_every_damaged_bit_of_a_notice_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(NOTICE)
        damaged[at] ^= 1 << bit
        assert [frame for frame in CODEC.frames(bytes(damaged)) if CODEC.observed(frame)] == []


@given(st.lists(st.sampled_from([NOTICE, NOTICE[:9], b"\xaa", b"\xbb\x02", b"\x00\xdd"])), st.data())
def test_any_split_gives_the_same_frames(pieces: list[bytes], data: st.DataObject) -> None:
    whole, split = R200Decoder(), R200Decoder()
    stream = b"".join(pieces)
    cut = data.draw(st.integers(0, len(stream)))
    expected = whole.feed(stream) + whole.finish()
    assert split.feed(stream[:cut]) + split.feed(stream[cut:]) + split.finish() == expected


def test_a_cut_notice_does_not_take_the_next_one_with_it() -> None:
    for size in range(len(NOTICE)):
        assert len(CODEC.frames(NOTICE[:size] + NOTICE)) == 1


@pytest.mark.parametrize("parameter", ["", "c7", "c73000", "c72800e28068900000500e88c6a4a7119b"])
def test_a_notice_that_contradicts_itself_is_refused_though_its_sum_is_right(parameter: str) -> None:
    assert CODEC.frames(framed(2, 0x22, bytes.fromhex(parameter))) == []


@pytest.mark.parametrize(("kind", "code", "parameter"), [(1, 0xFF, ""), (1, 0xFF, "a30e34"), (1, 0x39, "0e")])
def test_an_answer_shorter_than_it_says_is_refused(kind: int, code: int, parameter: str) -> None:
    assert CODEC.frames(framed(kind, code, bytes.fromhex(parameter))) == []


def test_a_notice_may_hold_what_looks_like_an_end_or_a_head() -> None:
    (frame,) = CODEC.frames(framed(1, 0x03, b"\x00\xbb\x7e\xaa\xdd"))
    assert frame["param"] == "00bb7eaadd"


def test_a_tag_number_of_another_length_is_whole() -> None:
    numbered = bytes.fromhex("0800cafe")  # one word
    crc = bytes.fromhex("09b2")
    frames = CODEC.frames(framed(2, 0x22, b"\xc7" + numbered + crc))
    assert [frame["tag"]["epc"] for frame in frames] == ["cafe"]


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["aa", "bb"])
async def test_it_reads_what_the_module_tells(
    dialect: str, tmp_path: Path, reader: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty", dialect=dialect)
    sim = reader(Module, dialect=dialect, round_s=0, tags_per_hour=BUSY)
    async with plugged(sim, tmp_path / "tty"):
        rows = await observe(device, 8)
    seen = [{"epc": row.values["epc"], "rssi": row.values["rssi"]} for row in rows]
    assert seen == [line["values"] for line in told()[:8]]
    (stream,) = device.streams()
    assert {name for row in rows for name in row.values} <= {field.name for field in stream.fields}


async def test_damaged_frames_are_counted_and_never_believed(
    tmp_path: Path, reader: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty")
    faults = "checksum@9,cut@12,garbage@15,checksum@20,cut@21"
    async with plugged(reader(Module, faults=faults, round_s=0, tags_per_hour=BUSY), tmp_path / "tty"):
        rows = await observe(device, 40)
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert device.damaged_count >= 4
    assert [r for r in rows if {"epc": r.values["epc"], "rssi": r.values["rssi"]} not in good] == []


async def test_rounds_without_a_tag_keep_the_module_alive(tmp_path: Path, reader: Any) -> None:
    async with plugged(reader(Module, round_s=0.01, tags_per_hour=0), tmp_path / "tty"):
        device = driver(tmp_path / "tty", timeout_s=0.3)
        await device.connect(Lines())
        async with aclosing(device.good_frames()) as frames:
            for _ in range(40):
                assert "error" in await anext(frames)
        await device.close()


async def test_it_sets_region_and_power_and_stops_the_module_at_the_end(
    tmp_path: Path, reader: Any, observe: Any
) -> None:
    sim = reader(Module, round_s=0, tags_per_hour=BUSY)
    async with plugged(sim, tmp_path / "tty"):
        await observe(driver(tmp_path / "tty", region="eu", power_dbm=20), 1)
        assert sim.settings == {0x07: b"\x03", 0xB6: b"\x07\xd0"}
        while sim.rounds_left:  # noqa: ASYNC110  # the last command is on its way; a simulator has no event for it
            await asyncio.sleep(0.01)


async def test_a_module_that_refuses_a_setting_is_told_with_its_code(tmp_path: Path, reader: Any) -> None:
    class Strict(Module):
        async def _do(self, end: Any, code: int, parameter: bytes) -> None:
            await super()._do(end, 0x99 if code == 0x07 else code, parameter)

    async with plugged(reader(Strict), tmp_path / "tty"):
        device = driver(tmp_path / "tty", region="eu")
        with pytest.raises(DeviceRefused, match=r"command 07 \(code 23\)"):
            await device.connect(Lines())
        await device.close()


async def test_polling_is_begun_anew_before_it_ends_by_itself(
    tmp_path: Path, reader: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "RENEW_S", 0.1)
    starts = []

    class Watched(Module):
        async def _do(self, end: Any, code: int, parameter: bytes) -> None:
            starts.append(code)
            await super()._do(end, code, parameter)

    async with plugged(reader(Watched, round_s=0.01, tags_per_hour=BUSY), tmp_path / "tty"):
        await observe(driver(tmp_path / "tty"), 30)
    assert starts.count(0x27) > 1


async def test_a_module_that_stays_silent_is_a_timeout(tmp_path: Path, reader: Any) -> None:
    async with plugged(reader(Module, dialect="aa"), tmp_path / "tty"):
        device = driver(tmp_path / "tty", dialect="bb", timeout_s=0.1)
        with pytest.raises(DeviceTimeout, match="door: no answer"):
            await device.connect(Lines())
        await device.close()


async def test_a_module_that_was_unplugged_is_read_again(tmp_path: Path, reader: Any, observe: Any) -> None:
    sim = reader(Module, faults="hangup@12", round_s=0, tags_per_hour=BUSY)
    async with plugged(sim, tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        with pytest.raises(LineError):
            await observe(device, 60)
        assert len(await observe(device, 3)) == 3


def test_the_bytes_of_a_command_are_those_of_the_manual() -> None:
    assert command("bb", 0x27, bytes.fromhex("222710")).hex() == "bb00270003222710837e"
