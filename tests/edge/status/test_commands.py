"""``edge status``, ``top`` and ``tap`` as programs, asking a real box with a real device and a broken one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import LinkError
from trisense.edge.status.client import Client, find_config, find_socket

from tests.servers import free_port

from .terminal import LIMIT_S, TRISENSE, Terminal

Tell = Callable[..., "subprocess.CompletedProcess[str]"]


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


class Box:
    """A box of its own process: dust sensor on a pty, weather station on TCP, a port that is not there."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "edge.toml"
        self.dust = folder / "tty-dust"
        self.metrics, mast = free_address(), free_address()
        self.config.write_text(
            '[box]\nid = "kx-001"\nsite = "marienplatz"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'
            "[spool]\ncommit_s = 0.1\n"
            f'[status]\nmetrics = "{self.metrics}"\n'
            f'[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial://{self.dust}?baud=9600"\n'
            f'[[device]]\nname = "mast"\ndriver = "modbus:ecowitt-ws90"\nline = "tcp://{mast}"\n'
            'framing = "tcp"\ninterval_s = 0.2\n'
            '[[device]]\nname = "gone"\ndriver = "plantower"\nline = "serial:///dev/tty-none?baud=9600"\n'
        )
        self.processes = [
            subprocess.Popen(
                [*TRISENSE, "sim", "run", "plantower", "--pty", str(self.dust), "-o", "period_s=0.2"]
            ),
            subprocess.Popen([*TRISENSE, "sim", "run", "modbus", "--tcp", mast, "-o", "framing=tcp"]),
            subprocess.Popen([*TRISENSE, "edge", "run", str(self.config)], stderr=subprocess.DEVNULL),
        ]

    def tell(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [*TRISENSE, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_S, **options
        )

    def picture(self) -> dict[str, Any]:
        """What ``edge status --json`` tells."""
        picture: dict[str, Any] = json.loads(self.tell("edge", "status", str(self.config), "--json").stdout)
        return picture

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def settled(box: Box) -> bool:
    """Every device has shown how it is, and something was committed."""
    try:
        with Client(find_socket(box.config), box.config) as client:
            picture = client.status()
    except LinkError:
        return False  # it is starting
    states = [device.state for device in picture.devices]
    return states == ["good", "good", "failing"] and bool(picture.spool.waiting)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("box"))
    until_s = time.monotonic() + LIMIT_S
    while not settled(made):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    yield made
    made.end()


def test_the_status_says_what_is_wrong_first_in_80_columns_and_ends_with_1(box: Box) -> None:
    answer = box.tell("edge", "status", env=os.environ | {"COLUMNS": "80"}, cwd=box.config.parent)
    assert answer.returncode == 1, answer.stderr
    lines = answer.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("kx-001 at marienplatz  up ")
    assert re.fullmatch(r"\d things are wrong *", lines[1])
    assert lines[2].startswith("device   gone: for ")
    text = " ".join(answer.stdout.split())
    assert "cannot open: [Errno 2] No such file or directory: '/dev/tty-none'" in text
    assert "link 127.0.0.1:1: " in text
    assert "2 of 3 good" in text
    assert re.search(r"mast ecowitt-ws\S+ [\d.]+ s illuminance \d+ lx", text)
    assert re.search(r"BUS tcp://127\.0\.0\.1:\d+: 1 device asks for \d+%", text)
    assert "\x1b" not in answer.stdout, "colours on no terminal"


def test_the_json_is_the_whole_picture(box: Box) -> None:
    picture = box.picture()
    dust, mast, gone = picture["devices"]
    assert (dust["name"], dust["state"], dust["connected"]) == ("dust", "good", True)
    assert dust["age_s"] < 60
    assert {field["name"] for field in dust["streams"][0]["fields"]} >= {"pm1", "pm2_5", "pm10"}
    assert (gone["state"], gone["failing_s"] > 0, gone["reasons"].keys()) == ("failing", True, {"line"})
    assert {line["line"] for line in picture["lines"]} == {dust["line"], mast["line"]}
    assert all(line["received_bytes"] >= 32 for line in picture["lines"])
    assert picture["spool"]["committed"] > 0
    assert picture["spool"]["waiting"]["data"]["samples"] > 0
    assert 0 < picture["spool"]["commit_p50_s"] <= picture["spool"]["commit_p99_s"]
    (bus,) = picture["buses"]
    assert (bus["devices"], bus["answers"] > 0) == (["mast"], True)
    assert 0 < bus["planned"] < 1
    assert picture["machine"]["rss_bytes"] > 10_000_000
    assert picture["box"]["pid"] == box.processes[-1].pid


