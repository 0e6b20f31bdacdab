"""What a salvage must not forget: numbers of streams, the logs of files, older salvages."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import BatchClass, Stream
from trisense.edge.spool import Cut, Spool, SpoolOptions, room

from tests.edge.power import lay_down
from tests.edge.spool.damage import smash_an_index

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]


def numbers(spool: Spool) -> set[object]:
    """Those that the samples of what waits carry."""
    found = spool.load(head.id for head in spool.heads(BatchClass.DATA, limit=1000))
    return {sample.values[1] for _, batch in found for sample in batch.samples}


@pytest.mark.parametrize("lost", ["UPDATE mark SET last_ns = 5", "UPDATE stream SET crc = 5"])
def test_a_time_of_before_gets_a_number_of_its_own_where_damage_took_how_far_a_stream_went(
    make_spool: MakeSpool, cut: MakeCut, stream: Stream, clock: Any, lost: str
) -> None:
    """A scene or a track log may be read twice; what the gateway has of it is long gone from the box."""
    with make_spool(keep_s=1.0) as spool:
        time_ns = cut(4, rows=1).samples[0].time_ns
        spool.commit([cut(n, rows=1) for n in range(5)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 4),))])
        clock.advance(10)
        spool.tidy()
    with sqlite3.connect(make_spool().path) as db:
        db.execute(lost)
    db.close()

    with make_spool() as spool:
        ordinals = spool.ordinals(stream.key)
        assert ordinals.take(time_ns) > 4
        assert ordinals.take(clock.now_ns() + 1) == 0
        spool.commit([cut(9)])
    with make_spool() as spool:
        assert spool.ordinals(stream.key).take(time_ns) > 4, "a restart changes nothing"


def test_a_stream_lost_to_damage_and_to_a_lost_end_of_the_log_takes_numbers_of_its_own_after_restarts(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, stream: Stream, clock: Any
) -> None:
    with make_spool() as spool:
        spool.commit([cut(0)])
    with make_spool() as spool:
        for number in range(1, 6):
            spool.commit([cut(number, rows=1)])
        files = {name: spool_path.with_name(name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    time_ns = cut(4, rows=1).samples[0].time_ns
    clock.advance(10)
    log = files["spool.db-wal"]
    lay_down(spool_path, files | {"spool.db-wal": log[:5000] + bytes([log[5000] ^ 1]) + log[5001:]})

    with make_spool():
        pass
    with make_spool() as spool:
        assert spool.ordinals(stream.key).take(time_ns) > 4
        assert spool.ordinals(("mast", "unheard")).take(time_ns) > 4


def test_a_log_that_is_folded_in_cannot_harm_what_it_was_folded_into(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        for number in range(30):
            spool.commit([cut(number)])
        files = {name: spool_path.with_name(name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    lay_down(spool_path, files)

    with make_spool():  # a crash comes before its first commit
        assert spool_path.with_name("spool.db-wal").stat().st_size == 0


@pytest.mark.parametrize("bit", [4, 128])
@pytest.mark.parametrize("place", [0, 18, 47, 62, 70, "TABLE batch", "boot_id TEXT", "INDEX kept"])
def test_one_bit_of_the_header_or_the_schema_neither_stops_the_spool_nor_costs_a_batch(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, place: int | str, bit: int
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(5)])
    image = bytearray(spool_path.read_bytes())
    at = place if isinstance(place, int) else image.index(place.encode()) + 3
    image[at] ^= bit
    spool_path.write_bytes(image)

    with make_spool() as spool:
        spool.commit([cut(9)])
        assert numbers(spool) == {0, 1, 2, 3, 4, 9}


def test_a_damaged_row_that_is_kept_is_not_replayed(spool: Spool, cut: MakeCut) -> None:
    """An index would take over what is damaged in it, and hide it from every look for what waits."""
    spool.commit([cut(n) for n in range(3)])
    spool.settle([EpochReceipt(spool.epoch, stored=((0, 2),))])
    spool._db.execute("UPDATE batch SET class = 'medya' WHERE seq = 1")

    spool.replay(0, 1 << 62)

    assert [head.seq for head in spool.heads(BatchClass.DATA)] == [0, 2]
    assert spool.waiting() == 2


def test_a_crash_between_the_file_and_its_log_does_not_part_them(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(5)])
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(5, 8)])
        names = [spool_path.with_name(f"spool.db{suffix}") for suffix in ("", "-wal")]
        files = [name.read_bytes() for name in names]
    aside = [spool_path.with_name(f"spool.db.salvage{suffix}") for suffix in ("", "-wal")]
    for name, content in zip((names[0], aside[1]), files, strict=True):
        name.write_bytes(content)

    with make_spool() as spool:
        assert numbers(spool) == set(range(8))
    assert not any(name.exists() for name in aside)

    names[0].unlink()
    aside[1].write_bytes(files[1])  # of a file that is gone: it tells nothing
    with make_spool() as spool:
        assert spool.waiting() == 1, "what was noted and is gone is declared"
    with make_spool() as spool:
        spool.commit([cut(9)])
    assert not aside[1].exists()


def test_a_new_file_that_tells_nothing_does_not_take_the_place_of_one_that_is_still_to_be_carried(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(50)])
    smash_an_index(spool_path)
    with monkeypatch.context() as patch:
        patch.setattr("trisense.edge.spool.holder.time", SimpleNamespace(monotonic=count().__next__))
        with make_spool(salvage_s=1) as spool:
            spool.commit([cut(200)])
            epoch = spool.epoch
    spool_path.write_bytes(os.urandom(20_000))

    with make_spool() as spool:
        assert numbers(spool) == set(range(50))
        losses = [b.samples for _, b in spool.load(h.id for h in spool.heads(BatchClass.ALARM))]
        assert [(s.stream, s.values[0]) for of in losses for s in of] == [(LOSS, f"{epoch:016x}")]


def test_room_that_a_receipt_needs_is_made_durably(
    make_spool: MakeSpool, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the batch that declares what was dropped may travel before the next commit."""
    with make_spool(max_bytes=600_000) as spool:
        for number in range(40):
            spool.commit([replace(cut(number, rows=1), blob=os.urandom(9_000))])
        free, seen = room.free, []

        def watched(shelf: Any, reason: str) -> bool:
            seen.append(spool._db.execute("PRAGMA synchronous").fetchone())
            return free(shelf, reason)

        monkeypatch.setattr(room, "free", watched)
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL
        errors = iter([full])

        def settle(receipts: Any) -> Any:
            for error in errors:
                raise error
            return before(receipts)

        before = spool._shelf.settle
        monkeypatch.setattr(spool._shelf, "settle", settle)
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 3),))])
        assert seen == [(2,)], "FULL"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_spool_opens_on_a_full_disk(small_disk: Path, clock: Any, cut: MakeCut, *, damaged: bool) -> None:
    path, options = small_disk / "spool.db", SpoolOptions(ballast_bytes=3 << 20)
    with Spool(path, clock, options) as spool:
        for number in range(20):
            spool.commit([replace(cut(number), blob=os.urandom(50_000))])
        epoch = spool.epoch
    if damaged:
        smash_an_index(path)
    with (small_disk / "others").open("wb", buffering=0) as others, contextlib.suppress(OSError):
        while True:
            others.write(bytes(4096))

    with Spool(path, clock, options) as spool:
        spool.commit([cut(100)])
        left = {head.seq for head in spool.heads(BatchClass.DATA) if head.epoch == epoch}
        losses = [b.samples for _, b in spool.load(h.id for h in spool.heads(BatchClass.ALARM))]
        told = [sample.values for of in losses for sample in of]
        lost = {seq for x in told for seq in range(int(str(x[1])), int(str(x[2])) + 1)}
        assert (left | lost, left & lost) == (set(range(20)), set())
        assert 100 in numbers(spool)
