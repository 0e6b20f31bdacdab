"""The kit itself: it finds what is wrong with a driver, and it lets a good one pass."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trisense.core.errors import ConfigError, DeviceTimeout
from trisense.drivers import FramedConfig, Line, Lines, Observed, PolledDriver, Stream
from trisense.drivers.commands import app
from trisense.drivers.kit.contract import CELLS, CellName, Conformance
from trisense.drivers.kit.matrix import Card, judge
from trisense.drivers.kit.player import TablePlayer
from trisense.drivers.kit.subject import Setup, Subject, subject_at, subject_of
from trisense.drivers.lines import SerialLine
from trisense.drivers.modbus import load_profile
from trisense.drivers.modbus.profile import DeviceTable, ExampleTable, FieldTable, ReadTable
from typer.testing import CliRunner


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as `driver new` writes it."""
    folder = tmp_path_factory.mktemp("new")
    result = invoke("new", "range-finder", "--in", str(folder))
    assert result.exit_code == 0, result.output
    return folder / "range-finder" / "range_finder"


@pytest.fixture(scope="module")
def finder(package: Path) -> ModuleType:
    """The module of that package."""
    spec = importlib.util.spec_from_file_location("range_finder", package / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["range_finder"] = module  # pydantic looks the module of a model up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contract(package: Path) -> Conformance:
    return Conformance.model_validate(tomllib.loads((package / "conformance.toml").read_text()))


def subject(cls: type[Any], contract: Conformance, **options: Any) -> Subject:
    def player() -> TablePlayer:
        return TablePlayer(contract, contract.example)

    setup = Setup({**contract.device, **options}, player, len(contract.example), contract.transport)
    return Subject(cls.name, cls.name, cls, contract.line, contract.line_key, {}, [setup])


async def found(subject: Subject, *cells: CellName) -> dict[str, str]:
    """What is wrong, by test."""
    card: Card = await judge(subject, cells)
    return {one.cell: one.detail for one in card.verdicts if one.verdict == "fail"}


# --- what the kit finds -----------------------------------------------------------------------------


async def test_a_driver_that_was_just_started_passes(finder: ModuleType, contract: Conformance) -> None:
    cells = tuple(cell for cell in CELLS if cell != "wrong unit")
    assert await found(subject(finder.RangeFinder, contract), *cells) == {}


async def test_a_driver_that_does_not_look_at_the_checksum_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(data: bytes, _: int) -> int:
        start = finder_data.rfind(data) + len(data)
        return int.from_bytes(finder_data[start : start + 2], "big")

    class Trusting(finder.RangeFinderDecoder):  # type: ignore[name-defined,misc]  # a class of a loaded module
        def cut(self, data: bytes, start: int) -> Any:
            nonlocal finder_data
            finder_data = data[start : start + 6]
            return super().cut(data, start)

    finder_data = b""
    monkeypatch.setattr(finder, "crc_hqx", trusting)
    monkeypatch.setattr(finder.RangeFinder, "decoder", lambda _: Trusting())
    wrong = await found(subject(finder.RangeFinder, contract), "examples", "checksum")
    assert "row" in wrong["checksum"]
    assert "examples" not in wrong


async def test_a_wrong_scale_is_found_by_the_examples(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(_: Any, frame: Mapping[str, int]) -> Sequence[Observed]:
        return [Observed("range", {"distance": frame["distance_mm"] / 100})]

    monkeypatch.setattr(finder.RangeFinder, "rows", rows)
    wrong = await found(subject(finder.RangeFinder, contract), "examples", "silence")
    assert "a row of no good frame" in wrong["examples"]
    assert wrong["silence"] == "not tried, for the examples fail"


async def test_an_error_that_is_no_device_error_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def observe(_: Any) -> AsyncIterator[Observed]:
        raise KeyError("oops")
        yield

    monkeypatch.setattr(finder.RangeFinder, "observe", observe)
    wrong = await found(subject(finder.RangeFinder, contract), "silence")
    assert wrong["silence"] == "KeyError instead of a DeviceError: 'oops'"


async def test_a_time_of_this_machine_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(_: Any, frame: Mapping[str, int]) -> Sequence[Observed]:
        return [Observed("range", {"distance": frame["distance_mm"] / 1000}, sensed_at_ns=time.time_ns())]

    monkeypatch.setattr(finder.RangeFinder, "rows", rows)
    wrong = await found(subject(finder.RangeFinder, contract), "clock steps")
    assert "follows this machine's clock" in wrong["clock steps"]


async def test_a_line_that_stays_open_after_a_cancel_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Line] = []

    async def begin(_: Any, line: Line) -> None:
        kept.append(line)

    async def close(_: Any) -> None:
        """Forget the line."""

    monkeypatch.setattr(finder.RangeFinder, "begin", begin)
    monkeypatch.setattr(finder.RangeFinder, "close", close)
    wrong = await found(subject(finder.RangeFinder, contract), "cancel")
    assert "cannot be read" in wrong["cancel"]
    for line in kept:
        await line.close()


async def test_a_task_that_is_left_behind_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def begin(_: Any, __: Line) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(1000)))

    monkeypatch.setattr(finder.RangeFinder, "begin", begin)
    wrong = await found(subject(finder.RangeFinder, contract), "cancel")
    assert "leaves a task" in wrong["cancel"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_swallowed_cancel_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin(_: Any, __: Line) -> None:
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            return

    monkeypatch.setattr(finder.RangeFinder, "begin", begin)
    wrong = await found(subject(finder.RangeFinder, contract), "cancel")
    assert "swallowed" in wrong["cancel"]


async def test_a_line_that_a_cancelled_close_leaves_open_is_found(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finder.RangeFinder.close

    async def close(driver: Any) -> None:
        await asyncio.sleep(0)  # such as a farewell to the device
        await whole(driver)

    monkeypatch.setattr(finder.RangeFinder, "close", close)
    wrong = await found(subject(finder.RangeFinder, contract), "cancel")
    assert "close(), it leaves its line open" in wrong["cancel"]


async def test_a_port_that_takes_its_time_to_close_is_no_fault(
    finder: ModuleType, contract: Conformance, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SerialLine.close

    async def close(line: SerialLine) -> None:
        async def in_a_while() -> None:
            await asyncio.sleep(0.2)
            await whole(line)

        await asyncio.shield(asyncio.create_task(in_a_while()))

    monkeypatch.setattr(SerialLine, "close", close)
    assert await found(subject(finder.RangeFinder, contract), "cancel") == {}


# --- a device that answers --------------------------------------------------------------------------


class Asked(PolledDriver[FramedConfig]):
    """Asks ``?`` and takes three bytes: a digit, itself again as a check, and an end."""

    name = "asked"
    family = "environment"
    summary = "for this test"
    config_model = FramedConfig
    flushes = True
    waits = True

    def __init__(self, config: FramedConfig) -> None:
        super().__init__(config)
        self._line: Line | None = None
        self._rest = b""

    def streams(self) -> tuple[Stream, ...]:
        return ()

    async def connect(self, lines: Lines) -> None:
        self._rest = b""
        self._line = await lines.open(self.config.line)

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def read(self) -> Sequence[Observed]:
        assert self._line is not None
        if self.flushes:
            self._rest = b""
            await self._line.flush_input()
        await self._line.write(b"?")
        try:
            async with asyncio.timeout(self.config.timeout_s if self.waits else None):
                while True:
                    for start in range(len(self._rest) - 2):
                        digit, check, end = self._rest[start : start + 3]
                        if digit == check and end == ord(";") and chr(digit).isdigit():
                            self._rest = self._rest[start + 3 :]
                            return [Observed("range", {"distance": digit - ord("0")})]
                    self._rest = (self._rest + await self._line.read())[-256:]
        except TimeoutError as error:
            raise DeviceTimeout("asked", "no answer", timeout_s=self.config.timeout_s) from error


def answers(transport: str) -> Conformance:
    rows = [[{"measurement": "range", "values": {"distance": digit}}] for digit in (3, 7)]
    return Conformance.model_validate(
        {
            "transport": transport,
            "device": {"timeout_s": 0.05},
            "foreign": [{"text": "5x;"}],
            "example": [
                {
                    "source": "made up",
                    "exchange": [{"ask": {"text": "?"}, "reply": {"text": f"{digit}{digit};"}}],
                    "rows": row,
                }
                for digit, row in zip((3, 7), rows, strict=True)
            ],
        }
    )


@pytest.mark.parametrize("transport", ["pty", "tcp"])
async def test_a_polled_driver_passes(transport: str) -> None:
    assert await found(subject(Asked, answers(transport)), *CELLS) == {}


async def test_a_stale_answer_is_found() -> None:
    class Hasty(Asked):
        flushes = False

    wrong = await found(subject(Hasty, answers("tcp")), "examples", "duplicates")
    assert "told again or too late" in wrong["duplicates"] or "no good frame" in wrong["duplicates"]
    assert "examples" not in wrong


async def test_a_driver_that_waits_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(Asked):
        waits = False

    monkeypatch.setattr("trisense.drivers.kit.trial.Trial.patience_s", 0.3)
    wrong = await found(subject(Patient, answers("tcp")), "silence")
    assert wrong["silence"] == "a silent device is no DeviceError"


async def test_what_a_foreign_unit_says_is_not_to_be_taken() -> None:
    foreign = answers("tcp").model_copy(update={"foreign": (b"55;",)})
    wrong = await found(subject(Asked, foreign), "wrong unit")
    assert "'distance': 5" in wrong["wrong unit"]


# --- a device of its own ------------------------------------------------------------------------------

DUST = "424d001c00000008000800000008000800d20046002d001e00000000970002c5"


@asynccontextmanager
async def dust_sensor() -> AsyncIterator[str]:
    """A Plantower on a TCP port, quicker than the real one; its URL."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asyncio.current_task().set_name("kit: peer")  # type: ignore[union-attr]  # no task of the driver's
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while not writer.is_closing():
                    writer.write(bytes.fromhex(DUST))
                    await writer.drain()
                    await asyncio.sleep(0.03)
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_driver_is_tested_in_the_line_of_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"warm_up_s": 0, "timeout_s": 0.3}
    async with dust_sensor() as url:
        card = await judge(subject_at("plantower", url, options))
        assert [one for one in card.verdicts if one.verdict == "fail"] == []
        assert card.count("pass") == 10

        def rows(_: Any, frame: Mapping[str, Any]) -> Sequence[Observed]:
            return [Observed("air_quality", {"colour": 5.0})]

        monkeypatch.setattr("trisense.drivers.plantower.driver.Plantower.rows", rows)
        wrong = await found(subject_at("plantower", url, options), "noise between")
        assert "no field of the stream" in wrong["noise between"]


def test_what_is_no_line_of_bytes_cannot_be_stood_in() -> None:
    for url, told in (("http://camera/", "serial:///dev"), ("tcp://127.0.0.1:1", "option line")):
        result = invoke("test", "http-camera", "--url", url)
        assert result.exit_code == 2
        assert told in result.stderr
    assert invoke("test", "plantower", "ld2450", "--url", "tcp://127.0.0.1:1").exit_code == 2


# --- the contract and the commands ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"example": []}, "at least one"),
        ({"transport": "none"}, "a reason"),
        ({"example": [{"source": "x", "rows": []}]}, "one of both"),
        ({"example": [{"source": "x", "rows": [], "frames": ["4"]}]}, "hex digits"),
        ({"starts_with": "4?"}, r"\?\? for any byte"),
        ({"not_applicable": {"checksum": " "}}, "a reason for checksum"),
        ({"not_applicable": {"everything": "no"}}, "not_applicable"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_contract_says_what_is_wrong(change: dict[str, Any], match: str) -> None:
    good = {"example": [{"source": "x", "frames": ["42"], "rows": []}]}
    Conformance.model_validate(good)
    with pytest.raises(ValueError, match=match):
        Conformance.model_validate({**good, **change})


def test_a_driver_without_examples_cannot_be_tested() -> None:
    with pytest.raises(ConfigError, match="one of"):
        subject_of("nobody")
    result = invoke("test", "nobody")
    assert result.exit_code == 2
    assert "nobody" in result.stderr


def test_the_score_card_as_json_has_a_verdict_for_each_test() -> None:
    result = invoke("test", "ndvi-scenes", "plantower", "--json")
    assert result.exit_code == 0
    scenes, dust = json.loads(result.stdout)
    assert [cell["cell"] for cell in dust["cells"]] == list(CELLS)
    assert dust["passed"]
    assert {cell["verdict"] for cell in scenes["cells"]} == {"n/a"}


def test_a_new_profile_passes_and_names_every_key(tmp_path: Path) -> None:
    assert invoke("new", "--modbus", "my-sensor", "--in", str(tmp_path)).exit_code == 0
    file = tmp_path / "my-sensor.toml"
    assert load_profile(file).device.name == "my-sensor"
    text = file.read_text()
    for model in (DeviceTable, ReadTable, FieldTable, ExampleTable):
        assert [key for key in model.model_fields if f"{key} = " not in text] == []
    result = invoke("test", str(file))
    assert result.exit_code == 0, result.output
    file.write_text(text.replace("barometric_pressure = 1013.25", "barometric_pressure = 1013.26"))
    result = invoke("test", str(file))
    assert result.exit_code == 1
    assert "1013.26" in result.output


@pytest.mark.parametrize("arguments", [["new", "Bad_Name"], ["new", "plantower"], ["new", "twice"]])
def test_new_overwrites_nothing_and_takes_no_bad_name(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice").mkdir()
    assert invoke(*arguments).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["twice"]
