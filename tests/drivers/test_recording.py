"""Recordings: what went over a line both ways, played back to the driver that asked."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import LineError
from trisense.drivers import Lines
from trisense.drivers.commands import app
from trisense.drivers.lines import check_url
from trisense.drivers.modbus import Config, Modbus
from trisense.drivers.plantower import Plantower, PlantowerConfig
from trisense.drivers.recording import Recorder, RecordingLines, parse
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.modbus import ModbusLine
from trisense.sims.plantower import Plantower as PlantowerSensor
from typer.testing import CliRunner

HEADER = '{"recording": 1, "line": "tcp://h:1", "driver": "x", "started_at": "2026-01-01T00:00:00Z"}'
PMS = "424d001c00000008000800000008000800d20046002d001e00000000970002c5"


def written(path: Path, *entries: tuple[float, str, bytes]) -> str:
    """A recording at ``path``; gives its URL."""
    lines = [json.dumps({"t_ms": t_ms, "dir": way, "hex": data.hex()}) for t_ms, way, data in entries]
    path.write_text("\n".join([HEADER, *lines, ""]))
    return f"replay://{path}"


def base(seed: int = 1) -> dict[str, Any]:
    return {
        "world": World(seed),
        "truth": Truth(),
        "faults": Faults.parse(""),
        "seed": seed,
        "name": "device",
    }


async def test_a_polled_device_is_read_from_its_recording_as_it_was_read_itself(tmp_path: Path) -> None:
    async def three(line: str, lines: Lines) -> list[Any]:
        driver = Modbus(Config(name="w", driver="modbus:ecowitt-ws90", line=line, framing="tcp"))
        await driver.connect(lines)
        rows = [await driver.read() for _ in range(3)]
        await driver.close()
        return rows

    file = tmp_path / "street.jsonl"
    sim = ModbusLine(framing="tcp", **base())
    async with listening(sim) as port:
        with file.open("w") as out:
            url = f"tcp://127.0.0.1:{port}"
            rows = await three(url, RecordingLines(Recorder(out, line=url, driver="modbus:ecowitt-ws90")))
    assert rows[0][0].values["air_temperature"] is not None
    assert await three(f"replay://{file}?speed=1000", Lines()) == rows


async def test_a_streaming_device_is_read_from_its_recording_as_it_was_read_itself(tmp_path: Path) -> None:
    async def first(line: str, lines: Lines) -> Any:
        driver = Plantower(PlantowerConfig(name="dust", driver="plantower", line=line, warm_up_s=0))
        await driver.connect(lines)
        async with aclosing(driver.observe()) as rows:  # type: ignore[type-var]  # an async generator
            row = await anext(rows)
        await driver.close()
        return row

    file = tmp_path / "street.jsonl"
    async with plugged(PlantowerSensor(**base()), tmp_path / "tty") as link:
        with file.open("w") as out:
            url = f"serial://{link}"
            row = await first(url, RecordingLines(Recorder(out, line=url, driver="plantower")))
    assert {entry.dir for entry in parse(file.read_bytes())} == {"rx", "tx"}
    assert await first(f"replay://{file}?speed=100", Lines()) == row


async def test_an_answer_is_held_back_until_its_question_was_asked(tmp_path: Path) -> None:
    url = written(tmp_path / "r.jsonl", (0, "rx", b"hello"), (5, "tx", b"what"), (9, "rx", b"that"))
    line = await Lines().open(url)
    assert await line.read() == b"hello"
    answer = asyncio.create_task(line.read())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not answer.done()
    await line.write(b"wh")
    await line.write(b"at")
    assert await answer == b"that"
    with pytest.raises(LineError, match="recording is over"):
        await line.read()


async def test_another_question_than_the_recorded_one_gets_no_answer(tmp_path: Path) -> None:
    url = written(tmp_path / "r.jsonl", (5, "tx", b"\x01\x02"), (9, "rx", b"that"))
    line = await Lines().open(url)
    with pytest.raises(LineError, match="recording asks 01 02, not 01 03"):
        await line.write(b"\x01\x03")
    line = await Lines().open(url)
    await line.write(b"\x01\x02")
    with pytest.raises(LineError, match="no further question"):
        await line.write(b"\x01\x02")


async def test_what_the_device_has_said_can_be_flushed_and_what_it_will_say_cannot(tmp_path: Path) -> None:
    entries = ((0, "rx", b"old"), (0, "tx", b"?"), (0, "rx", b"new"))
    line = await Lines().open(written(tmp_path / "r.jsonl", *entries))
    await line.flush_input()
    await line.write(b"?")
    assert await line.read() == b"new"


async def test_a_speed_makes_hours_short(tmp_path: Path) -> None:
    hour_ms = 3_600_000
    url = written(tmp_path / "r.jsonl", *((hour * hour_ms, "rx", b"%d" % hour) for hour in range(5)))
    line = await Lines().open(f"{url}?speed=999999")
    assert [await line.read() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (HEADER + '\n{"t_ms": 1, "dir": "up", "hex": "00"}\n', "line 2"),
        (HEADER + '\n{"t_ms": 1, "dir": "rx", "hex": "0"}\n', "line 2"),
        ('{"recording": 7}\n', "another version"),
    ],
)
async def test_a_file_that_is_no_recording_says_where(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    with pytest.raises(LineError, match=match):
        await Lines().open(f"replay://{file}")


def test_a_line_that_a_power_cut_left_half_is_left_out() -> None:
    good = HEADER + '\n{"t_ms": 1, "dir": "rx", "hex": "00"}\n'
    assert len(parse((good + '{"t_ms": 2, "di').encode())) == 1


@pytest.mark.parametrize("query", ["speed=0", "speed=fast", "speed=", "pace=2", "speed=-1"])
def test_a_wrong_speed_is_a_mistake(query: str) -> None:
    with pytest.raises(ValueError, match="speed"):
        check_url(f"replay:///file?{query}")


async def test_plain_bytes_have_no_speed(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(b"abc")
    with pytest.raises(LineError, match="plain bytes have no times"):
        await Lines().open(f"replay://{tmp_path}/raw.bin?speed=2")


# --- the command ------------------------------------------------------------------------------------


def sensor(frames: bytes) -> tuple[threading.Thread, int]:
    """A device that sends frames to the one who connects, and hangs up; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(frames)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, int(listener.getsockname()[1])


