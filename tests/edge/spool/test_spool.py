"""The disk queue: what was committed stays, what is lost is declared, the file always opens."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from trisense.core.errors import SpoolError, SpoolFull, SpoolLocked
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass, ClockState, Quality, Sample, Stream, batch_hash
from trisense.edge.spool import Cut, Head, Loss, Spool, SpoolOptions
from trisense.edge.spool import queue as queue_module
from trisense.edge.spool.room import ROUND_BYTES, Ballast
from trisense.edge.spool.shelf import Shelf

from tests.edge.conftest import FakeClock
from tests.edge.spool.damage import smash_an_index

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]
CLASSES = tuple(BatchClass)
TABLE_LEAF = 0x0D
"""First byte of such a page: https://www.sqlite.org/fileformat2.html#b_tree_pages"""


def waiting(spool: Spool) -> dict[tuple[int, int], Batch]:
    """Every batch without a receipt, by identity."""
    heads = [head for of in CLASSES for head in spool.heads(of, limit=100_000)]
    heads += spool.heads(BatchClass.DATA, limit=100_000, preview=True)
    return {(b.epoch, b.seq): b for _, b in spool.load([h.id for h in heads])}


def declared(spool: Spool) -> list[dict[str, Any]]:
    """Every loss the spool declares."""
    names = [field.name for field in LOSS.fields]
    return [
        dict(zip(names, sample.values, strict=True))
        for batch in waiting(spool).values()
        for sample in batch.samples
        if sample.stream == LOSS
    ]


def data(batches: dict[tuple[int, int], Batch]) -> dict[tuple[int, int], Batch]:
    return {key: b for key, b in batches.items() if b.samples[0].stream != LOSS}


def test_a_batch_comes_back_as_it_was_committed(spool: Spool, cut: MakeCut) -> None:
    one = cut(1)
    picture = cut(2, rows=1, batch_class=BatchClass.MEDIA, blob=b"\xff\xd8 picture")
    heads = spool.commit([one, picture])

    (_, first), (_, second) = spool.load([head.id for head in heads])

    assert first == Batch(
        spool.epoch, 0, BatchClass.DATA, ClockState(True, 3), one.samples, batch_hash(one.samples)
    )
    assert (second.seq, second.blob, second.samples) == (1, picture.blob, picture.samples)


def test_previews_are_asked_for_by_name_and_either_end_comes_first(spool: Spool, cut: MakeCut) -> None:
    spool.commit([cut(0), replace(cut(1), preview=True), cut(2), replace(cut(3), preview=True), cut(4)])

    def seqs(**how: Any) -> list[int]:
        return [head.seq for head in spool.heads(BatchClass.DATA, **how)]

    assert (seqs(), seqs(newest=True), seqs(newest=True, limit=1)) == ([0, 2, 4], [4, 2, 0], [4])
    assert (seqs(preview=True), seqs(preview=True, newest=True)) == ([1, 3], [3, 1])
    (_, middle, newest) = spool.heads(BatchClass.DATA)
    assert seqs(after_id=middle.id) == [4]
    assert seqs(after_id=newest.id, newest=True) == [2, 0]
    assert [h.preview for h in spool.heads(BatchClass.DATA, preview=True)] == [True, True]


def test_an_open_batch_waits_but_is_not_offered(spool: Spool, cut: MakeCut) -> None:
    spool.commit([replace(cut(0), offset_ns=17), cut(1)])

    assert [head.seq for head in spool.heads(BatchClass.DATA)] == [1]
    assert spool.waiting() == 2


def test_a_file_of_another_layout_is_refused_by_name(make_spool: MakeSpool, spool_path: Path) -> None:
    with make_spool():
        pass
    with sqlite3.connect(spool_path) as db:
        db.execute("PRAGMA user_version = 1")
        db.execute("DROP TABLE mark")
    db.close()

    with pytest.raises(SpoolError, match="layout 1, ours 2"):
        make_spool().open()


def test_every_opening_begins_an_epoch_and_stored_batches_keep_theirs(
    make_spool: MakeSpool, cut: MakeCut
) -> None:
    epochs = []
    for number in range(3):
        with make_spool() as spool:
            spool.commit([cut(number)])
            epochs.append(spool.epoch)

    with make_spool() as spool:
        assert set(waiting(spool)) == {(epoch, 0) for epoch in epochs}
        assert [c.epoch for c in spool.all_counters()] == [*epochs, spool.epoch]
        assert spool.counters().next_seq == 0
    assert len(set(epochs)) == 3


