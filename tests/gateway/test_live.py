"""What is live: newest values, honest about age and quality; changes and alarms for any reader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from trisense.core.alarms import ALARM
from trisense.core.messages import (
    LOSS,
    Birth,
    CalibrationBirth,
    DeviceBirth,
    FieldBirth,
    Position,
    StreamBirth,
)
from trisense.core.model import Batch, BatchClass, Field, FieldType, Layer, Sample, Stream, Value
from trisense.core.wire import unpack
from trisense.gateway import live as live_module
from trisense.gateway.alarms import Alarm
from trisense.gateway.glimpse import look, show
from trisense.gateway.live import FellBehind, LiveState
from trisense.gateway.stores.columns import Portion


def shown(live: LiveState, box: Any, *batches: Batch) -> dict[str, Any]:
    bundle = unpack(box.bundle(*batches))
    show(live, look(Portion(bundle, frozenset(range(len(bundle.heads))))))
    (stream,) = live.snapshot()["streams"]
    fields: dict[str, Any] = stream["fields"]
    return fields


def test_the_newest_value_of_each_field_is_shown_with_its_own_time(box: Any, weather: Stream) -> None:
    t0 = box.t0_ns
    rows = [Sample(weather, t0, (20.0, 50.0, 1, "a")), Sample(weather, t0 + 10**9, (21.0, None, 2, None))]
    fields = shown(LiveState(), box, box.cut(rows))
    assert (fields["air_temperature"]["value"], fields["air_temperature"]["time_ms"]) == (
        21.0,
        t0 // 10**6 + 1000,
    )
    assert (fields["relative_humidity"]["value"], fields["relative_humidity"]["time_ms"]) == (
        50.0,
        t0 // 10**6,
    )
    assert (fields["vehicle_count"]["unit"], fields["note"]["value"]) == ("{vehicle}", "a")


def test_a_failed_or_missing_reading_keeps_the_old_value_and_says_so(box: Any, weather: Stream) -> None:
    t0 = box.t0_ns
    rows = [
        Sample(weather, t0, (20.0, 50.0, 1, "a")),
        Sample(weather, t0 + 10**9, (999.0, None, 2, None), 0, ((0, 4), (1, 9))),
    ]
    fields = shown(LiveState(), box, box.cut(rows))
    assert [(fields[n]["value"], fields[n]["now"]) for n in ("air_temperature", "relative_humidity")] == [
        (20.0, 4),
        (50.0, 9),
    ]


def test_a_backlog_never_overwrites_the_present(box: Any) -> None:
    live = LiveState()
    old, new = box.weather(1, values=(1.0, 1.0, 1, "old")), box.weather(1, values=(2.0, 2.0, 2, "new"))
    shown(live, box, new)
    assert shown(live, box, old)["note"]["value"] == "new"
    assert shown(LiveState(), box, new, old)["note"]["value"] == "new"


def test_only_what_changed_is_told_and_every_reader_can_catch_up(box: Any, make_box: Any) -> None:
    live = LiveState()
    shown(live, box, box.weather(1))
    seq = live.seq
    assert live.changes_since(seq)["streams"] == []
    other = make_box(name="kx-002")
    bundle = unpack(other.bundle(other.weather(1)))
    show(live, look(Portion(bundle, frozenset({0}))))
    changes = live.changes_since(seq)
    assert (list(changes["boxes"]), [s["box"] for s in changes["streams"]]) == (["kx-002"], ["kx-002"])
    assert len(live.changes_since(-1)["streams"]) == 2


def test_a_birth_places_devices(box: Any) -> None:
    live = LiveState()
    shown(live, box, box.weather(1))
    place = Position(latitude=48.0, longitude=11.0)
    certificate = CalibrationBirth(
        version="T-1", hash="0" * 16, valid_from="2026", valid_to="2027", uncertainty=0.2, by="a laboratory"
    )
    calibrated = FieldBirth(
        name="air_temperature", unit="Cel", type=FieldType.FLOAT, calibration=[certificate]
    )
    weather = StreamBirth(measurement="weather", fields=[calibrated])
    device = DeviceBirth(
        name="mast", driver="modbus", layer=Layer.GROUND, site="kx", position=place, streams=[weather]
    )
    live.note_birth(
        Birth(box=box.name, site="kx", version="1", config_hash="", counters=[], devices=[device])
    )
    (stream,) = live.snapshot()["streams"]
    assert (stream["driver"], stream["position"]["latitude"]) == ("modbus", 48.0)
    told = {name: field["calibration"] for name, field in stream["fields"].items() if field["calibration"]}
    assert told == {"air_temperature": [certificate.model_dump()]}


async def test_alarms_are_told_each_at_once_to_every_reader() -> None:
    live = LiveState()

    async def read() -> list[str]:
        told = []
        async for alarm in live.alarms():
            told.append(alarm.kind)
            if len(told) == 3:
                break
        return told

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await asyncio.sleep(0)
    for kind in ("a", "b", "c"):
        live.note_alarm("kx-001", kind, {})
    assert await asyncio.gather(*readers) == [["a", "b", "c"]] * 2


async def test_a_reader_of_alarms_that_fell_behind_is_told_to_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = LiveState()
    for i in range(live_module.ALARMS_KEPT + 1):
        live.note_alarm("kx-001", f"a{i}", {})
    with pytest.raises(FellBehind):
        await anext(aiter(live.alarms(after=0)))
    assert (await anext(aiter(live.alarms(after=1)))).kind == "a1"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, box: Any, make_box: Any) -> None:
    monkeypatch.setattr(live_module, "BOXES_KEPT", 1)
    monkeypatch.setattr(live_module, "STREAMS_KEPT", 1)
    live = LiveState()
    shown(live, box, box.weather(1))
    other = make_box(name="kx-002")
    shown(live, other, other.weather(1))
    assert live.overflowed == 2
    assert list(live.snapshot()["boxes"]) == ["kx-001"]


def test_rows_of_alarm_batches_become_alarms(box: Any) -> None:
    stream = Stream("box", "tamper", Layer.GROUND, (Field("door", "", FieldType.STR),))
    alarm = box.cut([Sample(stream, box.t0_ns, ("open",))], batch_class=BatchClass.ALARM)
    bundle = unpack(box.bundle(alarm, box.weather(1)))
    glimpse = look(Portion(bundle, frozenset({0, 1})))
    assert [(a.kind, a.device, a.values, a.identity) for a in glimpse.alarms] == [
        ("tamper", "box", {"door": "open"}, (box.name, box.epoch, 0))
    ]


def test_alarms_of_rules_and_losses_are_told_and_are_no_values_of_a_device(box: Any) -> None:
    hot = Sample(ALARM, box.t0_ns, tuple(rule_row("raised", 1).values()))
    lost = Sample(LOSS, box.t0_ns, (None,) * len(LOSS.fields))
    bundle = unpack(box.bundle(box.cut([hot, lost], batch_class=BatchClass.ALARM), box.weather(1)))
    glimpse = look(Portion(bundle, frozenset({0, 1})))
    assert {alarm.kind for alarm in glimpse.alarms} == {"alarm", "loss"}
    assert [reading.stream.measurement for reading in glimpse.readings] == ["weather"]


def rule_row(state: str, occurrence: int) -> dict[str, Value]:
    values: dict[str, Value] = {field.name: None for field in ALARM.fields}
    return values | {"rule": "hot", "source": "roof", "state": state, "occurrence": occurrence}


def test_that_all_is_well_is_news_only_where_an_alarm_was_raised_before() -> None:
    live = LiveState()
    well = rule_row("cleared", 0)
    live.note_well("kx-001", well, time_ms=400)
    live.note_alarm("kx-001", "alarm", rule_row("raised", 1), device="box", time_ms=500)
    live.note_well("kx-001", well, time_ms=499)  # it comes late, from before the alarm
    live.note_well("kx-002", well, time_ms=1000)
    assert [alarm["values"]["state"] for alarm in live.snapshot()["alarms"]] == ["raised"]
    live.note_well("kx-001", well, time_ms=1000)
    live.note_well("kx-001", well, time_ms=1001)
    assert [alarm["values"]["state"] for alarm in live.snapshot()["alarms"]] == ["raised", "cleared"]


def raised(live: LiveState) -> list[tuple[str, int]]:
    return [(alarm["box"], alarm["time_ms"]) for alarm in live.snapshot()["raised"]]


def test_an_alarm_stays_raised_however_many_are_told_after_it() -> None:
    live = LiveState()
    live.note_alarm("kx-001", "alarm", rule_row("raised", 1), device="box", time_ms=500)
    for _ in range(1_001):
        live.note_alarm("kx-001", "loss", {"samples": 1}, device="box")
    assert raised(live) == [("kx-001", 500)]
    live.note_alarm("kx-001", "alarm", rule_row("cleared", 1), device="box", time_ms=400)  # comes late
    assert raised(live) == [("kx-001", 500)]
    live.note_alarm("kx-001", "alarm", rule_row("cleared", 1), device="box", time_ms=501)
    assert raised(live) == []


def recalled(box: str, time_ms: int, **values: Value) -> Alarm:
    return Alarm(0, time_ms, box, "box", "alarm", rule_row("raised", 1) | values)


def test_an_alarm_of_before_the_start_is_told_unless_something_newer_is_known_or_it_is_void() -> None:
    live = LiveState()
    live.note_alarm("newer", "alarm", rule_row("cleared", 1), device="box", time_ms=600)
    live.note_well("well", rule_row("cleared", 0), time_ms=600)
    roof = DeviceBirth(name="roof", driver="wxt", layer=Layer.GROUND, site="kx", position=None, streams=[])
    for box, rules in (("here", ["hot"]), ("other-rules", ["cold"])):
        live.note_birth(
            Birth(box=box, site="", version="1", config_hash="", counters=[], devices=[roof], alarms=rules)
        )
    for box in ("newer", "well", "here", "other-rules", "unborn"):
        live.note_recalled(recalled(box, 500))
    live.note_recalled(recalled("here", 500, source="gone"))
    assert raised(live) == [("here", 500), ("unborn", 500)]
    live.note_recalled(recalled("here", 500))
    assert len(live.snapshot()["alarms"]) == 3, "each is told once"


def test_of_too_many_subjects_what_was_cleared_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trisense.gateway.alarms.WORDS_KEPT", 2)
    live = LiveState()
    for state, box in (("raised", "a"), ("cleared", "b"), ("raised", "c"), ("raised", "d")):
        live.note_alarm(box, "alarm", rule_row(state, 1), device="box", time_ms=500)
    assert [box for box, _ in raised(live)] == ["c", "d"]


def test_rules_that_find_all_well_are_looked_at_though_they_come_as_data(box: Any) -> None:
    values = rule_row("cleared", 0)
    sample = Sample(ALARM, box.t0_ns, tuple(values.values()))
    bundle = unpack(box.bundle(box.cut([sample]), box.weather(1)))
    (seen,) = look(Portion(bundle, frozenset({0, 1}))).alarms
    assert seen.all_well
    assert seen.values["rule"] == "hot"
