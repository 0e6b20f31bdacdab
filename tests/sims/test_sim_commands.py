"""``trisense sim``: a simulated device from the command line."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trisense.sims import commands
from typer.testing import CliRunner, Result


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.app, arguments, env={"COLUMNS": "200"})


def test_every_kind_is_listed_with_its_options() -> None:
    result = run("list")
    assert result.exit_code == 0
    listed = re.sub(r" +", " ", result.stdout)
    assert "fan_start_s" in listed
    assert [kind for kind in commands.KINDS if f"\n {kind} " not in listed] == []


@pytest.mark.parametrize("kind", sorted(commands.KINDS))
def test_every_kind_carries_its_own_name(kind: str) -> None:
    assert commands.simulator_class(kind).kind == kind


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody", "--pty", "x"], "no simulator 'nobody'; there are plantower, "),
        (["plantower"], "--pty LINK, --tcp HOST:PORT or --folder DIR"),
        (["plantower", "--pty", "x", "--tcp", "h:1"], "--pty LINK, --tcp HOST:PORT or --folder DIR"),
        (["plantower", "--folder", "x"], "a kind that writes files"),
        (["ndvi-scenes", "--pty", "x"], "a kind that writes files"),
        (["plantower", "--tcp", "5000"], "expected HOST:PORT, got '5000'"),
        (["plantower", "--pty", "x", "-o", "model"], "expected KEY=VALUE with a KEY of model, "),
        (["plantower", "--pty", "x", "-o", "color=red"], "expected KEY=VALUE with a KEY of model, "),
        (["plantower", "--pty", "x", "-o", "period_s=fast"], "option period_s: .*number.*, got 'fast'"),
        (["plantower", "--pty", "x", "-o", "model=red"], "model 'red': one of pmsx003"),
        (["plantower", "--pty", "x", "--faults", "boom=1"], "--faults: no fault 'boom'"),
        (["plantower", "--pty", "x", "--truth", "/no/such/dir/t"], "--truth /no/such/dir/t: No such file"),
        (["plantower", "--pty", "/no/such/dir/tty"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_told_with_exit_code_2(arguments: list[str], told: str) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 2
    assert re.search(told, result.stderr)


@pytest.fixture
def dust(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``trisense sim run plantower`` as a process of its own."""
    command = [
        sys.executable,
        "-m",
        "trisense.core",
        "sim",
        "run",
        "plantower",
        "--pty",
        "tty",
        "--name",
        "dust",
    ]
    command += ["--truth", "truth.jsonl", "-o", "fan_start_s=0", "-o", "period_s=0.01"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_it_speaks_on_its_pty_logs_the_truth_and_leaves_no_link_behind(
    tmp_path: Path, dust: subprocess.Popen[bytes]
) -> None:
    link = tmp_path / "tty"
    while not link.is_symlink():
        assert dust.poll() is None, dust.stderr
    fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
    heard = b""
    while len(heard) < 64:
        assert select.select([fd], [], [], 10)[0], "nothing came"
        heard += os.read(fd, 64)
    os.close(fd)
    dust.send_signal(signal.SIGTERM)
    assert dust.wait(10) == 0
    assert not link.is_symlink()
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert lines[0]["device"] == "dust"
    assert heard.startswith(bytes.fromhex(lines[0]["bytes"]))
