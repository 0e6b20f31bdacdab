"""``trisense edge ports`` and ``edge check``: which names of ports will last, and who has them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trisense.drivers import ports
from trisense.edge.commands.edge import app
from trisense.edge.commands.port_report import Holder, holders
from typer.testing import CliRunner, Result

from tests.usb import Usb, usb_at


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Usb]:
    with usb_at(tmp_path / "machine") as made:
        monkeypatch.setattr(ports, "THIS", made.machine)
        yield made


def trisense_edge(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def config(tmp_path: Path, **lines: Path) -> str:
    file = tmp_path / "box.toml"
    file.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1883\n'
        + "".join(
            f'[[device]]\nname = "{name}"\ndriver = "plantower"\nline = "serial://{path}?baud=9600"\n'
            for name, path in lines.items()
        )
    )
    return str(file)


def test_ports_says_what_to_write_for_each_and_who_uses_it(usb: Usb, tmp_path: Path) -> None:
    own, nameless = usb.plug("ttyUSB0", "1-1", serial="A10K"), usb.plug("ttyUSB1", "1-2")
    file = config(tmp_path, dust=own.by_id)
    answer = trisense_edge("ports", file, "--json")
    assert answer.exit_code == 0, answer.output
    one, two = json.loads(answer.stdout)["ports"]
    assert (one["line"], one["used_by"], one["serial"]) == (f"serial://{own.by_id}", ["dust"], "A10K")
    assert (two["line"], two["used_by"], two["ambiguous"]) == (f"serial://{nameless.by_path}", [], False)
    text = trisense_edge("ports", file).stdout
    assert "ftdi_sio, 0403:6001, FTDI, FT232R USB UART, serial number A10K" in text
    assert f'line = "serial://{nameless.by_path}"' in text
    assert "used by dust" in text


def test_ports_marks_equal_adapters_and_names_their_sockets(usb: Usb, tmp_path: Path) -> None:
    twins = [usb.plug(f"ttyUSB{n}", f"1-{n + 1}") for n in range(2)]
    answer = trisense_edge("ports", config(tmp_path, dust=twins[0].by_id), "--json")
    assert answer.exit_code == 1
    said = json.loads(answer.stdout)
    assert [port["ambiguous"] for port in said["ports"]] == [True, True]
    assert [port["line"] for port in said["ports"]] == [f"serial://{twin.by_path}" for twin in twins]
    (warning,) = said["warnings"]
    assert warning.startswith("device[0].line: ")
    assert "2 adapters with no serial number share this name" in warning
    assert "AMBIGUOUS" in trisense_edge("ports").stdout


def test_check_warns_of_names_that_do_not_stay_and_proposes_better_ones(usb: Usb, tmp_path: Path) -> None:
    own = usb.plug("ttyUSB0", "1-1", serial="A10K")
    node = usb.machine.dev / "ttyUSB0"
    answer = trisense_edge("check", config(tmp_path, dust=node, same=own.by_id))
    assert answer.exit_code == 0, answer.output
    assert (
        f"device[0].line: expected serial://{own.by_id}, got {node}: a number that changes" in answer.stderr
    )
    assert f"device[1].line: expected one name for one port, as at device[0].line: {node}" in answer.stderr
    assert trisense_edge("check", config(tmp_path, dust=own.by_id)).stderr == ""


def test_ports_names_what_is_not_plugged_in(usb: Usb, tmp_path: Path) -> None:
    gone = usb.root / "dev/serial/by-id/gone"
    answer = trisense_edge("ports", config(tmp_path, dust=gone))
    assert answer.exit_code == 1
    assert f"device[0].line: expected a port that is plugged in, got nothing at {gone}" in answer.stdout


def test_who_holds_a_port_is_named_without_opening_it(usb: Usb) -> None:
    adapter = usb.plug("ttyUSB0", "1-1")
    program = (
        "import os,sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print(1, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, adapter.slave_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    held = holders(usb.machine.dev / "ttyUSB0")
    other.communicate()
    assert [holder.pid for holder in held] == [other.pid]
    assert held[0].command.startswith("python")
    assert holders(usb.machine.dev / "ttyUSB0") == []
    assert holders(usb.root / "none") == []


def test_who_has_locked_a_port_is_seen_where_its_open_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "port"
    file.touch()
    with file.open() as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        me = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert me in [holder.pid for holder in holders(file) if isinstance(holder, Holder)]
