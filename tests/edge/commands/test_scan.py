"""``trisense edge scan``: units on a line and profiles that could be theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from trisense.drivers.modbus.scan import FoundUnit, Scan
from trisense.edge.commands import edge as commands
from trisense.edge.commands import scan as scan_command
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.modbus import ModbusLine
from typer import BadParameter
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _opened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen to each line for a whole time-out before the first question."""
    monkeypatch.setattr("trisense.drivers.modbus.bus.LISTEN_MAX_S", 0.0)


def street(**options: Any) -> ModbusLine:
    return ModbusLine(
        world=World(seed=1),
        truth=Truth(),
        faults=Faults.parse(options.pop("faults", ""), seed=3),
        seed=1,
        name="street",
        **{"latency_ms": 0.0, "jitter_ms": 0.0, "baud": 115_200} | options,
    )


async def walk(folder: Path, line: ModbusLine, units: list[int]) -> tuple[Scan, list[FoundUnit], list[int]]:
    asked = []
    async with plugged(line, folder / "tty") as link:
        # Station and scan share a loop: who is late makes both late. Silence costs no more than this.
        scan = Scan(f"serial://{link}?baud=115200", "rtu", timeout_s=0.1)
        found = await scan.run(units, lambda unit, _: asked.append(unit))
    return scan, found, asked


async def test_units_are_found_and_their_profiles_suggested_first(tmp_path: Path) -> None:
    _, found, asked = await walk(tmp_path, street(), [1, 2, 144])
    assert asked == [1, 2, 144]
    assert [(one.unit, one.state) for one in found] == [(1, "answers"), (144, "answers")]
    assert [one.suggestions[0].profile for one in found] == ["sensecap-one", "ecowitt-ws90"]
    assert found[1].suggestions[0].values["relative_humidity"]


async def test_a_unit_that_is_silent_to_what_it_does_not_have_is_found_at_its_usual_address(
    tmp_path: Path,
) -> None:
    line = street(units="144=ecowitt-ws90", silent_on_bad_address=True)
    _, found, _ = await walk(tmp_path, line, [144])
    assert [one.suggestions[0].profile for one in found] == ["ecowitt-ws90"]


async def test_a_unit_whose_answers_are_all_damaged_is_told_as_such(tmp_path: Path) -> None:
    _, found, _ = await walk(tmp_path, street(units="7=ecowitt-ws90", faults="checksum=1"), [7])
    assert found == [FoundUnit(7, "damaged")]


async def test_an_adapter_that_hears_itself_makes_no_unit_appear(tmp_path: Path) -> None:
    scan, found, _ = await walk(tmp_path, street(units="144=ecowitt-ws90", echo=True), [2, 144])
    assert scan.echo
    assert [one.unit for one in found] == [144]


def run(line: ModbusLine, *arguments: str) -> tuple[int, str]:
    """The command's exit code and output, against stations on a socket."""

    async def both() -> tuple[int, str]:
        async with listening(line) as port:
            invoke: Callable[..., Awaitable[Any]] = asyncio.to_thread
            result = await invoke(
                CliRunner().invoke,
                commands.app,
                ["scan", f"tcp://127.0.0.1:{port}", *arguments],
                env={"COLUMNS": "200"},
            )
        return result.exit_code, result.stdout

    return asyncio.run(both())


def test_the_command_prints_what_it_found() -> None:
    code, shown = run(street(), "--framing", "tcp", "--units", "144")
    assert code == 0
    assert "modbus:ecowitt-ws90" in shown
    code, shown = run(street(), "--framing", "tcp", "--units", "144", "--json")
    assert json.loads(shown)["units"][0]["suggestions"][0]["profile"] == "ecowitt-ws90"


def test_nobody_there_is_exit_1() -> None:
    code, shown = run(street(), "--framing", "tcp", "--units", "9", "--timeout", "0.02")
    assert (code, shown.strip()) == (1, "Nobody answers, 1 units asked.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["tcp://127.0.0.1:502"],
        ["serial:///dev/x", "--framing", "tcp"],
        ["udp://:1"],
        ["/dev/ttyUSB0"],
        ["serial:///dev/x", "--units", "0-3"],
    ],
)
def test_what_cannot_be_scanned_is_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(commands.app, ["scan", *arguments]).exit_code == 2


def test_units_are_a_list_of_ranges() -> None:
    assert scan_command.units_of("3,1-2,2-4") == [3, 1, 2, 4]
    for text in ("", "5-3", "248", "1-", "-4", "a"):
        with pytest.raises(BadParameter, match="units such as"):
            scan_command.units_of(text)
