"""The gap preview: what is summed up, when it is told, and that it stays small."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trisense.core.errors import SpoolError
from trisense.core.model import BatchClass, ClockState, Field, FieldType, Layer, Quality, Sample, Stream
from trisense.drivers import DeviceConfig, Lines, Observed, PolledDriver
from trisense.edge import config as config_module
from trisense.edge.clocks.clock import Stamp, SystemClock
from trisense.edge.config import load
from trisense.edge.runtime import Box
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.spool import Cut, Spool
from trisense.edge.telling import preview as preview_module
from trisense.edge.telling.preview import (
    GRACE_S,
    MINUTE_NS,
    GapPreview,
    Outage,
    Preview,
    preview_of,
    previewed,
)

from tests.edge.peers import Bench, Gateway, until

if TYPE_CHECKING:
    from tests.edge.conftest import Broker

T0_NS = 1_780_000_020_000_000_000
assert T0_NS % MINUTE_NS == 0
SURE = Stamp(T0_NS, ClockState(synced=True, error_ms=3))

MAST = Stream(
    "mast",
    "weather",
    Layer.GROUND,
    (
        Field("air_temperature", "Cel", FieldType.FLOAT, 0.1),
        Field("state", "", FieldType.STR),
        Field("vehicle_count", "{vehicle}", FieldType.INT),
    ),
)


def provisional(offset_ns: int) -> Stamp:
    return Stamp(T0_NS, ClockState(synced=False), offset_ns)


def sample(
    at_s: float, temperature: float | None, count: int | None = 1, *, n: int = 0, code: int = 1
) -> Sample:
    codes = tuple((i, 9) for i, v in ((0, temperature), (2, count)) if v is None) or (
        () if code == 1 else ((0, code),)
    )
    return Sample(MAST, T0_NS + int(at_s * 1e9), (temperature, "dry", count), n, codes)


def watching(stream: Stream = MAST) -> Preview:
    made = Preview()
    made.watch([stream], lambda _: Ordinals())
    return made


def rows(cuts: Sequence[Cut]) -> list[tuple[float, tuple[object, ...]]]:
    assert all(cut.preview and cut.batch_class is BatchClass.DATA for cut in cuts)
    return [((s.time_ns - T0_NS) / 1e9, s.values) for cut in cuts for s in cut.samples]


def test_a_minute_becomes_one_row_with_units_and_resolution() -> None:
    preview = watching()
    for second, (temperature, count) in enumerate([(20.1, 3), (20.4, 5), (20.2, 4)]):
        assert preview.heard(sample(second, temperature, count), SURE) == []
    (cut,) = preview.close()
    assert rows([cut]) == [(0.0, (3, 20.1, 20.23, 20.4, 3, 4.0, 5))]
    fields = {f.name: (f.unit, f.type, f.resolution) for f in cut.samples[0].stream.fields}
    assert cut.samples[0].stream.key == ("mast", "weather_preview")
    assert fields == {
        "samples": ("1", FieldType.INT, None),
        "air_temperature_min": ("Cel", FieldType.FLOAT, 0.1),
        "air_temperature_mean": ("Cel", FieldType.FLOAT, 0.01),
        "air_temperature_max": ("Cel", FieldType.FLOAT, 0.1),
        "vehicle_count_min": ("{vehicle}", FieldType.INT, None),
        "vehicle_count_mean": ("{vehicle}", FieldType.FLOAT, None),
        "vehicle_count_max": ("{vehicle}", FieldType.INT, None),
    }


def test_failed_and_missing_values_do_not_count() -> None:
    preview = watching()
    for second, made in enumerate(
        [sample(0, 20.0), sample(1, 99.0, code=4), sample(2, None), sample(3, 30.0, code=3)]
    ):
        preview.heard(made, SURE)
        assert second < 4
    ((_, values),) = rows(preview.close())
    assert values == (4, 20.0, 25.0, 30.0, 1, 1.0, 1)


def test_what_had_no_value_in_a_minute_is_missing() -> None:
    preview = watching()
    preview.heard(sample(0, None), SURE)
    (cut,) = preview.close()
    (row,) = cut.samples
    assert row.values[:4] == (1, None, None, None)
    assert row.quality == tuple((i, int(Quality.MISSING)) for i in (1, 2, 3))


def test_minutes_are_closed_when_they_are_over_and_late_samples_still_count() -> None:
    preview = watching()
    preview.heard(sample(10, 1.0), SURE)
    preview.heard(sample(61, 3.0), SURE)
    preview.heard(sample(59.9, 2.0), SURE)
    assert preview.close(T0_NS + 61 * 10**9) == []
    assert rows(preview.close(T0_NS + 62 * 10**9)) == [(0.0, (2, 1.0, 1.5, 2.0, 1, 1.0, 1))]
    # The clock stepped back: that minute will not go on.
    assert rows(preview.close(T0_NS)) == [(60.0, (1, 3.0, 3.0, 3.0, 1, 1.0, 1))]


def test_a_stream_of_old_or_wild_times_keeps_two_minutes_at_most() -> None:
    preview = watching()
    told = [cut for i in range(1000) for cut in preview.heard(sample(i * 60, 1.0), SURE)]
    told += preview.heard(sample(0, 1.0), SURE)
    assert len(told) == 998
    assert len(preview.close()) == 2


def test_a_minute_is_worth_as_much_as_the_worst_of_its_times() -> None:
    preview = watching()
    preview.heard(sample(0, 1.0), SURE)
    preview.heard(sample(1, 1.0), Stamp(T0_NS, ClockState(synced=False, error_ms=40)))
    preview.heard(sample(2, 1.0), SURE)
    (cut,) = preview.close()
    assert cut.clock == ClockState(synced=False, error_ms=40)


def test_another_provisional_offset_ends_the_minute() -> None:
    preview = watching()
    preview.heard(sample(0, 1.0), provisional(7))
    (cut,) = preview.heard(sample(1, 2.0), provisional(9))
    assert (cut.offset_ns, rows([cut])[0][1][0]) == (7, 1)
    (cut,) = preview.heard(sample(2, 3.0), SURE)
    assert cut.offset_ns == 9
    (cut,) = preview.close()
    assert cut.offset_ns is None
    assert [s.n > 1 for s in cut.samples] == [True], "three rows of one minute are told apart"


def test_several_rows_at_one_time_are_things_and_have_no_mean() -> None:
    preview = watching()
    preview.heard(sample(0, 1.0), SURE)
    preview.heard(sample(0, 2.0, n=1), SURE)
    assert preview.close() == []


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)


@given(
    st.lists(st.tuples(st.floats(0, 59.9), numbers), min_size=1, max_size=50),
    st.sampled_from([None, 0.1, 1.0]),
)
def test_a_preview_lies_within_what_was_seen(
    seen: list[tuple[float, float]], resolution: float | None
) -> None:
    stream = Stream("mast", "weather", Layer.GROUND, (Field("x", "1", FieldType.FLOAT, resolution),))
    preview = watching(stream)
    for at_s, value in seen:
        preview.heard(Sample(stream, T0_NS + int(at_s * 1e9), (value,)), SURE)
    ((_, (samples, low, mean, high)),) = rows(preview.close())
    given_values = [value for _, value in seen]
    assert (samples, low, high) == (len(seen), min(given_values), max(given_values))
    assert isinstance(mean, float)
    assert min(given_values) <= mean <= max(given_values)
    true = math.fsum(given_values) / len(seen)
    step = resolution or max(abs(true), sys.float_info.min) * 1e-6
    assert abs(mean - true) <= step + 1e-6 * max(map(abs, given_values))


# --- when ---


def test_an_outage_is_what_was_committed_and_not_receipted() -> None:
    outage = Outage()
    assert outage.look(0.0, committed=0, receipts=0) == 0.0
    assert outage.look(1000.0, committed=0, receipts=0) == 0.0, "nothing to receipt is no outage"
    assert outage.look(1001.0, committed=5, receipts=0) == 0.0
    assert outage.look(1003.0, committed=5, receipts=0) == 2.0
    assert outage.look(1004.0, committed=6, receipts=1) == 0.0
    assert outage.look(2000.0, committed=6, receipts=1) == 0.0
    assert outage.look(2001.0, committed=7, receipts=1) == 0.0
    assert outage.look(2002.0, committed=9, receipts=1) == 1.0


class Link:
    """Counters and a spool, as told."""

    def __init__(self) -> None:
        self.committed = self.receipts = 0
        self.now_s = 0.0
        self.cuts: list[Cut] = []
        self.full = False
        self.gap = GapPreview(
            self.commit,
            counters=lambda: (self.committed, self.receipts),
            stamp=lambda: Stamp(T0_NS + int(self.now_s * 1e9), ClockState()),
        )
        self.gap.watch([MAST], lambda _: Ordinals(), after_s=60.0)

    async def commit(self, cuts: Sequence[Cut]) -> None:
        if self.full:
            raise SpoolError("no room")
        self.cuts += cuts

    async def pass_s(self, seconds: int, *, up: bool) -> None:
        for _ in range(seconds):
            self.now_s += 1
            self.gap.heard(sample(self.now_s, 20.0))
            self.committed += 1
            self.receipts += up
            await self.gap.look(self.now_s)


async def test_a_long_outage_is_previewed_from_its_beginning_to_its_end() -> None:
    link = Link()
    await link.pass_s(30, up=True)
    await link.pass_s(59, up=False)
    assert link.cuts == []
    await link.pass_s(150, up=False)
    await link.pass_s(60, up=True)
    told = rows(link.cuts)
    assert [at_s for at_s, _ in told] == [0.0, 60.0, 120.0, 180.0, 240.0]
    counts = [values[0] for _, values in told]
    assert counts[1:4] == [60, 60, 60]
    # From when it looked like an outage (31 + 5 s) to the first receipt (at 240 s).
    assert sum(n for n in counts if isinstance(n, int)) == 240 - 31 - int(GRACE_S)


async def test_a_short_outage_has_no_preview_and_leaves_nothing_for_the_next() -> None:
    link = Link()
    await link.pass_s(40, up=False)
    await link.pass_s(30, up=True)
    await link.pass_s(100, up=False)
    await link.pass_s(1, up=True)
    assert [at_s for at_s, _ in rows(link.cuts)] == [60.0, 120.0]


async def test_a_disk_that_takes_no_previews_is_counted_and_costs_no_memory() -> None:
    link = Link()
    link.full = True
    await link.pass_s(600, up=False)
    assert link.gap.dropped == 9
    assert link.gap._closed == []


# --- which ---


async def test_streams_can_be_exchanged_in_the_middle_of_a_minute() -> None:
    link = Link()
    await link.pass_s(90, up=False)
    other = Stream("mast", "weather", Layer.GROUND, (Field("wind_speed", "m/s"),))
    link.gap.heard(Sample(other, T0_NS + 90 * 10**9, (3.0,)))
    link.gap.watch([other], lambda _: Ordinals(), after_s=60.0)
    link.gap.heard(Sample(other, T0_NS + 91 * 10**9, (3.0,)))
    await link.pass_s(60, up=False)
    assert [(at_s, values[0]) for at_s, values in rows(link.cuts)] == [(0.0, 53), (60.0, 31), (60.0, 1)]


def test_things_and_slow_devices_have_no_preview(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n[clock]\nhold_s = 0\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/ttyUSB0"\n'
        '[[device]]\nname = "gate"\ndriver = "r200"\nline = "serial:///dev/ttyUSB1"\n'
        '[[device]]\nname = "mast"\ndriver = "modbus:ecowitt-ws90"\nline = "serial:///dev/ttyUSB2"\n'
        'framing = "rtu"\n'
        '[[device]]\nname = "slow"\ndriver = "modbus:ecowitt-ws90"\nline = "serial:///dev/ttyUSB3"\n'
        'framing = "rtu"\ninterval_s = 60\n'
    )
    assert [stream.key for stream in previewed(load(file).devices)] == [
        ("dust", "air_quality"),
        ("mast", "weather"),
    ]


class Counting(PolledDriver[DeviceConfig]):
    name, family, summary, config_model = "counting", "environment", "for tests", DeviceConfig
    reads = 0

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "count", Layer.GROUND, (Field("count", "1", FieldType.INT),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def read(self) -> Sequence[Observed]:
        self.reads += 1
        return [Observed("count", {"count": self.reads})]


@pytest.mark.peer
async def test_a_whole_box_previews_an_outage_and_sends_it_when_the_broker_is_back(
    tmp_path: Path, broker: Broker, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, short in {"GRACE_S": 0.1, "TICK_S": 0.05, "LATE_NS": 0, "MINUTE_NS": 10**9 // 2}.items():
        monkeypatch.setattr(preview_module, name, short)
    monkeypatch.setattr(config_module, "driver_class", lambda _: Counting)
    file = tmp_path / "box.toml"
    file.write_text(
        f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        "[clock]\nhold_s = 0\n[spool]\ncommit_s = 0.1\n"
        '[[device]]\nname = "mast"\ndriver = "counting"\ninterval_s = 0.02\n'
    )
    config = load(file)
    link = config.link.model_copy(update={"preview_after_s": 0.5})
    box, stop = Box(dataclasses.replace(config, link=link)), asyncio.Event()
    running = asyncio.create_task(box.run(stop))

    def told(measurement: str) -> list[Sample]:
        seen = [s for b in gateway.stored.values() for s in b.samples]
        return sorted((s for s in seen if s.stream.measurement == measurement), key=lambda s: s.time_ns)

    await gateway.until(lambda: len(told("count")) > 5)
    assert told("count_preview") == []
    broker.kill()
    seen = box.batcher.committed
    await until(lambda: box.batcher.committed > seen + 80)
    broker.start()
    await gateway.until(lambda: len(told("count_preview")) >= 2)
    stop.set()
    await running
    first, second = told("count_preview")[:2]
    # Of the first one the beginning is missing: it did not look like an outage yet.
    samples, low, mean, high = second.values
    assert first.values[0]
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert high - low + 1 == samples
    assert mean == (low + high) / 2


def test_what_is_listed_after_the_last_field_that_fits_has_none_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "FIELDS_MAX", 1)
    monkeypatch.setattr(config_module, "driver_class", lambda _: Counting)
    file = tmp_path / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 9\n'
        + "".join(f'[[device]]\nname = "{name}"\ndriver = "counting"\n' for name in ("a", "b", "c"))
    )
    with capture_logs() as logs:
        assert [stream.device for stream in previewed(load(file).devices)] == ["a"]
    assert [(log["event"], log["streams"]) for log in logs] == [("streams_without_preview", 2)]


def test_names_that_would_be_too_long_have_no_preview() -> None:
    long = Stream("mast", "weather", Layer.GROUND, (Field("x" * 60, "1"),))
    assert preview_of(long) is None


def test_previews_are_kept_by_the_spool_as_such(tmp_path: Path) -> None:
    preview = watching()
    preview.heard(sample(0, 20.0), SURE)
    with Spool(tmp_path / "spool.db", SystemClock()) as spool:
        spool.commit(preview.close())
        (head,) = spool.heads(BatchClass.DATA, preview=True)
        assert head.preview


@pytest.mark.peer
async def test_previews_go_before_the_rest_of_a_backlog(
    bench: Bench, gateway: Gateway, cut: Callable[..., Cut]
) -> None:
    preview = watching()
    preview.heard(sample(0, 20.0), SURE)
    cuts = [*(cut(number, rows=500) for number in range(20)), *preview.close()]
    heads = await bench.door.run(lambda spool: spool.commit(cuts))
    await gateway.ready.wait()
    bench.start()
    await bench.settled()
    assert gateway.seen[0] == (heads[-1].epoch, heads[-1].seq)
    assert len(set(gateway.seen)) == 21
