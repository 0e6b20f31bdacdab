"""The UHFReader18 driver against a simulated reader on a pty, and its decoder against damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.drivers.uhfreader18 import UhfReader18, UhfReader18Config
from trisense.drivers.uhfreader18.codec import UhfDecoder, UhfReader18Codec, crc16, request
from trisense.sims.base import plugged
from trisense.sims.uhfreader18 import UhfReader18 as Reader

TAGS = bytes.fromhex("20000101020ce28068900000500e88c6a4a70c300833b2ddd9cafebabe801e3826")
HEARTBEAT = bytes.fromhex("560000000000")
CODEC = UhfReader18Codec()
BUSY = 12_000.0
"""Tags an hour: with so many one is always there."""


def driver(link: Path, **options: Any) -> UhfReader18:
    settings = {"name": "lane", "driver": "uhfreader18", "line": f"serial://{link}?baud=57600", **options}
    return UhfReader18(UhfReader18Config.model_validate({"interval_s": 0.01, **settings}))


def framed(text: str) -> bytes:
    body = bytes.fromhex(text)
    body = bytes((len(body) + 2,)) + body
    return body + crc16(body).to_bytes(2, "little")


# --- decoder ----------------------------------------------------------------------------------------


def test_the_crc_is_that_of_its_check_value() -> None:
    assert crc16(b"123456789") == 0x6F91


@pytest.mark.parametrize("at", range(len(TAGS)))
def test_every_damaged_bit_of_an_answer_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(TAGS)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


@given(st.lists(st.sampled_from([TAGS, TAGS[:9], HEARTBEAT, HEARTBEAT[:3], b"\x00\xff"])), st.data())
def test_any_split_gives_the_same_frames(pieces: list[bytes], data: st.DataObject) -> None:
    whole, split = UhfDecoder(), UhfDecoder()
    stream = b"".join(pieces)
    cut = data.draw(st.integers(0, len(stream)))
    expected = whole.feed(stream) + whole.finish()
    assert split.feed(stream[:cut]) + split.feed(stream[cut:]) + split.finish() == expected


def test_a_frame_that_begins_like_a_heartbeat_is_read() -> None:
    frame = framed("00010101" + "51" + "ab" * 0x4F + "00")
    begins_alike = framed("00 ee 00" + "00" + "11" * 80)
    assert begins_alike[0] == HEARTBEAT[0]
    assert [f.get("heartbeat", False) for f in CODEC.frames(HEARTBEAT + begins_alike)] == [True, False]
    assert CODEC.observed(CODEC.frames(frame)[0]) == []


@pytest.mark.parametrize("data", ["", "01", "010c3074", "0201ff", "0101ff00"])
def test_tags_that_do_not_fill_the_data_are_not_told(data: str) -> None:
    (frame,) = CODEC.frames(framed("000101" + data))
    assert CODEC.observed(frame) == []


def test_a_reader_at_another_address_is_not_heard() -> None:
    decoder = UhfDecoder(5)
    assert [piece for piece in decoder.feed(TAGS) + decoder.finish() if isinstance(piece, dict)] == []


# --- driver -----------------------------------------------------------------------------------------


async def test_it_reads_inventories_of_several_frames(
    tmp_path: Path, reader: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty", address=3)
    async with plugged(reader(Reader, address=3, scan_s=0, tags_per_hour=BUSY), tmp_path / "tty"):
        rows = await observe(device, 30)
    assert [row.values["epc"] for row in rows] == [line["values"]["epc"] for line in told()[:30]]
    (stream,) = device.streams()
    assert {name for row in rows for name in row.values} <= {field.name for field in stream.fields}


async def test_it_listens_to_a_reader_that_sends_by_itself(
    tmp_path: Path, reader: Any, told: Any, observe: Any
) -> None:
    sim = reader(Reader, push_s=0.01, heartbeat_s=0.02, tags_per_hour=BUSY)
    async with plugged(sim, tmp_path / "tty"):
        rows = await observe(driver(tmp_path / "tty", mode="push"), 30)
    assert [row.values["epc"] for row in rows] == [line["values"]["epc"] for line in told()[:30]]


async def test_heartbeats_keep_a_quiet_bridge_alive(tmp_path: Path, reader: Any, observe: Any) -> None:
    sim = reader(Reader, push_s=0.6, heartbeat_s=0.02, tags_per_hour=BUSY)
    async with plugged(sim, tmp_path / "tty"):
        assert await observe(driver(tmp_path / "tty", mode="push", timeout_s=0.3), 1)


async def test_a_field_without_tags_makes_no_rows(tmp_path: Path, reader: Any, observe: Any) -> None:
    sim = reader(Reader, scan_s=0, tags_per_hour=0, faults="hangup@8")
    async with plugged(sim, tmp_path / "tty"):
        with pytest.raises(LineError):
            await observe(driver(tmp_path / "tty"), 1)


@pytest.mark.parametrize("fault", ["checksum@2", "cut@2"])
async def test_a_damaged_answer_is_an_error_and_no_row(
    fault: str, tmp_path: Path, reader: Any, observe: Any
) -> None:
    class Few(Reader):
        def _in_sight(self) -> list[bytes]:
            return super()._in_sight()[:3]  # one frame

    sim = reader(Few, scan_s=0, tags_per_hour=BUSY, faults=fault)
    async with plugged(sim, tmp_path / "tty"):
        device = driver(tmp_path / "tty", timeout_s=0.5)
        with pytest.raises((FrameError, DeviceTimeout)):
            await observe(device, 1)
        assert len(await observe(device, 3)) == 3


async def test_a_reader_that_refuses_is_told_with_its_code(tmp_path: Path, reader: Any, observe: Any) -> None:
    class Strict(Reader):
        async def _do(self, end: Any, command: int) -> None:
            await super()._do(end, 0x0F if command == 1 else command)

        def _frame(self, command: int, status: int, data: bytes = b"") -> bytes:
            return super()._frame(1 if command == 0x0F else command, status, data)

    async with plugged(reader(Strict), tmp_path / "tty"):
        with pytest.raises(DeviceRefused, match=r"no inventory \(code 254\)"):
            await observe(driver(tmp_path / "tty"), 1)


async def test_a_reader_at_another_address_is_a_timeout(tmp_path: Path, reader: Any, observe: Any) -> None:
    async with plugged(reader(Reader, address=7), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="lane: no answer"):
            await observe(driver(tmp_path / "tty", address=3, timeout_s=0.1), 1)


def test_the_bytes_of_a_request_are_those_of_the_protocol() -> None:
    assert request(0, 0x21).hex() == "040021d96a"
