"""The PN532 driver against a simulated module on a pty, and its decoder against damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trisense.core.errors import DeviceError, DeviceTimeout, FrameError
from trisense.drivers import Lines
from trisense.drivers.pn532 import Pn532, Pn532Config
from trisense.drivers.pn532.codec import Pn532Codec, Pn532Decoder, command
from trisense.sims.base import plugged
from trisense.sims.pn532 import Pn532 as Module

ACK = bytes.fromhex("0000ff00ff00")
CARD = bytes.fromhex("0000ff0cf4d54b010100040804d0bbe11a4800")
CODEC = Pn532Codec()
BUSY = 14_400.0
"""Cards an hour: with so many one is always there."""


def framed(body: str) -> bytes:
    data = b"\xd5" + bytes.fromhex(body)
    head = b"\x00\x00\xff" + bytes((len(data), -len(data) & 0xFF))
    return head + data + bytes((-sum(data) & 0xFF, 0))


@asynccontextmanager
async def connected(link: Path, **options: Any) -> AsyncIterator[Pn532]:
    settings = {"name": "desk", "driver": "pn532", "line": f"serial://{link}?baud=115200", **options}
    device = Pn532(Pn532Config.model_validate(settings))
    try:
        await device.connect(Lines())
        yield device
    finally:
        await device.close()


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(3, len(CARD) - 1))
def test_every_damaged_bit_of_an_answer_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(CARD)
        damaged[at] ^= 1 << bit
        assert [frame for frame in CODEC.frames(bytes(damaged)) if CODEC.observed(frame)] == []


@given(st.lists(st.sampled_from([CARD, CARD[:9], ACK, b"\x00", b"\x55\x00\xff", bytes(40)])), st.data())
def test_any_split_gives_the_same_frames(pieces: list[bytes], data: st.DataObject) -> None:
    whole, split = Pn532Decoder(), Pn532Decoder()
    stream = b"".join(pieces)
    cut = data.draw(st.integers(0, len(stream)))
    expected = whole.feed(stream) + whole.finish()
    assert split.feed(stream[:cut]) + split.feed(stream[cut:]) + split.finish() == expected


@given(st.integers(3, len(CARD) - 2), st.binary(min_size=1, max_size=3))
@example(13, b"Mi\x8d")  # the checksum fits, the postamble does not
def test_noise_inside_an_answer_never_changes_what_it_tells(at: int, noise: bytes) -> None:
    (whole,) = CODEC.frames(CARD)
    frames = CODEC.frames(CARD[:at] + noise + CARD[at:])
    assert [row for frame in frames for row in CODEC.observed(frame)] in ([], CODEC.observed(whole))


@pytest.mark.parametrize("zeros", [0, 1, 5, 20])
def test_a_preamble_of_any_length_is_passed_over(zeros: int) -> None:
    assert len(CODEC.frames(bytes(zeros) + CARD)) == 1
    assert CODEC.damaged(bytes(zeros) + CARD) == []


def test_an_extended_frame_is_read() -> None:
    body = b"\xd5\x41" + bytes(range(256))[:260]
    length = len(body).to_bytes(2, "big")
    head = b"\x00\x00\xff\xff\xff" + length + bytes((-sum(length) & 0xFF,))
    (frame,) = CODEC.frames(head + body + bytes((-sum(body) & 0xFF, 0)))
    assert frame["data"] == body[2:].hex()


@pytest.mark.parametrize("cards", ["4b", "4b01", "4b02010004 0804d0bbe11a", "4b01010004 0805d0bbe11a00"])
def test_cards_that_do_not_fill_the_answer_are_refused(cards: str) -> None:
    assert CODEC.frames(framed(cards)) == []


def test_a_card_with_an_answer_to_select_is_read_to_its_end() -> None:
    (frame,) = CODEC.frames(framed("4b02 01034420 07 04a1b2c3d4e580 067577810280 02000408 04 d0bbe11a"))
    assert [target["uid"] for target in frame["targets"]] == ["04a1b2c3d4e580", "d0bbe11a"]


def test_a_number_that_is_made_up_each_time_is_no_identity() -> None:
    (frame,) = CODEC.frames(framed("4b01 01000420 04 08123456"))
    (row,) = CODEC.observed(frame)
    assert "uid" not in row.values
    assert (row.values["uid_kind"], row.values["tag_type"]) == ("random", "ISO-DEP")


# --- driver -----------------------------------------------------------------------------------------


async def test_it_reads_the_cards_that_the_module_sees(tmp_path: Path, reader: Any, told: Any) -> None:
    async with (
        plugged(reader(Module, cards_per_hour=BUSY), tmp_path / "tty"),
        connected(tmp_path / "tty") as device,
    ):
        rows = [row for _ in range(5) for row in await device.read()]
    seen = [{key: value for key, value in row.values.items() if key != "tag_type"} for row in rows]
    assert seen == [line["values"] for line in told()]
    (stream,) = device.streams()
    assert {name for row in rows for name in row.values} <= {field.name for field in stream.fields}


async def test_a_field_without_a_card_makes_no_rows(tmp_path: Path, reader: Any) -> None:
    async with (
        plugged(reader(Module, cards_per_hour=0), tmp_path / "tty"),
        connected(tmp_path / "tty", retries=1) as device,
    ):
        assert await device.read() == []


@pytest.mark.parametrize("fault", ["checksum@4", "cut@4", "silence@4"])
async def test_a_damaged_answer_is_an_error_and_the_next_read_is_whole(
    fault: str, tmp_path: Path, reader: Any
) -> None:
    async with (
        plugged(reader(Module, cards_per_hour=BUSY, faults=fault), tmp_path / "tty"),
        connected(tmp_path / "tty", timeout_s=0.4) as device,
    ):
        with pytest.raises((FrameError, DeviceTimeout)):
            await device.read()
        assert await device.read()


async def test_a_module_that_lost_its_power_is_set_again(tmp_path: Path, reader: Any) -> None:
    sim = reader(Module, cards_per_hour=0)
    async with plugged(sim, tmp_path / "tty"), connected(tmp_path / "tty", timeout_s=0.3) as device:
        sim.asleep, sim.retries = True, 0xFF
        with pytest.raises(DeviceTimeout):
            await device.read()
        assert await device.read() == []
    assert sim.retries == 2


async def test_another_chip_is_told(tmp_path: Path, reader: Any) -> None:
    class Other(Module):
        @staticmethod
        def _frame(code: int, data: bytes = b"") -> bytes:
            return Module._frame(code, b"\x33" + data[1:] if code == 3 else data)

    async with plugged(reader(Other), tmp_path / "tty"):
        with pytest.raises(DeviceError, match="is no PN532: firmware 33010607"):
            async with connected(tmp_path / "tty"):
                pass


async def test_a_command_that_the_module_does_not_know_is_an_error(tmp_path: Path, reader: Any) -> None:
    class Old(Module):
        async def _do(self, end: Any, code: int, data: bytes) -> None:
            await super()._do(end, 0x99 if code == 0x32 else code, data)

    async with plugged(reader(Old), tmp_path / "tty"):
        with pytest.raises(DeviceError, match="command 32: syntax error"):
            async with connected(tmp_path / "tty"):
                pass


def test_the_bytes_of_a_command_are_those_of_the_manual() -> None:
    assert command(0x4A, b"\x01\x00").hex() == "0000ff04fcd44a0100e100"
