"""What becomes of what came: duplicates, forks, poison, contradictions, clones."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from trisense.core.errors import StoreUnavailable
from trisense.core.messages import (
    LOSS,
    Birth,
    CountersJson,
    DeviceBirth,
    EpochReceipt,
    Position,
    unpack_receipts,
)
from trisense.core.model import BatchClass, ClockState, Counters, Field, FieldType, Layer, Sample, Stream
from trisense.core.topics import Lane
from trisense.gateway.accounts import balance, facts_of
from trisense.gateway.config import DuckDbConfig
from trisense.gateway.intake import Delivery, Intake
from trisense.gateway.quarantine import Quarantine
from trisense.gateway.receipts import Answers
from trisense.gateway.stores.base import Circle, Span, Store, StreamRef
from trisense.gateway.stores.duck import DuckStore

ALWAYS = Span(0, 2**62)
MAST = StreamRef("kx-001", "mast", "weather")


def deliver(intake: Intake, *deliveries: Delivery) -> list[EpochReceipt]:
    """Judge and commit as one group; the receipts that go out."""
    answers = intake.commit(intake.judge(deliveries))
    return [receipt for _, payload in answers.messages() for receipt in unpack_receipts(payload)]


def test_a_batch_is_stored_whole_and_receipted(intake: Intake, duck: DuckStore, box: Any) -> None:
    batch = box.weather(3)
    assert deliver(intake, box.send(batch)) == [EpochReceipt(box.epoch, ((0, 0),))]
    table = duck.range(MAST, ["air_temperature", "vehicle_count", "note"], ALWAYS, 10)
    assert table.columns == (
        "time_ns",
        "n",
        "air_temperature",
        "air_temperature_q",
        "vehicle_count",
        "vehicle_count_q",
        "note",
        "note_q",
    )
    assert table.rows == [(s.time_ns, 0, 21.5, None, 7, None, "fine", None) for s in batch.samples]


def test_nulls_and_quality_codes_reach_the_store(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream, t0_ns: int
) -> None:
    rows = [
        Sample(weather, t0_ns, (None, None, None, None), 0, ((0, 9), (1, 9), (2, 9), (3, 9))),
        Sample(weather, t0_ns, (85.0, 50.0, -(2**63), "鼓 🎏 \x00 ' \" ; --"), 1, ((0, 4),)),
    ]
    deliver(intake, box.send(box.cut(rows)))
    assert duck.range(MAST, [], ALWAYS, 10).rows == [
        (t0_ns, 0, None, 9, None, 9, None, 9, None, 9),
        (t0_ns, 1, 85.0, 4, 50.0, None, -(2**63), None, "鼓 🎏 \x00 ' \" ; --", None),
    ]


def test_a_time_that_could_not_be_trusted_says_so_in_the_store(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream, t0_ns: int
) -> None:
    clocks = [ClockState(True, 3), ClockState(False, None), ClockState(False, 1500)]
    batches = [
        box.cut(
            [Sample(weather, t0_ns + index * 1_000_000, (1.0, 2.0, 3, "x"), quality=((0, 4),))], clock=clock
        )
        for index, clock in enumerate(clocks)
    ]
    deliver(intake, box.send(*batches))
    assert duck.range(MAST, ["air_temperature", "clock_code", "clock_error_ms"], ALWAYS, 10).rows == [
        (t0_ns, 0, 1.0, 4, None, None, None, None),
        (t0_ns + 1_000_000, 0, 1.0, 4, 2, None, None, None),
        (t0_ns + 2_000_000, 0, 1.0, 4, 3, None, 1500, None),
    ]


def test_good_clocks_cost_no_column(intake: Intake, duck: DuckStore, box: Any) -> None:
    deliver(intake, box.send(box.weather(1)))
    assert "clock_code" not in duck.range(MAST, [], ALWAYS, 10).columns


def test_a_duplicate_is_stored_once_and_receipted_again(intake: Intake, duck: DuckStore, box: Any) -> None:
    delivery = box.send(box.weather(3))
    first = deliver(intake, delivery)
    again = deliver(intake, delivery, delivery)
    assert first == again
    assert duck.count(box.name).rows == 3


def test_the_same_batch_twice_in_one_group_is_stored_once(intake: Intake, duck: DuckStore, box: Any) -> None:
    delivery = box.send(box.weather(3))
    assert deliver(intake, delivery, delivery) == [EpochReceipt(box.epoch, ((0, 0),))]
    assert duck.count(box.name).rows == 3


def test_of_a_bundle_only_the_new_batches_are_written(intake: Intake, duck: DuckStore, box: Any) -> None:
    first, second, third = box.weather(2), box.weather(3), box.weather(4)
    deliver(intake, box.send(second))
    assert deliver(intake, box.send(first, second, third)) == [EpochReceipt(box.epoch, ((0, 2),))]
    times = [row[0] for row in duck.range(MAST, ["note"], ALWAYS, 99).rows]
    assert times == [s.time_ns for b in (first, second, third) for s in b.samples]


def test_a_restart_remembers_what_is_stored(
    duck: DuckStore, intake: Intake, quarantine: Quarantine, box: Any
) -> None:
    delivery = box.send(box.weather(3))
    deliver(intake, delivery)
    duck.close()
    duck.open()
    assert deliver(Intake(duck, quarantine), delivery) == [EpochReceipt(box.epoch, ((0, 0),))]
    assert duck.count(box.name).rows == 3


def test_the_same_identity_with_another_hash_is_a_fork(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    deliver(intake, box.send(box.weather(3)))
    other = box.cut([Sample(weather, box.t0_ns, (1.0, 2.0, 3, "clone"))], seq=0)
    group = intake.judge([box.send(other)])
    intake.commit(group)
    receipts = [r for _, p in group.answers.messages() for r in unpack_receipts(p)]
    assert receipts == [EpochReceipt(box.epoch, (), ((0, "fork", 1),))]
    assert [alarm.kind for alarm in group.alarms] == ["fork", "quarantine"]
    assert duck.count(box.name).rows == 3
    assert quarantine.list()[0].meta["batches"] == [
        {"epoch": f"{box.epoch:016x}", "seq": 0, "reason": "fork"}
    ]
    (account,) = (balance(f, None) for f in facts_of(duck.ledger))
    assert (account.forks, account.balanced) == (1, True)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x01" + b"\xff" * 40, b"hello"])
def test_poison_is_kept_and_blocks_nobody(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any, payload: bytes
) -> None:
    poison = Delivery(box.name, Lane.LIVE, payload)
    assert deliver(intake, poison, box.send(box.weather(2)), poison) == [EpochReceipt(box.epoch, ((0, 0),))]
    assert duck.count(box.name).rows == 2
    (kept,) = quarantine.list()
    assert quarantine.payload(kept.id) == payload


def test_every_damaged_byte_of_a_bundle_goes_to_quarantine(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any
) -> None:
    payload = box.bundle(box.weather(2))
    damaged = [payload[:i] + bytes([payload[i] ^ 0x10]) + payload[i + 1 :] for i in range(0, len(payload), 7)]
    for one in damaged:
        assert deliver(intake, Delivery(box.name, Lane.LIVE, one)) == []
    assert quarantine.count == len(damaged)
    assert duck.ledger.epochs == {}


def test_a_babbling_box_fills_neither_the_disk_nor_the_writers_time(
    intake: Intake, quarantine: Quarantine, box: Any
) -> None:
    babble = [Delivery("babbler", Lane.LIVE, b"babble %d" % i) for i in range(500)]
    assert deliver(intake, *babble, box.send(box.weather(1))) == [EpochReceipt(box.epoch, ((0, 0),))]
    assert quarantine.count == 20
    assert intake.counts["bundles_undecodable_dropped"] == 480


def test_a_bundle_of_another_box_is_refused_to_the_sender(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any
) -> None:
    receipts = deliver(intake, box.send(box.weather(2), topic_box="thief"))
    assert receipts == [EpochReceipt(box.epoch, (), ((0, "box_mismatch", 2),))]
    assert duck.count(box.name).rows == 0
    assert quarantine.list()[0].meta["box"] == "thief"


def test_contradicting_types_refuse_their_batches_only(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    deliver(intake, box.send(box.weather(1)))
    other = replace(weather, device="mast-2", fields=(Field("air_temperature", "Cel", FieldType.INT),))
    bad = box.cut([Sample(other, box.t0_ns, (21,))])
    good = box.weather(2)
    assert deliver(intake, box.send(bad, good)) == [EpochReceipt(box.epoch, ((2, 2),), ((1, "type", 1),))]
    assert duck.count(box.name).rows == 3
    assert deliver(intake, box.send(bad)) == [EpochReceipt(box.epoch, (), ((1, "type", 1),))]
    (account,) = (balance(f, None) for f in facts_of(duck.ledger))
    assert (account.stored, account.refused, account.balanced) == (3, 1, True)
    assert quarantine.count == 1


@pytest.mark.parametrize("names", [("time",), ("n",), ("box",), ("a", "a_q")])
def test_a_field_that_would_be_taken_for_a_column_of_ours_is_refused(
    intake: Intake, box: Any, t0_ns: int, names: tuple[str, ...]
) -> None:
    stream = Stream("d", "m", Layer.GROUND, tuple(Field(name) for name in names))
    batch = box.cut([Sample(stream, t0_ns, (1.0,) * len(names))])
    assert deliver(intake, box.send(batch)) == [EpochReceipt(box.epoch, (), ((0, "name", 1),))]


@pytest.mark.parametrize("name", ["note_q", "not"])
def test_a_later_field_may_not_take_the_column_of_a_quality_code(
    intake: Intake, box: Any, weather: Stream, t0_ns: int, name: str
) -> None:
    deliver(intake, box.send(box.weather(1)))
    later = replace(weather, device="other", fields=(Field(name),))
    receipts = deliver(intake, box.send(box.cut([Sample(later, t0_ns, (1.0,))])))
    refused = ((1, "name", 1),) if name.endswith("_q") else ()
    assert receipts[0].refused == refused


def test_streams_may_gain_fields_and_share_a_measurement(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream, t0_ns: int
) -> None:
    wider = replace(
        weather,
        device="roof",
        layer=Layer.AIR,
        site="ky",
        fields=(*weather.fields, Field("wind_speed", "m/s")),
    )
    deliver(intake, box.send(box.weather(1)))
    deliver(intake, box.send(box.weather(1), box.cut([Sample(wider, t0_ns, (1.0, 2.0, 3, None, 4.5))])))
    found = {f.stream.device: f for f in duck.latest(None, None)}
    assert found["roof"].table.rows[0][-2:] == (4.5, None)
    assert found["mast"].table.rows[0][-2:] == (None, None)
    assert (found["roof"].site, found["roof"].layer) == ("ky", "air")
    assert found["roof"].units["wind_speed"] == "m/s"


def test_two_epochs_alternating_are_a_clone(intake: Intake, make_box: Any) -> None:
    alarms = []
    boxes = [make_box(epoch=1), make_box(epoch=2)]
    for _ in range(4):
        for twin in boxes:
            group = intake.judge([twin.send(twin.weather(1))])
            intake.commit(group)
            alarms += [alarm.kind for alarm in group.alarms]
    assert alarms == ["clone"]


def test_a_restarted_box_with_a_late_bundle_is_no_clone(intake: Intake, make_box: Any) -> None:
    old, new = make_box(epoch=1), make_box(epoch=2)
    late = old.send(old.weather(1))
    deliveries = [old.send(old.weather(1)), new.send(new.weather(1)), late, new.send(new.weather(1))]
    assert intake.judge(deliveries).alarms == []


def test_a_box_that_knows_less_of_its_past_than_before_has_an_older_copy_of_its_spool(
    intake: Intake, make_box: Any
) -> None:
    old, new = make_box(epoch=1), make_box(epoch=2)

    def birth(*counters: Counters) -> Birth:
        return Birth(
            box=old.name,
            site="kx",
            version="0",
            config_hash="",
            counters=[CountersJson.of(c) for c in counters],
            devices=[],
        )

    deliver(intake, old.send(*(old.weather(1) for _ in range(5))))
    earlier = replace(old.counters, next_seq=3)
    assert intake.note_birth(birth(earlier)) == [], "of the epoch that goes on it may come late"
    assert intake.note_birth(birth(old.counters, new.counters)) == []
    (alarm,) = intake.note_birth(birth(earlier, new.counters))
    assert (alarm.kind, dict(alarm.values)) == (
        "rollback",
        {"epoch": f"{old.epoch:016x}", "first": 3, "last": 4},
    )


def test_nothing_is_receipted_while_the_store_is_down(
    intake: Intake, duck: DuckStore, box: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": -1})())
    group = intake.judge([box.send(box.weather(3))])
    with pytest.raises(StoreUnavailable):
        intake.commit(group)
    assert list(group.answers.messages()) == []
    monkeypatch.undo()
    assert [r for _, p in intake.commit(group).messages() for r in unpack_receipts(p)] == [
        EpochReceipt(box.epoch, ((0, 0),))
    ]
    assert duck.count(box.name).rows == 3


def test_a_commit_that_held_although_it_reported_an_error_is_not_repeated(
    intake: Intake, duck: DuckStore, box: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = duck._transaction

    @contextmanager
    def lies() -> Iterator[None]:
        with transaction():
            yield
        raise duckdb.IOException("the disk did not say")

    group = intake.judge([box.send(box.weather(3))])
    monkeypatch.setattr(duck, "_transaction", lies)
    with pytest.raises(StoreUnavailable):
        intake.commit(group)
    monkeypatch.undo()
    receipts = [r for _, p in intake.commit(group).messages() for r in unpack_receipts(p)]
    assert receipts == [EpochReceipt(box.epoch, ((0, 0),))]
    assert duck.count(box.name).rows == 3


def test_a_commit_that_failed_is_repeated_whole(
    intake: Intake, duck: DuckStore, box: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = intake.judge([box.send(box.weather(3))])

    def fails(*_: object) -> None:
        raise duckdb.IOException("disk full")

    monkeypatch.setattr(duck.ledger, "write", fails)
    with pytest.raises(StoreUnavailable):
        intake.commit(group)
    monkeypatch.undo()
    intake.commit(group)
    assert (duck.count(box.name).rows, duck.count(box.name).twice) == (3, 0)


def test_a_crash_between_a_column_and_its_quality_column_is_mended(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream, t0_ns: int
) -> None:
    duck.connection.execute(
        "CREATE TABLE data.weather (site VARCHAR, box VARCHAR, device VARCHAR, layer VARCHAR,"
        " time TIMESTAMP_NS, n BIGINT, air_temperature DOUBLE)"
    )
    sample = Sample(weather, t0_ns, (900.0, 1.0, 1, ""), 0, ((0, 4),))
    deliver(intake, box.send(box.cut([sample])))
    assert duck.range(MAST, ["air_temperature"], ALWAYS, 9).rows == [(t0_ns, 0, 900.0, 4)]


def test_a_file_that_another_process_has_open_is_unavailable(duck: DuckStore, tmp_path: Path) -> None:
    program = (
        "import sys, duckdb\n"
        "try:\n    duckdb.connect(sys.argv[1])\n"
        "except duckdb.IOException:\n    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "t.duckdb"], check=False).returncode == 7


def test_a_file_that_cannot_be_opened_is_unavailable_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("a file where a folder should be")
    store = DuckStore(DuckDbConfig(kind="duckdb", path=tmp_path / "none" / "t.duckdb", free_floor_bytes=0))
    with pytest.raises(StoreUnavailable):
        store.open()


def test_pictures_are_kept_by_the_hash_of_their_bytes(
    intake: Intake, duck: DuckStore, box: Any, t0_ns: int
) -> None:
    blob = b"\xff\xd8\xff" + bytes(range(256)) * 40
    digest = hashlib.sha256(blob).hexdigest()
    stream = Stream("cam", "snapshot", Layer.GROUND, (Field("sha256", "", FieldType.STR),))
    batch = box.cut([Sample(stream, t0_ns, (digest,))], batch_class=BatchClass.MEDIA, blob=blob)
    group = intake.judge([box.send(batch, lane=Lane.MEDIA)])
    intake.commit(group)
    media = duck.media(digest)
    assert media is not None
    assert (media.blob, media.device, media.time_ns) == (blob, "cam", t0_ns)
    assert group.glimpses[0].pictures[0][1].id == digest
    assert duck.count(box.name).broken_media == 0
    assert duck.media("0" * 64) is None


def test_retention_deletes_what_is_old_and_the_deep_count_knows(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream
) -> None:
    deliver(intake, box.send(box.cut([Sample(weather, 10**18, (1.0, 2.0, 3, "old"))])))
    duck.tend()
    count = duck.count(box.name)
    assert (count.rows, count.retired) == (0, 1)


def test_declared_losses_are_read_from_their_samples(
    intake: Intake, duck: DuckStore, box: Any, t0_ns: int
) -> None:
    lost = box.weather(5)
    loss = Sample(LOSS, t0_ns, (f"{box.epoch:016x}", lost.seq, lost.seq, 5, None, None, None, "cap"))
    unnamed = Sample(LOSS, t0_ns, (None, None, None, 9, None, None, None, "queue_full"), 1)
    deliver(intake, box.send(box.cut([loss, unnamed], batch_class=BatchClass.ALARM), lane=Lane.ALARM))
    (account,) = (balance(f, None) for f in facts_of(duck.ledger))
    assert (account.committed, account.stored, account.lost, account.balanced) == (7, 2, 5, True)


def test_near_finds_fixed_and_moving_things_in_all_layers(
    intake: Intake, duck: DuckStore, box: Any, t0_ns: int
) -> None:
    moving = Stream(
        "adsb",
        "aircraft",
        Layer.AIR,
        (Field("latitude", "deg"), Field("longitude", "deg"), Field("icao", "", FieldType.STR)),
    )
    batches = [
        box.weather(2),
        box.cut(
            [
                Sample(moving, t0_ns, (48.0, 11.0, "near"), 0),
                Sample(moving, t0_ns, (49.0, 11.0, "far"), 1),
                Sample(moving, t0_ns, (None, None, "none"), 2),
            ]
        ),
    ]
    deliver(intake, box.send(*batches))
    intake.note_birth(
        Birth(
            box=box.name,
            site="kx",
            position=Position(latitude=48.0, longitude=11.001),
            version="0",
            config_hash="",
            counters=[CountersJson.of(box.counters)],
            devices=[DeviceBirth(name="mast", driver="m", layer=Layer.GROUND, site="kx", streams=[])],
        )
    )
    found = duck.near(Circle(48.0, 11.0, 500.0), Span(t0_ns, t0_ns + 10**9), 10)
    assert [(f.stream.measurement, f.layer, len(f.table.rows)) for f in found] == [
        ("aircraft", "air", 1),
        ("weather", "ground", 1),
    ]
    assert found[1].distance_m == pytest.approx(74.4, abs=0.5)
    assert duck.near(Circle(10.0, 10.0, 500.0), ALWAYS, 10) == []


def test_aggregates_skip_failed_and_missing_readings(
    intake: Intake, duck: DuckStore, box: Any, weather: Stream, t0_ns: int
) -> None:
    readings = [(10.0, None), (20.0, None), (900.0, 4), (None, 9), (40.0, 3)]
    samples = [
        Sample(weather, t0_ns + i * 10**9, (v, 1.0, 1, ""), 0, ((0, q),) if q else ())
        for i, (v, q) in enumerate(readings)
    ]
    deliver(intake, box.send(box.cut(samples)))
    table = duck.aggregate(
        MAST,
        "air_temperature",
        Span(t0_ns, t0_ns + 6 * 10**9),
        buckets=2,
        functions=["mean", "min", "max", "count", "first", "last"],
    )
    assert table.rows == [
        (t0_ns, 15.0, 10.0, 20.0, 2, 10.0, 20.0),
        (t0_ns + 3 * 10**9, 40.0, 40.0, 40.0, 1, 40.0, 40.0),
    ]


def test_hostile_names_in_questions_find_nothing_and_break_nothing(duck: DuckStore) -> None:
    evil = '"; DROP TABLE batches; --'
    assert duck.range(StreamRef(evil, evil, evil), [evil], ALWAYS, 5).rows == []
    assert (
        duck.aggregate(StreamRef("a", "b", evil), evil, Span(0, 9), buckets=3, functions=["min"]).rows == []
    )
    assert duck.latest(evil, evil) == []
    duck.ledger.load()


def test_a_store_that_refuses_a_batch_leaves_the_others_and_a_trace(
    quarantine: Quarantine, duck: DuckStore, box: Any, make_intake: Callable[[Store], Intake]
) -> None:
    class Picky(DuckStore):
        def commit(self, portions: Any, record: Any, on_refused: Any) -> Any:
            refused = {(e.epoch, e.seq): "limit" for e in record.entries if e.seq == 1}
            on_refused(refused)
            kept = [replace(p, heads=frozenset(p.heads - {1})) for p in portions]
            super().commit(kept, record.refusing(refused), on_refused)
            return refused

    duck.__class__ = Picky
    receipts = deliver(make_intake(duck), box.send(box.weather(1), box.weather(1), box.weather(1)))
    assert receipts == [EpochReceipt(box.epoch, ((0, 0), (2, 2)), ((1, "limit", 1),))]
    (kept,) = quarantine.list()
    assert kept.meta["reason"] == "limit"
    assert duck.count(box.name).rows == 2


def test_a_value_that_the_database_will_not_have_refuses_its_batch_only(
    intake: Intake, duck: DuckStore, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    # Somebody made the table by hand, with another type for one column.
    duck.connection.execute(
        "CREATE TABLE data.weather (site VARCHAR, box VARCHAR, device VARCHAR, layer VARCHAR,"
        " time TIMESTAMP_NS, n BIGINT, note INTEGER, note_q TINYINT)"
    )
    batches = [box.weather(2, values=(1.0, 2.0, 3, text)) for text in (None, "7", "seven", None)]
    receipts = deliver(intake, box.send(*batches))
    assert receipts == [EpochReceipt(box.epoch, ((0, 1), (3, 3)), ((2, "store", 2),))]
    assert duck.count(box.name).rows == 6
    assert quarantine.count == 1
    (account,) = (balance(f, None) for f in facts_of(duck.ledger))
    assert (account.stored, account.refused, account.balanced) == (6, 2, True)


def test_quarantine_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    folder = Quarantine(tmp_path / "q", max_bytes=40_000)
    folder.open()
    for i in range(10):
        folder.keep(bytes([i]) * 9_000, "poison")
    assert folder.dropped == 6
    assert [folder.payload(k.id)[0] for k in folder.list()] == [6, 7, 8, 9]


def test_quarantine_forgets_half_written_files_of_a_crash(tmp_path: Path) -> None:
    folder = Quarantine(tmp_path / "q", max_bytes=40_000)
    folder.open()
    name = folder.keep(b"poison", "checksum")
    (tmp_path / "q" / "20260101T000000-abc.bin").write_bytes(b"no json came")
    (tmp_path / "q" / "x.json.part").write_bytes(b"{")
    again = Quarantine(tmp_path / "q", max_bytes=40_000)
    again.open()
    assert [k.id for k in again.list()] == [name]
    assert json.loads((tmp_path / "q" / f"{name}.json").read_text())["reason"] == "checksum"


def test_receipts_of_any_size_fit_what_a_box_accepts() -> None:
    answers = Answers()
    for seq in range(0, 30_000, 2):
        answers.stored("kx-001", 1, seq)
    for seq in range(1, 6_000, 2):
        answers.refused("kx-001", 1, seq, reason="r" * 99, samples=100)
    receipts = [r for _, payload in answers.messages() for r in unpack_receipts(payload)]
    assert sum(len(r.stored) for r in receipts) == 15_000
    assert sum(len(r.refused) for r in receipts) == 3_000


def test_counters_only_rise_whatever_overtakes_what(intake: Intake, duck: DuckStore, box: Any) -> None:
    batch = box.weather(2)
    late = box.bundle(batch, counters=Counters(box.epoch, 1, 0, 2))
    newer = box.bundle(batch, counters=Counters(box.epoch, 5, 3, 20))
    deliver(intake, Delivery(box.name, Lane.LIVE, newer), Delivery(box.name, Lane.BACKLOG, late))
    deliver(intake, Delivery(box.name, Lane.BACKLOG, late))
    reported = duck.ledger.epochs[box.name, box.epoch].reported
    assert reported is not None
    assert reported.counters == Counters(box.epoch, 5, 3, 20)
