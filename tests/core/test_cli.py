"""The program's door: help without imports, one clear line and exit code 2 for what cannot be done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


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


def test_help_fills_the_lines_of_a_narrow_terminal_and_keeps_those_of_lists() -> None:
    command = [sys.executable, "-m", "trisense.core", "gateway", "command", "--help"]
    environment = os.environ | {"COLUMNS": "60", "NO_COLOR": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    text = shown[shown.index("Have a box do") : shown.index("Arguments")]
    lines = [line.strip() for line in text.splitlines()]
    assert [line.split()[1] for line in lines if line.startswith("- re")] == [
        "read", "restart", "replay", "reload:",
    ]  # fmt: skip
    (last,) = [i for i, line in enumerate(lines) if line.startswith("A box may allow")]
    assert len(lines[last]) > 45, "the docstring's own line ends are not kept"
    assert "--install-completion" not in shown


def test_a_full_disk_behind_the_output_is_an_error_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "trisense.core", "driver", "list"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith("trisense: what is written has no room: ")


def test_version_names_the_program() -> None:
    assert trisense("--version").stdout.startswith("trisense 0.")


def test_an_unknown_command_is_named_and_exits_2() -> None:
    result = trisense("egde")
    assert result.returncode == 2
    assert "egde" in result.stderr


def trisense_without(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """The program in an environment where ``module`` is not installed."""
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"  # what Python itself does to make an import fail
        "from trisense.core import cli\n"
        f"sys.argv = ['trisense', *{args!r}]\n"
        "cli.main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [
        ("starlette", ("gateway", "run", "nowhere.toml"), "gateway"),
        ("uvicorn", ("gateway", "run", "nowhere.toml"), "gateway"),
        ("aiomqtt", ("edge", "run", "nowhere.toml"), "edge"),
        ("PIL", ("sim", "run", "http-camera", "--tcp", "127.0.0.1:1"), "sims"),
    ],
)
def test_a_command_whose_dependencies_are_missing_says_in_one_line_which_extra_brings_them(
    module: str, args: tuple[str, ...], extra: str
) -> None:
    result = trisense_without(module, *args)
    assert result.returncode == 2
    assert result.stderr == f"trisense: needs trisense[{extra}] (module {module} is not installed)\n"


def test_a_module_of_our_own_that_is_missing_is_a_defect_and_not_a_missing_extra() -> None:
    result = trisense_without("trisense.gateway.config", "gateway", "run", "nowhere.toml")
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr
