"""Rules on the box: a real box process, a dust sensor on a pty, a broker that goes away, a restart."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from trisense.core.alarms import ALARM, DeviceRule, MissingRule, RateRule, ThresholdRule
from trisense.core.errors import ConfigError
from trisense.core.model import BatchClass, Sample
from trisense.core.topics import Lane
from trisense.drivers import Observed
from trisense.edge.commands.checking import as_json
from trisense.edge.config import BoxConfig, load
from trisense.edge.sensing.supervisor import DeviceHealth
from trisense.edge.telling.alarms import AlarmWatch

from tests.edge.peers import Gateway

if TYPE_CHECKING:
    from tests.edge.conftest import Broker, FakeClock

SAMPLE = Path(__file__).parents[3] / "deploy" / "edge.sample.toml"
RULES = """
[[alarm]]
name = "dusty"
kind = "threshold"
device = "dust"
field = "pm2_5"
unit = "ug/m3"
above = 100.0
hysteresis = 5.0
priority = "high"
[[alarm]]
name = "dead"
kind = "device"
device = "*"
for_s = 0.5
[[alarm]]
name = "silent"
kind = "missing"
device = "dust"
missing_s = 5.0
"""


class Nova:
    """A dust sensor on a pty that says what it is told to."""

    def __init__(self, link: Path) -> None:
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        link.symlink_to(os.ttyname(self.slave))

    async def opened(self) -> None:
        """Wait until the box has opened the line, which drops what came before: it says two commands."""
        heard = b""
        while len(heard) < 2 * 19:
            heard += await asyncio.to_thread(os.read, self.master, 64)

    def say(self, pm2_5: float) -> None:
        body = int(pm2_5 * 10).to_bytes(2, "little") * 2 + b"\xa1\x60"
        os.write(self.master, b"\xaa\xc0" + body + bytes([sum(body) & 0xFF, 0xAB]))

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def nova(tmp_path: Path) -> Iterator[Nova]:
    made = Nova(tmp_path / "tty-dust")
    yield made
    made.close()


@pytest.fixture
def box_file(tmp_path: Path) -> Path:
    file = tmp_path / "alarms.toml"
    write(file, port=9)
    return file


def write(file: Path, *, port: int, rules: str = RULES) -> None:
    file.write_text(
        f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[clock]\nhold_s = 0\n'
        '[[device]]\nname = "dust"\ndriver = "nova"\n'
        f'line = "serial://{file.parent}/tty-dust?baud=9600"\nwarm_up_s = 0\n' + rules
    )


# --- a box at work ---


@pytest.fixture
def start(box_file: Path, broker: Broker) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    write(box_file, port=broker.port)
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        with box_file.with_name("log").open("ab") as log:
            command = [sys.executable, "-m", "trisense.core", "edge", "run", str(box_file)]
            started.append(subprocess.Popen(command, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def alarms(gateway: Gateway, rule: str = "dusty") -> list[dict[str, Any]]:
    """What the gateway has been told of a rule, by time."""
    rows = [
        dict(zip([f.name for f in sample.stream.fields], sample.values, strict=True))
        | {"class": batch.batch_class, "order": (sample.time_ns, sample.n)}
        for batch in gateway.stored.values()
        for sample in batch.samples
        if sample.stream.key == ALARM.key
    ]
    return sorted((row for row in rows if row["rule"] == rule), key=lambda row: row["order"])


def readings(gateway: Gateway) -> int:
    return sum(s.stream.device == "dust" for b in gateway.stored.values() for s in b.samples)


def told(gateway: Gateway) -> list[tuple[str, int]]:
    return [(row["state"], row["occurrence"]) for row in alarms(gateway)]


@pytest.mark.peer
async def test_an_alarm_overtakes_waits_out_an_outage_and_is_told_again_after_a_restart(
    nova: Nova, start: Callable[[], subprocess.Popen[bytes]], gateway: Gateway, broker: Broker
) -> None:
    box = start()
    await nova.opened()
    assert gateway.said["birth"]["alarms"] == ["dusty", "dead", "silent"]
    nova.say(20.0)
    await gateway.until(lambda: told(gateway) == [("cleared", 0)])
    assert alarms(gateway)[0]["class"] is BatchClass.DATA
    assert Lane.ALARM not in [lane for lane, _ in gateway.lanes]

    nova.say(150.0)
    await gateway.until(lambda: len(told(gateway)) == 2)
    row = alarms(gateway)[-1]
    assert (row["state"], row["priority"], row["value"], row["limit"], row["unit"], row["class"]) == (
        "raised", "high", 150.0, 100.0, "ug/m3", BatchClass.ALARM,
    )  # fmt: skip
    assert [lane for lane, _ in gateway.lanes].count(Lane.ALARM) == 1

    broker.kill()
    nova.say(30.0)
    nova.say(160.0)
    broker.start()
    await gateway.until(lambda: len(told(gateway)) == 4)
    assert told(gateway)[2:] == [("cleared", 1), ("raised", 2)]

    box.kill()
    assert box.wait() == -9
    start()
    await nova.opened()
    nova.say(171.0)
    await gateway.until(lambda: told(gateway)[4:] == [("raised", 1)])
    nova.say(21.0)
    await gateway.until(lambda: told(gateway)[5:] == [("cleared", 1)])


@pytest.mark.peer
async def test_a_device_that_cannot_be_read_is_an_alarm(
    box_file: Path, start: Callable[[], subprocess.Popen[bytes]], gateway: Gateway
) -> None:
    start()  # there is no pty
    await gateway.until(lambda: len(alarms(gateway, "dead")) == 1)
    (row,) = alarms(gateway, "dead")
    assert (row["state"], row["source"], row["limit"], row["unit"]) == ("raised", "dust", 0.5, "s")
    assert "tty-dust" in row["message"]


# --- the watch ---


class Heard:
    """What a watch tells."""

    def __init__(self) -> None:
        self.rows: list[Observed] = []

    def __call__(self, rows: list[Observed]) -> None:
        self.rows += rows

    def take(self) -> list[tuple[Any, ...]]:
        """(rule, state, class) of each row since the last call."""
        taken, self.rows = self.rows, []
        return [(r.values["rule"], r.values["state"], r.batch_class) for r in taken]


class Supervised:
    def __init__(self) -> None:
        self.health = DeviceHealth()


@pytest.fixture
def watch(clock: FakeClock, box_file: Path) -> tuple[AlarmWatch, Heard]:
    heard = Heard()
    made = AlarmWatch(clock, heard)  # type: ignore[arg-type]  # lists of rows are what it gives
    config = load(box_file)
    made.apply(config.alarms, config.devices)
    return made, heard


def test_durations_are_of_boot_time_however_the_clock_steps(
    clock: FakeClock, watch: tuple[AlarmWatch, Heard]
) -> None:
    made, heard = watch
    device = Supervised()
    device.health.reads = 1
    made.look({"dust": device})  # type: ignore[dict-item]  # of a supervisor only the health is looked at
    assert heard.take() == [("dead", "cleared", BatchClass.DATA)]
    clock.wall_ns += 10**18
    made.look({"dust": device})  # type: ignore[dict-item]  # as above
    clock.advance(4)
    made.look({"dust": device})  # type: ignore[dict-item]  # as above
    assert heard.take() == [], "before its time"
    clock.advance(2)
    made.look({"dust": device})  # type: ignore[dict-item]  # as above
    assert heard.take() == [("silent", "raised", BatchClass.ALARM)]
    device.health.error = "no answer"
    made.look({"dust": device})  # type: ignore[dict-item]  # as above
    clock.wall_ns -= 2 * 10**18
    clock.advance(2)
    made.look({"dust": device})  # type: ignore[dict-item]  # as above
    assert heard.take() == [("dead", "raised", BatchClass.ALARM)]
    assert [(subject.rule.name, subject.device, for_s) for subject, for_s in made.active] == [
        ("dead", "dust", 2.0),
        ("silent", "dust", 8.0),
    ]


def test_rules_that_are_exchanged_clear_what_they_had_raised(
    clock: FakeClock, box_file: Path, watch: tuple[AlarmWatch, Heard]
) -> None:
    made, heard = watch
    config = load(box_file)
    (stream,) = config.devices[0].streams
    made.heard(Sample(stream, clock.wall_ns, (150.0, 0.0)))
    assert ("dusty", "raised", BatchClass.ALARM) in heard.take()
    made.apply(config.alarms, config.devices)
    assert heard.take() == []
    made.apply([rule for rule in config.alarms if rule.name != "dusty"], config.devices)
    assert heard.take() == [("dusty", "cleared", BatchClass.ALARM)]


# --- configuration ---


def mistakes(box_file: Path, old: str, new: str) -> dict[str, str]:
    text = box_file.read_text()
    assert old in text
    box_file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(box_file)
    return {m.where: m.expected for m in caught.value.mistakes}


@pytest.mark.parametrize(
    ("old", "new", "where", "expected"),
    [
        ('field = "pm2_5"', 'field = "pm25"', "alarm[0].field", "one of pm10, pm2_5"),
        ('unit = "ug/m3"', 'unit = "mg/m3"', "alarm[0].unit", "'ug/m3'"),
        ('device = "dust"\nmissing', 'device = "dost"\nmissing', "alarm[2].device", "one of box, dust"),
        ("for_s = 0.5", "for_s = -0.5", "alarm[1].for_s", "greater than"),
    ],
)
def test_a_rule_is_checked_against_the_boxs_own_devices(
    box_file: Path, old: str, new: str, where: str, expected: str
) -> None:
    assert expected in mistakes(box_file, old, new)[where]


def test_a_rule_may_watch_the_boxs_own_health(box_file: Path) -> None:
    rule = '[[alarm]]\nname = "disk"\nkind = "threshold"\ndevice = "box"\nfield = "disk_free"\n'
    rule += 'unit = "By"\nbelow = 1e8\n'
    box_file.write_text(box_file.read_text() + rule)
    assert load(box_file).alarms[-1].name == "disk"


def test_the_sample_shows_every_option_and_what_is_commented_out_is_the_default() -> None:
    lines = SAMPLE.read_text().partition("\n[[alarm]]")[2].splitlines()
    settings = [[*line.removeprefix("# ").split(" = ", 1), line] for line in lines if " = " in line]
    settings = [found for found in settings if found[0].isidentifier()]
    kinds = (ThresholdRule, RateRule, MissingRule, DeviceRule)
    assert {name for kind in kinds for name in kind.model_fields} == {"periods"} | {s[0] for s in settings}
    assert "instead) intervals of a polled device: periods = 3" in SAMPLE.read_text()
    for name, value, line in settings:
        defaults = {str(kind.model_fields[name].default) for kind in kinds if name in kind.model_fields}
        if line.startswith("#") and not defaults & {"", "None"}:
            assert value.strip('"') in defaults, name


def test_check_lists_the_rules(box_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: BoxConfig = load(box_file)
    assert '"name": "dusty"' in as_json(config, None)
    result = subprocess.run(
        [sys.executable, "-m", "trisense.core", "edge", "check", str(box_file)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        check=True,
    )
    assert "dust/air_quality.pm2_5" in result.stdout
