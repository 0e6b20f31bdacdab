"""``trisense driver``: list, show, decode."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from trisense.core.errors import MissingExtra
from trisense.drivers import commands, registry
from typer.testing import CliRunner, Result

PMS = "424d001c00000008000800000008000800d20046002d001e00000000970002c5"
LD2450 = "aaff03000e03b186100040010000000000000000000000000000000055cc"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.app, arguments, env={"COLUMNS": "200"})


# --- list -------------------------------------------------------------------------------------------


def test_the_list_as_json_has_name_family_and_kind() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert {"name": "plantower", "family": "environment", "kind": "streaming"} in listed
    assert {"name": "modbus:ecowitt-ws90", "family": "environment", "kind": "polled"} in listed
    assert {driver["family"] for driver in listed} == {"camera", "rfid", "environment", "radar", "air", "sky"}


def test_the_list_for_people_says_what_each_reads() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "LD2450" in result.stdout


def test_a_driver_that_misses_its_extra_is_listed_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = {"needy": EntryPoint("needy", "needy:Needy", registry.GROUP)}
    monkeypatch.setattr(registry, "known", lambda: points)
    monkeypatch.setattr(commands, "known", lambda: points)
    assert json.loads(run("list", "--json").stdout) == [
        {"name": "needy", "family": None, "kind": None, "needs": "trisense[edge]"}
    ]
    assert "needs trisense[edge]" in run("list").stdout
    assert isinstance(run("show", "needy").exception, MissingExtra)


# --- show -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(registry.known()), "modbus:ecowitt-ws90", "modbus:sensecap-one"])
def test_every_driver_can_be_shown(name: str) -> None:
    result = run("show", name)
    assert result.exit_code == 0, result.output
    assert "Configuration" in result.stdout
    assert "[[device]]" in result.stdout


def test_show_tells_options_with_defaults_and_streams_with_units() -> None:
    shown = re.sub(r" +", " ", run("show", "plantower").stdout)
    assert "# Plantower PMS dust sensors" in shown
    assert 'model "pmsx003" | "pms5003t" | "pms5003s" | "pms5003st" | "pms3003" "pmsx003"' in shown
    assert "line str required" in shown
    assert "pm2_5 ug/m3 float 1" in shown


def test_a_modbus_profile_is_shown_with_its_own_fields() -> None:
    for name, field in (("modbus:ecowitt-ws90", "uv_index"), ("modbus:sensecap-one", "wind_direction_max")):
        shown = run("show", name).stdout
        assert field in shown
        assert f'driver = "{name}"' in shown


# --- decode -----------------------------------------------------------------------------------------


def test_each_sample_is_a_json_object_on_a_line_of_its_own() -> None:
    result = run("decode", "ld2450", "--hex", LD2450)
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"measurement": "radar_presence", "values": {"target_count": 1}, "quality": {}},
        {
            "measurement": "radar_target",
            "values": {"x": -0.782, "y": 1.713, "radial_speed": -0.16, "distance_resolution": 0.32},
            "quality": {},
        },
    ]
    assert "as ld2450: 1 good frames, 2 samples, 0 damaged" in result.stderr


def test_a_file_of_captured_bytes_is_decoded(tmp_path: Path) -> None:
    file = tmp_path / "captured.bin"
    file.write_bytes(bytes.fromhex(PMS) * 3)
    result = run("decode", "plantower", str(file))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3


def test_damage_is_counted_on_stderr_and_the_exit_code_says_so() -> None:
    result = run("decode", "plantower", "--hex", PMS[:-2] + "00" + PMS)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "damaged: checksum, 32 bytes: 42 4d" in result.stderr
    assert "1 damaged" in result.stderr


@pytest.mark.parametrize("given", ["00", ""])
def test_nothing_decoded_is_exit_code_1(given: str) -> None:
    result = run("decode", "plantower", "--hex", given)
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_frame_without_readings_is_told_but_no_sample() -> None:
    result = run("decode", "plantower", "--hex", "424d0004e4010178")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 good frames, 0 samples" in result.stderr


def test_the_device_can_be_named_where_frames_look_alike() -> None:
    frame = "424d001c001700270029001600230029100804a90116000c00d400e09a0004aa"
    assert (
        "air_temperature"
        not in run("decode", "plantower", "--hex", frame, "--as", "plantower.pmsx003").stdout
    )
    result = run("decode", "plantower", "--hex", frame, "--as", "plantower.pms5003t")
    assert json.loads(result.stdout)["values"]["air_temperature"] == 21.2


def test_registers_get_a_meaning_by_their_profile_alone() -> None:
    reply = "0103020056387a"
    assert "as modbus.generic: 1 good frames, 0 samples" in run("decode", "modbus", "--hex", reply).stderr
    named = run("decode", "modbus", "--hex", reply, "--as", "renke.fsjt_wind")
    assert json.loads(named.stdout)["values"] == {"wind_speed": 8.6}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["decode", "nobody", "--hex", "00"], "no driver 'nobody'; there are "),
        (["show", "nobody"], "no driver 'nobody'"),
        (["show", "modbus:nobody"], "no driver 'modbus:nobody'; there are .*modbus:ecowitt-ws90"),
        (["show", "plantower:x"], "no driver 'plantower:x'"),
        (["decode", "plantower", "--hex", "4z"], "--hex: "),
        (["decode", "plantower", "/no/such/file"], "/no/such/file: No such file"),
        (["decode", "plantower"], "--hex HEX or as a FILE"),
        (["decode", "plantower", "file", "--hex", "00"], "--hex HEX or as a FILE"),
        (["decode", "plantower", "--hex", "00", "--as", "x"], "reads plantower.pmsx003, "),
    ],
)
def test_what_cannot_be_done_is_told_with_exit_code_2(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert re.search(told, result.stderr)
