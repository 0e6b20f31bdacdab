"""A whole box on a disk that others fill: it senses on, drops by policy, declares, recovers when drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from trisense.core.messages import LOSS
from trisense.core.model import BatchClass
from trisense.drivers import DeviceConfig, Field, FieldType, Layer, Lines, Observed, PolledDriver, Stream
from trisense.edge import config as config_module
from trisense.edge import runtime as runtime_module
from trisense.edge.config import load
from trisense.edge.runtime import Box
from trisense.edge.spool import Spool

from tests.edge.peers import Gateway, until

CHANCE = random.Random(5)


class Talker(PolledDriver[DeviceConfig]):
    """Says a lot, until it is told to be quiet."""

    name = "talker"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig
    reads: ClassVar[int] = 0
    quiet: ClassVar[bool] = False

    def streams(self) -> tuple[Stream, ...]:
        fields = (Field("count", "1", FieldType.INT), Field("text", "", FieldType.STR, valid=None))
        return (Stream(self.config.name, "talk", Layer.GROUND, fields),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def read(self) -> Sequence[Observed]:
        if Talker.quiet:
            return []
        Talker.reads += 1
        return [Observed("talk", {"count": Talker.reads, "text": CHANCE.randbytes(15_000).hex()})]


@pytest.fixture
async def box(small_disk: Path, broker: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    """A box whose spool lies on a disk of 8 MiB, running."""
    monkeypatch.setattr(config_module, "driver_class", {"talker": Talker}.__getitem__)
    monkeypatch.setattr(runtime_module, "TIDY_S", 0.2)
    Talker.reads, Talker.quiet = 0, False
    file = small_disk / "box.toml"
    file.write_text(
        f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        "[clock]\nhold_s = 0\n[spool]\nballast_bytes = 1048576\ncommit_rows = 10\n"
        '[[device]]\nname = "talker"\ndriver = "talker"\ninterval_s = 0.02\n'
    )
    made, stop = Box(load(file)), asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    yield made
    stop.set()
    await asyncio.wait_for(running, 10)


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(4096))


async def declared(box: Box) -> list[tuple[Any, ...]]:
    """Losses that wait to be told."""

    def look(spool: Spool) -> list[tuple[Any, ...]]:
        batches = [batch for _, batch in spool.load(h.id for h in spool.heads(BatchClass.ALARM))]
        return [s.values for b in batches for s in b.samples if s.stream == LOSS]

    return await box.door.run(look)


async def at_rest(box: Box) -> bool:
    """Whether everything read is committed, or dropped before, and nothing waits for a receipt."""
    if box.batcher.committed + box.batcher.dropped < Talker.reads:
        return False
    waiting = await box.door.run(Spool.waiting)
    return waiting == 0


@pytest.mark.peer
async def test_a_box_on_a_full_disk_senses_on_declares_what_it_drops_and_recovers(
    box: Box, small_disk: Path, broker: Any
) -> None:
    await until(lambda: box.batcher.committed >= 30)
    fill(small_disk / "somebody-elses.log")
    while not await declared(box):  # noqa: ASYNC110  # another thread's file tells nobody
        await asyncio.sleep(0.05)
    reads, committed = Talker.reads, box.batcher.committed
    await until(lambda: Talker.reads > reads + 50 and box.batcher.committed > committed + 50)

    (small_disk / "somebody-elses.log").unlink()
    Talker.quiet = True
    gateway = Gateway(broker.port)
    serving = asyncio.create_task(gateway.run())
    await gateway.worker(online=True)
    async with asyncio.timeout(30):
        while not await at_rest(box):  # noqa: ASYNC110  # another thread's file tells nobody
            await asyncio.sleep(0.05)
    await until((small_disk / "spool.db.ballast").exists)
    counters = await box.door.run(Spool.counters)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

    losses = [s.values for b in gateway.stored.values() for s in b.samples if s.stream == LOSS]
    assert {values[7] for values in losses} <= {"disk_full", "cap"}, "the policy, and nothing else"
    lost = {seq for v in losses for seq in range(int(str(v[1])), int(str(v[2])) + 1)}
    stored = {seq for epoch, seq in gateway.stored if epoch == counters.epoch}
    assert lost
    assert not lost & stored
    assert lost | stored == set(range(counters.next_seq)), "every batch is stored or declared lost"
    samples = sum(len(b.samples) for b in gateway.stored.values()) + sum(int(str(v[3])) for v in losses)
    assert samples == counters.samples_committed
    counts = [s.values[0] for b in gateway.stored.values() for s in b.samples if s.stream.device == "talker"]
    assert max(int(str(n)) for n in counts) == Talker.reads, "the newest is there: it sensed on"
