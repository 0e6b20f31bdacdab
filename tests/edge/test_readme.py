"""What the README of the edge tells a deployer to type works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from trisense.core.cli import root
from trisense.edge.config import load

FOLDER = Path(__file__).parents[2] / "edge"
README = (FOLDER / "README.md").read_text()


def test_the_file_that_the_readme_shows_loads(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "edge.toml").write_text(shown)

    box = load(tmp_path / "edge.toml")

    assert [device.name for device in box.devices] == ["weather"]


def named() -> list[str]:
    """Each command that the README shows in a line of its own, without what it says behind #."""
    lines = re.findall(r"^    (trisense .*)$", README, re.MULTILINE)
    return sorted({line.partition("#")[0].partition(" > ")[0].strip() for line in lines if "'" not in line})


@pytest.mark.parametrize("line", named())
def test_each_command_and_option_that_the_readme_shows_exists(line: str) -> None:
    command: Any = typer.main.get_command(root)
    context = command.make_context("trisense", ["--help-is-not-asked"], resilient_parsing=True)
    words = shlex.split(line)[1:]
    while words and (found := getattr(command, "get_command", lambda *_: None)(context, words[0])):
        command, words = found, words[1:]

    known = {name for option in command.params for name in option.opts}

    assert not hasattr(command, "commands"), f"no command {words[:1]}"
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_each_link_of_the_readme_leads_somewhere(target: str) -> None:
    path, _, anchor = target.partition("#")
    text = (FOLDER / path).read_text() if path else README
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)

    assert not anchor or anchor in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_no_line_of_the_readme_but_a_table_row_is_longer_than_120_columns() -> None:
    assert [line for line in README.splitlines() if len(line) > 120 and not line.startswith("|")] == []
