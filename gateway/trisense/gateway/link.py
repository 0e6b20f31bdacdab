"""The gateway's MQTT side: two connections in, receipts and the worker's state out.

Alarm and live have a connection of their own, so a backlog in the other one's socket never delays them.
Clean sessions and automatic acks: a PUBACK promises nothing, the receipt does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import aiomqtt
import structlog
from trisense.core import topics
from trisense.core.errors import WireError
from trisense.core.messages import GatewayState
from trisense.core.mqtt import Client
from trisense.core.topics import Lane
from trisense.gateway.config import MqttConfig

__all__ = ["Links", "OnMessage", "Outbox"]

log = structlog.get_logger()

OnMessage = Callable[[str, str, bytes], None]
"""Called with (box, rest of the topic, payload)."""

BACKOFF_S: Final = (0.5, 15.0)
TIMEOUT_S: Final = 10.0
FIRST_TIMEOUT_S: Final = 3.0
"""Of the first tries in version 5 and in 3.1.1: the library takes a broker that hangs up for a slow one. It
grows with every second try, so that a slow link gets its time."""
RECEIPTS_WAITING: Final = 50_000
RECEIPTS_AT_ONCE: Final = 200
MESSAGES_IN_CLIENT: Final = 1_000
"""Between the client library and our lanes, which are emptied on every turn of the loop."""
FAST: Final = ("up/alarm", "up/live", "birth", "state")
BULK: Final = ("up/backlog", "up/media")


class Outbox:
    """Receipts waiting for the broker. When full the oldest go (policy: drop_oldest): boxes ask again."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=RECEIPTS_WAITING)
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0
        self.sent = 0

    def put(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for message in messages:
            if len(self._waiting) == RECEIPTS_WAITING:
                self.dropped += 1
            self._waiting.append(message)
        if self._waiting:
            self._some.set()
            self._idle.clear()

    async def drained(self) -> None:
        """Wait until every receipt has its PUBACK."""
        await self._idle.wait()

    async def send_over(self, client: aiomqtt.Client) -> None:
        """Publish what comes, for as long as the connection lasts."""
        while True:
            await self._some.wait()
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), RECEIPTS_AT_ONCE))]
            async with asyncio.TaskGroup() as group:
                for box, payload in some:
                    group.create_task(client.publish(topics.receipt(box), payload, qos=1, retain=False))
            self.sent += len(some)
            if not self._waiting:
                self._some.clear()
                self._idle.set()


class Links:
    """Both connections, each opened again and again until cancelled."""

    def __init__(self, config: MqttConfig, worker: str, *, on_message: OnMessage, outbox: Outbox) -> None:
        self._config = config
        self._worker = worker
        self._on_message = on_message
        self._outbox = outbox
        self._protocols = dict.fromkeys(("fast", "bulk"), aiomqtt.ProtocolVersion.V5)
        self.connected: dict[str, bool] = {"fast": False, "bulk": False}
        self.counts: Counter[str] = Counter()
        """``fast_lost``, ``bulk_lost`` (connections lost or not had), ``topics_unknown``."""
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Serve until ``leave``."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep("bulk", BULK), name="mqtt-bulk")
            group.create_task(self._keep("fast", FAST), name="mqtt-fast")

    def leave(self) -> None:
        """Say that this worker is offline and end both connections."""
        self._leaving.set()

    async def _keep(self, name: str, subscriptions: Sequence[str]) -> None:
        wait_s = BACKOFF_S[0]
        while not self._leaving.is_set():
            try:
                async with self._client(name) as client:
                    wait_s = BACKOFF_S[0]
                    await self._serve(name, client, subscriptions)
            except* (aiomqtt.MqttError, OSError) as errors:
                if not self._leaving.is_set():
                    self._lost(name, errors)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s * random.uniform(0.5, 1.0)):  # noqa: S311  # jitter
                    await self._leaving.wait()
            wait_s = min(wait_s * 2, BACKOFF_S[1])

    def _lost(self, name: str, errors: BaseExceptionGroup[Exception]) -> None:
        say = log.warning if self.connected[name] or not self.counts[f"{name}_lost"] else log.debug
        if not self.connected[name]:
            # Never connected: perhaps the broker speaks 3.1.1 only (amqtt does not say so, it hangs up).
            flip = {aiomqtt.ProtocolVersion.V5: aiomqtt.ProtocolVersion.V311}
            self._protocols[name] = flip.get(self._protocols[name], aiomqtt.ProtocolVersion.V5)
        self.connected[name] = False
        self.counts[f"{name}_lost"] += 1
        reason = errors.exceptions[0]
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        say("mqtt_lost", link=name, host=self._config.host, port=self._config.port, error=str(reason))

    async def _serve(self, name: str, client: aiomqtt.Client, subscriptions: Sequence[str]) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._receive(client), name=f"mqtt-{name}-receive")]
            await client.subscribe([(f"{topics.ROOT}/+/{rest}", 1) for rest in subscriptions])
            self.connected[name] = True
            log.info("mqtt_connected", link=name, protocol=self._protocols[name].name)
            if name == "fast":
                await self._say(client, online=True)
                tasks.append(group.create_task(self._outbox.send_over(client), name="mqtt-receipts"))
            await self._leaving.wait()
            if name == "fast":
                await self._say(client, online=False)
            for task in tasks:
                task.cancel()

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            try:
                box, rest = topics.parse(message.topic.value)
            except WireError as error:
                self.counts["topics_unknown"] += 1
                log.debug("topic_unknown", detail=str(error))
                continue
            payload = message.payload
            self._on_message(box, rest, payload if isinstance(payload, bytes) else b"")

    async def _say(self, client: aiomqtt.Client, *, online: bool) -> None:
        await client.publish(self._state_topic, _state(online=online), qos=1, retain=True)

    @property
    def _state_topic(self) -> str:
        return topics.gateway_state(self._worker)

    def _client(self, name: str) -> aiomqtt.Client:
        protocol = self._protocols[name]
        v5 = protocol is aiomqtt.ProtocolVersion.V5
        return Client(
            self._config.host,
            self._config.port,
            username=self._config.username,
            password=self._config.password(),
            identifier=f"{self._worker}-{name}",
            protocol=protocol,
            clean_start=True if v5 else 3,
            clean_session=None if v5 else True,
            will=aiomqtt.Will(self._state_topic, _state(online=False), 1, retain=True)
            if name == "fast"
            else None,
            keepalive=self._config.keepalive_s,
            tls_context=self._config.tls_context(),
            timeout=min(TIMEOUT_S, FIRST_TIMEOUT_S * (1 + self.counts[f"{name}_lost"] // 2)),
            max_queued_incoming_messages=MESSAGES_IN_CLIENT,
            max_concurrent_outgoing_calls=RECEIPTS_AT_ONCE,
        )


def _state(*, online: bool) -> bytes:
    return GatewayState(online=online).model_dump_json().encode()


def lane_of(rest: str) -> Lane | None:
    """The lane of ``up/LANE``, None for another topic."""
    head, _, tail = rest.partition("/")
    return Lane(tail) if head == "up" and tail in tuple(Lane) else None
