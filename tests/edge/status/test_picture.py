"""The picture: what counts as wrong, what is remembered, and how it reads on a screen of any width."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from trisense.core.model import BatchClass, Field, Layer, Sample, Stream
from trisense.drivers import Lines
from trisense.drivers.modbus.bus import BusSettings, ModbusBus
from trisense.edge.spool import Cut, Spool
from trisense.edge.status.gather import Gatherer, Parts, count_queues
from trisense.edge.status.latest import Latest
from trisense.edge.status.machine import disk_bytes, temperature_c
from trisense.edge.status.metrics import exposition, series_of
from trisense.edge.status.model import Status
from trisense.edge.status.problems import problems
from trisense.edge.status.screen import duration, screen, size

from .conftest import BOX, device, failing


def picture(**parts: Any) -> Status:
    """A good box but for what is given."""
    whole = {name: BOX[name] | part if isinstance(part, dict) else part for name, part in parts.items()}
    status = Status.model_validate(BOX | whole)
    return status.model_copy(update={"problems": list(problems(status))})


def shown(status: Status, width: int, *, height: int | None = None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(screen(status, console, height=height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


WAITING = {"data": {"batches": 1, "samples": 9, "size_bytes": 900_000_000, "oldest_s": 9.0}}
OLD = {"data": {"batches": 1, "samples": 9, "size_bytes": 900, "oldest_s": 61.0}}
BUS = {
    "line": "serial:///dev/a",
    "framing": "rtu",
    "devices": ["dust"],
    "planned": 1.3,
    "measured": 0.99,
    "waiting": 7,
    "answers": 1,
    "troubles": {},
}


def test_a_good_box_has_no_problem(good: Status) -> None:
    assert list(problems(good)) == []


@pytest.mark.parametrize(
    ("parts", "part", "text"),
    [
        ({"devices": [failing("gone")]}, "device", "no answer (waited 5 s)"),
        ({"buses": [BUS]}, "bus", "busy 99% of the time, its devices ask for 130%"),
        ({"link": {"connected": False, "error": "broker:8883: refused"}}, "link", "refused"),
        ({"link": {"trouble": "no gateway answers"}}, "link", "no gateway answers"),
        (
            {"link": {"gateways": 0}, "spool": {"waiting": OLD}},
            "link",
            "no gateway worker is online, and samples wait for one",
        ),
        ({"clock": {"synced": False}}, "clock", "not synchronised: samples are flagged"),
        (
            {"clock": {"synced": False, "mode": "holdover"}},
            "clock",
            "not synchronised any more: samples are flagged, their error grows",
        ),
        (
            {"clock": {"synced": False, "held_back_s": 3595.0}},
            "clock",
            "it was set back: samples go on 3595 s ahead of it, flagged, until it has caught up",
        ),
        (
            {"clock": {"synced": False, "mode": "unknown"}},
            "clock",
            "nobody has said what time it is: samples wait for it",
        ),
        ({"spool": {"error": "/var/lib/trisense/spool.db: disk full"}}, "spool", "disk full"),
        (
            {"spool": {"lost": {"cap": 12, "corrupt": 0}, "lost_s": 60.0}},
            "spool",
            "samples declared lost since the start: 12 (cap), 0 (corrupt)",
        ),
        ({"spool": {"waiting": WAITING}}, "spool", "90% of its cap wait to be sent, then the oldest go"),
        (
            {"box": {"config_state": "rolled_back", "config_why": "dust fails"}},
            "configuration",
            "what a gateway desired was rolled back: dust fails",
        ),
        ({"machine": {"disk_free_bytes": 1_000_000_000}}, "machine", "disk almost full: 1000 MB free"),
        ({"machine": {"temperature_c": 85.4}}, "machine", "hot: 85 °C"),
        (
            {"box": {"config_state": "rolled_back", "config_why": "dust: no answer"}},
            "configuration",
            "what a gateway desired was rolled back: dust: no answer",
        ),
        ({"box": {"config_why": "the record is damaged"}}, "configuration", "the record is damaged"),
    ],
)
def test_what_is_wrong_is_named(parts: dict[str, Any], part: str, text: str) -> None:
    (problem,) = picture(**parts).problems
    assert (problem.part, problem.text) == (part, text)


@pytest.mark.parametrize(
    "parts",
    [
        {"link": {"connected": False, "limited_by": "hours", "allowed": "nothing"}},
        {"link": {"gateways": 0}, "spool": {"waiting": {"data": OLD["data"] | {"oldest_s": 59.0}}}},
        {"link": {"gateways": 0, "limited_by": "hours"}, "spool": {"waiting": OLD}},
        {"spool": {"lost": {"cap": 12}, "lost_s": 7200.0}},
        {"clock": {"mode": "holdover", "error_ms": 90}},
        {"devices": [device("slow", state="waiting", rows=0, age_s=None)]},
        {"box": {"config_source": "remote", "config_state": "trial"}},
    ],
)
def test_what_is_as_it_should_be_is_no_problem(parts: dict[str, Any]) -> None:
    assert picture(**parts).problems == []


def test_devices_come_first_then_link_clock_and_spool() -> None:
    bad = {"link": {"connected": False}, "clock": {"synced": False}, "spool": {"error": "full"}}
    told = picture(devices=[device("dust"), failing("gone")], **bad).problems
    assert [problem.part for problem in told] == ["device", "link", "clock", "spool"]


# --- the screen ---


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_says_first_what_is_wrong_and_fits(width: int) -> None:
    long = failing("gone", error="gone: serial:///dev/gone?baud=9600: cannot open: " + "x/" * 60)
    lines = shown(picture(devices=[device("dust"), long], link={"connected": False}), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.index("2 things are wrong") < text.index("gone:") < text.index("link") < text.index("DEVICES")
    whole = "".join(lines).replace(" ", "")
    assert "x/" * 60 in whole, "a reason is never cut"
    assert "for12min:cannotopen:" in whole


def test_an_alarm_is_told_with_what_it_watches_and_how_long_it_has_lasted() -> None:
    hot = {"rule": "hot", "device": "mast", "field": "air_temperature", "priority": "high", "for_s": 200.0}
    dead = {"rule": "dead", "device": "dust", "field": None, "priority": "low", "for_s": 12.0}
    lines = shown(picture(alarms=[hot, dead]), 120)
    assert "ALARMS   hot (high): mast.air_temperature for 3.3 min; dead (low): dust for 12 s" in lines


def test_a_device_is_a_line_with_its_last_values_and_marks() -> None:
    lines = shown(picture(devices=[device("dust", "modbus:ecowitt-ws90")]), 80)
    assert lines[1] == "All is well."
    (row,) = [line for line in lines if line.startswith("  dust")]
    assert " ".join(row.split()) == "dust ecowitt-ws… 0.4 s pm2_5 12 ug/m3 air_temperature -3.25? °C"


def test_with_little_height_devices_that_fail_stay_and_the_rest_is_counted() -> None:
    many = [device(f"dust-{n}") for n in range(50)] + [failing("gone")]
    status = picture(devices=many)
    lines = shown(status, 80, height=20)
    assert len(lines) <= 20
    assert any(line.startswith("x gone") for line in lines)
    assert any("and 4" in line and "more" in line for line in lines)
    assert lines[-1].startswith("MACHINE")
    assert len(shown(status, 80)) > 55


def test_a_terminal_obeys_nothing_that_a_device_says() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    stream = device("tags")["streams"][0] | {"fields": [{"name": "epc", "unit": "", "value": evil}]}
    bad = failing("gone", error=f"gone: {evil}")
    text = "\n".join(shown(picture(devices=[device("tags", streams=[stream]), bad]), 80))
    assert not any(sign in text for sign in "\x1b\x07\u202e")


@pytest.mark.parametrize("height", [None, 20])
def test_brackets_and_signs_in_what_is_told_are_shown_as_they_are(height: int | None) -> None:
    said = "[remote] of [/nobody] \x1b[2J"
    text = "\n".join(shown(picture(box={"closed": said}, link={"broker": said}), 200, height=height))
    assert text.count("[remote] of [/nobody] \N{REPLACEMENT CHARACTER}[2J") == 2
    assert "\x1b" not in text


def test_a_box_that_takes_nothing_from_afar_says_why_and_is_well() -> None:
    lines = shown(picture(box={"closed": "got a plain connection to broker:1883"}), 120)
    assert lines[1] == "All is well."
    (row,) = [line for line in lines if line.startswith("AFAR")]
    assert row.endswith("all is refused: got a plain connection to broker:1883")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (200_000, "2.3 d")],
)
def test_durations_take_about_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count_bytes", "text"), [(999, "999 B"), (1500, "1.5 kB"), (123_456, "123 kB"), (32e9, "32.0 GB")]
)
def test_sizes_have_decimal_prefixes(count_bytes: float, text: str) -> None:
    assert size(count_bytes) == text


# --- what is remembered ---


@pytest.fixture
def sample() -> Callable[[str, float], Sample]:
    def make(device_name: str, value: float) -> Sample:
        stream = Stream(device_name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),))
        return Sample(stream, 1_780_000_000_000_000_000, (value,))

    return make


def test_the_last_sample_of_each_stream_is_remembered(sample: Callable[[str, float], Sample]) -> None:
    latest = Latest()
    for value in (1.0, 2.0):
        latest.saw(sample("mast", value))
    latest.saw(sample("roof", 9.0))
    (seen,) = latest.of("mast")
    assert (seen.sample.values, seen.count) == ((2.0,), 2)
    assert list(latest.of("cellar")) == []


def test_beyond_its_bound_the_longest_silent_stream_is_forgotten(
    sample: Callable[[str, float], Sample],
) -> None:
    latest = Latest(streams=2)
    for name in ("a", "b", "a", "c"):
        latest.saw(sample(name, 1.0))
    assert [name for name in "abc" if list(latest.of(name))] == ["a", "c"]


# --- the machine ---


def test_the_hottest_zone_counts_and_one_that_is_off_does_not(tmp_path: Path) -> None:
    for number, text in enumerate(("54321\n", "61000", "-274000", "hot")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    (tmp_path / "cooling_device0").mkdir()
    assert temperature_c(tmp_path) == 61.0
    assert temperature_c(tmp_path / "none") is None


def test_a_disk_that_is_gone_is_wrong_and_no_more_than_that(tmp_path: Path) -> None:
    assert disk_bytes(tmp_path / "none") == (None, None)
    status = picture(machine={"disk_free_bytes": None, "disk_bytes": None})
    assert [problem.text for problem in status.problems] == ["the disk of the spool is gone"]
    assert "trisense_disk" not in exposition(series_of(status))
    assert "disk" not in shown(status, 80)[-1]


def test_what_waits_is_counted_by_kind_and_damaged_cells_do_no_harm(
    spool: Spool, cut: Callable[..., Cut], clock: Any
) -> None:
    spool.commit([cut(0), cut(1), replace(cut(2), preview=True), cut(3, batch_class=BatchClass.ALARM)])
    clock.advance(60)
    counted = count_queues(spool.path, clock.now_ns())
    assert {name: (q.batches, q.samples, q.oldest_s) for name, q in counted.items()} == {
        "alarm": (1, 3, 60.0),
        "data": (2, 6, 60.0),
        "preview": (1, 3, 60.0),
    }
    with closing(sqlite3.connect(spool.path, isolation_level=None)) as db:
        db.execute("UPDATE batch SET samples = 'x', committed_ns = x'00' WHERE class = 'alarm'")
        db.execute("UPDATE batch SET class = 'gold' WHERE preview = 1")
    damaged = count_queues(spool.path, clock.now_ns())
    assert damaged.keys() == {"alarm", "data"}
    assert (damaged["alarm"].batches, damaged["alarm"].samples) == (1, 0)


def test_a_spool_that_cannot_be_read_has_nothing_to_count(tmp_path: Path) -> None:
    assert count_queues(tmp_path / "none.db", 0) == {}
    (tmp_path / "bad.db").write_bytes(b"x" * 8192)
    assert count_queues(tmp_path / "bad.db", 0) == {}


# --- shares ---


class Watch:
    """A box that is nothing but a bus, at a time set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self.lines = Lines()
        self.gatherer = Gatherer(cast("Parts", self))

    def begin(self) -> ModbusBus:
        return self.lines.share("tcp://a:1", lambda: ModbusBus(BusSettings("tcp://a:1", "tcp")))

    def busy(self, bus: ModbusBus, spent_s: float, of_s: float) -> None:
        bus.turns.taken_s += spent_s
        self.now_s += of_s

    def told(self) -> float | None:
        return self.gatherer.bus_share("tcp://a:1")


def test_the_share_of_a_bus_is_that_of_the_last_minute_and_unknown_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    watch.gatherer.note()
    assert watch.told() is None
    bus = watch.begin()
    watch.gatherer.note()
    assert watch.told() is None, "nothing to compare with yet"
    for _ in range(20):
        watch.busy(bus, 10.0, 10.0)
        watch.gatherer.note()
    assert watch.told() == pytest.approx(1.0)
    for _ in range(7):
        watch.busy(bus, 1.0, 10.0)
        watch.gatherer.note()
    assert watch.told() == pytest.approx(0.1), "what was before is forgotten"


async def test_a_bus_that_was_made_anew_has_no_share_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    bus = watch.begin()
    watch.busy(bus, 10.0, 10.0)
    watch.gatherer.note()
    await watch.lines.release("tcp://a:1")
    watch.begin()
    watch.now_s += 10
    assert watch.told() is None
