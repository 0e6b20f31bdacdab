"""Metrics: the text format by its own rules, labels from closed sets, and a responder for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import pytest
from trisense.edge.status import scrape as module
from trisense.edge.status.metrics import Series, exposition, series_of
from trisense.edge.status.model import Status
from trisense.edge.status.scrape import CLIENTS, MetricsServer
from trisense.edge.status.table import loopback_address

from tests.servers import free_port

from .conftest import BOX, device, failing

NAME = re.compile(r"trisense_[a-z0-9_]+|process_[a-z0-9_]+")
ROW = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
UNITS = ("seconds", "bytes", "ratio", "celsius")
CLOSED = {"driver", "state", "reason", "class", "lane", "version"}


@dataclass
class Family:
    kind: str
    rows: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """The text format, strictly: HELP, TYPE, then rows of that one name, each label set once."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    name = helped = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, words = line.removeprefix("# HELP ").split(" ", 1)
            assert words.endswith(".")
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == helped, "TYPE without HELP"
            assert name not in families, "a name twice"
            assert NAME.fullmatch(name), name
            assert (kind == "counter") == name.endswith("_total"), name
            families[name] = Family(kind)
        else:
            found = ROW.fullmatch(line)
            assert found, line
            assert found[1] == name, "a row outside its family"
            inside = found[2] or ""
            labels = tuple((m[1], m[2]) for m in LABEL.finditer(inside))
            assert sum(len(m[0]) for m in LABEL.finditer(inside)) == len(inside), inside
            assert labels not in families[name].rows, line
            families[name].rows[labels] = float(found[3])
    return families


@pytest.fixture
def busy() -> Status:
    bus = {
        "line": "tcp://10.0.0.7:502",
        "framing": "tcp",
        "devices": ["north"],
        "planned": 0.1,
        "measured": 0.25,
        "waiting": 0,
        "answers": 40,
        "troubles": {"no_reply": 3},
    }
    line = {"line": "a", "devices": ["dust"], "opened": 1, "received_bytes": 300, "sent_bytes": 10}
    waiting = {"data": {"batches": 5, "samples": 50, "size_bytes": 400, "oldest_s": 30.0}}
    return Status.model_validate(
        BOX
        | {
            "devices": [device("dust"), device("soot"), failing("gone"), device("north", "modbus:x")],
            "buses": [bus],
            "lines": [line],
            "spool": BOX["spool"] | {"waiting": waiting},
        }
    )


def test_every_metric_keeps_the_rules_and_names_no_device(busy: Status) -> None:
    text = exposition(series_of(busy))
    families = parse(text)
    for name, family in families.items():
        base = name.removesuffix("_total")
        assert not any(unit in base and not base.endswith(unit) for unit in UNITS), name
        assert {label for row in family.rows for label, _ in row} <= CLOSED
    assert not any(d.name in text for d in busy.devices)
    assert "10.0.0.7" not in text


def test_counters_are_there_at_zero_from_the_start(good: Status) -> None:
    families = parse(exposition(series_of(good)))
    assert (
        families["trisense_device_failures_total"].rows[("driver", "plantower"), ("reason", "timeout")] == 0
    )
    assert families["trisense_bus_troubles_total"].rows[(("reason", "no_reply"),)] == 0
    assert families["trisense_spool_waiting_batches"].rows[(("class", "alarm"),)] == 0
    assert families["trisense_spool_oldest_waiting_timestamp_seconds"].rows == {}


def test_figures_are_those_of_the_picture(busy: Status) -> None:
    families = parse(exposition(series_of(busy)))

    def of(name: str, **labels: str) -> float:
        return families[name].rows[tuple(labels.items())]

    assert of("trisense_devices", driver="plantower", state="good") == 2
    assert of("trisense_devices", driver="plantower", state="failing") == 1
    assert of("trisense_device_reads_total", driver="plantower") == 300
    assert of("trisense_device_failures_total", driver="plantower", reason="timeout") == 45
    assert of("trisense_bus_busiest_ratio") == 0.25
    assert of("trisense_line_received_bytes_total") == 300
    assert of("trisense_spool_waiting_samples", **{"class": "data"}) == 50
    assert of("trisense_spool_oldest_waiting_timestamp_seconds", **{"class": "data"}) == 1_780_000_000 - 30
    assert of("trisense_clock_error_seconds") == 0.003
    assert of("trisense_build_info", version="0.1.0") == 1


def test_labels_are_escaped() -> None:
    text = exposition([Series("trisense_x", "gauge", "X.", [({"driver": 'a"b\\c\nd'}, 1)])])
    assert parse(text)["trisense_x"].rows == {(("driver", r"a\"b\\c\nd"),): 1}


# --- the responder ---


@pytest.fixture
async def port(good: Status) -> AsyncIterator[int]:
    free = free_port()

    async def picture() -> Status:
        return good

    task = asyncio.create_task(MetricsServer("127.0.0.1", free, picture).run())
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection("127.0.0.1", free)
            writer.close()
            break
        assert not task.done()
        await asyncio.sleep(0)
    yield free
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ask(port: int, *pieces: bytes) -> bytes:
    """All that is answered to a request that comes in pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
    writer.close()
    return answer


async def test_metrics_are_served_as_prometheus_asks_for_them(port: int) -> None:
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\n", b"Host: a\r\nAccept: text/plain\r\n", b"\r\n")
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert f"Content-Length: {len(body)}" in head
    assert parse(body)["trisense_link_connected"].rows[()] == 1


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"GET  /metrics HTTP/1.1", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"GET /metrics?name[]=x HTTP/1.0", b"200"),
    ],
)
async def test_nothing_else_is_served(port: int, request_: bytes, answer: bytes) -> None:
    assert (await ask(port, request_ + b"\r\n\r\n"))[9:12] == answer


async def test_hostile_requests_cost_nobody_an_answer(port: int) -> None:
    rng = random.Random(2)
    await ask(port, *pieces(b"A" * 65_536, 160))
    for _ in range(100):
        data = bytearray(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        await ask(port, bytes(data) + b"\r\n\r\n")
    assert b" 200 OK" in await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")


def pieces(piece: bytes, count: int) -> Iterable[bytes]:
    return (piece for _ in range(count))


async def test_who_says_nothing_is_hung_up_on_and_blocks_nobody(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 0.05)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * CLIENTS)]
    async with asyncio.timeout(10):
        for reader, writer in held:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
    assert b" 200 OK" in await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.9.9.9:1", ("127.9.9.9", 1)),
        ("localhost:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_a_loopback_address_is_taken(address: str, expected: tuple[str, int]) -> None:
    assert loopback_address(address) == expected


OUTSIDE = "0.0.0.0:9464 [::]:9464 192.168.1.7:9464 box:9464 [fe80::1]:9464"
NO_ADDRESS = ":9464 9464 127.0.0.1 127.0.0.1: 127.0.0.1:0 127.0.0.1:99999 127.0.0.1:9e3 127.0.0.1:٣"


@pytest.mark.parametrize("address", ["", *OUTSIDE.split(), *NO_ADDRESS.split()])
def test_an_address_that_others_reach_or_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="loopback address with a port"):
        loopback_address(address)
