"""Arrivals and departures out of reads: the window alone, and in the drivers that offer it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.drivers import Lines, Observed
from trisense.drivers import tagwindow as module
from trisense.drivers.pn532 import Pn532, Pn532Config
from trisense.drivers.r200 import R200, R200Config
from trisense.drivers.tagwindow import FIELDS, TagWindow, WindowConfig, with_passages
from trisense.sims.base import plugged
from trisense.sims.pn532 import Pn532 as CardModule
from trisense.sims.r200 import R200Module

READS = st.lists(
    st.tuples(
        st.floats(0, 5, allow_nan=False),  # seconds since the read before
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, 1, 2]),
        st.none() | st.integers(-90, -20),
    ),
    max_size=60,
)


def windowed(**options: Any) -> TagWindow:
    return TagWindow(WindowConfig.model_validate(options))


def sighting(tag: str, **values: Any) -> Observed:
    return Observed("tag_sighting", {"epc": tag, **values})


def told(rows: list[Observed]) -> list[tuple[Any, Any]]:
    return [(row.values["event"], row.values["tag"]) for row in rows]


@given(READS, st.integers(1, 4))
def test_arrivals_and_departures_take_turns_and_account_for_every_visit(
    reads: list[Any], min_reads: int
) -> None:
    window, now_s, rows = windowed(depart_s=2, min_reads=min_reads), 0.0, []
    visits: dict[str, list[list[float]]] = {}
    for gap_s, tag, antenna, rssi in reads:
        now_s += gap_s
        rows += window.seen(tag, now_s, antenna=antenna, rssi=rssi)
        mine = visits.setdefault(tag, [])
        if mine and now_s < mine[-1][-1] + 2:
            mine[-1].append(now_s)
        else:
            mine.append([now_s])
    rows += window.departed(now_s + 2)
    assert window.due_s is None
    for tag in "abc":
        events: list[Mapping[str, Any]] = [row.values for row in rows if row.values["tag"] == tag]
        confirmed = [visit for visit in visits.get(tag, []) if len(visit) >= min_reads]
        assert [values["event"] for values in events] == ["arrived", "departed"] * len(confirmed)
        assert [(v["reads"], v["dwell"]) for v in events[1::2]] == [
            (len(visit), round(visit[-1] - visit[0], 3)) for visit in confirmed
        ]
        for values in events:
            assert 0 <= values.get("peak_after", 0) <= values["dwell"]


@given(READS)
def test_a_smoothed_signal_lies_among_those_that_were_read(reads: list[Any]) -> None:
    window, now_s, rows = windowed(depart_s=2, min_reads=1), 0.0, []
    for gap_s, tag, antenna, rssi in reads:
        now_s += gap_s
        rows += window.seen(tag, now_s, antenna=antenna, rssi=rssi)
    signals = [rssi for *_, rssi in reads if rssi is not None]
    for row in rows:
        values: Mapping[str, Any] = row.values
        if "rssi" in values:
            assert min(signals) <= values["rssi"] <= max(signals)
        assert set(values) <= {one.name for one in FIELDS}


def test_the_best_antenna_is_the_strongest_and_the_passing_is_its_peak() -> None:
    window = windowed(depart_s=2)
    for at_s, antenna, rssi in [(0, 1, -70), (0.5, 1, -60), (1, 2, -50), (1.5, 2, -80), (2, 1, -65)]:
        window.seen("a", at_s, antenna=antenna, rssi=rssi)
    (row,) = window.departed(10)
    assert row.values == {
        "event": "departed",
        "tag": "a",
        "antenna": 2,
        "rssi": -50.0,
        "reads": 5,
        "dwell": 2.0,
        "peak_after": 1.0,
    }


def test_without_a_signal_the_antenna_with_the_most_reads_is_the_best() -> None:
    window = windowed(depart_s=2)
    for antenna in (1, 2, 2):
        window.seen("a", 0, antenna=antenna)
    (row,) = window.departed(2)
    assert row.values["antenna"] == 2
    assert "rssi" not in row.values


def test_one_strong_read_is_an_arrival_and_one_weak_read_is_none() -> None:
    window = windowed(depart_s=2, min_reads=3, strong_dbm=-50)
    assert told(window.seen("a", 0, rssi=-51)) == []
    assert told(window.seen("b", 0, rssi=-50)) == [("arrived", "b")]
    assert told(window.departed(2)) == [("departed", "b")]


def test_a_parked_tag_is_one_arrival_and_one_departure() -> None:
    window = windowed(depart_s=2)
    rows = [row for at_s in range(3600) for row in window.seen("a", at_s, rssi=-60)]
    assert told(rows + window.departed(3602)) == [("arrived", "a"), ("departed", "a")]


def test_a_crowd_is_bounded_and_loses_no_departure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TAGS", 5)
    window = windowed(depart_s=1e3, min_reads=1)
    rows = [row for number in range(50) for row in window.seen(str(number), number)]
    assert len(window._tags) == 5
    assert Counter(row.values["event"] for row in rows + window.departed(1e6)) == {
        "arrived": 50,
        "departed": 50,
    }


@pytest.mark.parametrize(
    "row", [Observed("reader_event", {"epc": "a"}), Observed("tag_sighting", {"sel_res": 8})]
)
def test_what_is_no_sighting_of_a_known_tag_means_nothing(row: Observed) -> None:
    window = windowed(min_reads=1)
    assert window.observed(row, 0) == []
    assert window.due_s is None


# --- in the drivers ---------------------------------------------------------------------------------


async def test_a_departure_comes_though_nothing_else_does() -> None:
    async def two_reads() -> AsyncGenerator[Observed]:
        for _ in range(2):
            yield sighting("a", antenna=1, rssi=-50)
        await asyncio.Event().wait()

    window = windowed(depart_s=0.05)
    async with aclosing(two_reads()) as rows, aclosing(with_passages(rows, window)) as all_rows:
        found = [await anext(all_rows) for _ in range(4)]
    assert [row.values.get("event") for row in found] == [None, None, "arrived", "departed"]
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


async def test_the_end_and_the_failure_of_the_sightings_are_passed_on() -> None:
    async def fails() -> AsyncGenerator[Observed]:
        yield sighting("a")
        raise LookupError("gone")

    async def ends() -> AsyncGenerator[Observed]:
        yield sighting("a")

    async with aclosing(fails()) as rows:
        with pytest.raises(LookupError):
            _ = [row async for row in with_passages(rows, windowed())]
    for window in (None, windowed()):
        async with aclosing(ends()) as rows:
            assert len([row async for row in with_passages(rows, window)]) == 1


async def test_a_reader_driver_tells_passages_where_it_is_asked_to(
    tmp_path: Path, reader: Any, observe: Any
) -> None:
    settings = {"name": "door", "driver": "r200", "line": f"serial://{tmp_path / 'tty'}?baud=115200"}
    device = R200(R200Config.model_validate({**settings, "window": {"depart_s": 60, "min_reads": 2}}))
    async with plugged(reader(R200Module, round_s=0, tags_per_hour=80_000.0), tmp_path / "tty"):
        rows = await observe(device, 40)
    arrived = [row.values["tag"] for row in rows if row.measurement == "tag_passage"]
    reads = Counter(row.values["epc"] for row in rows if row.measurement == "tag_sighting")
    assert arrived
    assert set(arrived) <= {tag for tag, count in reads.items() if count >= 2}
    assert [stream.measurement for stream in device.streams()] == ["tag_sighting", "tag_passage"]


async def test_a_polled_module_tells_passages_too(tmp_path: Path, reader: Any) -> None:
    settings = {"name": "desk", "driver": "pn532", "line": f"serial://{tmp_path / 'tty'}?baud=115200"}
    device = Pn532(Pn532Config.model_validate({**settings, "window": {"depart_s": 1e-6, "min_reads": 1}}))

    class Held(CardModule):
        def _card(self, number: int, card: Any) -> Any:
            told_of = super()._card(number, card)[1]
            return bytes((number,)) + bytes.fromhex("004400 07 04a1b2c3d4e580"), told_of

    sim = reader(Held, cards_per_hour=14_400.0)
    async with plugged(sim, tmp_path / "tty"):
        await device.connect(Lines())
        first = await device.read()
        sim.cards_per_hour = 0
        last = await device.read()
        await device.close()
    assert told([row for row in first if row.measurement == "tag_passage"])[0] == (
        "arrived",
        "04a1b2c3d4e580",
    )
    assert told(list(last)) == [("departed", "04a1b2c3d4e580")]
