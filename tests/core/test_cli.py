"""The program's door: help without imports, one clear line and exit code 2 for what cannot be done."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from trisense.core import cli
from trisense.core.errors import MissingExtra


def trisense(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trisense.core", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from trisense.core import cli\n"
        "try:\n    sys.argv = ['trisense', '--help']; cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'duckdb', 'aiomqtt', 'httpx', 'starlette', 'rasterio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in ("demo", "edge", "gateway", "driver", "wire", "audit", "sim"):
        assert f"\n  {name} " in result.stdout


def test_version_names_the_program() -> None:
    assert trisense("--version").stdout.startswith("trisense 0.")


def test_an_unknown_command_is_named_and_exits_2() -> None:
    result = trisense("egde")
    assert result.returncode == 2
    assert "egde" in result.stderr


def test_a_command_whose_dependencies_are_missing_says_which_extra_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Absent(EntryPoint):
        def load(self) -> object:
            raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    point = Absent("gateway", "trisense.gateway.commands:app", cli.GROUP)
    with pytest.raises(MissingExtra, match=r"needs trisense\[gateway\] \(module duckdb"):
        cli.load(point)


def test_a_module_of_our_own_that_is_missing_is_a_defect_and_not_a_missing_extra() -> None:
    point = EntryPoint("x", "trisense.gateway.no_such_module:app", cli.GROUP)
    with pytest.raises(ModuleNotFoundError):
        cli.load(point)


@pytest.fixture
def argv(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    arguments = ["trisense"]
    monkeypatch.setattr(sys, "argv", arguments)
    return arguments


def test_a_missing_extra_ends_with_one_line_and_exit_2(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_: EntryPoint) -> object:
        raise MissingExtra("gateway", "duckdb")

    monkeypatch.setattr(cli, "load", absent)
    argv.append("gateway")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "trisense: needs trisense[gateway] (module duckdb is not installed)\n"
