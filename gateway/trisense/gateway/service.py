"""``gateway run``: MQTT in, one writer thread, receipts out, HTTP beside it, until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import structlog
import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp
from trisense.core.errors import ConfigError, Mistake, StoreUnavailable, WireError
from trisense.core.messages import Birth, State
from trisense.core.topics import Lane
from trisense.core.wire import unpack
from trisense.gateway import accounts, api
from trisense.gateway.config import GatewayConfig
from trisense.gateway.console.app import create_app
from trisense.gateway.glimpse import AlarmSeen, look, show
from trisense.gateway.history import StoreHistory
from trisense.gateway.intake import Delivery, Group, Intake
from trisense.gateway.lanes import Lanes
from trisense.gateway.link import Links, Outbox, lane_of
from trisense.gateway.live import LiveState
from trisense.gateway.quarantine import Quarantine
from trisense.gateway.recall import Recall
from trisense.gateway.stores import make_store
from trisense.gateway.stores.base import StoreFull
from trisense.gateway.stores.columns import Portion

__all__ = ["Gateway"]

log = structlog.get_logger()
T = TypeVar("T")

STORE_BACKOFF_S: Final = (0.5, 30.0)
TEND_EVERY_S: Final = 60.0
DRAIN_S: Final = 2.0
"""Of the 5 s that SIGTERM has: to commit what is queued, and then to send the receipts."""
LEAVE_S: Final = 0.75
"""For each of: saying goodbye to the broker, closing the store."""
ALARM_AT_ONCE_BYTES: Final = 16 * 1024
"""Larger ones would hold up the event loop; they are told when the writer has judged them."""
TOLD: Final = 10_000
BIRTHS_WAITING: Final = 10_000
BIRTH_BYTES: Final = 1024 * 1024


class Gateway:
    """One worker."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self.live = LiveState()
        self._lanes = Lanes()
        self._outbox = Outbox()
        self._store = make_store(config.store)
        self._quarantine = Quarantine(config.quarantine.path, max_bytes=config.quarantine.max_bytes)
        self._intake = Intake(self._store, self._quarantine)
        self._links = Links(
            config.mqtt, config.gateway.worker, on_message=self._on_message, outbox=self._outbox
        )
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self.history = StoreHistory(self._store, self._reader)
        self._recall = Recall(self.history, self.live)
        self._births: OrderedDict[str, Birth] = OrderedDict()
        self._told: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        self._store_down: str | None = "not opened yet"
        self._stop = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._started = time.monotonic()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain and leave.

        Raises:
            ConfigError: the HTTP port is taken.
        """
        listener = _listener(self._config.http.host, self._config.http.port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with self._threads():
            async with asyncio.TaskGroup() as group:
                http = HttpServer(self._application(), self._config.log.level)
                serving = group.create_task(http.serve([listener]), name="http")
                linking = group.create_task(self._links.run(), name="mqtt")
                tending = group.create_task(self._tend(), name="tend")
                writing = group.create_task(self._write(), name="write")
                recalling = group.create_task(self._recall.run(), name="recall")
                log.info("gateway_started", url=f"http://{_shown(listener)}", store=self._store.kind)
                await self._stop.wait()
                log.info("gateway_stopping", waiting=self._lanes.waiting())
                self._lanes.close()
                http.should_exit = True
                tending.cancel()
                recalling.cancel()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_S):
                        await asyncio.shield(writing)
                        await self._outbox.drained()
                writing.cancel()
                self._links.leave()
                await asyncio.wait([linking, serving], timeout=LEAVE_S)
                linking.cancel()
                serving.cancel()
        log.info("gateway_stopped", **self._intake.counts)

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._reader.shutdown(wait=False, cancel_futures=True)
            closing = self._writer.submit(self._store.close)
            self._writer.shutdown(wait=False)
            try:
                closing.result(LEAVE_S)
            except TimeoutError:
                # A request to a server that does not answer cannot be called back. What it carries has
                # no receipt, so this is no worse than a crash.
                log.warning("store_busy", left="without its answer")
                os._exit(0)

    # MQTT in

    def _on_message(self, box: str, rest: str, payload: bytes) -> None:
        lane = lane_of(rest)
        if lane is not None:
            delivery = Delivery(box, lane, payload)
            if self._lanes.put(delivery) and lane is Lane.ALARM and len(payload) <= ALARM_AT_ONCE_BYTES:
                self._tell_at_once(delivery)
        elif rest in ("birth", "state") and 0 < len(payload) <= BIRTH_BYTES:
            self._on_word(box, rest, payload)

    def _tell_at_once(self, delivery: Delivery) -> None:
        """Tell an alarm before the writer has a hand free: a bulk commit may take half a second."""
        if self._store_down is not None:
            return  # without the ledger a stored one would be told again; alarms are shown from the queue
        with contextlib.suppress(WireError):
            bundle = unpack(delivery.payload)
            find = self._store.ledger.find
            fresh = {i for i, h in enumerate(bundle.heads) if find(bundle.box, h.epoch, h.seq) is None}
            if bundle.box == delivery.box:
                self._tell(look(Portion(bundle, frozenset(fresh))).alarms)

    def _on_word(self, box: str, rest: str, payload: bytes) -> None:
        """A box's JSON about itself; the topic says who it is."""
        try:
            if rest == "state":
                self.live.note_state(box, State.model_validate_json(payload))
                return
            birth = Birth.model_validate_json(payload)
        except ValidationError as error:
            self._counts["words_refused"] += 1
            log.warning("word_refused", box=box, topic=rest, error=str(error.errors()[0]["msg"])[:200])
            return
        if birth.box != box:
            self._counts["words_refused"] += 1
            log.warning("word_refused", box=box, topic=rest, error=f"speaks of {birth.box[:40]!r}")
            return
        self.live.note_birth(birth)
        self._recall.heard_of(box)
        self._births[box] = birth
        if len(self._births) > BIRTHS_WAITING:
            self._births.popitem(last=False)

    # Writing

    async def _write(self) -> None:
        await self._until_stored(self._quarantine.open)
        await self._until_stored(self._store.open)
        while deliveries := await self._lanes.take():
            while self._births:
                _, birth = self._births.popitem(last=False)
                self._tell(await self._until_stored(partial(self._intake.note_birth, birth)))
            group = await self._until_stored(partial(self._intake.judge, deliveries))
            self._show(group)
            answers = await self._until_stored(partial(self._intake.commit, group))
            self._tell(group.alarms)
            self._outbox.put(answers.messages())

    async def _until_stored(self, work: Callable[[], T]) -> T:
        """Do it on the writer's thread, again and again while the store is down: nothing is given up."""
        wait_s = STORE_BACKOFF_S[0]
        while True:
            try:
                done = await asyncio.get_running_loop().run_in_executor(self._writer, work)
            except StoreUnavailable as error:
                self._note_down(error)
                await self._show_while_down(error.retry_after_s or wait_s)
                wait_s = min(wait_s * 2, STORE_BACKOFF_S[1])
            else:
                self._note_up()
                return done

    async def _show_while_down(self, wait_s: float) -> None:
        """Wait, but keep the page alive: alarms and live data are shown, and forgotten (boxes have them)."""
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            for delivery in self._lanes.fresh():
                self._counts["shown_only"] += 1
                with contextlib.suppress(WireError):
                    bundle = unpack(delivery.payload)
                    if bundle.box == delivery.box:
                        glimpse = look(Portion(bundle, frozenset(range(len(bundle.heads)))))
                        show(self.live, glimpse)
                        self._tell(glimpse.alarms)
            await asyncio.sleep(min(0.1, left))

    def _note_down(self, error: StoreUnavailable) -> None:
        say = log.error if self._store_down is None or self._store_down != str(error) else log.debug
        say("store_unavailable", error=str(error), receipts="none until it is back")
        if self._store_down is None:
            kind = "store_full" if isinstance(error, StoreFull) else "store_down"
            self.live.note_alarm("", kind, {"error": str(error)[:300]})
        self._store_down = str(error)

    def _note_up(self) -> None:
        if self._store_down is not None:
            log.info("store_available", store=self._store.kind)
            self._store_down = None

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            if self._store_down is None:
                try:
                    boxes = await asyncio.get_running_loop().run_in_executor(self._writer, self._tend_store)
                except StoreUnavailable as error:
                    self._note_down(error)
                    continue
                # Of these the broker may have lost the birth when it restarted while they were away.
                for box in boxes:
                    self._recall.heard_of(box)

    def _tend_store(self) -> set[str]:
        """Gives the boxes that the ledger knows."""
        self._store.tend()
        return {box for box, _ in self._store.ledger.epochs}

    # Showing

    def _show(self, group: Group) -> None:
        for glimpse in group.glimpses:
            show(self.live, glimpse)
            self._tell(glimpse.alarms)

    def _tell(self, alarms: list[AlarmSeen]) -> None:
        fresh = [alarm for alarm in alarms if alarm.identity is None or alarm.identity not in self._told]
        for alarm in fresh:
            if alarm.identity is not None:
                self._told[alarm.identity] = None
            if alarm.all_well:
                self.live.note_well(alarm.box, alarm.values, time_ms=alarm.time_ms or 0)
                continue
            self.live.note_alarm(
                alarm.box, alarm.kind, alarm.values, device=alarm.device, time_ms=alarm.time_ms
            )
        while len(self._told) > TOLD:
            self._told.popitem(last=False)

    # HTTP

    def _application(self) -> ASGIApp:
        routes = api.routes(self.history, audit=self.audit, health=self.health)
        return create_app(live=self.live, store=self.history, routes=routes)

    async def audit(self, deep: bool = False) -> dict[str, Any]:
        """What ``trisense audit`` asks for: facts per box and epoch, their balance without a spool."""
        loop = asyncio.get_running_loop()
        facts = await loop.run_in_executor(self._writer, accounts.facts_of, self._store.ledger)
        answer: dict[str, Any] = {
            "time_ms": time.time_ns() // 1_000_000,
            "store": self._store.kind,
            "facts": [accounts.facts_json(f) for f in facts],
            "accounts": [accounts.as_json(accounts.balance(f, None)) for f in facts],
        }
        if deep:
            answer["deep"] = {
                box: accounts.facts_json(
                    await loop.run_in_executor(self._writer, accounts.deep_of, self._store, box)
                )
                for box in sorted({f.box for f in facts})
            }
        return answer

    def health(self) -> dict[str, Any]:
        """State in numbers, all since the start.

        ``payload_bytes`` over ``readings`` is what a reading costs on the wire, duplicates included,
        pictures not.
        """
        return {
            "ok": self._store_down is None and self._links.connected["fast"],
            "store": self._store.kind,
            "store_error": self._store_down,
            "mqtt": dict(self._links.connected),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "lanes": {
                "waiting": self._lanes.waiting(),
                "taken": dict(self._lanes.taken),
                "dropped": dict(self._lanes.dropped),
            },
            "receipts": {"sent": self._outbox.sent, "dropped": self._outbox.dropped},
            "quarantine": {"kept": self._quarantine.count, "dropped": self._quarantine.dropped},
            "readings": self._intake.counts["readings"],
            "payload_bytes": self._intake.counts["payload_bytes"],
            "counts": dict(self._intake.counts) | dict(self._counts),
        }


class HttpServer(uvicorn.Server):
    """Uvicorn as a part of this program: signals stay with the gateway."""

    def __init__(self, application: ASGIApp, level: str) -> None:
        super().__init__(
            uvicorn.Config(
                application, log_level="error" if level == "info" else level, access_log=False, lifespan="on",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(host: str, port: int) -> socket.socket:
    """Bind before anything else starts, so that a taken port is a clear mistake."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError("gateway", [Mistake("http.port", "a free port", f"{port}: {error}")]) from error
    return listener


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
