"""``trisense bus plan``: the load of Modbus lines, before anything is wired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trisense.edge.commands import bus as bus_command
from typer.testing import CliRunner, Result

RS485 = "serial:///dev/ttyUSB0?baud=9600"


def device(name: str, profile: str, **options: Any) -> str:
    table = {"name": name, "driver": f"modbus:{profile}", "line": RS485, "framing": "rtu"} | options
    return "[[device]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def plan(folder: Path, *devices: str, json_form: bool = True) -> Result:
    config = folder / "box.toml"
    config.write_text(
        '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1883\n' + "".join(devices)
    )
    arguments = ["plan", str(config), *(["--json"] if json_form else [])]
    return CliRunner().invoke(bus_command.app, arguments, env={"COLUMNS": "200"})


def test_requests_bus_time_and_utilisation_are_those_of_the_sheet(tmp_path: Path) -> None:
    result = plan(tmp_path, device("weather", "ecowitt-ws90"))
    assert result.exit_code == 0, result.output
    (line,) = json.loads(result.stdout)["lines"]
    (weather,) = line["devices"]
    assert weather["requests"] == [{"function": 3, "address": 0x165, "count": 10}]
    read_ms = (8 + 5 + 20) * 10 / 9.6 + 38.5 / 9.6 + 20
    assert weather["read_ms"] == pytest.approx(read_ms, abs=0.01)
    assert weather["utilisation"] == line["utilisation"] == pytest.approx(read_ms / 1000, abs=0.001)


def test_reads_are_coalesced_and_the_holes_are_told(tmp_path: Path) -> None:
    result = plan(tmp_path, device("meter", "sdm120", unit=3))
    (line,) = json.loads(result.stdout)["lines"]
    (meter,) = line["devices"]
    assert [(r["address"], r["count"]) for r in meter["requests"]] == [(0, 32), (70, 6), (342, 2)]
    assert (meter["registers"], meter["wanted"]) == (40, 20)


def test_a_line_that_cannot_hold_its_devices_is_said_so(tmp_path: Path) -> None:
    devices = [device(f"meter-{unit}", "sdm630", unit=unit) for unit in range(1, 8)]
    result = plan(tmp_path, *devices)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    (line,) = found["lines"]
    assert not found["fits"]
    assert line["utilisation"] > 0.9
    assert line["stretch"] == pytest.approx(line["utilisation"] / 0.9, abs=0.001)
    shown = plan(tmp_path, *devices, json_form=False)
    assert shown.exit_code == 1
    assert f"every interval {line['stretch']:.2f} times as long" in " ".join(shown.stdout.split())


def test_devices_that_do_not_agree_about_their_line_cannot_work(tmp_path: Path) -> None:
    other = device("slow", "sdm120", line="serial:///dev/ttyUSB0?baud=2400")
    result = plan(tmp_path, device("weather", "ecowitt-ws90"), other, json_form=False)
    assert result.exit_code == 1
    assert "do not agree on line" in result.stdout


def test_each_line_is_told_apart_and_an_unknown_speed_is_named(tmp_path: Path) -> None:
    result = plan(
        tmp_path,
        device("weather", "ecowitt-ws90"),
        device("roof", "ecowitt-ws90", line="tcp://192.0.2.7:502", framing="tcp"),
        device("yard", "ecowitt-ws90", line="tcp://192.0.2.8:4001"),
        json_form=False,
    )
    assert result.exit_code == 0
    assert result.stdout.count("Fits: ") == 3
    assert result.stdout.count("9600 baud is assumed") == 1


def test_a_box_without_modbus_devices_has_nothing_to_plan(tmp_path: Path) -> None:
    table = (
        '[[device]]\nname = "pm"\ndriver = "plantower"\nline = "serial:///dev/ttyUSB1"\nmodel = "pmsx003"\n'
    )
    result = plan(tmp_path, table, json_form=False)
    assert result.exit_code == 0
    assert "No Modbus device" in result.stdout
