"""Line-protocol stores against real servers, and against a sink that fails by script."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trisense.core.alarms import ALARM
from trisense.core.errors import StoreUnavailable
from trisense.core.messages import LOSS, EpochReceipt, unpack_receipts
from trisense.core.model import BatchClass, Field, FieldType, Layer, Sample, Stream
from trisense.core.topics import Lane
from trisense.gateway.accounts import balance, facts_of
from trisense.gateway.config import InfluxConfig, VictoriaConfig
from trisense.gateway.history import StoreHistory
from trisense.gateway.intake import Delivery, Intake
from trisense.gateway.live import LiveState
from trisense.gateway.quarantine import Quarantine
from trisense.gateway.recall import Recall
from trisense.gateway.stores.base import NotSupported, Span, StreamRef
from trisense.gateway.stores.influx import LineStore

from tests.servers import free_port

MAST = StreamRef("kx-001", "mast", "weather")
ALWAYS = Span(0, 2**62)

Open = Callable[..., LineStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    opened: list[LineStore] = []

    def open_one(config: InfluxConfig | VictoriaConfig) -> LineStore:
        store = LineStore(config.model_copy(update={"state_path": tmp_path / "state", "free_floor_bytes": 0}))
        store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


def deliver(intake: Intake, *deliveries: Delivery) -> list[EpochReceipt]:
    answers = intake.commit(intake.judge(deliveries))
    return [receipt for _, payload in answers.messages() for receipt in unpack_receipts(payload)]


@contextmanager
def rewriting(influxd: str) -> Iterator[str]:
    """InfluxDB 1.6 behind a rewrite of /api/v2/write to /write: true errors for influxdb-client."""

    async def write(request: Request) -> Response:
        query = request.query_params
        async with httpx.AsyncClient() as client:
            answer = await client.post(
                f"{influxd}/write",
                params={"db": query["bucket"], "precision": query["precision"]},
                content=await request.body(),
                headers={"Content-Encoding": request.headers.get("content-encoding", "identity")},
            )
        assert request.headers["authorization"] == "Token canary"
        return Response(answer.content, answer.status_code, headers={"Content-Type": "application/json"})

    config = uvicorn.Config(
        Starlette(routes=[Route("/api/v2/write", write, methods=["POST"])]), port=0, log_level="error"
    )
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(params=["v1", "v2"])
def influx(
    request: pytest.FixtureRequest, influxd: str, database: str, open_store: Open, tmp_path: Path
) -> Iterator[tuple[LineStore, LineStore]]:
    """A store to write by one API, and one to read back by InfluxQL."""
    reader = InfluxConfig(kind="influxdb", api="v1", url=influxd, database=database)
    if request.param == "v1":
        store = open_store(reader)
        yield store, store
        return
    (tmp_path / "token").write_text("canary\n")
    with rewriting(influxd) as url:
        writer = InfluxConfig(
            kind="influxdb", api="v2", url=url, database=database, org="o", token_file=tmp_path / "token"
        )
        yield open_store(writer), open_store(reader)


@pytest.mark.peer
def test_influxdb_reads_back_every_value(
    influx: tuple[LineStore, LineStore], quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    store, reader = influx
    t0 = box.t0_ns
    rows = [
        Sample(weather, t0, (21.5, 60.0, 7, "fine"), 0),
        Sample(weather, t0, (-0.1, 1e-300, -(2**63), 'say "no" \\ , = 鼓🎏'), 1, ((1, 3),)),
        Sample(weather, t0 + 1_000_000, (None, 1.7976931348623157e308, 2**63 - 1, ""), 0, ((0, 9),)),
        Sample(weather, t0 + 2_000_000, (None, None, None, None), 0),
    ]
    assert deliver(Intake(store, quarantine), box.send(box.cut(rows))) == [EpochReceipt(box.epoch, ((0, 0),))]
    table = reader.range(MAST, ["air_temperature", "relative_humidity", "vehicle_count", "note"], ALWAYS, 10)
    told = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    names = [f.name for f in weather.fields]
    assert [(t["time_ns"], t["n"], *(t[n] for n in names)) for t in told] == [
        (s.time_ns, s.n, *s.values) for s in rows[:3]
    ]
    assert (told[1]["relative_humidity_q"], told[2]["air_temperature_q"]) == (3, 9)
    assert reader.count(box.name).rows == 4


@pytest.mark.peer
async def test_alarms_of_before_a_start_are_recalled_from_influxdb(
    influx: tuple[LineStore, LineStore], quarantine: Quarantine, box: Any
) -> None:
    def row(rule: str, state: str) -> tuple[str | int | None, ...]:
        said: dict[str, str | int] = {"rule": rule, "source": "mast", "state": state, "occurrence": 1}
        return tuple(said.get(field.name) for field in ALARM.fields)

    store, reader = influx
    now_ms = time.time_ns() // 1_000_000
    told = [("hot", "raised"), ("windy", "raised"), ("windy", "cleared")]
    rows = [Sample(ALARM, (now_ms + i) * 1_000_000, row(*one)) for i, one in enumerate(told)]
    deliver(Intake(store, quarantine), box.send(box.cut(rows, batch_class=BatchClass.ALARM)))
    live = LiveState()
    with ThreadPoolExecutor(1) as executor:
        recall = Recall(StoreHistory(reader, executor), live)
        recall.heard_of(box.name)
        asking = asyncio.create_task(recall.run())
        async with asyncio.timeout(20):
            alarm = await anext(aiter(live.alarms(after=0)))
        asking.cancel()
    assert (alarm.time_ms, alarm.values["rule"], alarm.values["occurrence"]) == (now_ms, "hot", 1)
    assert [one["values"]["rule"] for one in live.snapshot()["raised"]] == ["hot"]


@pytest.mark.peer
def test_a_conflict_at_the_server_refuses_the_culprits_only(
    influx: tuple[LineStore, LineStore], quarantine: Quarantine, box: Any, weather: Stream, influxd: str
) -> None:
    store, reader = influx
    # Somebody else wrote an integer where we write floats; it is not in our ledger. Types hold per shard,
    # so it must be of the same week.
    answer = httpx.post(
        f"{influxd}/write",
        params={"db": reader._config.database},
        content=f"weather air_temperature=1i {box.t0_ns}",
    )
    assert answer.status_code == 204
    dry = replace(weather, fields=weather.fields[1:])
    good = [box.cut([Sample(dry, box.t0_ns + i * 1_000_000, (60.0, i, ""))]) for i in range(10)]
    bad = box.weather(2)
    receipts = deliver(Intake(store, quarantine), box.send(*good[:6], bad, *good[6:]))
    assert receipts == [EpochReceipt(box.epoch, ((0, 9),), ((10, "type", 2),))]
    assert reader.count(box.name).rows >= 10
    (account,) = (balance(f, None) for f in facts_of(store.ledger))
    assert (account.stored, account.refused, account.balanced) == (10, 2, True)
    (kept,) = quarantine.list()
    assert kept.meta["reason"] == "type"


@pytest.mark.peer
def test_an_unknown_database_holds_the_data(
    influxd: str, open_store: Open, quarantine: Quarantine, box: Any
) -> None:
    store = open_store(InfluxConfig(kind="influxdb", api="v1", url=influxd, database="nowhere"))
    intake = Intake(store, quarantine)
    group = intake.judge([box.send(box.weather(1))])
    with pytest.raises(StoreUnavailable, match=r"404.*database not found"):
        intake.commit(group)
    assert list(group.answers.messages()) == []


@pytest.mark.peer
def test_history_of_influxdb(
    influxd: str, database: str, open_store: Open, quarantine: Quarantine, box: Any
) -> None:
    store = open_store(InfluxConfig(kind="influxdb", api="v1", url=influxd, database=database))
    moving = Stream("adsb", "aircraft", Layer.AIR, (Field("latitude", "deg"), Field("longitude", "deg")))
    fix = Sample(moving, box.t0_ns, (48.0, 11.0))
    deliver(Intake(store, quarantine), box.send(box.weather(6), box.cut([fix])))
    assert [f.stream.measurement for f in store.latest("kx-001", None)] == ["aircraft", "weather"]
    start = box.t0_ns
    table = store.aggregate(
        MAST, "vehicle_count", Span(start, start + 6 * 10**9), buckets=2, functions=["count", "mean", "last"]
    )
    assert table.rows == [(start, 3, 7.0, 7), (start + 3 * 10**9, 3, 7.0, 7)]
    limited = store.range(MAST, [], ALWAYS, 2)
    assert (len(limited.rows), limited.truncated) == (2, True)


@pytest.mark.peer
def test_pictures_lie_beside_the_ledger(
    influxd: str, database: str, open_store: Open, quarantine: Quarantine, box: Any
) -> None:
    store = open_store(InfluxConfig(kind="influxdb", api="v1", url=influxd, database=database))
    stream = Stream("cam", "snapshot", Layer.GROUND, (Field("sharpness"),))
    blob = b"\xff\xd8\xff picture"
    old = Sample(stream, 10**18, (0.5,))
    group = Intake(store, quarantine).judge(
        [box.send(box.cut([old], batch_class=BatchClass.MEDIA, blob=blob), lane=Lane.MEDIA)]
    )
    Intake(store, quarantine).commit(group)
    media_id = group.glimpses[0].pictures[0][1].id
    media = store.media(media_id)
    assert media is not None
    assert media.blob == blob
    store.tend()
    assert store.media(media_id) is None


@pytest.mark.peer
def test_victoriametrics_gets_numbers_only_and_gives_them_back(
    victoria: str, open_store: Open, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    store = open_store(VictoriaConfig(kind="victoriametrics", url=victoria, database="ours"))
    rows = [
        Sample(weather, box.t0_ns, (21.5, 60.25, 7, "bad"), 0, ((0, 3),)),
        Sample(weather, box.t0_ns + 10**9, (-0.5, None, 9, None), 0),
    ]
    assert deliver(Intake(store, quarantine), box.send(box.cut(rows))) == [EpochReceipt(box.epoch, ((0, 0),))]
    found: dict[str, list[float]] = {}
    deadline = time.monotonic() + 30
    while len(found) < 4 and time.monotonic() < deadline:
        # A new series on a fresh server becomes visible after seconds.
        export = httpx.get(
            f"{victoria}/api/v1/export", params={"match[]": '{db="ours",box="kx-001"}'}, timeout=5
        )
        found = {s["metric"]["__name__"]: s["values"] for s in map(json.loads, export.text.splitlines())}
    assert found == {
        "weather_air_temperature": [21.5, -0.5],
        "weather_air_temperature_q": [3],
        "weather_relative_humidity": [60.25],
        "weather_vehicle_count": [7, 9],
    }
    with pytest.raises(NotSupported):
        store.range(MAST, [], ALWAYS, 1)


@pytest.mark.peer
def test_a_type_change_never_reaches_victoriametrics(
    victoria: str, open_store: Open, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    store = open_store(VictoriaConfig(kind="victoriametrics", url=victoria, database="typed"))
    intake = Intake(store, quarantine)
    deliver(intake, box.send(box.weather(1)))
    texts = replace(weather, fields=(Field("air_temperature", "Cel", FieldType.STR),))
    bad = box.cut([Sample(texts, box.t0_ns, ("bad",))])
    assert deliver(intake, box.send(bad)) == [EpochReceipt(box.epoch, (), ((1, "type", 1),))]


class Sink:
    """An HTTP server that stores lines and answers by script; an empty script answers 204."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.lines: list[str] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))).decode()
                sink.answer(self, body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.queries: list[dict[str, list[str]]] = []

    def answer(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        act = self.script.pop(0) if self.script else "ok"
        self.queries.append(parse_qs(urlsplit(handler.path).query))
        lines = body.splitlines()
        status, said, headers = 204, b"", {}
        if act in ("ok", "applied-then-reset"):
            self.lines += lines
        if act in ("reset", "applied-then-reset"):
            handler.connection.close()
            handler.close_connection = True
            return
        if act == "413":
            status = 413
        elif act == "503":
            status, headers = 503, {"Retry-After": "7"}
        elif act == "poison":
            good = [line for line in lines if "poison" not in line]
            self.lines += good
            if len(good) < len(lines):
                self.script.insert(0, "poison")
                status, said = 400, b'{"error":"partial write: unable to parse dropped=0"}'
            else:
                self.script.insert(0, "poison")
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.close()


def _sink_store(open_store: Open, sink: Sink) -> LineStore:
    return open_store(InfluxConfig(kind="influxdb", api="v1", url=sink.url, database="d", timeout_s=2))


def _distinct(lines: Sequence[str]) -> set[str]:
    return set(lines)


@pytest.mark.parametrize("fault", ["503", "reset", "applied-then-reset"])
def test_faults_are_retried_with_the_same_lines_and_nothing_is_twice(
    open_store: Open, sink: Sink, quarantine: Quarantine, box: Any, fault: str
) -> None:
    intake = Intake(_sink_store(open_store, sink), quarantine)
    group = intake.judge([box.send(box.weather(1))])
    sink.script = [fault] * 3
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as caught:
            intake.commit(group)
        assert caught.value.retry_after_s == (7.0 if fault == "503" else None)
    intake.commit(group)
    assert len(_distinct(sink.lines)) == 1
    assert sink.queries[0] == {"db": ["d"], "precision": ["ns"]}


def test_a_server_that_is_not_there_is_unavailable(
    open_store: Open, quarantine: Quarantine, box: Any
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    store = open_store(InfluxConfig(kind="influxdb", api="v1", url=url))
    intake = Intake(store, quarantine)
    with pytest.raises(StoreUnavailable):
        intake.commit(intake.judge([box.send(box.weather(1))]))


def test_a_request_too_large_is_halved(
    open_store: Open, sink: Sink, quarantine: Quarantine, box: Any
) -> None:
    sink.script = ["413", "413", "reset"]
    receipts = deliver(Intake(_sink_store(open_store, sink), quarantine), box.send(box.weather(64)))
    assert receipts == [EpochReceipt(box.epoch, ((0, 0),))]
    assert len(sink.lines) == len(_distinct(sink.lines)) == 64


def test_poison_among_thousands_is_found_and_refused_alone(
    open_store: Open, sink: Sink, quarantine: Quarantine, box: Any, weather: Stream
) -> None:
    store = _sink_store(open_store, sink)
    batches = [box.weather(20) for _ in range(100)]
    batches.insert(40, box.weather(20, values=(1.0, 2.0, 3, "poison")))
    sink.script = ["poison"]
    receipts = deliver(Intake(store, quarantine), box.send(*batches))
    assert receipts == [EpochReceipt(box.epoch, ((0, 99),), ((100, "parse", 20),))]
    assert len(_distinct(sink.lines)) == 2_000
    (account,) = (balance(f, None) for f in facts_of(store.ledger))
    assert (account.stored, account.refused, account.balanced) == (2_000, 20, True)


def test_a_lost_ledger_costs_resends_only(
    open_store: Open, sink: Sink, quarantine: Quarantine, box: Any, tmp_path: Path
) -> None:
    delivery = box.send(box.weather(5))
    store = _sink_store(open_store, sink)
    deliver(Intake(store, quarantine), delivery)
    store.close()
    for path in (tmp_path / "state").glob("ledger.db*"):
        path.unlink()
    assert deliver(Intake(_sink_store(open_store, sink), quarantine), delivery) == [
        EpochReceipt(box.epoch, ((0, 0),))
    ]
    assert len(sink.lines) == 10
    assert len(_distinct(sink.lines)) == 5


def test_the_ledger_folds_below_low_seq_and_still_knows_what_it_folded(
    open_store: Open, sink: Sink, quarantine: Quarantine, box: Any
) -> None:
    store = _sink_store(open_store, sink)
    intake = Intake(store, quarantine)
    batches = [box.weather(2) for _ in range(400)]
    lost = (f"{box.epoch:016x}", 300, 302, 6, None, None, None, "corrupt")
    batches.append(box.cut([Sample(LOSS, box.t0_ns, lost)], batch_class=BatchClass.ALARM))
    bundle = box.bundle(*batches, counters=replace(box.counters, low_seq=390))
    deliver(intake, Delivery(box.name, Lane.LIVE, bundle))
    facts = store.ledger.epochs[box.name, box.epoch]
    store.tend()
    assert facts.folded == []  # a loss that explains them may still come
    facts.received = dict.fromkeys(facts.received, 0)
    store.tend()
    # What a declared loss overlaps stays apart: only so can stored come before lost.
    assert facts.folded == [(0, 299, 600), (303, 389, 174)]
    assert len(facts.rows) == 14
    store.close()
    store.open()
    (account,) = (balance(f, None) for f in facts_of(store.ledger))
    assert (account.committed, account.stored, account.lost, account.balanced) == (801, 801, 0, True)
    assert deliver(intake, box.send(batches[5])) == [EpochReceipt(box.epoch, ((5, 5),))]
    assert len(sink.lines) == 801
