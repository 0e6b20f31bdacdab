"""The simulated Beast feed, looked at with nothing but the sheet's rules."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from trisense.sims.base import Faults, Truth, World, listening
from trisense.sims.beast import MESSAGES, Airframe, BeastFeed
from trisense.sims.world import Aircraft

PLANE = Aircraft(0x3C1A1A, "DLH7WK", 48.1, 11.6, 3500.0, 150.0, 200.0, 6.0)


def remainder(message: bytes) -> int:
    """Long division by the generator, bit by bit."""
    value = int.from_bytes(message, "big")
    for bit in range(len(message) * 8 - 1, 23, -1):
        if value >> bit & 1:
            value ^= 0x1FFF409 << (bit - 24)
    return value


def feed(truth: Truth | None = None, **options: Any) -> BeastFeed:
    return BeastFeed(
        world=World(1),
        truth=truth or Truth(),
        faults=Faults(),
        seed=1,
        name="sky",
        **{"noise_per_s": 0, "pace": 8.0, **options},
    )


async def hear(sim: BeastFeed, size: int) -> bytes:
    async with listening(sim) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
        return data


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and unescaped body of each frame; the last may be cut."""
    pieces = data.replace(b"\x1a\x1a", b"\xff\xfe\xfd").split(b"\x1a")[1:-1]
    return [(piece[:1], piece[1:].replace(b"\xff\xfe\xfd", b"\x1a")) for piece in pieces]


@pytest.mark.parametrize("what", ["position", "velocity", "identity"])
def test_squitters_have_their_parity(what: str) -> None:
    message, _ = MESSAGES[what](PLANE, Airframe({}))
    assert (len(message), message[0] >> 3, remainder(message)) == (14, 17, 0)


@pytest.mark.parametrize("what", ["altitude", "squawk"])
def test_replies_have_the_address_in_their_parity(what: str) -> None:
    message, _ = MESSAGES[what](PLANE, Airframe({}))
    assert (len(message), remainder(message)) == (7, PLANE.icao)


def test_all_calls_have_an_interrogator_code_in_their_parity() -> None:
    message, _ = MESSAGES["all_call"](PLANE, Airframe({}))
    assert message[1:4] == PLANE.icao.to_bytes(3, "big")
    assert remainder(message) < 80


async def test_the_feed_is_whole_frames_with_escapes_and_rising_ticks() -> None:
    heard = frames(await hear(feed(), 4000))
    assert {kind for kind, _ in heard} == {b"2", b"3"}
    assert all(len(body) == 7 + {b"2": 7, b"3": 14}[kind] for kind, body in heard)
    ticks = [int.from_bytes(body[:6], "big") for _, body in heard]
    assert ticks == sorted(ticks)
    assert ticks[0] > 0


async def test_an_escape_inside_a_message_is_doubled() -> None:
    sim = feed()
    frame = sim._beast(MESSAGES["all_call"](PLANE, Airframe({}))[0], signal=0x1A)
    assert frame.count(b"\x1a") == 1 + 2 * frames(frame + b"\x1a2")[0][1].count(b"\x1a")


async def test_noise_is_sent_that_no_parity_holds_for() -> None:
    heard = frames(await hear(feed(noise_per_s=15, range_km=0), 300))
    assert heard
    assert all(remainder(body[7:]) for _, body in heard)


async def test_the_truth_has_each_message_with_what_it_told(tmp_path: Path) -> None:
    with Truth(tmp_path / "truth.jsonl") as truth:
        data = await hear(feed(truth), 1000)
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert b"".join(bytes.fromhex(line["bytes"]) for line in lines).startswith(data)
    assert {line["measurement"] for line in lines} == {"aircraft"}
    assert all("icao" in line["values"] and "rssi" in line["values"] for line in lines)


async def test_several_hosts_may_listen_at_once() -> None:
    async with listening(feed()) as port, asyncio.timeout(20):
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, _ in pairs:
            assert (await reader.readexactly(1)) == b"\x1a"
        for _, writer in pairs:
            writer.close()
            await writer.wait_closed()
