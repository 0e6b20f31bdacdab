"""The whole gateway as a process of its own, against a real Mosquitto."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import duckdb
import httpx
import pytest
from trisense.core import mqtt, topics
from trisense.core.alarms import ALARM
from trisense.core.messages import Birth, CountersJson, DeviceBirth, Position, State, unpack_receipts
from trisense.core.model import BatchClass, Field, FieldType, Layer, Sample, Stream
from trisense.core.topics import Lane

from tests.servers import free_port

pytestmark = pytest.mark.peer


class Worker:
    """``trisense gateway run`` and what it says."""

    def __init__(self, folder: Path, broker_port: int, store: str) -> None:
        self.folder = folder
        self.config = folder / "gateway.toml"
        self.config.write_text(
            f"[mqtt]\nport = {broker_port}\n[store]\n{store}\nfree_floor_bytes = 0\n[http]\nport = 0\n"
        )
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.said: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start it and wait until it has both connections."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trisense.core", "gateway", "run", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        connected: set[str] = set()
        while len(connected) < 2:
            event = self.hear()
            if event["event"] == "gateway_started":
                self.url = event["url"]
            elif event["event"] == "mqtt_connected":
                connected.add(event["link"])

    def hear(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line, f"ended with {self.process.wait()}: {self.said[-3:]}"
        event: dict[str, Any] = json.loads(line)
        self.said.append(event)
        return event

    def get(self, path: str, **parameters: Any) -> Any:
        """Ask the gateway's API; it runs in a process of its own, so waiting here blocks nothing of it."""
        return httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, "it was to be killed, but had ended"
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL
        self._forget()

    def stop(self, within_s: float = 5.0) -> int:
        """Ask it to leave, and hold it to its promise of when."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(within_s)
        self._forget()
        return code

    def _forget(self) -> None:
        if self.process is not None and self.process.stderr is not None:
            self.process.stderr.close()
        self.process = None

    def audit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trisense.core", "audit", *arguments],
            text=True,
            capture_output=True,
            check=False,
        )


@pytest.fixture
def worker(tmp_path: Path, broker: Any) -> Iterator[Worker]:
    ours = Worker(tmp_path, broker.port, 'kind = "duckdb"')
    yield ours
    if ours.process is not None:
        ours.kill()


@asynccontextmanager
async def uplink(
    port: int, box: Any, protocol: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V5
) -> AsyncIterator[Uplink]:
    async with mqtt.Client("127.0.0.1", port, identifier=box.name, protocol=protocol) as client:
        await client.subscribe(topics.receipt(box.name), qos=1)
        yield Uplink(client, box)


class Uplink:
    """A box's side: sends again until it has its receipt."""

    def __init__(self, client: aiomqtt.Client, box: Any) -> None:
        self.client = client
        self.box = box
        self.stored: set[int] = set()
        self.refused: dict[int, str] = {}

    async def send(self, *batches: Any, lane: Lane = Lane.LIVE) -> None:
        await self.client.publish(topics.up(self.box.name, lane), self.box.bundle(*batches), qos=1)

    async def hear(self) -> None:
        message = await anext(aiter(self.client.messages))
        assert not message.retain
        assert isinstance(message.payload, bytes)
        for receipt in unpack_receipts(message.payload):
            assert receipt.epoch == self.box.epoch
            for first, last in receipt.stored:
                self.stored |= set(range(first, last + 1))
            self.refused |= {seq: reason for seq, reason, _ in receipt.refused}

    async def settle(self, seqs: Sequence[int], again_s: float | None = None) -> None:
        """Wait for receipts of all; with ``again_s`` send again what has none, as often as it takes."""
        while missing := [s for s in seqs if s not in self.stored and s not in self.refused]:
            try:
                async with asyncio.timeout(again_s):
                    await self.hear()
            except TimeoutError:
                for seq in missing:
                    await self.send(self.box.batches[seq])


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    """All rows of the weather table, from the file of a gateway that has ended."""
    with duckdb.connect(str(folder / "trisense.duckdb"), read_only=True) as connection:
        return connection.execute(
            "SELECT box, device, epoch_ns(time), n, air_temperature, vehicle_count FROM data.weather"
            " ORDER BY ALL"
        ).fetchall()