def test_metrics_are_where_the_configuration_says(box: Box) -> None:
    with urllib.request.urlopen(f"http://{box.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'trisense_devices{driver="plantower",state="failing"} 1\n' in text


def test_a_tap_follows_with_filters_and_ends_after_its_count(box: Box) -> None:
    options = ("--device", "m*", "--field", "wind_*", "--where", "illuminance >= 0", "--count", "2", "--json")
    answer = box.tell("tap", str(box.config), *options)
    assert answer.returncode == 0, answer.stderr
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["device"] for row in rows] == ["mast", "mast"]
    assert all(name.startswith("wind_") for row in rows for name in row["values"])
    assert rows[0]["time_ns"] < rows[1]["time_ns"]


def test_a_tap_on_a_device_that_is_not_there_names_those_that_are(box: Box) -> None:
    command = [*TRISENSE, "tap", str(box.config), "--device", "masd"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tap:
        assert tap.stderr is not None
        told = tap.stderr.readline()
        tap.kill()
    assert "one of dust, mast, gone, box or a pattern of them, got 'masd'" in told


def test_a_tap_into_a_pipe_that_closes_just_ends(box: Box) -> None:
    shell = f"{' '.join(TRISENSE)} tap {box.config} | head -n 1"
    answer = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \w+/\w+ [a-z0-9_]+=.*\n", answer.stdout)
    assert answer.stderr == ""


def test_a_condition_that_is_none_ends_with_2(box: Box) -> None:
    answer = box.tell("tap", str(box.config), "--where", "__import__('os')")
    assert answer.returncode == 2
    assert answer.stderr.startswith("tap: where: expected FIELD OP NUMBER")


def test_top_fills_the_screen_and_leaves_with_a_key(box: Box) -> None:
    screen = Terminal(24, 80, "top", str(box.config))
    text = screen.until("MACHINE")
    assert "x gone" in text
    assert "dust" in text
    screen.clear()
    screen.until("MACHINE")  # made anew by itself
    screen.type(b"\x1b[A")  # an arrow is no reason to leave
    screen.clear()
    screen.until("MACHINE")
    screen.type(b"q")
    assert screen.end() == 0


def test_top_leaves_with_ctrl_c_and_the_terminal_is_as_before(box: Box) -> None:
    screen = Terminal(10, 40, "top", str(box.config))
    screen.until("things are wrong")
    screen.type(b"\x03")
    assert screen.end() in (0, 130)
    assert "\x1b[?1049l" in screen.raw, "the old screen is back"
    assert "Traceback" not in screen.raw


def test_without_a_terminal_top_says_what_to_ask_instead(box: Box) -> None:
    answer = box.tell("top", str(box.config), stdin=subprocess.DEVNULL)
    assert answer.returncode == 2
    assert "trisense edge status" in answer.stderr


@pytest.mark.parametrize("command", [("edge", "status"), ("tap",)])
def test_where_no_box_runs_it_says_where_it_looked_and_how_to_start_one(
    tmp_path: Path, box: Box, command: tuple[str, ...]
) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[status]\nsocket = "run/other.sock"\n[[device]]\nmistaken = true\n')
    answer = box.tell(*command, str(config))
    assert answer.returncode == 2
    assert f"nobody listens at {tmp_path}/run/other.sock" in answer.stderr
    assert f"trisense edge run {config}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_socket_that_no_kernel_takes_is_told_as_such(tmp_path: Path, box: Box) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[spool]\npath = "{"x" * 120}/spool.db"\n')
    answer = box.tell("edge", "status", str(config))
    assert (answer.returncode, "path too long" in answer.stderr) == (2, True)
    config.write_text(f'[status]\nsocket = "{"x" * 120}"\n')
    answer = box.tell("edge", "status", str(config))
    assert answer.returncode == 2
    assert ": status.socket: expected a path of at most 107 bytes" in answer.stderr


def test_the_configuration_is_found_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("mine.toml")) == Path("mine.toml")
    assert find_config(None) == Path("/etc/trisense/edge.toml")
    Path("edge.toml").write_text('[spool]\npath = "data/queue.db"\n')
    if not Path("/etc/trisense/edge.toml").exists():
        assert find_config(None) == Path("edge.toml")
    assert find_socket(Path("edge.toml")) == tmp_path / "data/queue.db.sock"