@pytest.mark.parametrize("driver", [(), ("--driver", "plantower", "-o", "model=pmsx003", "-o", "wake=true")])
def test_record_writes_a_file_that_replays(tmp_path: Path, driver: tuple[str, ...]) -> None:
    thread, port = sensor(bytes.fromhex(PMS))
    out = tmp_path / "street.jsonl"
    result = CliRunner().invoke(app, ["record", f"tcp://127.0.0.1:{port}", "--out", str(out), *driver])
    thread.join()
    assert result.exit_code == 0, result.output
    assert "closed by the other side" in result.stderr
    assert "32 bytes received" in result.stderr
    entries = parse(out.read_bytes())
    assert b"".join(entry.data for entry in entries if entry.dir == "rx") == bytes.fromhex(PMS)
    assert any(entry.dir == "tx" for entry in entries) is bool(driver)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tcp://nowhere", "--out", "x.jsonl"], "with a port"),
        (["tcp://127.0.0.1:1", "--out", "x.jsonl", "--driver", "nobody"], "nobody"),
        (["tcp://127.0.0.1:1", "--out", "x.jsonl", "--driver", "plantower", "-o", "model=9"], "model"),
        (["tcp://127.0.0.1:1", "--out", "/no/such/folder/x.jsonl"], "No such file"),
    ],
)
def test_what_cannot_be_recorded_is_exit_code_2(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["record", *arguments])
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "x.jsonl").exists()