async def test_a_reading_goes_all_the_way_and_sigterm_leaves_in_time(
    worker: Worker, broker: Any, box: Any
) -> None:
    worker.start()
    async with asyncio.timeout(30), uplink(broker.port, box) as up:
        batches = [box.weather(5) for _ in range(4)]
        await up.send(*batches)
        await up.settle(range(4))
        assert up.stored == {0, 1, 2, 3}
        found = worker.audit("--url", worker.url, "--deep")
        assert (found.returncode, "balanced" in found.stdout) == (0, True), found.stdout + found.stderr
        health = worker.get("health")
        assert (health["ok"], health["counts"]["samples_stored"]) == (True, 20)
    assert worker.stop() == 0
    assert len(rows_of(worker.folder)) == 20
    found = worker.audit("--config", str(worker.config), "--deep", "--json")
    told = json.loads(found.stdout)
    assert (found.returncode, told["balanced"], told["accounts"][0]["stored"]) == (0, True, 20)


async def test_the_audit_finds_a_batch_that_nobody_has(worker: Worker, broker: Any, box: Any) -> None:
    worker.start()
    async with asyncio.timeout(30), uplink(broker.port, box) as up:
        box.weather(7)
        await up.send(box.weather(5))
        await up.settle([1])
    old = worker.get("audit")["accounts"][0]
    assert (old["pending"], old["balanced"]) == (7, True)
    worker.stop()
    with duckdb.connect(str(worker.folder / "trisense.duckdb")) as connection:
        connection.execute("UPDATE counters SET low_seq = next_seq")
    found = worker.audit("--config", str(worker.config))
    assert found.returncode == 1
    assert re.search(r"kx-001 .* batches without a trace: 0\n", found.stdout)


async def test_sigterm_commits_and_receipts_what_is_queued(worker: Worker, broker: Any, box: Any) -> None:
    worker.start()
    async with asyncio.timeout(30), uplink(broker.port, box) as up:
        for _ in range(200):
            await up.send(box.weather(1))
        taken = 0
        while taken < 200:
            taken = worker.get("health")["lanes"]["taken"].get("live", 0)
        stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
        await up.settle(range(200))
        assert await stopping == 0
    assert len(rows_of(worker.folder)) == 200


async def test_kill_9_at_any_moment_loses_nothing_and_stores_nothing_twice(
    worker: Worker, broker: Any, box: Any
) -> None:
    dice = random.Random(7)
    worker.start()
    async with asyncio.timeout(100), uplink(broker.port, box) as up:
        for _ in range(5):
            batches = [box.weather(3) for _ in range(40)]
            for batch in batches:
                await up.send(batch)
            # From before the first commit to after the last receipt.
            await asyncio.sleep(dice.uniform(0.0, 0.25))
            await asyncio.to_thread(worker.kill)
            starting = asyncio.create_task(asyncio.to_thread(worker.start))
            await starting
            await up.settle([b.seq for b in batches], again_s=0.5)
    assert worker.stop() == 0
    rows = rows_of(worker.folder)
    truth = sorted(
        (box.name, "mast", s.time_ns, s.n, s.values[0], s.values[2]) for b in box.batches for s in b.samples
    )
    assert rows == truth
    found = worker.audit("--config", str(worker.config), "--deep")
    assert found.returncode == 0, found.stdout + found.stderr


async def test_the_broker_may_die_and_come_back_empty(worker: Worker, broker: Any, box: Any) -> None:
    worker.start()
    async with asyncio.timeout(60):
        async with uplink(broker.port, box) as up:
            await up.send(box.weather(1))
            await up.settle([0])
        broker.kill()
        broker.start()
        async with uplink(broker.port, box) as up:
            box.weather(1)
            await up.settle([1], again_s=0.5)
    assert worker.stop() == 0
    assert len(rows_of(worker.folder)) == 2


