"""Samples wait at most a second; a disk that fails costs the oldest, with a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from trisense.core.errors import SpoolFull
from trisense.core.limits import COMMIT_ROWS
from trisense.core.model import BatchClass, Sample
from trisense.edge.sensing import batcher as module
from trisense.edge.sensing.batcher import Batcher
from trisense.edge.spool import Cut, Loss


class Disk:
    """Keeps what is committed; fails while told to."""

    def __init__(self) -> None:
        self.cuts: list[Cut] = []
        self.losses: list[Loss] = []
        self.broken = False
        self.called = asyncio.Event()

    async def commit(self, cuts: Sequence[Cut], losses: Sequence[Loss]) -> None:
        self.called.set()
        if self.broken:
            raise SpoolFull("no room")
        self.cuts += cuts
        self.losses += losses

    @property
    def samples(self) -> list[Sample]:
        return [sample for cut in self.cuts for sample in cut.samples]


@pytest.fixture
async def disk() -> Disk:
    return Disk()


@pytest.fixture
def samples(cut: Callable[..., Cut]) -> tuple[Sample, ...]:
    return cut(1, rows=COMMIT_ROWS).samples


async def test_a_hundred_rows_are_committed_at_once(disk: Disk, samples: Any) -> None:
    batcher = Batcher(disk.commit, commit_s=3600.0)
    running = asyncio.create_task(batcher.run())
    for sample in samples:
        batcher.add(BatchClass.DATA, sample)
    await disk.called.wait()
    batcher.stop()
    await running
    assert [c.samples for c in disk.cuts] == [samples]


async def test_time_and_rows_of_a_commit_are_set_by_the_deployer(
    disk: Disk, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(event: asyncio.Event, limit_s: float) -> None:
        waits.append(limit_s)
        await event.wait()

    monkeypatch.setattr(module, "_either", note)
    batcher = Batcher(disk.commit, commit_s=30.0, commit_rows=5)
    running = asyncio.create_task(batcher.run())
    for sample in samples[:5]:
        batcher.add(BatchClass.DATA, sample)
    await disk.called.wait()
    batcher.stop()
    await running
    assert 29.0 < waits[0] <= 30.0
    assert [len(c.samples) for c in disk.cuts] == [5]


async def test_an_alarm_forces_its_own_batch_at_once(disk: Disk, samples: Any) -> None:
    batcher = Batcher(disk.commit)
    running = asyncio.create_task(batcher.run())
    batcher.add(BatchClass.DATA, samples[0])
    batcher.add(BatchClass.ALARM, samples[1])
    await disk.called.wait()
    batcher.stop()
    await running
    assert [(c.batch_class, c.samples) for c in disk.cuts] == [
        (BatchClass.ALARM, (samples[1],)),
        (BatchClass.DATA, (samples[0],)),
    ]


async def test_a_sample_that_came_during_a_slow_commit_is_on_disk_within_its_own_second(
    samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(event: asyncio.Event, limit_s: float) -> None:
        waits.append(limit_s)
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "_either", note)
    clock = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    second = asyncio.Event()

    async def commit(cuts: Sequence[Cut], losses: Sequence[Loss]) -> None:
        clock[0] += 0.1
        if len(waits) == 1:
            batcher.add(BatchClass.DATA, samples[1])  # arrives at 100.1, while the disk still works
            clock[0] += 0.2
        else:
            second.set()

    batcher = Batcher(commit)
    batcher.add(BatchClass.DATA, samples[0])
    running = asyncio.create_task(batcher.run())
    await second.wait()
    batcher.stop()
    await running
    assert waits[:2] == pytest.approx([1.0, 1.0 - 0.3 - 0.2])


async def test_stop_commits_what_waits(disk: Disk, samples: Any) -> None:
    batcher = Batcher(disk.commit)
    running = asyncio.create_task(batcher.run())
    batcher.add(BatchClass.DATA, samples[0])
    batcher.stop()
    await running
    assert disk.samples == [samples[0]]
    assert batcher.committed == 1


async def test_a_picture_is_a_batch_of_its_own_and_too_large_a_one_leaves_its_row(
    disk: Disk, samples: Any
) -> None:
    batcher = Batcher(disk.commit)
    batcher.add(BatchClass.MEDIA, samples[0], b"small")
    batcher.add(BatchClass.MEDIA, samples[1], bytes(300_000))
    await batcher.flush()
    assert [(c.batch_class, c.blob) for c in disk.cuts] == [
        (BatchClass.DATA, None),
        (BatchClass.MEDIA, b"small"),
    ]
    (loss,) = disk.losses
    assert (loss.reason, loss.stream, loss.samples) == ("too_large", "mast/weather", 0)


async def test_a_failing_disk_keeps_the_newest_and_declares_the_oldest(disk: Disk, samples: Any) -> None:
    batcher = Batcher(disk.commit, queue_bytes=2_000)
    disk.broken = True
    for sample in samples[:40]:
        batcher.add(BatchClass.DATA, sample)
    with pytest.raises(SpoolFull):
        await batcher.flush()
    for sample in samples[40:]:
        batcher.add(BatchClass.DATA, sample)
    disk.broken = False
    await batcher.flush()

    assert disk.samples == list(samples[-len(disk.samples) :])
    (loss,) = disk.losses
    assert (loss.reason, loss.epoch, loss.samples) == ("queue_full", None, 100 - len(disk.samples))
    assert (loss.t0_ns, loss.t1_ns) == (samples[0].time_ns, samples[99 - len(disk.samples)].time_ns)


async def test_a_disk_that_works_costs_nothing_however_much_has_gone_through_it(
    disk: Disk, samples: Any
) -> None:
    batcher = Batcher(disk.commit, queue_bytes=2_000)
    for _ in range(10):
        for sample in samples[:20]:
            batcher.add(BatchClass.DATA, sample)
        await batcher.flush()
    assert (len(disk.samples), batcher.dropped, disk.losses) == (200, 0, [])


async def test_while_a_disk_fails_again_and_again_what_waits_stays_bounded(disk: Disk, samples: Any) -> None:
    batcher = Batcher(disk.commit, queue_bytes=2_000)
    disk.broken = True
    most = []
    for _ in range(10):
        for sample in samples[:20]:
            batcher.add(BatchClass.DATA, sample)
        with pytest.raises(SpoolFull):
            await batcher.flush()
        most.append(batcher.pending)
    assert most[2:] == [most[2]] * 8
    assert batcher.pending + batcher.dropped == 200


async def test_large_texts_make_more_batches(
    disk: Disk, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CUT_BYTES", 200)
    batcher = Batcher(disk.commit)
    for sample in samples:
        batcher.add(BatchClass.DATA, sample)
    await batcher.flush()
    assert len(disk.cuts) > 10
    assert tuple(disk.samples) == samples
