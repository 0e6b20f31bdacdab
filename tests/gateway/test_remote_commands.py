"""``trisense gateway command``, ``config`` and ``replay``: a real broker, and a box that answers as told."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from paho.mqtt import publish, subscribe
from trisense.core import mqtt, topics
from trisense.core.errors import ConfigError, LinkError
from trisense.core.messages import State
from trisense.core.remote import (
    CONTENT_BYTES,
    Command,
    Desired,
    Difference,
    Failure,
    MistakeJson,
    Replay,
    Reply,
    Reported,
    check_content,
    command_of,
    content_hash,
    desired_of,
)
from trisense.gateway import commands, remote
from typer.testing import CliRunner

from tests.servers import free_port

if TYPE_CHECKING:
    from .conftest import Broker

pytestmark = pytest.mark.peer
BOX = "kx-001"
CONTENT = '[box]\nid = "kx-001"\nsite = "kx"\n'


class Answering:
    """A box in a thread: answers each command and each desired configuration as told."""

    def __init__(self, port: int, *, online: bool) -> None:
        self.port = port
        self.online = online
        self.commands: list[Command] = []
        self.desired: list[Desired] = []
        self.reply = Reply(ok=True, result={"batches": 7, "horizon": "2026-11-22T00:00:00+00:00"})
        self.reports: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None]
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _run(self) -> None:
        self._task = asyncio.create_task(self._serve())
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        async with mqtt.Client("127.0.0.1", self.port) as client:
            if self.online:
                await client.subscribe([(topics.command(BOX, "+"), 1), (topics.desired(BOX), 1)])
            state = State(online=self.online, boot_id="b", since="2026-11-23T08:00:00+00:00")
            await client.publish(topics.state(BOX), state.model_dump_json(), 1, retain=True)
            self._ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                if message.topic.value == topics.desired(BOX):
                    await self._report(client, desired_of(message.payload))
                else:
                    self.commands.append(command_of(message.payload))
                    identity = message.topic.value.split("/")[-1]
                    await client.publish(topics.reply(BOX, identity), self.reply.model_dump_json(), 1)

    async def _report(self, client: aiomqtt.Client, desired: Desired) -> None:
        check_content(desired)
        self.desired.append(desired)
        for report in self.reports:
            body: dict[str, Any] = {
                "desired": desired.hash,
                "attempt": desired.attempt,
                "source": "remote",
                "since": "now",
            }
            reported = Reported(running=desired.hash, **(body | report))
            await client.publish(
                topics.reported(BOX), reported.model_dump_json(), 1, retain=not desired.dry_run
            )


Make = Callable[..., Answering]


@pytest.fixture
def make_box(broker: Broker) -> Iterator[Make]:
    made = []

    def make(*, online: bool = True) -> Answering:
        made.append(Answering(broker.port, online=online))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def box(make_box: Make) -> Answering:
    return make_box()


def keep(broker: Broker, topic: str, payload: str) -> None:
    """Have the broker keep a message."""
    publish.single(topic, payload, 1, retain=True, hostname="127.0.0.1", port=broker.port)


def kept(broker: Broker, topic: str) -> bytes | None:
    """What the broker keeps."""
    keep(broker, "end", "end")
    ask: Callable[..., Any] = subscribe.simple
    message = ask([topic, "end"], hostname="127.0.0.1", port=broker.port)
    payload: bytes = message.payload
    return None if message.topic == "end" else payload


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, broker: Broker) -> Run:
    """Runs ``trisense gateway VERB CONFIG BOX ...``."""
    config = tmp_path / "gateway.toml"
    config.write_text(f'[mqtt]\nport = {broker.port}\n[store]\nkind = "duckdb"\n')
    return lambda verb, *more: CliRunner().invoke(commands.app, [verb, str(config), BOX, *more])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new.toml"
    path.write_text(CONTENT)
    return path


# --- command ---


@pytest.mark.parametrize("given", [("debug", "2.5"), ("minutes=2.5", "level=debug")])
def test_a_command_carries_its_arguments_and_its_reply_is_shown(
    box: Answering, run: Run, given: tuple[str, ...]
) -> None:
    result = run("command", "log-level", *given)
    assert (result.exit_code, json.loads(result.stdout)["batches"]) == (0, 7)
    (command,) = box.commands
    assert command.verb == "log-level"
    assert command.arguments.model_dump() == {"level": "debug", "minutes": 2.5}


def test_a_command_that_was_not_done_says_why_and_ends_with_1(box: Answering, run: Run) -> None:
    box.reply = Reply(ok=False, error=Failure(reason="not_allowed", detail="this box allows none"))
    result = run("command", "reload")
    assert (result.exit_code, result.stderr) == (
        1,
        "not done: not_allowed: this box allows none\n",
    )
    assert json.loads(run("command", "reload", "--json").stdout)["error"]["reason"] == "not_allowed"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("fly",), "VERB: expected one of read, snapshot"),
        (("read",), "arguments.device: expected a value, got nothing"),
        (("read", "dust", "more"), "read: expected device, got 'more' too"),
        (("reload", "now"), "reload: expected no argument, got 'now' too"),
        (("log-level", "loud"), "arguments.level: expected 'debug'"),
        (("log-level", "debug", "soon"), "arguments.minutes: expected a valid number"),
        (("replay", "yesterday"), "arguments.since"),
    ],
)
def test_what_cannot_be_a_command_is_told_before_anything_is_sent(
    run: Run, given: tuple[str, ...], said: str
) -> None:
    result = run("command", *given)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_box_that_is_offline_is_said_to_be_at_once(make_box: Make, run: Run) -> None:
    make_box(online=False)
    result = run("command", "reload")
    assert isinstance(result.exception, LinkError)
    assert str(result.exception) == "kx-001 is offline since 2026-11-23T08:00:00+00:00 or later"


def test_a_box_that_nobody_knows_is_said_to_be_unknown_and_those_with_such_names_are_told(
    run: Run, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "KNOWN_S", 0.2)
    monkeypatch.setattr(remote, "NEAREST_S", 0.2)
    keep(broker, topics.state("kx-010"), State(online=True, boot_id="b", since="then").model_dump_json())
    result = run("command", "reload")
    assert str(result.exception) == "this broker has never heard of kx-001, it knows kx-010"


def test_a_box_that_does_not_answer_is_said_to_be_online(run: Run, broker: Broker) -> None:
    keep(broker, topics.state(BOX), State(online=True, boot_id="b", since="then").model_dump_json())
    result = run("command", "reload", "--timeout", "0.2")
    assert str(result.exception) == "no answer from kx-001 within 0.2 s; it is online"


def test_without_a_broker_nothing_can_be_said(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'[mqtt]\nport = {free_port()}\n[store]\nkind = "duckdb"\n')
    result = CliRunner().invoke(commands.app, ["command", str(config), BOX, "reload"])
    assert isinstance(result.exception, LinkError)


def test_a_box_id_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    result = CliRunner().invoke(commands.app, ["command", str(tmp_path / "gateway.toml"), "+", "reload"])
    assert (result.exit_code, "BOX: expected an id" in result.stderr) == (2, True)


# --- replay ---


def test_replay_says_what_goes_again_and_from_when_it_is_kept(box: Answering, run: Run) -> None:
    result = run("replay", "--since", "2026-11-22T08:00")
    assert (result.exit_code, result.stdout) == (
        0,
        "kx-001: 7 batches go again; what was receipted it keeps from 2026-11-22T00:00:00+00:00\n",
    )
    (command,) = box.commands
    assert isinstance(command, Replay)
    assert command.arguments.since == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert command.arguments.until is None
    assert run("replay", "--since", "yesterday").exit_code == 2


# --- config ---


def test_a_configuration_is_followed_until_it_runs(box: Answering, run: Run, file: Path) -> None:
    change = Difference(summary=["3 fields vanish", "bus load +12% on serial:///dev/a (31% to 43%)"])
    box.reports = [
        {"state": "checking", "difference": change},
        {"state": "trial"},
        {"state": "running"},
    ]
    result = run("config", str(file), "--health", "30")
    assert (result.exit_code, result.stdout) == (0, "kx-001: running\n")
    assert result.stderr.splitlines() == [
        "kx-001: checking",
        "  3 fields vanish",
        "  bus load +12% on serial:///dev/a (31% to 43%)",
        "kx-001: trial",
    ]
    (desired,) = box.desired
    assert (desired.content, desired.health_s, desired.dry_run, desired.attempt) == (CONTENT, 30, False, 0)


@pytest.mark.parametrize("state", ["rejected", "rolled_back", "superseded"])
def test_a_configuration_that_does_not_run_says_why_and_ends_with_1(
    box: Answering, run: Run, file: Path, state: str
) -> None:
    mistake = MistakeJson(where="device[0].line", expected="a line", got="nothing")
    box.reports = [{"state": state, "reason": "because", "mistakes": [mistake]}]
    result = run("config", str(file))
    assert (result.exit_code, result.stdout.splitlines()) == (
        1,
        [
            f"kx-001: {state.replace('_', ' ')}: because",
            "  device[0].line: expected a line, got nothing",
        ],
    )
    assert json.loads(run("config", str(file), "--json").stdout)["state"] == state


def test_a_dry_run_is_not_kept_by_the_broker_and_shows_the_difference(
    box: Answering, run: Run, file: Path
) -> None:
    box.reports = [{"state": "checked", "difference": Difference()}]
    result = run("config", str(file), "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "kx-001: checked\n  nothing changes\n")
    assert [desired.dry_run for desired in box.desired] == [True]
    assert run("config", str(file), "--no-wait").exit_code == 0
    box.reports = [{"state": "running"}]
    assert run("config", str(file), "--again").exit_code == 0
    assert box.desired[-1].attempt > 1_700_000_000


def test_what_was_retained_is_no_answer(make_box: Make, run: Run, file: Path) -> None:
    box = make_box()
    box.reports = [{"state": "running"}]
    assert run("config", str(file)).exit_code == 0
    box.stop()
    result = run("config", str(file), "--timeout", "0.3")
    assert str(result.exception) == (
        "kx-001 has not settled within 0.3 s: it was sent, the box has not answered yet,"
        " the same command again says where it stands"
    )


def test_a_box_that_may_have_gone_to_another_broker_is_said_to(box: Answering, run: Run, file: Path) -> None:
    box.reports = [{"state": "checking", "difference": Difference(settings=["mqtt.host"])}]
    said = str(run("config", str(file), "--timeout", "0.3").exception)
    assert said.endswith("its [mqtt] changes: if it does not come back, it is at another broker")


def test_a_dry_run_needs_the_box(make_box: Make, run: Run, file: Path) -> None:
    make_box(online=False)
    assert "and a dry run needs it: nothing was sent" in str(run("config", str(file), "--dry-run").exception)


@pytest.mark.parametrize("options", [(), ("--no-wait",), ("--dry-run",)])
def test_for_a_box_that_nobody_knows_nothing_is_left_and_those_with_such_names_are_told(
    run: Run, file: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(remote, "KNOWN_S", 0.2)
    monkeypatch.setattr(remote, "NEAREST_S", 0.2)
    known = State(online=True, boot_id="b", since="then").model_dump_json()
    for name in ("kx-010", "roof"):
        keep(broker, topics.state(name), known)
    said = str(run("config", str(file), *options).exception)
    assert "this broker has never heard of kx-001, it knows kx-010, roof" in said
    assert kept(broker, topics.desired(BOX)) is None


def test_a_box_that_is_away_is_said_to_be_and_what_waits_for_it_can_be_taken_back(
    make_box: Make, run: Run, file: Path, broker: Broker
) -> None:
    make_box(online=False)
    result = run("config", str(file), "--timeout", "0.3")
    assert result.stderr.startswith(
        "kx-001: offline since 2026-11-23T08:00:00+00:00 or later; the broker keeps this"
    )
    assert "--withdraw takes it back" in str(result.exception)
    assert desired_of(kept(broker, topics.desired(BOX)) or b"").content == CONTENT
    assert run("config", "--withdraw").exit_code == 0
    assert kept(broker, topics.desired(BOX)) is None


def test_while_the_box_tries_another_one_nothing_is_sent(box: Answering, run: Run, tmp_path: Path) -> None:
    others = tmp_path / "others.toml"
    others.write_text(CONTENT + "# of another operator\n")
    box.reports = [{"state": "trial"}]
    run("config", str(others), "--timeout", "0.3")
    mine = tmp_path / "mine.toml"
    mine.write_text(CONTENT)
    said = str(run("config", str(mine)).exception)
    assert f"kx-001 is trying another one, {content_hash(others.read_text())[:16]}, since now" in said
    assert said.endswith("nothing was sent")
    box.reports = [{"state": "running"}]
    assert run("config", str(others)).exit_code == 0  # the same again is followed
    assert run("config", str(mine)).exit_code == 0


def test_who_stops_waiting_is_told_that_the_box_goes_on(box: Answering, tmp_path: Path, file: Path) -> None:
    box.reports = [{"state": "trial"}]
    config = tmp_path / "gateway.toml"
    config.write_text(f'[mqtt]\nport = {box.port}\n[store]\nkind = "duckdb"\n')
    command = [sys.executable, "-m", "trisense.core", "gateway", "config", str(config), BOX, str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "kx-001: trial\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.stderr.read() == (
            "kx-001: its last word is 'trial', it goes on by itself, the same command again says where it"
            " stands\n"
        )
    assert waiting.returncode == 130


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dry-run",), "FILE: expected a TOML file for the box with these options, got none"),
        (("--health", "30"), "FILE: expected a TOML file"),
        (("FILE", "--health", "600"), "--timeout: expected more than --health, 600, got 300"),
    ],
)
def test_options_that_make_no_sense_are_told(
    run: Run, file: Path, options: tuple[str, ...], said: str
) -> None:
    result = run("config", *(str(file) if option == "FILE" else option for option in options))
    assert (result.exit_code, said in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "line", ['password = "hunter2"', 'url = "http://admin:hunter2@10.0.0.9/picture"', 'api_token = "hunter2"']
)
def test_a_file_with_a_secret_in_it_never_leaves_the_machine(
    box: Answering, run: Run, file: Path, line: str
) -> None:
    file.write_text(f"{CONTENT}[mqtt]\n{line}\n")
    error = run("config", str(file)).exception
    assert isinstance(error, ConfigError)
    assert "hunter2" not in str(error)
    assert box.desired == []


def test_a_terminal_obeys_nothing_that_a_box_says(box: Answering, run: Run, file: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e\nkx-001: running"
    box.reports = [{"state": "rejected", "reason": evil}]
    told = [run("config", str(file)).stdout]
    assert told[0].count("\n") == 1
    box.reply = Reply(ok=True, result={"a": evil})
    told.append(run("command", "status").stdout)
    box.reply = Reply(ok=False, error=Failure(reason="failed", detail=evil))
    told.append(run("command", "status").stderr)
    assert not any(sign in text for text in told for sign in "\x1b\x07\x9b\u202e")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[box]\nid = "kx-002"\n', "box.id: expected 'kx-001', got 'kx-002'"),
        ("a = 1\n", "box.id: expected 'kx-001', got None"),
        (CONTENT + "#" * CONTENT_BYTES, f"expected at most {CONTENT_BYTES} bytes"),
    ],
)
def test_a_file_that_is_not_for_this_box_is_not_sent(
    box: Answering, run: Run, file: Path, content: str, said: str
) -> None:
    file.write_text(content)
    result = run("config", str(file))
    assert result.exit_code == 2
    assert said in result.stderr
    assert box.desired == []


def test_without_a_file_it_shows_what_the_box_runs(box: Answering, run: Run) -> None:
    box.reply = Reply(ok=True, result={"content": CONTENT, "hash": "0" * 64})
    assert run("config").stdout == CONTENT
    box.reply = Reply(ok=False, error=Failure(reason="not_allowed", detail="no"))
    assert run("config").exit_code == 1