async def test_an_alarm_amid_a_backlog_is_told_once(
    worker: Worker, broker: Any, box: Any, weather: Stream
) -> None:
    worker.start()
    backlog = [box.weather(2_000) for _ in range(30)]
    alarm_stream = Stream("box", "tamper", Layer.GROUND, (Field("door", "", FieldType.STR),))
    alarm = box.cut([Sample(alarm_stream, box.t0_ns, ("open",))], batch_class=BatchClass.ALARM)
    async with asyncio.timeout(60), uplink(broker.port, box) as up:
        for batch in backlog:
            await up.send(batch, lane=Lane.BACKLOG)
        await up.send(alarm, lane=Lane.ALARM)
        await up.send(alarm, lane=Lane.ALARM)
        await up.settle(range(31))
        alarms = worker.get("state")["alarms"]
        assert [(a["box"], a["device"], a["kind"], a["values"]) for a in alarms] == [
            (box.name, "box", "tamper", {"door": "open"})
        ]


async def test_an_alarm_that_was_raised_before_the_gateway_started_is_still_active(
    worker: Worker, broker: Any, box: Any
) -> None:
    def row(rule: str, state: str) -> tuple[str | int | None, ...]:
        said: dict[str, str | int] = {"rule": rule, "source": "mast", "state": state, "occurrence": 1}
        return tuple(said.get(field.name) for field in ALARM.fields)

    now_ms = time.time_ns() // 1_000_000
    worker.start()
    samples = [
        Sample(ALARM, now_ms * 1_000_000, row("hot", "raised")),
        Sample(ALARM, (now_ms + 1) * 1_000_000, row("windy", "raised")),
        Sample(ALARM, (now_ms + 2) * 1_000_000, row("windy", "cleared")),
    ]
    async with asyncio.timeout(60), uplink(broker.port, box) as up:
        await up.send(box.cut(samples, batch_class=BatchClass.ALARM), lane=Lane.ALARM)
        await up.settle([0])
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(worker.start)
        mast = DeviceBirth(
            name="mast", driver="wxt", layer=Layer.GROUND, site="kx", position=None, streams=[]
        )
        birth = Birth(
            box=box.name, site="kx", version="1", config_hash="", counters=[], devices=[mast], alarms=["hot"]
        )
        await up.client.publish(topics.birth(box.name), birth.model_dump_json(), retain=True)
        raised: list[dict[str, Any]] = []
        while not raised:
            raised = worker.get("state")["raised"]
    assert [(a["box"], a["values"]["rule"], a["time_ms"]) for a in raised] == [(box.name, "hot", now_ms)]
    assert worker.stop() == 0


async def test_a_broker_that_speaks_only_3_1_1_will_do(tmp_path: Path, box: Any, amqtt_port: int) -> None:
    worker = Worker(tmp_path, amqtt_port, 'kind = "duckdb"')
    worker.start()
    try:
        protocols = {e["link"]: e["protocol"] for e in worker.said if e["event"] == "mqtt_connected"}
        assert protocols == {"fast": "V311", "bulk": "V311"}
        async with asyncio.timeout(30), uplink(amqtt_port, box, aiomqtt.ProtocolVersion.V311) as up:
            await up.send(box.weather(1))
            await up.send(box.weather(1), lane=Lane.BACKLOG)
            await up.settle([0, 1])
    finally:
        worker.kill()


async def test_state_says_online_and_the_will_says_offline(worker: Worker, broker: Any) -> None:
    worker.start()
    async with asyncio.timeout(30), mqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe(topics.gateway_state("gw"), qos=1)
        messages = aiter(client.messages)
        first = await anext(messages)
        assert (first.retain, json.loads(bytes(first.payload))["online"]) == (True, True)
        worker.kill()
        assert json.loads(bytes((await anext(messages)).payload))["online"] is False