def test_counters_tell_what_was_committed_and_what_still_waits(spool: Spool, cut: MakeCut) -> None:
    spool.commit([cut(i) for i in range(5)])
    spool.settle([EpochReceipt(spool.epoch, stored=((0, 1), (3, 3)))])

    counters = spool.counters()

    assert (counters.next_seq, counters.low_seq, counters.samples_committed) == (5, 2, 15)
    assert spool.waiting() == 2


def test_a_second_process_is_kept_out(spool: Spool, make_spool: MakeSpool) -> None:
    with pytest.raises(SpoolLocked, match="another process"):
        make_spool().open()


def test_a_receipt_settles_own_batches_only(spool: Spool, cut: MakeCut) -> None:
    spool.commit([cut(i) for i in range(3)])

    beyond = spool.settle([EpochReceipt(spool.epoch, stored=((0, 3),))])
    foreign = spool.settle([EpochReceipt(spool.epoch ^ 1, stored=((0, 2),))])
    good = spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),), refused=((1, "types", 3),))])
    again = spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),))])

    assert (beyond.heads, beyond.beyond) == ((), 1)
    assert (foreign.heads, foreign.unknown_epochs) == ((), 1)
    assert ([h.seq for h in good.heads], good.refused) == ([0, 1], 1)
    assert again.heads == ()
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL, for the next commit
    assert [b.seq for b in waiting(spool).values()] == [2]


def test_receipted_batches_go_by_age_and_old_epochs_stay_told(
    make_spool: MakeSpool, cut: MakeCut, clock: Any
) -> None:
    with make_spool(keep_s=3600.0) as spool:
        spool.commit([cut(1), cut(2)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 1),))])
        clock.advance(3500)
        assert spool.tidy() == 0
        clock.advance(200)
        assert spool.tidy() == 2
        epoch = spool.epoch

    with make_spool() as spool:
        (old, _) = spool.all_counters()
        assert (old.epoch, old.next_seq, old.low_seq, old.samples_committed) == (epoch, 2, 2, 6)


def test_batches_can_be_given_up_with_a_word(spool: Spool, cut: MakeCut, clock: FakeClock) -> None:
    ids = []
    for number in range(3):
        ids += [head.id for head in spool.commit([cut(number)])]
        clock.advance(60)

    (told,) = spool.drop(ids, "too_large")

    assert told.batch_class is BatchClass.ALARM
    (loss,) = declared(spool)
    assert (loss["epoch"], loss["first"], loss["last"]) == (f"{spool.epoch:016x}", 0, 2)
    assert (loss["samples"], loss["reason"]) == (9, "too_large")
    assert (loss["t0"], loss["t1"]) == ("2026-05-28T20:26:40.000+00:00", "2026-05-28T20:28:40.000+00:00")
    (_, batch) = next(iter(spool.load([told.id])))
    missing = [index for index, value in enumerate(batch.samples[0].values) if value is None]
    assert batch.samples[0].quality == tuple((index, int(Quality.MISSING)) for index in missing)
    assert spool.counters().low_seq == told.seq


def test_what_never_was_committed_is_declared_without_an_epoch(spool: Spool) -> None:
    spool.commit([], [Loss("queue_full", samples=7, stream="mast/weather", t0_ns=0, t1_ns=1_000_000_000)])

    (loss,) = declared(spool)
    assert loss["epoch"] is None
    assert (loss["samples"], loss["t1"]) == (7, "1970-01-01T00:00:01.000+00:00")


def test_of_the_epochs_of_which_nothing_is_left_the_oldest_are_forgotten(
    make_spool: MakeSpool, cut: MakeCut, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "EPOCHS_KEPT", 2)
    epochs = []
    for _ in range(5):
        with make_spool(keep_s=60.0) as spool:
            epochs.append(spool.epoch)
            spool.commit([cut(1)])
            spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),))])
    with make_spool(keep_s=60.0) as spool:
        clock.advance(3600)
        assert spool.tidy() == 5
        assert [of.epoch for of in spool.all_counters()] == [*epochs[-2:], spool.epoch]


