"""Commands on the box: who may, in what order, how long, and one answer for each id."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from structlog.testing import capture_logs
from trisense.core import logs
from trisense.core.errors import DeviceTimeout, LinkError, RemoteError
from trisense.core.model import Sample
from trisense.core.remote import VERBS
from trisense.drivers import DeviceConfig, Field, FieldType, Layer, Lines, Observed, PolledDriver, Stream
from trisense.edge import config as config_module
from trisense.edge.config import Device, load
from trisense.edge.remote import commands as module
from trisense.edge.remote import verbs as verbs_module
from trisense.edge.remote.commands import ANSWERED_MAX, WAITING_MAX, Commands
from trisense.edge.remote.verbs import Verbs
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.supervisor import Supervisor
from trisense.edge.spool import Spool

from tests.edge.conftest import FakeClock

FILE = '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'


class Gauge(PolledDriver[DeviceConfig]):
    """Reads once an hour unless asked; each read waits until it may go on."""

    name = "gauge"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def __init__(self, config: DeviceConfig) -> None:
        super().__init__(config)
        self.reads = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.error: Exception | None = None

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "count", Layer.GROUND, (Field("count", "1", FieldType.INT),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def close(self) -> None:
        await self.may_close.wait()

    async def read(self) -> Sequence[Observed]:
        self.reads += 1
        count = self.reads
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return [Observed("count", {"count": count})]


class Eye(Gauge):
    """A camera."""

    name = "eye"
    pictures = 0

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "image", Layer.GROUND, (Field("id", "", FieldType.STR),)),)

    def picture_next(self) -> None:
        self.pictures += 1

    async def read(self) -> Sequence[Observed]:
        return [Observed("image", {"id": f"sha-{self.pictures}"})] if self.pictures else []


class FakeBox:
    """As much of a box as commands need: real supervisors, and a link that remembers what it was given."""

    def __init__(self, folder: Path, clock: FakeClock, remote: str = "") -> None:
        file = folder / "box.toml"
        devices = "".join(
            f'[[device]]\nname = "{name}"\ndriver = "{driver}"\ninterval_s = 3600\n'
            for name, driver in (("a", "gauge"), ("b", "gauge"), ("eye", "eye"))
        )
        file.write_text(f"{FILE}{remote}\n{devices}")
        self.config = load(file)
        self.clock = clock
        self.listeners: list[Callable[[Sample], None]] = []
        self.devices = DeviceSet(self._supervise)
        self.uplink = self
        self.door = self
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.news = asyncio.Event()
        self.connected = True
        self.replayed: list[tuple[int, int]] = []
        self.reloads = 0

    async def _supervise(self, device: Device, _: float) -> Supervisor:
        (stream,) = device.driver.streams()

        def take(rows: Sequence[Observed]) -> None:
            for row in rows:
                values = tuple(row.values[field.name] for field in stream.fields)
                for listener in self.listeners:
                    listener(Sample(stream, self.clock.now_ns(), values))

        return Supervisor(device.driver, Lines(), take, phase=0.5)

    def driver(self, name: str) -> Any:
        return self.devices.devices[name].driver

    # the spool
    async def run(self, work: Callable[[Any], Any]) -> int:
        assert work is Spool.horizon_ns
        return 1_780_000_000_000_000_000

    async def replay(self, since_ns: int, until_ns: int) -> int:
        self.replayed.append((since_ns, until_ns))
        return 7

    # the link
    def committed(self, heads: object) -> None:
        pass

    async def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        assert not retain
        if not self.connected:
            raise LinkError("not connected")
        identity = topic.removeprefix("tri/v1/kx-001/cmd/").removesuffix("/reply")
        self.replies.setdefault(identity, []).append(json.loads(payload))
        self.news.set()

    async def told(self) -> dict[str, Any]:
        return {"problems": []}

    # the configuration
    async def reload(self) -> bool:
        self.reloads += 1
        if self.reloads > 1:
            raise RemoteError("invalid", "mqtt.port: expected less, got more")
        return True

    async def reply(self, identity: str, number: int = 1) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while len(self.replies.get(identity, [])) < number:
                self.news.clear()
                await self.news.wait()
        return self.replies[identity][number - 1]


class Bench:
    def __init__(self, box: FakeBox) -> None:
        self.box = box
        verbs = Verbs(cast("Any", box), cast("Any", box))
        self.commands = Commands(cast("Any", box), box.clock, verbs)

    def body(self, verb: str, deadline_s: float = 60.0, **arguments: object) -> bytes:
        now = datetime.fromtimestamp(self.box.clock.now_ns() / 1e9, UTC)
        deadline = (now + timedelta(seconds=deadline_s)).isoformat()
        return json.dumps({"v": 1, "verb": verb, "deadline": deadline, "arguments": arguments}).encode()

    async def do(self, verb: str, **arguments: Any) -> dict[str, Any]:
        identity = f"c{len(self.box.replies)}"
        await self.commands.put(identity, self.body(verb, **arguments))
        return await self.box.reply(identity)

    async def why_not(self, verb: str, **arguments: Any) -> str:
        reply = await self.do(verb, **arguments)
        assert not reply["ok"]
        return f"{reply['error']['reason']}: {reply['error']['detail']}"


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(config_module, "driver_class", {"gauge": Gauge, "eye": Eye}.__getitem__)
    yield
    logs.set_level("info")


@contextlib.asynccontextmanager
async def running(box: FakeBox) -> AsyncIterator[Bench]:
    bench = Bench(box)
    async with asyncio.timeout(20):
        tasks = [
            asyncio.create_task(box.devices.run(box.config.devices)),
            asyncio.create_task(bench.commands.run()),
        ]
        while len(box.devices.devices) < 3:  # noqa: ASYNC110  # a set of devices tells nobody that it is complete
            await asyncio.sleep(0)
        yield bench
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    async with running(FakeBox(tmp_path, clock)) as made:
        yield made


# --- what each verb does ---


async def test_read_answers_with_the_samples_of_a_read_made_now(bench: Bench) -> None:
    reply = await bench.do("read", device="a")
    (sample,) = reply["result"]["samples"]
    assert (sample["measurement"], sample["values"]) == ("count", {"count": 1})
    assert bench.box.listeners == []


async def test_a_device_that_fails_is_the_answer(bench: Bench) -> None:
    bench.box.driver("a").error = DeviceTimeout("a", "no answer", timeout_s=1)
    assert await bench.why_not("read", device="a") == "failed: a: no answer (waited 1 s)"


async def test_an_unknown_device_is_told_the_known_ones(bench: Bench) -> None:
    for verb in ("read", "restart", "snapshot"):
        assert await bench.why_not(verb, device="x") == "no_such_device: expected one of a, b, eye, got x"


async def test_a_snapshot_is_a_new_picture_and_its_id_the_answer(bench: Bench) -> None:
    reply = await bench.do("snapshot", device="eye")
    assert reply["result"]["image"]["values"] == {"id": "sha-1"}
    assert "expected a camera, got a, a gauge" in await bench.why_not("snapshot", device="a")


async def test_a_restarted_device_is_connected_anew(bench: Bench) -> None:
    before = bench.box.devices.supervisors["a"]
    assert (await bench.do("restart", device="a"))["ok"]
    assert bench.box.devices.supervisors["a"] is not before


async def test_a_restart_that_takes_longer_than_its_deadline_is_finished_all_the_same(bench: Bench) -> None:
    driver = bench.box.driver("a")
    driver.may_close.clear()
    before = bench.box.devices.supervisors["a"]
    await bench.box.devices.supervisors["a"].ask()
    await bench.commands.put("slow", bench.body("restart", deadline_s=0.05, device="a"))
    assert (await bench.box.reply("slow"))["error"]["reason"] == "timeout"
    driver.may_close.set()
    while bench.box.devices.supervisors["a"] is before:  # noqa: ASYNC110  # nobody waits for it any more
        await asyncio.sleep(0)
    assert (await bench.do("read", device="a"))["ok"]


async def test_the_level_of_the_log_comes_back_by_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def later(wait_s: float, call: Callable[..., None], *arguments: Any, **options: Any) -> Any:
        if call.__module__ != verbs_module.__name__:
            return call_later(wait_s, call, *arguments, **options)
        timers.append((wait_s, call))
        return SimpleNamespace(cancel=timers.pop)

    monkeypatch.setattr(loop, "call_later", later)
    for minutes in (5, 10):
        reply = await bench.do("log-level", level="debug", minutes=minutes)
    assert reply["result"] == {"level": "debug", "minutes": 10, "then": "info"}
    assert logs.gate.level < 20
    ((wait_s, back),) = timers
    assert wait_s == 600
    back()
    assert logs.gate.level == 20


async def test_replay_says_how_many_batches_go_again_and_from_when_they_are_kept(bench: Bench) -> None:
    reply = await bench.do("replay", since="2026-01-01T00:00:00Z")
    assert reply["result"] == {"batches": 7, "horizon": "2026-05-28T20:26:40+00:00"}
    ((since_ns, until_ns),) = bench.box.replayed
    assert since_ns == 1_767_225_600_000_000_000
    assert until_ns > bench.box.clock.now_ns()


async def test_reload_says_whether_anything_changed_or_what_is_wrong(bench: Bench) -> None:
    assert (await bench.do("reload"))["result"] == {"changed": True}
    assert await bench.why_not("reload") == "invalid: mqtt.port: expected less, got more"


async def test_the_box_tells_how_it_is(bench: Bench) -> None:
    assert (await bench.do("status"))["result"] == {"problems": []}


async def test_the_configuration_that_runs_is_shown(bench: Bench) -> None:
    assert (await bench.do("show-config"))["result"]["content"] == bench.box.config.text


# --- what is refused ---


async def test_only_what_the_box_allows_is_done(tmp_path: Path, clock: FakeClock) -> None:
    async with running(FakeBox(tmp_path, clock, '[remote]\ncommands = ["read"]')) as bench:
        assert (await bench.do("read", device="a"))["ok"]
        for verb in set(VERBS) - {"read"}:
            arguments = {"device": "a"} if verb in ("snapshot", "restart") else {}
            arguments |= {"level": "debug"} if verb == "log-level" else {}
            assert await bench.why_not(verb, **arguments) == f"not_allowed: this box allows read; got {verb}"
        assert bench.box.reloads == 0


async def test_an_expired_command_is_refused(bench: Bench) -> None:
    await bench.commands.put("late", bench.body("read", deadline_s=-3.0, device="a"))
    assert (await bench.box.reply("late"))["error"]["reason"] == "expired"
    assert bench.box.driver("a").reads == 0


async def test_where_the_clock_cannot_tell_the_arrival_counts(bench: Bench) -> None:
    bench.box.clock.clock_state = type(bench.box.clock.clock_state)(synced=False)
    await bench.commands.put("late", bench.body("read", deadline_s=-3.0, device="a"))
    assert (await bench.box.reply("late"))["ok"]


async def test_a_command_that_waits_for_its_turn_beyond_its_deadline_is_not_done(bench: Bench) -> None:
    gauge = bench.box.driver("a")
    gauge.may_go_on.clear()
    await bench.commands.put("first", bench.body("read", device="a"))
    await bench.commands.put("second", bench.body("read", deadline_s=0.05, device="a"))
    assert (await bench.box.reply("second"))["error"]["reason"] == "timeout"
    gauge.may_go_on.set()
    assert (await bench.box.reply("first"))["ok"]
    assert gauge.reads == 1


async def test_a_device_that_hangs_costs_a_command_its_time_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.LIMIT_S, "read", 0.05)
    bench.box.driver("a").may_go_on.clear()
    assert (await bench.why_not("read", device="a")).startswith("timeout: read did not end in time")
    assert bench.box.listeners == []
    assert (await bench.do("read", device="b"))["ok"]


async def test_garbage_is_answered_and_does_nothing(bench: Bench) -> None:
    for number, payload in enumerate((b"", b"\x00\xff", b"[]", b'{"verb":"exec"}', b"x" * 100_000)):
        await bench.commands.put(f"g{number}", payload)
        assert (await bench.box.reply(f"g{number}"))["error"]["reason"] in ("invalid", "unknown_verb")


@pytest.mark.parametrize("identity", ["", "A", "a/b", "a" * 65, "+", "ä"])
async def test_an_id_that_is_none_gets_no_answer(bench: Bench, identity: str) -> None:
    await bench.commands.put(identity, bench.body("reload"))
    assert bench.box.replies == {}
    assert bench.box.reloads == 0


async def test_a_bug_behind_a_command_is_its_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.box, "replay", None)
    with capture_logs() as told:
        assert (await bench.why_not("replay")).startswith("failed: TypeError")
    assert "command_broken" in [line["event"] for line in told]
    assert (await bench.do("read", device="a"))["ok"]


# --- in what order, and how often ---


async def test_the_same_id_again_gets_the_same_answer_and_is_not_done_twice(bench: Bench) -> None:
    gauge = bench.box.driver("a")
    gauge.may_go_on.clear()
    for _ in range(2):  # while it is at work
        await bench.commands.put("same", bench.body("read", device="a"))
    gauge.may_go_on.set()
    first = await bench.box.reply("same")
    await bench.commands.put("same", bench.body("reload"))  # after it
    assert await bench.box.reply("same", 2) == first
    assert (gauge.reads, bench.box.reloads, len(bench.box.replies["same"])) == (1, 0, 2)


async def test_an_answer_that_had_no_link_is_there_for_whoever_asks_again(bench: Bench) -> None:
    bench.box.connected = False
    await bench.commands.put("lost", bench.body("reload"))
    while not bench.box.reloads:  # noqa: ASYNC110  # nothing tells of a reply that did not leave
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.box.connected = True
    await bench.commands.put("lost", bench.body("reload"))
    assert (await bench.box.reply("lost"))["result"] == {"changed": True}
    assert bench.box.reloads == 1


async def test_commands_for_one_device_go_one_by_one_and_others_do_not_wait(bench: Bench) -> None:
    slow = bench.box.driver("a")
    slow.may_go_on.clear()
    await bench.commands.put("a1", bench.body("read", device="a"))
    await bench.commands.put("a2", bench.body("read", device="a"))
    assert (await bench.do("read", device="b"))["ok"]
    assert slow.reads == 1
    slow.may_go_on.set()
    counts = [(await bench.box.reply(i))["result"]["samples"][0]["values"]["count"] for i in ("a1", "a2")]
    assert counts == [1, 2]


async def test_beyond_the_queue_the_newest_is_refused_and_may_come_again(bench: Bench) -> None:
    gauge = bench.box.driver("a")
    gauge.may_go_on.clear()
    for number in range(WAITING_MAX):
        await bench.commands.put(f"q{number}", bench.body("read", device="a"))
    await bench.commands.put("more", bench.body("read", device="a"))
    assert (await bench.box.reply("more"))["error"]["reason"] == "busy"
    gauge.may_go_on.set()
    await bench.box.reply(f"q{WAITING_MAX - 1}")
    await bench.commands.put("more", bench.body("read", device="a"))
    assert (await bench.box.reply("more", 2))["ok"]


async def test_answers_are_remembered_up_to_a_bound(bench: Bench) -> None:
    for number in range(ANSWERED_MAX + 20):
        await bench.commands.put(f"n{number}", b"")
        await bench.box.reply(f"n{number}")
    assert len(bench.commands._answered) == ANSWERED_MAX
    assert bench.commands._at_work == {}