async def test_births_place_devices_and_strangers_words_are_ignored(
    worker: Worker, broker: Any, box: Any
) -> None:
    worker.start()
    birth = Birth(
        box=box.name,
        site="kx",
        position=Position(latitude=48.0, longitude=11.0),
        version="0.1",
        config_hash="",
        counters=[CountersJson(epoch=box.epoch, next_seq=0, low_seq=0, samples_committed=0)],
        devices=[DeviceBirth(name="mast", driver="modbus", layer=Layer.GROUND, site="kx", streams=[])],
    )
    async with asyncio.timeout(30), uplink(broker.port, box) as up:
        for name, payload in (
            ("other", birth.model_dump_json()),
            (box.name, "{"),
            (box.name, birth.model_dump_json()),
        ):
            await up.client.publish(topics.birth(name), payload, qos=1)
        state = State(online=True, boot_id="b", since="2026-11-23T00:00:00Z")
        await up.client.publish(topics.state(box.name), state.model_dump_json(), qos=1)
        await up.send(box.weather(1))
        await up.settle([0])
    told = worker.get("state")["boxes"]
    assert list(told) == [box.name]
    assert (told[box.name]["online"], told[box.name]["position"]["latitude"]) == (True, 48.0)
    start_ms = box.t0_ns // 10**6
    near = worker.get(
        "near", latitude=48.0, longitude=11.0, radius_m=10, from_ms=start_ms, to_ms=start_ms + 1000
    )
    assert [s["device"] for s in near["streams"]] == ["mast"]


async def test_with_the_store_down_nothing_is_receipted_but_the_page_lives(
    tmp_path: Path, broker: Any, box: Any
) -> None:
    port = free_port()
    worker = Worker(
        tmp_path,
        broker.port,
        f'kind = "influxdb"\napi = "v1"\nurl = "http://127.0.0.1:{port}"\ntimeout_s = 1',
    )
    worker.start()
    try:
        async with asyncio.timeout(60), uplink(broker.port, box) as up:
            await up.send(box.weather(1))
            while worker.hear()["event"] != "store_unavailable":
                pass
            await up.send(box.weather(1, values=(33.0, 1.0, 1, "later")))
            shown = None
            while shown != 33.0:
                streams = worker.get("state")["streams"]
                shown = streams[0]["fields"]["air_temperature"]["value"] if streams else None
            assert (up.stored, worker.get("health")["ok"]) == (set(), False)
            answering = await asyncio.start_server(_stores_everything, "127.0.0.1", port)
            await up.settle([0, 1], again_s=1.0)
            answering.close()
    finally:
        worker.kill()


async def test_sigterm_leaves_in_time_even_when_the_store_never_answers(
    tmp_path: Path, broker: Any, box: Any
) -> None:
    asked = asyncio.Event()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    worker = Worker(tmp_path, broker.port, f'kind = "influxdb"\napi = "v1"\nurl = "{url}"\ntimeout_s = 60')
    worker.start()
    async with asyncio.timeout(30), uplink(broker.port, box) as up:
        await up.send(box.weather(1))
        await asked.wait()
        assert await asyncio.to_thread(worker.stop, 5.0) == 0
    server.close()


async def _stores_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    await reader.readexactly(int(length.group(1)) if length else 0)
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", ["store: expected a value, got nothing"]),
        (
            '[mqtt]\nport = "x"\nhots = 1\npassword = "p"\n[store]\nkind = "duckdb"\nretention_days = -1\n',
            [
                "mqtt.hots: expected a known key",
                "mqtt.password: expected no secret",
                "mqtt.port:",
                "retention_days",
            ],
        ),
        ('[store]\nkind = "redis"\n', ["store"]),
        ('[store]\nkind = "duckdb"\n[http]\nhost = "0.0.0.0"\n', ["http.host: expected a loopback address"]),
        ("[store\n", ["valid TOML"]),
    ],
)
def test_every_mistake_in_the_file_is_told_at_once(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "trisense.core", "gateway", "check", str(path)],
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 2
    for mistake in mistakes:
        assert mistake in done.stderr
