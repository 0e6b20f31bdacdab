"""The incremental decoder under every byte protocol, with the simplest protocol there is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import DeviceTimeout, LineError
from trisense.drivers import Cut, Damage, Decoder, Frame, FramedCodec, Observed
from trisense.drivers.framing import read_frames


class Toy(Decoder):
    """``#``, a length digit, so many letters; an ``x`` among them is damage."""

    max_frame = 11

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start : start + 1] != b"#":
            return Cut(1)
        if len(data) - start < 2:
            return None
        size = data[start + 1] - ord("0")
        if not 0 <= size <= 9:
            return Cut(1, damage="length")
        letters = data[start + 2 : start + 2 + size]
        if len(letters) < size:
            return None
        return (
            Cut(1, damage="bad letter")
            if b"x" in letters
            else Cut(size + 2, {"letters": letters.decode("latin-1")})
        )


class ToyCodec(FramedCodec):
    decoder = Toy

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return [Observed("toy", {"letters": frame["letters"]})]


def letters(data: bytes) -> list[str]:
    return [frame["letters"] for frame in ToyCodec().frames(data)]


def test_frames_come_in_order_and_noise_is_skipped() -> None:
    assert letters(b"..#2ab#0..#1c.") == ["ab", "", "c"]


def test_a_frame_inside_a_damaged_one_is_found() -> None:
    assert letters(b"#9a#2bcxxxx") == ["bc"]


def test_a_frame_inside_an_unfinished_one_is_found_at_the_end() -> None:
    assert letters(b"#9abc#1d") == ["d"]


def test_damage_is_told_once_for_each_run_with_its_reason() -> None:
    assert [str(d) for d in ToyCodec().damaged(b"..#1a#1x#?#1b#5zz")] == [
        "noise, 2 bytes: 2e 2e",
        "bad letter, 3 bytes: 23 31 78",
        "length, 2 bytes: 23 3f",
        "unfinished, 4 bytes: 23 35 7a 7a",
    ]


def test_a_decoder_never_holds_more_than_one_frame() -> None:
    decoder = Toy()
    for _ in range(10_000):
        decoder.feed(b"........#")
        assert len(decoder._rest) <= decoder.max_frame


def test_a_protocol_that_never_decides_still_holds_no_more_than_one_frame() -> None:
    class Undecided(Toy):
        def cut(self, data: bytes, start: int) -> Cut | None:  # noqa: ARG002  # it does not look
            return None

    decoder = Undecided()
    told = decoder.feed(bytes(10_000))
    assert len(decoder._rest) <= decoder.max_frame
    assert {piece.reason for piece in told if isinstance(piece, Damage)} == {"too long"}


def test_endless_noise_is_told_before_it_ends() -> None:
    told = Toy().feed(bytes(100_000))
    assert len(told) > 10
    assert all(isinstance(piece, Damage) for piece in told)


@given(
    st.lists(st.sampled_from([b"#", b"2", b"0", b"a", b"x", b"#2ab", b".", b"#9"]), max_size=30), st.data()
)
def test_any_split_gives_the_same_frames(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    decoder, found = Toy(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += decoder.feed(whole[start:end])
    found += decoder.finish()
    assert [frame["letters"] for frame in found if not isinstance(frame, Damage)] == letters(whole)


class Tape:
    """A line that plays what it was given, then stays silent or ends."""

    url = "test://tape"

    def __init__(self, *chunks: bytes, ends: bool = False) -> None:
        self.chunks = list(chunks)
        self.ends = ends
        self.found: list[Frame | Damage] = []

    async def read(self) -> bytes:
        if self.chunks:
            return self.chunks.pop(0)
        if self.ends:
            raise LineError(self.url, "closed by the other side")
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def write(self, data: bytes) -> None: ...
    async def flush_input(self) -> None: ...
    async def close(self) -> None: ...


async def collect(line: Tape, timeout_s: float = 0.05) -> None:
    async for piece in read_frames(line, Toy(), device="toy", timeout_s=timeout_s):
        line.found.append(piece)


async def test_a_silent_device_is_a_timeout() -> None:
    tape = Tape(b"#1a")
    with pytest.raises(DeviceTimeout, match="toy: no good frame"):
        await collect(tape)
    assert tape.found == [{"letters": "a"}]


async def test_a_device_that_keeps_sending_is_never_a_timeout() -> None:
    class Steady(Tape):
        async def read(self) -> bytes:
            await asyncio.sleep(0.1)
            return await super().read()

    tape = Steady(*[b"#1a"] * 8, ends=True)
    with pytest.raises(LineError):
        await collect(tape, timeout_s=0.6)
    assert len(tape.found) == 8


async def test_noise_alone_does_not_keep_a_device_alive() -> None:
    class Noisy(Tape):
        async def read(self) -> bytes:
            await asyncio.sleep(0)
            return b"."

    with pytest.raises(DeviceTimeout):
        await collect(Noisy())


async def test_a_lost_line_is_told_as_such() -> None:
    with pytest.raises(LineError, match="closed by the other side"):
        await collect(Tape(b"#1a", ends=True))