def test_what_no_index_tells_of_is_missed_and_found(spool: Spool, spool_path: Path, cut: MakeCut) -> None:
    """Pages of an index that were never written: it is empty, and whole by itself."""
    spool.commit([cut(number) for number in range(3)])
    epoch = spool.epoch
    with closing(sqlite3.connect(spool_path, isolation_level=None)) as db:
        (schema,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'waiting'").fetchone()
        db.execute("DROP INDEX waiting")
        db.execute(schema + " AND class = 'none'")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'waiting'", (schema,))
        (cookie,) = db.execute("PRAGMA schema_version").fetchone()
        db.execute(f"PRAGMA schema_version = {cookie + 1}")
    assert spool.heads(BatchClass.DATA) == []

    spool.tidy()
    assert {(epoch, seq) for seq in range(3)} <= waiting(spool).keys()


# --- the cap ---


def test_at_the_cap_media_goes_first_then_data_and_every_drop_is_declared(
    make_spool: MakeSpool, cut: MakeCut
) -> None:
    with make_spool(max_bytes=4 << 20) as spool:
        alarm = spool.commit([cut(0, batch_class=BatchClass.ALARM)])[0]
        committed: dict[int, Head] = {}
        for number in range(1, 200):
            blob = bytes(60_000) if number % 4 else os.urandom(60_000)
            kind = BatchClass.MEDIA if number % 2 else BatchClass.DATA
            (head,) = spool.commit([cut(number, batch_class=kind, blob=blob)])
            committed[head.seq] = head

        left = {seq for _, seq in waiting(spool)}
        lost = {seq for loss in declared(spool) for seq in range(loss["first"], loss["last"] + 1)}

        assert alarm.seq in left
        assert {seq for seq in committed if seq not in left} == lost
        assert sum(loss["samples"] for loss in declared(spool)) == 3 * len(lost)
        assert {loss["reason"] for loss in declared(spool)} == {"cap"}
        assert spool.summary().lost == {"cap": 3 * len(lost)}
        assert spool.summary().losses == {"cap": len(declared(spool))}
        first_data_lost = min(s for s in lost if committed[s].batch_class is BatchClass.DATA)
        media_left = [s for s in left & set(committed) if committed[s].batch_class is BatchClass.MEDIA]
        assert min(media_left) > first_data_lost
    assert spool.path.stat().st_size <= 4 << 20


def test_at_the_cap_no_more_is_lost_at_a_time_than_a_round(make_spool: MakeSpool, cut: MakeCut) -> None:
    size_bytes = 20_000
    with make_spool(max_bytes=4 << 20, media_share=1.0) as spool:
        number = 0
        while not spool.summary().lost:
            spool.commit([cut(number, rows=1, batch_class=BatchClass.MEDIA, blob=os.urandom(size_bytes))])
            number += 1
        assert 1 <= spool.summary().lost["cap"] <= 2 * (ROUND_BYTES // size_bytes + 1)


def test_a_disk_that_fails_with_room_on_it_costs_no_reading(
    spool: Spool, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that a full disk gives too: SQLite cannot tell which it was."""
    spool.commit([cut(1)])
    spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),))])
    spool.commit([cut(2)])
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def failing(*_: object) -> Head:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "commit", failing)
        with pytest.raises(SpoolError, match="disk I/O error"):
            spool.commit([cut(3)])
    summary = spool.summary()
    assert (summary.kept.batches, spool.waiting(), summary.lost) == (1, 1, {})


def test_what_the_cap_does_at_each_commit_is_told_aloud_once(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=4 << 20) as spool, capture_logs() as logs:
        for number in range(150):
            spool.commit([cut(number, blob=os.urandom(60_000))])
        assert spool.summary().losses["cap"] > 10
    aloud = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert sorted(aloud) == ["samples_lost", "spool_at_cap"]


def test_receipted_batches_go_before_anything_is_lost(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=4 << 20) as spool:
        for number in range(150):
            (head,) = spool.commit([cut(number, blob=os.urandom(60_000))])
            spool.settle([EpochReceipt(spool.epoch, stored=((head.seq, head.seq),))])

        assert declared(spool) == []


def test_a_quota_lets_the_oldest_pictures_go_long_before_the_cap(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=8 << 20, media_share=0.25) as spool:
        (reading,) = spool.commit([cut(0)])
        for number in range(1, 60):
            spool.commit([cut(number, batch_class=BatchClass.MEDIA, blob=os.urandom(60_000))])
            assert spool.summary().waiting["media"].size_bytes <= 2 << 20

        left = {seq for _, seq in waiting(spool)}
        assert {loss["reason"] for loss in declared(spool)} == {"quota"}
        lost = [seq for loss in declared(spool) for seq in range(loss["first"], loss["last"] + 1)]
        pictures = [b.seq for b in waiting(spool).values() if b.batch_class is BatchClass.MEDIA]
        assert max(lost) < min(pictures), "the oldest went"
        assert len(lost) == len(set(lost)) == 59 - len(pictures)
        assert reading.seq in left


def test_previews_have_a_quota_and_go_before_readings_at_the_cap(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=4 << 20, preview_share=0.2) as spool:
        readings = []
        for number in range(55):
            blob = os.urandom(60_000)
            readings += spool.commit([cut(number, blob=blob)])
            spool.commit([replace(cut(number, blob=blob), preview=True)])
            assert spool.summary().waiting["preview"].size_bytes <= (4 << 20) // 5

        reasons = [loss["reason"] for loss in declared(spool)]
        assert set(reasons) == {"quota", "cap"}
        assert {head.seq for head in readings} <= {seq for _, seq in waiting(spool)}, "no reading went yet"


def test_replayed_batches_go_before_what_the_gateway_never_had(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=4 << 20) as spool:
        replayed = [spool.commit([cut(n, blob=os.urandom(60_000))])[0] for n in range(20)]
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 19),))])
        assert spool.replay(0, 1 << 62) == 20
        for number in range(20, 60):
            spool.commit([cut(number, batch_class=BatchClass.MEDIA, blob=os.urandom(30_000))])
        fresh = [spool.commit([cut(n, blob=os.urandom(60_000))])[0] for n in range(60, 90)]

        lost = {seq for loss in declared(spool) for seq in range(loss["first"], loss["last"] + 1)}
        assert lost, "the cap was reached"
        assert lost <= {head.seq for head in replayed}
        assert {head.seq for head in fresh} <= {seq for _, seq in waiting(spool)}


def test_a_dropped_declaration_is_declared_again(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool(max_bytes=4 << 20) as spool:
        (head,) = spool.commit([cut(1)])
        spool.drop([head.id], "too_large")
        for number in range(100):
            spool.commit([cut(number, batch_class=BatchClass.ALARM, blob=os.urandom(60_000))])

        assert "too_large" in {loss["reason"] for loss in declared(spool)}


def test_a_cut_that_no_room_can_hold_is_refused_and_the_spool_lives(
    make_spool: MakeSpool, cut: MakeCut
) -> None:
    with make_spool(max_bytes=1 << 20) as spool:
        with pytest.raises(SpoolFull):
            spool.commit([cut(1, blob=os.urandom(2 << 20))])

        (head,) = spool.commit([cut(2)])
        assert [b.seq for _, b in spool.load([head.id])] == [head.seq]


# --- the disk ---


def test_a_full_disk_drops_and_declares_but_never_wedges(small_disk: Path, clock: Any, cut: MakeCut) -> None:
    options = SpoolOptions(max_bytes=1 << 30, ballast_bytes=1 << 20)
    with Spool(small_disk / "spool.db", clock, options) as spool:
        committed = [spool.commit([cut(n, blob=os.urandom(50_000))])[0] for n in range(400)]

        left = {seq for _, seq in waiting(spool)}
        lost = {seq for loss in declared(spool) for seq in range(loss["first"], loss["last"] + 1)}

        assert {head.seq for head in committed} - left == lost
        assert {loss["reason"] for loss in declared(spool)} <= {"disk_full", "cap"}
        assert committed[-1].seq in left


def fill(file: io.FileIO) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_ballast_is_set_aside_only_where_as_much_again_stays_free(small_disk: Path) -> None:
    ballast = Ballast(small_disk / "spool.db", 2 << 20)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(5 << 20))  # of eight: three are free
    assert not ballast.load()
    filler.write_bytes(bytes(3 << 20))
    assert ballast.load()
    assert ballast.release()
    assert not ballast.release()


def test_a_disk_that_others_filled_does_not_wedge_the_spool(
    small_disk: Path, clock: Any, cut: MakeCut
) -> None:
    options = SpoolOptions(max_bytes=1 << 30, ballast_bytes=1 << 20)
    filler = small_disk / "somebody-elses.log"
    with Spool(small_disk / "spool.db", clock, options) as spool, capture_logs() as logs:
        for number in range(20):
            spool.commit([cut(number, blob=os.urandom(50_000))])
        with filler.open("wb", buffering=0) as file:
            fill(file)

        for number in range(20, 120):
            spool.commit([cut(number, blob=os.urandom(50_000))])
        filler.unlink()
        spool.tidy()

        assert (small_disk / "spool.db.ballast").stat().st_size == 1 << 20
        assert declared(spool)
    aloud = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert [event for event in aloud if event.startswith("spool_")] == ["spool_full", "spool_has_room"]


# --- crashes and damage ---

WRITER = """
import sys
from pathlib import Path
from trisense.core.model import BatchClass, Field, Layer, Sample, Stream
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Cut, Spool

stream = Stream("mast", "weather", Layer.GROUND, (Field("x"),))
spool = Spool(Path(sys.argv[1]), SystemClock())
spool.open()
number = 0
while True:
    samples = tuple(Sample(stream, number * 1_000_000, (float(number),), n) for n in range(3))
    (head,) = spool.commit([Cut(BatchClass.DATA, samples)])
    print(head.epoch, head.seq, number, flush=True)
    number += 1
"""


def test_kill_9_loses_nothing_that_was_committed(spool_path: Path, make_spool: MakeSpool) -> None:
    told: dict[tuple[int, int], int] = {}
    for after in (1, 7, 40, 90):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(spool_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(after):
            epoch, seq, number = map(int, writer.stdout.readline().split())
            told[epoch, seq] = number
        writer.kill()
        assert writer.wait() == -9
        for line in writer.stdout.read().splitlines():
            epoch, seq, number = map(int, line.split())
            told[epoch, seq] = number
        writer.stdout.close()

    with make_spool() as spool:
        found = waiting(spool)
    assert told.keys() <= found.keys()
    assert len(found) <= len(told) + 4  # one commit at each kill that could not be told any more
    for identity, number in told.items():
        assert [s.values for s in found[identity].samples] == [(float(number),)] * 3


def test_a_damaged_row_is_declared_and_the_rest_goes_on(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(i) for i in range(3)])
        epoch = spool.epoch
    with sqlite3.connect(spool_path) as db:
        db.execute("UPDATE batch SET rows = zeroblob(length(rows)) WHERE seq = 1")
    db.close()

    with make_spool() as spool:
        found = data(waiting(spool))
        assert [seq for _, seq in found] == [0, 2]
        (loss,) = declared(spool)
        assert (loss["epoch"], loss["first"], loss["last"]) == (f"{epoch:016x}", 1, 1)
        assert (loss["samples"], loss["reason"]) == (None, "corrupt")
        assert next(s.low_seq for s in spool.all_counters()) == 0


def test_a_row_whose_own_name_is_damaged_is_declared_by_the_name_it_had(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(i) for i in range(3)])
        epoch = spool.epoch
    image = spool_path.read_bytes()
    name = f"{epoch:016x}".encode()
    where = [at for at in range(len(image)) if image.startswith(name + b"\x02data", at)]
    assert where, "the cells of the third row: epoch, seq 2, class"
    for at in where:
        image = image[:at] + b"?" + image[at + 1 :]
    spool_path.write_bytes(image)

    with make_spool() as spool:
        assert [seq for _, seq in data(waiting(spool))] == [0, 1]
        (loss,) = declared(spool)
        assert (loss["epoch"], loss["first"], loss["last"]) == (f"{epoch:016x}", 2, 2)


def test_ordinals_go_on_after_a_restart(make_spool: MakeSpool, cut: MakeCut) -> None:
    with make_spool() as spool:
        spool.commit([cut(1, rows=1), cut(2, rows=1)])
        time_ns = cut(2).samples[0].time_ns
    with make_spool() as spool:
        ordinals = spool.ordinals(("mast", "weather"))
        assert [ordinals.take(time_ns), ordinals.take(time_ns - 1), ordinals.take(time_ns + 1)] == [1, 2, 0]


def test_ordinals_go_on_though_a_stream_was_described_otherwise_for_a_while(
    make_spool: MakeSpool, cut: MakeCut, stream: Stream
) -> None:
    """A configuration that is pushed and taken back: the older description has the newer numbers."""
    other = replace(stream, fields=stream.fields[:1])
    time_ns = cut(1).samples[0].time_ns

    def row(of: Stream, n: int) -> Cut:
        return Cut(BatchClass.DATA, (Sample(of, time_ns, (1.0, 1, "x")[: len(of.fields)], n),))

    with make_spool() as spool:
        spool.commit([row(stream, 0), row(other, 1), row(stream, 2)])
    with make_spool() as spool:
        assert spool.ordinals(stream.key).take(time_ns) == 3


def test_a_file_that_is_no_database_is_put_aside_and_declared(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(1)])
        epoch = spool.epoch
    spool_path.write_bytes(os.urandom(50_000))

    with make_spool() as spool:
        spool.commit([cut(2)])
        losses = declared(spool)
        assert [x["epoch"] for x in losses] == [f"{epoch:016x}"]
        assert (losses[0]["first"], losses[0]["last"], losses[0]["samples"]) == (0, None, None)
    assert spool_path.with_name("spool.db.damaged").exists()


def test_damage_while_it_runs_costs_what_was_there_and_nothing_after(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_spool() as spool:
        lost = [spool.commit([cut(i, blob=os.urandom(50_000))])[0] for i in range(100)]
        epoch = spool.epoch
        image = spool_path.read_bytes()
        spool_path.write_bytes(os.urandom(len(image)))

        # At first the disk allows no new file either: an error, but no wreck.
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(SpoolError, match="cannot begin"):
                spool.load([head.id for head in lost])
            with pytest.raises(SpoolError):
                spool.commit([cut(200)])
        spool.commit([cut(201)])

        assert spool.epoch != epoch
        found = {b.samples[0].values[1] for b in data(waiting(spool)).values()}
        assert 201 in found
        assert found <= {201, *range(100)}  # what was still in the WAL could be carried over
        assert f"{epoch:016x}" in {loss["epoch"] for loss in declared(spool)}


def refuse(*_: object) -> None:
    raise PermissionError("read-only file system")


def test_what_is_salvaged_includes_what_a_restored_gateway_may_ask_for(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(0), cut(1), replace(cut(2), offset_ns=9), replace(cut(3), preview=True)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 0),))])
        epoch = spool.epoch
    smash_an_index(spool_path)

    with make_spool() as spool:
        assert spool_path.with_name("spool.db.damaged").exists()
        assert declared(spool) == []
        held = {name: of.batches for name, of in spool.summary().waiting.items()}
        assert held == {"alarm": 0, "data": 2, "preview": 1, "media": 0}
        assert set(waiting(spool)) == {(epoch, 1), (epoch, 3)}, "the open one is open still"
        assert spool.replay(0, 1 << 62) == 1
        settled = spool.settle([EpochReceipt(epoch, stored=((0, 1),))])
        assert {head.seq for head in settled.heads} == {0, 1}


def test_what_the_start_had_no_time_for_is_carried_over_while_the_box_works(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.spool.salvage.PART", 7)
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(100)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 9), (50, 59)))])
        epoch = spool.epoch
    smash_an_index(spool_path)

    monkeypatch.setattr("trisense.edge.spool.holder.time", SimpleNamespace(monotonic=count().__next__))
    monkeypatch.setattr("trisense.edge.spool.queue.SALVAGE_S", 3)  # so many looks at the clock
    with make_spool(salvage_s=2) as spool:
        early = waiting(spool)
        assert 0 < len(early) < 80
        (fresh,) = spool.commit([cut(200)])
        settled = spool.settle([EpochReceipt(epoch, stored=((10, 12),))])
        assert [head.seq for head in settled.heads] == [10, 11, 12]
        counters = {c.epoch: c.low_seq for c in spool.all_counters()}
        assert counters[epoch] <= 10, "what is still to come is not said to be receipted"
        spool.tidy()
    assert spool_path.with_name("spool.db.salvage").exists()

    with make_spool(salvage_s=2) as spool:  # a restart in between
        while spool_path.with_name("spool.db.salvage").exists():
            spool.tidy()
        left = [*range(13, 50), *range(60, 100)]
        assert [seq for e, seq in sorted(waiting(spool)) if e == epoch] == left
        heads = spool.heads(BatchClass.DATA, limit=1000)
        assert heads[-1].id == fresh.id, "what is old stays older than what is new"
        assert declared(spool) == []
        assert spool.waiting() == 78
        assert {c.epoch: c.low_seq for c in spool.all_counters()}[epoch] == 13
        late = spool.settle([EpochReceipt(epoch, stored=((0, 99),))])
        assert [head.seq for head in late.heads] == left
        assert spool.replay(0, 1 << 62) == 100, "what is kept came, too"


def test_a_second_damage_before_the_first_is_mended_declares_what_it_costs(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.edge.spool.salvage.PART", 7)
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(50)])
        epoch = spool.epoch
    smash_an_index(spool_path)
    with monkeypatch.context() as patch:
        patch.setattr("trisense.edge.spool.holder.time", SimpleNamespace(monotonic=count().__next__))
        with make_spool(salvage_s=2) as spool:
            some = {seq for _, seq in data(waiting(spool))}
            assert 0 < len(some) < 50
            spool.commit([cut(200)])
    smash_an_index(spool_path)

    with make_spool() as spool:
        assert {seq for e, seq in waiting(spool) if e == epoch} == some
        lost = {
            s
            for x in declared(spool)
            if x["epoch"] == f"{epoch:016x}"
            for s in range(x["first"], x["last"] + 1)
        }
        assert lost == set(range(50)) - some


def test_batches_between_two_damaged_pages_are_found(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n, rows=60) for n in range(200)])
    image = spool_path.read_bytes()
    leaves = [
        at
        for at in range(0, len(image), 4096)
        if image[at] == TABLE_LEAF and b"data" in image[at : at + 4096]
    ]
    assert len(leaves) > 9
    for page in (leaves[2], leaves[-2]):
        image = image[:page] + bytes(4096) + image[page + 4096 :]
    spool_path.write_bytes(image)

    with make_spool() as spool:
        found, losses = len(data(waiting(spool))), declared(spool)
        assert found > 150
        assert sum(x["last"] - x["first"] + 1 for x in losses) == 200 - found
        assert len(losses) == 2


def test_nothing_is_declared_lost_that_had_its_receipt(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, clock: Any
) -> None:
    with make_spool(keep_s=1.0) as spool:  # drained and purged: nothing of it can be lost any more
        first = spool.epoch
        spool.commit([cut(n) for n in range(4)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 3),))])
        clock.advance(10)
        spool.tidy()
    with make_spool(keep_s=1.0) as spool:
        spool.commit([cut(n) for n in range(6)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 2),))])
        clock.advance(10)
        spool.tidy()
        spool.commit([cut(6)])
    smash_an_index(spool_path)
    with make_spool() as spool:
        assert (len(waiting(spool)), declared(spool)) == (4, [])
        second = next(epoch for epoch, _ in waiting(spool))

    spool_path.write_bytes(os.urandom(9000))
    with make_spool() as spool:
        names = {x["epoch"] for x in declared(spool)}
        assert f"{second:016x}" in names
        assert f"{first:016x}" not in names, "it was drained"


def test_many_losses_are_told_in_batches_that_can_travel(spool: Spool) -> None:
    heads = spool.commit([], [Loss("queue_full", samples=1, stream=f"mast/{n}") for n in range(2500)])
    assert [head.samples for head in heads] == [1000, 1000, 500]


def test_a_crash_in_the_middle_of_a_salvage_only_means_to_begin_it_again(
    make_spool: MakeSpool, spool_path: Path, cut: MakeCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(5)])
        epoch = spool.epoch
    smash_an_index(spool_path)
    with sqlite3.connect(spool_path) as db:
        db.execute("UPDATE batch SET rows = zeroblob(3) WHERE seq = 2")
    db.close()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for point in ("Shelf.take_over", "Salvage.losses", "Shelf.declare", "aside.keep_aside"):
        with monkeypatch.context() as patch:
            patch.setattr(f"trisense.edge.spool.holder.{point}", crash)
            with pytest.raises(KeyboardInterrupt):
                make_spool().open()
        assert not spool_path.with_name("spool.db.damaged").exists()

    with make_spool() as spool:
        assert set(data(waiting(spool))) == {(epoch, seq) for seq in (0, 1, 3, 4)}
        known = [x for x in declared(spool) if x["epoch"] == f"{epoch:016x}"]
        assert {(x["first"], x["last"], x["samples"]) for x in known} == {(2, 2, None)}
    assert spool_path.with_name("spool.db.damaged").exists()
