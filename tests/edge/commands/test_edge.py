"""``trisense edge`` as a process: check, run, leave, be killed, with real simulators and a real broker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trisense.edge.config import (
    BoxTable,
    ClockTable,
    LinkTable,
    LogTable,
    MqttTable,
    RemoteTable,
    SpoolTable,
    load,
)
from trisense.edge.status.table import StatusTable

from tests.servers import free_port

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "deploy" / "edge.sample.toml"
TRISENSE = (sys.executable, "-m", "trisense.core")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``trisense ARGS``; whatever still runs at the end is killed."""
    started = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*TRISENSE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def dust(tmp_path: Path, start: Start) -> Path:
    """A simulated dust sensor on a pty; gives the link to it."""
    link = tmp_path / "tty-dust"
    start("sim", "run", "plantower", "--pty", str(link), "-o", "period_s=0.2")
    wait_until(link.exists)
    return link


def wait_until(ready: Callable[[], object], limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def wait_for_more(spool: Path, than: int) -> None:
    wait_until(lambda: committed(spool) > than)


def write_config(tmp_path: Path, port: int, *devices: str) -> Path:
    file = tmp_path / "box.toml"
    text = (
        f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[clock]\nhold_s = 0\n'
        "[spool]\ncommit_s = 0.1\n"
    )
    file.write_text(text + "".join(f"[[device]]\n{device}\n" for device in devices))
    return file


def on(link: Path, name: str = "dust") -> str:
    return f'name = "{name}"\ndriver = "plantower"\nline = "serial://{link}?baud=9600"'


def committed(spool: Path) -> int:
    """Samples of devices that the spool holds, looked at from outside."""
    with contextlib.suppress(sqlite3.OperationalError):
        db = sqlite3.connect(f"file:{spool}?mode=ro", uri=True)
        try:
            (count,) = db.execute("SELECT ifnull(sum(samples), 0) FROM batch").fetchone()
            return int(count)
        finally:
            db.close()
    return 0


@pytest.fixture
def dead_port() -> int:
    """A port where nobody listens."""
    return free_port()


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def run_check(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*TRISENSE, "edge", "check", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_names_every_mistake_and_ends_with_2(tmp_path: Path) -> None:
    config = write_config(tmp_path, 70_000, 'name = "box"\ndriver = "nope"')
    answer = run_check(config)
    assert answer.returncode == 2
    assert [line.removeprefix(f"{config}: ").split(":")[0] for line in answer.stderr.splitlines()] == [
        "mqtt.port",
        "device[0].name",
        "device[0].driver",
    ]


def test_check_without_a_file_takes_the_one_of_this_folder(tmp_path: Path) -> None:
    file = write_config(tmp_path, 8883, 'name = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"')
    file.rename(tmp_path / "edge.toml")
    command = [*TRISENSE, "edge", "check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (answer.returncode, answer.stdout.partition(":")[0]) == (0, "edge.toml"), answer.stderr


def test_check_warns_of_certificates_that_are_not_there(tmp_path: Path) -> None:
    config = write_config(tmp_path, 8883, 'name = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"')
    config.write_text(config.read_text().replace("[mqtt]", '[mqtt]\nca_file = "ca.crt"'))
    answer = run_check(config)
    assert answer.returncode == 0
    assert (
        f"mqtt.ca_file: expected a file that can be read, got nothing at {tmp_path / 'ca.crt'}"
        in answer.stderr
    )


def test_check_read_says_what_each_device_says_and_1_when_one_does_not(
    tmp_path: Path, dust: Path, dead_port: int
) -> None:
    config = write_config(tmp_path, dead_port, on(dust), on(tmp_path / "tty-none", "gone"))
    answer = run_check(config, "--read", "--json")
    assert answer.returncode == 1, answer.stderr
    good, gone = json.loads(answer.stdout)["devices"]
    (sample,) = good["samples"]
    assert good["error"] is None
    assert sample["values"].keys() >= {"pm1", "pm2_5", "pm10"}  # null while the sensor warms up
    assert "tty-none" in gone["error"]
    assert gone["samples"] == []


def test_it_senses_without_a_broker_and_leaves_in_time_with_everything_on_disk(
    tmp_path: Path, dust: Path, dead_port: int, start: Start
) -> None:
    box = start(
        "edge", "run", str(write_config(tmp_path, dead_port, on(dust), on(tmp_path / "none", "gone")))
    )
    wait_until(lambda: committed(tmp_path / "spool.db") >= 2)
    began = time.monotonic()
    box.send_signal(signal.SIGTERM)
    _, log = box.communicate(timeout=10)
    assert time.monotonic() - began < 5.0
    assert box.returncode == 0, log
    events = {json.loads(line)["event"] for line in log.splitlines()}
    assert {"box_starts", "link_down", "device_failed", "box_stops"} <= events
    stops = next(json.loads(line) for line in log.splitlines() if "box_stops" in line)
    assert committed(tmp_path / "spool.db") == stops["committed"]


def test_a_mute_broker_does_not_keep_it_from_leaving(
    tmp_path: Path, dust: Path, mute_port: int, start: Start
) -> None:
    box = start("edge", "run", str(write_config(tmp_path, mute_port, on(dust))))
    wait_until(lambda: committed(tmp_path / "spool.db"))
    began = time.monotonic()
    box.send_signal(signal.SIGINT)
    box.communicate(timeout=10)
    assert time.monotonic() - began < 5.0
    assert box.returncode == 0


@pytest.mark.peer
def test_kill_9_again_and_again_keeps_what_was_committed_and_never_repeats_an_identity(
    tmp_path: Path, dust: Path, broker: Any, start: Start
) -> None:
    config = write_config(tmp_path, broker.port, on(dust))
    spool = tmp_path / "spool.db"
    for _ in range(3):
        before = committed(spool)
        box = start("edge", "run", str(config))
        wait_for_more(spool, before)
        box.kill()
        assert box.wait() == -signal.SIGKILL
        assert committed(spool) > before

    db = sqlite3.connect(spool)
    rows = db.execute("SELECT epoch, seq FROM batch").fetchall()
    epochs = db.execute("SELECT epoch, next_seq FROM epoch").fetchall()
    db.close()
    assert len(set(rows)) == len(rows)
    assert len(epochs) == 3
    assert all(next_seq == sum(e == epoch for e, _ in rows) for epoch, next_seq in epochs)


def test_a_second_box_on_one_spool_is_told_so(
    tmp_path: Path, dust: Path, dead_port: int, start: Start
) -> None:
    config = write_config(tmp_path, dead_port, on(dust))
    start("edge", "run", str(config))
    wait_until(lambda: committed(tmp_path / "spool.db"))
    second = start("edge", "run", str(config))
    _, log = second.communicate(timeout=20)
    assert second.returncode == 2
    assert "another process" in log


def test_the_sample_loads_and_its_commented_defaults_are_the_codes(tmp_path: Path) -> None:
    config = load(SAMPLE)
    assert [device.name for device in config.devices] == ["weather", "dust"]

    live = [line.removeprefix("# ") if is_setting(line) else line for line in SAMPLE.read_text().splitlines()]
    everything = tomllib.loads("\n".join(live))
    for table, model in (
        ("box", BoxTable),
        ("spool", SpoolTable),
        ("mqtt", MqttTable),
        ("link", LinkTable),
        ("remote", RemoteTable),
        ("status", StatusTable),
        ("clock", ClockTable),
        ("log", LogTable),
    ):
        assert everything[table].keys() == set(model.model_fields)
        as_is = tomllib.loads(SAMPLE.read_text()).get(table, {})
        for key, value in everything[table].items():
            default = model.model_fields[key].default
            if key not in as_is and default is not None:
                assert value == (list(default) if isinstance(default, tuple) else default), key
    file = tmp_path / "all.toml"
    file.write_text("\n".join(live))
    load(file)


def is_setting(line: str) -> bool:
    head = line.removeprefix("# ").split(" = ")
    return line.startswith("# ") and len(head) == 2 and head[0].isidentifier()


def test_the_box_takes_little_memory(tmp_path: Path, dust: Path, dead_port: int, start: Start) -> None:
    box = start("edge", "run", str(write_config(tmp_path, dead_port, on(dust))))
    wait_until(lambda: committed(tmp_path / "spool.db"))
    status = Path(f"/proc/{box.pid}/status").read_text()
    rss_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    loaded = Path(f"/proc/{box.pid}/maps").read_text()
    assert rss_kb < 80 * 1024
    assert "numpy" not in loaded
    assert "duckdb" not in loaded
    assert os.getpid() != box.pid
