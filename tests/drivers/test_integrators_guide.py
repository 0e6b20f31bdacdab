"""The integrator's guide is a session that runs: its commands pass, its driver is good."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from trisense.drivers.kit.contract import CELLS, Conformance, Example

GUIDE = Path(__file__).parents[2] / "drivers" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGE = Path("hrxl-sonar")


def blocks() -> Iterator[tuple[str, str]]:
    """Fenced blocks in order: the language, the text."""
    yield from BLOCK.findall(GUIDE.read_text(encoding="utf-8"))


class Session:
    """An integrator at a shell, in an empty folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.module = home / PACKAGE / "hrxl_sonar"
        self._python = ""
        paths = (str(home / PACKAGE), str(home / "site"))
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}

    def follow(self, language: str, text: str) -> list[str]:
        """Do what a block asks for; gives what the commands printed."""
        if language == "sh":
            return [self.run(line) for line in text.splitlines()]
        if language == "python":
            self._python += text
            (self.module / "__init__.py").write_text(self._python)
        elif language == "toml":
            (self.module / "conformance.toml").write_text(text)
        else:
            raise AssertionError(language)
        return []

    def run(self, line: str) -> str:
        program, *arguments = shlex.split(line)
        if program == "pip":
            # What `pip install -e` does, without a network and beside the project's own environment.
            assert arguments[:2] == ["install", "-e"]
            options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", "site"]
            command = [sys.executable, "-m", "pip", "install", *options, *arguments[2:]]
        else:
            assert program == "trisense"
            command = [sys.executable, "-m", "trisense.core", *arguments]
        done = subprocess.run(
            command, cwd=self.home, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_the_guide_leads_from_nothing_to_a_passing_driver(tmp_path: Path) -> None:
    session = Session(tmp_path)
    printed = [text for language, block in blocks() for text in session.follow(language, block)]
    assert any("13 of 13 passed" in text for text in printed), "the package as it was started"
    assert "13 of 13 passed" in printed[-3], "the driver of the guide"
    assert '{"measurement": "range", "values": {"distance": 1.234}' in printed[-2]
    assert "offset_m" in printed[-1]


@pytest.fixture
def guide(tmp_path: Path) -> ModuleType:
    """The module that the guide's Python blocks make."""
    file = tmp_path / "sonar_guide.py"
    file.write_text("\n".join(text for language, text in blocks() if language == "python"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("sonar_guide", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sonar_guide"] = module  # pydantic looks the module of a model up
    spec.loader.exec_module(module)
    return module


def test_the_guides_driver_is_complete(guide: ModuleType) -> None:
    config = guide.HrxlSonarConfig(name="well", driver="hrxl-sonar", line="serial:///dev/ttyUSB0")
    (stream,) = guide.HrxlSonar(config).streams()
    assert [(field.name, field.unit) for field in stream.fields] == [("distance", "m")]
    assert all(info.description for info in guide.HrxlSonarConfig.model_fields.values())


def named_in(heading: str, column: int = 1) -> set[str]:
    section = GUIDE.read_text(encoding="utf-8").split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`?([\w -]+\w)`?", row[column].strip())}


def test_the_guide_names_only_what_the_kit_has() -> None:
    import trisense.drivers  # noqa: PLC0415  # the names are the subject here

    section = GUIDE.read_text(encoding="utf-8").split("## The kit", 1)[1].split("\n## ", 1)[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= set(trisense.drivers.__all__)


def test_the_guide_has_every_test_of_the_matrix_and_every_key_of_the_contract() -> None:
    keys = {*Conformance.model_fields, *Example.model_fields} - {"example"}
    assert {*CELLS, *keys} <= named_in("The conformance matrix")
