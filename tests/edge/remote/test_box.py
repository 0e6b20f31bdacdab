"""A real box, a real broker, simulated devices: commands, and configurations tried and taken back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from trisense.core import mqtt, topics
from trisense.core.model import BatchClass
from trisense.core.remote import Desired, Reported, content_hash, reported_of
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Spool
from trisense.sims.base import Faults, Truth, World, listening
from trisense.sims.modbus import ModbusLine

if TYPE_CHECKING:
    from tests.edge.conftest import Broker

pytestmark = pytest.mark.peer

BOX = "kx-001"
INTERVAL_S = 0.1
KILLED = """
import os, signal, sys
from trisense.edge import runtime
from trisense.edge.remote import changes, keeper

def then_die(owner, name, before):
    whole = getattr(owner, name)
    def done_or_not(*arguments):
        if not before:
            whole(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    async def awaited(*arguments):
        await whole(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, awaited if name == "apply" else done_or_not)

point = sys.argv.pop(1)
if point == "after trial written":
    then_die(keeper.Keeper, "put_on_trial", False)
elif point == "after applied":
    then_die(runtime.Box, "apply", False)
elif point == "before confirmed":
    then_die(keeper.Keeper, "confirm", True)
from trisense.core.cli import main
main()
"""


class Field:
    """A box in the field: its process, its devices, and an ear at its broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.file = folder / "box.toml"
        self.children: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        self.reports: list[Reported] = []
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.news = asyncio.Event()
        self.client: aiomqtt.Client

    def device(self, name: str, port: int) -> str:
        return (
            f'[[device]]\nname = "{name}"\ndriver = "modbus:ecowitt-ws90"\nline = "tcp://127.0.0.1:{port}"\n'
            f'framing = "tcp"\ninterval_s = {INTERVAL_S}\ntimeout_s = 1\n'
        )

    def config(
        self, *devices: str, port: int | None = None, host: str = "127.0.0.1", remote: str = ""
    ) -> str:
        head = f'[box]\nid = "{BOX}"\nsite = "kx"\n[clock]\nhold_s = 0\n[mqtt]\nhost = "{host}"\n'
        return f"{head}port = {port or self.port}\n[remote]\nhealth_s = 1\n{remote}\n" + "".join(devices)

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        with (self.folder / "box.log").open("ab") as log:
            command = [sys.executable, *(before or ("-m", "trisense.core")), "edge", "run", str(self.file)]
            process = subprocess.Popen(command, stderr=log)
        self.children.append(process)
        return process

    async def desire(self, content: str, **more: Any) -> Desired:
        desired = Desired(hash=content_hash(content), content=content, **more)
        retain = not desired.dry_run
        await self.client.publish(topics.desired(BOX), desired.model_dump_json(), 1, retain=retain)
        return desired

    async def report(self, state: str, desired: Desired | None = None) -> Reported:
        """The next report of a state, about ``desired`` when it is given."""
        async with asyncio.timeout(20):
            while True:
                while self.reports:
                    report = self.reports.pop(0)
                    if report.state == state and (desired is None or report.desired == desired.hash):
                        return report
                self.news.clear()
                await self.news.wait()

    async def any_report(self) -> Reported:
        async with asyncio.timeout(20):
            while not self.reports:
                self.news.clear()
                await self.news.wait()
        return self.reports.pop(0)

    async def do(self, identity: str, payload: bytes) -> dict[str, Any]:
        before = len(self.replies.get(identity, []))
        await self.client.publish(topics.command(BOX, identity), payload, 1)
        async with asyncio.timeout(20):
            while len(self.replies.get(identity, [])) <= before:
                self.news.clear()
                await self.news.wait()
        return self.replies[identity][-1]

    async def listen(self) -> None:
        async for message in self.client.messages:
            payload = message.payload
            assert isinstance(payload, bytes)
            if message.topic.value == topics.reported(BOX):
                self.reports.append(reported_of(payload))
            else:
                identity = message.topic.value.split("/")[-2]
                self.replies.setdefault(identity, []).append(json.loads(payload))
            self.news.set()

    def command(self, verb: str, **arguments: object) -> bytes:
        body = {"v": 1, "verb": verb, "deadline": "2100-01-01T00:00:00Z", "arguments": arguments}
        return json.dumps(body).encode()

    async def status(self) -> dict[str, Any]:
        """What ``edge status`` says."""
        command = [sys.executable, "-m", "trisense.core", "edge", "status", str(self.file), "--json"]
        asked = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await asked.communicate()
        told: dict[str, Any] = json.loads(said)
        return told

    async def ended(self, process: subprocess.Popen[bytes]) -> int:
        return await asyncio.to_thread(process.wait, 20)

    def times_ns(self, device: str) -> list[int]:
        """Times of a device's samples in the spool of a box that has ended."""
        with Spool(self.folder / "spool.db", SystemClock()) as spool:
            batches = [
                b for of in BatchClass for _, b in spool.load([h.id for h in spool.heads(of, limit=9999)])
            ]
        return sorted(s.time_ns for b in batches for s in b.samples if s.stream.device == device)


@contextlib.asynccontextmanager
async def station() -> AsyncIterator[int]:
    """A simulated weather station on TCP; gives its port."""
    line = ModbusLine(
        world=World(seed=1),
        truth=Truth(),
        faults=Faults(),
        seed=1,
        name="street",
        units="144=ecowitt-ws90",
        latency_ms=0.0,
        jitter_ms=0.0,
        baud=115_200,
    )
    async with listening(line) as port:
        yield port


@pytest.fixture
async def field(tmp_path: Path, broker: Broker) -> AsyncIterator[Field]:
    made = Field(tmp_path, broker.port)
    async with contextlib.AsyncExitStack() as stack:
        made.ports = [await stack.enter_async_context(station()) for _ in range(2)]
        made.client = await stack.enter_async_context(mqtt.Client("127.0.0.1", broker.port))
        await made.client.subscribe([(topics.reported(BOX), 1), (topics.reply(BOX, "+"), 1)])
        listening_ = asyncio.create_task(made.listen())
        made.file.write_text(made.config(made.device("mast", made.ports[0])))
        yield made
        listening_.cancel()
        await asyncio.gather(listening_, return_exceptions=True)
        for child in made.children:
            if child.poll() is None:
                child.kill()
            child.wait()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody else takes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_commands_reach_a_box_and_odd_ones_are_answered_in_words(field: Field) -> None:
    box = field.start()
    await field.report("running")

    read = await field.do("read-1", field.command("read", device="mast"))
    assert read["result"]["samples"][0]["values"]["air_temperature"] is not None
    assert await field.do("read-1", field.command("restart", device="mast")) == read  # the id was answered
    assert (await field.do("b", field.command("restart", device="mast")))["ok"]
    assert (await field.do("c", field.command("log-level", level="debug")))["result"]["then"] == "info"
    assert (await field.do("d", field.command("replay")))["result"][
        "batches"
    ] == 0  # no gateway receipts here
    shown = (await field.do("e", field.command("show-config")))["result"]
    assert shown["content"] == field.file.read_text()

    told = (await field.do("status", field.command("status")))["result"]
    assert [(device["name"], device["state"]) for device in told["devices"]] == [("mast", "good")]

    wrong = {
        "f": (field.command("snapshot", device="mast"), "cannot"),
        "g": (field.command("read", device="roof"), "no_such_device"),
        "h": (field.command("exec", code="1"), "unknown_verb"),
        "i": (field.command("read", device="mast", code="1"), "invalid"),
        "j": (b"\x00\xffgarbage", "invalid"),
        "k": (b"x" * 200_000, "invalid"),
    }
    for identity, (payload, reason) in wrong.items():
        assert (await field.do(identity, payload))["error"]["reason"] == reason

    field.file.write_text(field.config(field.device("roof", field.ports[1])))
    assert (await field.do("l", field.command("reload")))["result"] == {"changed": True}
    assert (await field.report("running")).running == content_hash(field.file.read_text())
    assert (await field.do("m", field.command("read", device="roof")))["ok"]

    field.file.write_text(field.config(field.device("mast", field.ports[0])))
    box.send_signal(signal.SIGHUP)
    assert (await field.report("running")).running == content_hash(field.file.read_text())


async def test_a_configuration_is_kept_when_the_box_is_healthy_with_it_and_taken_back_when_not(
    field: Field, dead_port: int
) -> None:
    box = field.start()
    local = (await field.report("running")).running
    mast, roof = (field.device(name, port) for name, port in zip(("mast", "roof"), field.ports, strict=True))
    both = field.config(mast, roof)

    checked = await field.report("checked", await field.desire(both, dry_run=True))
    assert checked.running == local
    assert checked.difference is not None
    assert checked.difference.devices_added == ["roof"]

    good = await field.desire(both)
    await field.report("trial", good)
    assert (await field.report("running", good)).running == good.hash
    assert (await field.do("a", field.command("read", device="roof")))["ok"]

    mistaken = await field.desire(field.config(mast.replace("timeout_s = 1", "timeout_s = -1"), roof))
    rejected = await field.report("rejected", mistaken)
    assert [mistake.where for mistake in rejected.mistakes] == ["device[0].timeout_s"]

    failing = await field.desire(field.config(mast, field.device("roof", dead_port)))
    await field.report("trial", failing)
    back = await field.report("rolled_back", failing)
    assert back.running == good.hash
    assert "roof: tcp://127.0.0.1" in back.reason
    await field.desire(failing.content)  # it is not tried again
    assert (await field.report("rolled_back", failing)).reason == back.reason
    assert (await field.do("b", field.command("read", device="roof")))["ok"]

    lost = await field.desire(field.config(mast, roof, port=dead_port))
    back = await field.report("rolled_back", lost)  # told at the broker that it came back to
    assert "the broker has not acknowledged" in back.reason
    assert (await field.do("c", field.command("show-config")))["result"]["hash"] == good.hash

    box.send_signal(signal.SIGTERM)
    assert await field.ended(box) == 0
    times_ns = field.times_ns("mast")
    gaps_s = [(b - a) / 1e9 for a, b in itertools.pairwise(times_ns)]
    assert max(gaps_s) < 1.0, "the neighbour of what changed has a gap"


@pytest.mark.parametrize("point", ["after trial written", "after applied", "before confirmed"])
async def test_a_box_that_is_cut_off_in_the_middle_ends_on_the_last_good_one_and_says_so(
    field: Field, point: str
) -> None:
    mast, roof = (field.device(name, port) for name, port in zip(("mast", "roof"), field.ports, strict=True))
    dying = field.start("-c", KILLED, point)
    local = (await field.report("running")).running
    desired = await field.desire(field.config(mast, roof))
    assert await field.ended(dying) == -signal.SIGKILL

    field.start()
    back = await field.report("rolled_back", desired)
    assert back.running == local
    assert "stopped before" in back.reason
    assert (await field.do("a", field.command("read", device="roof")))["error"]["reason"] == "no_such_device"
    assert (await field.do("b", field.command("read", device="mast")))["ok"]


async def test_over_a_network_without_tls_nothing_is_done_unless_the_deployer_wants_it(field: Field) -> None:
    mast, roof = (field.device(name, port) for name, port in zip(("mast", "roof"), field.ports, strict=True))
    somewhere = partial(field.config, host="127.1")  # reaches the broker, and does not say that it is here
    wanted = partial(somewhere, remote="over_plain = true")
    field.file.write_text(somewhere(mast))
    box = field.start()
    local = (await field.report("running")).running
    for identity, verb in (("a", "reload"), ("b", "show-config")):
        refused = (await field.do(identity, field.command(verb)))["error"]
        assert refused["reason"] == "not_allowed"
        assert "got a plain connection to 127.1:" in refused["detail"]
    both = await field.desire(somewhere(mast, roof))
    rejected = await field.report("rejected", both)
    assert (rejected.running, "over_plain = true" in rejected.reason) == (local, True)

    told = await field.status()
    assert "got a plain connection" in told["box"]["closed"]
    box.terminate()
    assert await field.ended(box) == 0
    assert (field.folder / "box.log").read_text().count('"remote_refused"') == 1

    field.file.write_text(wanted(mast))
    field.start()
    await field.report("running")
    assert (await field.do("c", field.command("read", device="mast")))["ok"]
    good = await field.desire(wanted(mast, roof))
    assert (await field.report("running", good)).running == good.hash


ANOTHER_BOOT = """
import sys
from pathlib import Path
from trisense.edge.clocks import clock
clock.BOOT_ID = Path(sys.argv.pop(1))
from trisense.core.cli import main
main()
"""


async def test_a_box_that_dies_of_what_it_accepted_goes_back_by_itself_and_says_so(field: Field) -> None:
    mast, roof = (field.device(name, port) for name, port in zip(("mast", "roof"), field.ports, strict=True))
    boot = field.folder / "boot_id"
    boot.write_text("first")
    box = field.start("-c", ANOTHER_BOOT, str(boot))
    local = (await field.report("running")).running
    desired = await field.desire(field.config(mast, roof))
    await field.report("running", desired)

    async def reported_after(end: signal.Signals) -> Reported:
        nonlocal box
        box.send_signal(end)
        assert await field.ended(box) == (0 if end is signal.SIGTERM else -end)
        field.reports.clear()
        box = field.start("-c", ANOTHER_BOOT, str(boot))
        return await field.any_report()

    boot.write_text("second")  # as after a power cut, which counts as little as a stop
    for end in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        assert (await reported_after(end)).running == desired.hash
    back = await reported_after(signal.SIGKILL)
    assert (back.running, back.state, back.desired) == (local, "rolled_back", desired.hash)
    assert "the box died of it 3 times" in back.reason
    assert (await field.do("a", field.command("read", device="roof")))["error"]["reason"] == "no_such_device"
    assert any(
        "the box died of it 3 times" in problem["text"] for problem in (await field.status())["problems"]
    )
    assert '"configuration_rolled_back"' in (field.folder / "box.log").read_text()
