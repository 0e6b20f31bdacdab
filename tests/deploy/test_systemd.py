"""The shipped systemd units: they parse, and they leave little to attack."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.name)
def test_a_unit_names_no_unknown_setting(unit: Path, tmp_path: Path) -> None:
    # The program is not under /opt on a developer's machine; anything executable will do for the check.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/trisense/bin/trisense", "/bin/true"))
    result = subprocess.run([str(ANALYZE), "verify", str(copy)], capture_output=True, text=True, check=False)
    assert [line for line in result.stderr.splitlines() if unit.name in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.name)
def test_a_unit_is_hardened(unit: Path) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--threshold=20", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-400:]


def test_the_boxs_unit_is_watched_never_gives_up_and_lets_it_read_the_boot_id() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read_string(UNITS[0].read_text())
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")
    assert int(service["WatchdogSec"]) >= 30  # a card may need long for one commit
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "ProcSubset" not in service
    assert "time-sync.target" not in unit["Unit"]["After"]


def test_there_is_a_unit_for_the_box_and_one_for_the_gateway() -> None:
    assert [u.name for u in UNITS] == ["trisense-edge.service", "trisense-gateway.service"]
