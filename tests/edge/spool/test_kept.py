"""What the gateway has is kept, ages by running time, and goes up once more when it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.core.messages import EpochReceipt
from trisense.core.model import BatchClass
from trisense.edge.spool import Cut, Spool
from trisense.edge.spool.thread import SpoolThread

from tests.edge.spool.damage import smash_an_index

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]
HOUR_NS = 3_600_000_000_000


def receipt(spool: Spool, first: int, last: int) -> None:
    settled = spool.settle([EpochReceipt(spool.epoch, stored=((first, last),))])
    assert len(settled.heads) == last - first + 1


def seqs(spool: Spool) -> list[int]:
    return [head.seq for head in spool.heads(BatchClass.DATA)]


def test_kept_batches_age_by_running_time_whatever_the_clock_does(
    make_spool: MakeSpool, cut: MakeCut, clock: Any
) -> None:
    clock.wall_ns = 3_000_000_000  # 1970
    with make_spool(keep_s=3600.0) as spool:
        spool.commit([cut(1), cut(2)])
        receipt(spool, 0, 0)
        clock.wall_ns = 1_780_000_000_000_000_000  # the right time comes: decades in a moment
        receipt(spool, 1, 1)
        assert spool.tidy() == 0
        clock.advance(3000)
        clock.wall_ns -= 5 * HOUR_NS  # and steps back
        assert spool.tidy() == 0

    clock.since_boot_ns = 1_000_000_000  # another boot
    with make_spool(keep_s=3600.0) as spool:
        clock.advance(3500)
        assert spool.tidy() == 0, "what time passed with the power off, nobody can say"
        clock.advance(200)
        assert spool.tidy() == 2


def test_replay_gives_what_was_committed_before_its_end_and_receipted_after_its_begin(
    spool: Spool, cut: MakeCut, clock: Any
) -> None:
    began_ns = clock.now_ns()
    for number in range(6):  # committed at 0, 1, ... 5 h; receipted two hours later
        spool.commit([cut(number)])
        if number >= 2:
            receipt(spool, number - 2, number - 2)
        clock.advance(3600)

    assert spool.horizon_ns() == began_ns + 2 * HOUR_NS
    assert spool.replay(began_ns + 3 * HOUR_NS, began_ns + 3 * HOUR_NS) == 3
    assert seqs(spool) == [1, 2, 3, 4, 5]
    assert spool.counters().low_seq == 4, "what was receipted once is below it for ever"


def test_what_was_receipted_while_the_clock_was_wrong_is_replayed_too(
    spool: Spool, cut: MakeCut, clock: Any
) -> None:
    right_ns = clock.wall_ns
    clock.wall_ns = 9_000_000_000  # 1970
    spool.commit([cut(0)])
    receipt(spool, 0, 0)
    clock.wall_ns = right_ns + 100 * HOUR_NS  # too late
    spool.commit([cut(1)])
    clock.wall_ns = right_ns
    spool.commit([cut(2)])
    receipt(spool, 1, 2)

    assert spool.horizon_ns() == right_ns, "a time that cannot be true is no horizon"
    assert spool.replay(right_ns - HOUR_NS, right_ns) == 3


def test_what_is_replayed_is_receipted_again_and_kept_again(
    make_spool: MakeSpool, cut: MakeCut, clock: Any
) -> None:
    with make_spool(keep_s=3600.0) as spool:
        spool.commit([cut(n) for n in range(5)])
        receipt(spool, 0, 4)
        clock.advance(3000)
        assert spool.replay(0, clock.now_ns()) == 5
        assert spool.replay(0, clock.now_ns()) == 0
        assert spool.horizon_ns() is None
        receipt(spool, 1, 2)
        clock.advance(3000)
        assert spool.tidy() == 0, "the second receipt counts"
        assert (seqs(spool), spool.waiting()) == ([0, 3, 4], 3)
        assert [
            b.samples[0].values[1] for _, b in spool.load(h.id for h in spool.heads(BatchClass.DATA))
        ] == [
            0,
            3,
            4,
        ]
        epoch = spool.epoch

    with make_spool() as spool:  # what waits a second time is still known after a restart
        settled = spool.settle([EpochReceipt(epoch, stored=((0, 4),))])
        assert [head.seq for head in settled.heads] == [0, 3, 4]
        assert spool.waiting() == 0


def test_a_refused_batch_is_replayed_too_for_a_restored_gateway_has_forgotten_its_refusal(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(3)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 1),), refused=((2, "type", 3),))])
        epoch = spool.epoch
    smash_an_index(spool_path)

    with make_spool() as spool:
        assert spool.summary().kept.batches == 3, "a salvage carries it over"
        assert spool.replay(0, 1 << 62) == 3
        assert [b.seq for _, b in spool.load(h.id for h in spool.heads(BatchClass.DATA))] == [0, 1, 2]
        again = spool.settle([EpochReceipt(epoch, stored=((0, 1),), refused=((2, "type", 3),))])
        assert (len(again.heads), again.refused, spool.waiting()) == (3, 1, 0)


def test_what_waits_a_second_time_can_be_receipted_after_a_salvage(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(5)])
        receipt(spool, 0, 4)
        spool.commit([cut(5)])
        assert spool.replay(0, 1 << 62) == 5
        epoch = spool.epoch
    smash_an_index(spool_path)

    with make_spool() as spool:
        settled = spool.settle([EpochReceipt(epoch, stored=((0, 4),))])
        assert [head.seq for head in settled.heads] == [0, 1, 2, 3, 4]
        assert spool.waiting() == 1


def test_an_epoch_is_remembered_while_a_batch_of_it_can_be_replayed(
    make_spool: MakeSpool, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.spool.queue.EPOCHS_KEPT", 1)
    with make_spool() as spool:
        spool.commit([cut(0)])
        receipt(spool, 0, 0)
        first = spool.epoch
    for number in range(3):
        with make_spool() as spool:
            spool.commit([cut(number)])
            receipt(spool, 0, 0)
            spool.tidy()

    with make_spool() as spool:
        assert spool.replay(0, 1 << 62) == 4
        assert len(spool.settle([EpochReceipt(first, stored=((0, 0),))]).heads) == 1


async def test_commits_go_on_between_the_parts_of_a_replay(
    make_spool: MakeSpool, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.spool.queue.REPLAY_BATCHES", 2)
    async with SpoolThread(make_spool()) as door:
        await door.run(lambda spool: spool.commit([cut(n) for n in range(7)]))
        await door.run(lambda spool: receipt(spool, 0, 6))

        replaying = asyncio.create_task(door.replay(0, 1 << 62))
        await asyncio.sleep(0)
        waited_for = await door.run(lambda spool: (spool.commit([cut(9)]), spool.waiting())[1])

        assert await replaying == 7
        assert waited_for < 8
        assert await door.run(seqs) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_receipt_writes_no_picture_again(spool: Spool, spool_path: Path, cut: MakeCut) -> None:
    spool.commit([cut(1, rows=1, batch_class=BatchClass.MEDIA, blob=bytes(200_000))])
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    receipt(spool, 0, 0)

    assert spool_path.with_name("spool.db-wal").stat().st_size < 10 * 4096


def test_an_open_batch_cannot_be_receipted_nor_loaded(spool: Spool, cut: MakeCut) -> None:
    (head,) = spool.commit([Cut(BatchClass.DATA, cut(0).samples, offset_ns=5)])

    assert spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),))]).heads == ()
    assert spool.load([head.id]) == []


def test_the_summary_says_what_waits_and_what_is_kept(spool: Spool, cut: MakeCut, clock: Any) -> None:
    spool.commit([cut(0), cut(1), Cut(BatchClass.DATA, cut(2).samples, preview=True)])
    spool.commit([cut(3, batch_class=BatchClass.MEDIA, blob=bytes(1000))])
    receipt(spool, 0, 0)
    spool.commit([cut(4, batch_class=BatchClass.ALARM)])

    before = spool.summary()
    spool._shelf.count()

    assert {name: held.batches for name, held in before.waiting.items()} == {
        "alarm": 1,
        "data": 1,
        "preview": 1,
        "media": 1,
    }
    assert (before.kept.batches, before.horizon_ns) == (1, clock.now_ns())
    assert before.waiting["media"].size_bytes > 1000
    assert spool.summary() == before, "what is counted on the way equals what lies in the file"


def test_a_flipped_receipt_mark_is_no_receipt(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.spool.file.CHECKED_BYTES", 0)  # a file too large to read at the start
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(3)])
        epoch = spool.epoch
    # Types of the cells of a row: id, epoch, seq 1, class, preview 0, state, settled 0 - and then settled 1.
    head = bytes([0, 13 + 2 * 16, 9, 13 + 2 * 4, 8, 13 + 2 * 5])
    image = spool_path.read_bytes()
    assert image.count(head + b"\x08") == 1
    spool_path.write_bytes(image.replace(head + b"\x08", head + b"\x09"))

    with make_spool() as spool:
        assert {b.seq for _, b in spool.load(h.id for h in spool.heads(BatchClass.DATA))} == {0, 2}
        losses = [s for _, b in spool.load(h.id for h in spool.heads(BatchClass.ALARM)) for s in b.samples]
        assert [sample.values[:3] for sample in losses] == [(f"{epoch:016x}", 1, 1)]
