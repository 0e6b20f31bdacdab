"""``trisense gateway`` and ``trisense audit`` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trisense.core.errors import ConfigError
from trisense.gateway import audit_command, commands
from trisense.gateway.quarantine import Quarantine
from typer.testing import CliRunner

from tests.servers import free_port


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\nkind = "duckdb"\nfree_floor_bytes = 0\n')
    return str(path)


def test_check_says_what_the_file_means(config: str) -> None:
    result = CliRunner().invoke(commands.app, ["check", config])
    assert (result.exit_code, "store duckdb, broker 127.0.0.1:1883" in result.output) == (0, True)


def test_quarantine_is_listed_and_shown_with_its_bytes(config: str, quarantine: Quarantine) -> None:
    name = quarantine.keep(b"\x00poison", "checksum", box="kx-001", batches=[])
    listed = CliRunner().invoke(commands.app, ["quarantine", "ls", config])
    assert listed.exit_code == 0
    assert name in listed.output
    assert "checksum" in listed.output
    as_json = json.loads(CliRunner().invoke(commands.app, ["quarantine", "ls", config, "--json"]).output)
    assert [(k["id"], k["box"], k["bytes"]) for k in as_json] == [(name, "kx-001", 7)]
    shown = CliRunner().invoke(commands.app, ["quarantine", "show", config, name[:20]])
    assert json.loads(shown.output)["reason"] == "checksum"
    raw = CliRunner().invoke(commands.app, ["quarantine", "show", config, name, "--raw"])
    assert raw.stdout_bytes == b"\x00poison"


def test_what_is_not_in_quarantine_is_said_to_be_missing(config: str) -> None:
    result = CliRunner().invoke(commands.app, ["quarantine", "show", config, "nothing"])
    assert (result.exit_code, "0 in quarantine begin with 'nothing'" in result.stderr) == (2, True)


def test_an_audit_without_a_gateway_cannot_say() -> None:
    result = CliRunner().invoke(audit_command.app, ["--url", f"http://127.0.0.1:{free_port()}"])
    assert result.exit_code == 2
    assert "is the gateway running there?" in result.stderr


def test_an_audit_of_a_file_that_is_no_configuration_names_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(audit_command.app, ["--config", str(tmp_path / "none.toml")])
    assert isinstance(result.exception, ConfigError)


def test_an_audit_of_files_that_are_not_there_cannot_say(config: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(audit_command.app, ["--config", config])
    assert (result.exit_code, "trisense.duckdb: no such file" in result.stderr) == (2, True)
    assert not (tmp_path / "trisense.duckdb").exists()
