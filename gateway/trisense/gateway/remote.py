"""Commands and configuration for a box, over the gateway's broker, with the gateway's rights."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiomqtt
from pydantic import ValidationError
from trisense.core import topics
from trisense.core.errors import LinkError
from trisense.core.messages import State
from trisense.core.mqtt import Client
from trisense.core.remote import Command, Desired, Reply, Reported, reply_of, reported_of
from trisense.gateway.config import GatewayConfig, MqttConfig

__all__ = ["ask", "follow", "leave"]

CONNECT_S: Final = 5.0
SETTLED: Final = frozenset({"running", "rejected", "rolled_back", "superseded", "checked"})
"""States after which nothing more comes by itself."""


async def ask(config: GatewayConfig, box: str, command: Command, *, timeout_s: float) -> Reply:
    """Send a command and wait for its reply.

    Raises:
        LinkError: no broker, the box is offline, or no answer in time.
        RemoteError: an answer that is none.
    """
    identity = secrets.token_hex(8)
    reply = topics.reply(box, identity)
    async with _client(config) as client:
        talk = _Talk(client, box)
        await client.subscribe([(topics.state(box), 1), (reply, 1)])
        await client.publish(topics.command(box, identity), command.model_dump_json(exclude_none=True), 1)
        async with talk.at_most(timeout_s):
            async for message in client.messages:
                if message.topic.value == reply:
                    return reply_of(_bytes(message))
                talk.heard(message)
                if talk.offline_since is not None:
                    raise LinkError(f"{box} is offline since {talk.offline_since}")
    raise LinkError("the broker ended the connection")


async def follow(
    config: GatewayConfig,
    box: str,
    desired: Desired,
    *,
    timeout_s: float,
    tell: Callable[[Reported], None],
) -> Reported:
    """Publish a desired configuration and wait until the box has settled; ``tell`` is given each report.

    Raises:
        LinkError: no broker, or nothing settled in time.
        RemoteError: a report that is none.
    """
    async with _client(config) as client:
        talk = _Talk(client, box)
        await client.subscribe([(topics.state(box), 1), (topics.reported(box), 1)])
        await _publish(client, box, desired)
        async with talk.at_most(timeout_s):
            async for message in client.messages:
                if message.topic.value == topics.state(box):
                    talk.heard(message)
                    if desired.dry_run and talk.offline_since is not None:
                        raise LinkError(f"{box} is offline since {talk.offline_since}; a dry run needs it")
                elif not message.retain:  # what is retained was said before we asked
                    reported = reported_of(_bytes(message))
                    if (reported.desired, reported.attempt) == (desired.hash, desired.attempt):
                        tell(reported)
                        talk.moves |= _moves(reported)
                        if reported.state in SETTLED:
                            return reported
    raise LinkError("the broker ended the connection")


async def leave(config: GatewayConfig, box: str, desired: Desired) -> None:
    """Publish a desired configuration; the broker keeps it for the box.

    Raises:
        LinkError: no broker.
    """
    async with _client(config) as client:
        await _publish(client, box, desired)


async def _publish(client: aiomqtt.Client, box: str, desired: Desired) -> None:
    # A dry run goes beside the retained one: it only asks, and must not take its place.
    payload = desired.model_dump_json(exclude_none=True)
    await client.publish(topics.desired(box), payload, 1, retain=not desired.dry_run)


class _Talk:
    """What is known of the box while we wait for it."""

    def __init__(self, client: aiomqtt.Client, box: str) -> None:
        self.offline_since: str | None = None
        self.moves = False
        """Whether what it tries takes it to another broker, or to this one by other means."""
        self._box = box
        self._client = client
        self._seen = False

    def heard(self, message: aiomqtt.Message) -> None:
        """Take the box's state."""
        with contextlib.suppress(ValidationError):
            state = State.model_validate_json(_bytes(message))
            self._seen = True
            self.offline_since = None if state.online else state.since

    @contextlib.asynccontextmanager
    async def at_most(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            if self.offline_since is not None:
                known = f"it is offline since {self.offline_since}"
            elif self._seen:
                known = "it is online"
            else:
                known = "this broker has never heard of it"
            if self.moves:
                known += "; its [mqtt] changes: if it does not come back, it is at another broker"
            raise LinkError(f"no answer from {self._box} within {timeout_s:g} s; {known}") from error


def _moves(reported: Reported) -> bool:
    change = reported.difference
    return change is not None and any(name.startswith("mqtt.") for name in change.settings)


def _bytes(message: aiomqtt.Message) -> bytes:
    return message.payload if isinstance(message.payload, bytes) else b""


@contextlib.asynccontextmanager
async def _client(config: GatewayConfig) -> AsyncIterator[aiomqtt.Client]:
    """A connection of our own beside those of a running gateway; version 5, else 3.1.1.

    Raises:
        LinkError: no broker, it refuses us, or the connection broke.
    """
    where = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        try:
            client = await _entered(config.mqtt, config.gateway.worker, aiomqtt.ProtocolVersion.V5)
        except aiomqtt.MqttError:
            client = await _entered(config.mqtt, config.gateway.worker, aiomqtt.ProtocolVersion.V311)
        try:
            yield client
        finally:
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
    except (aiomqtt.MqttError, OSError) as error:
        raise LinkError(f"{where}: {error}") from error


async def _entered(mqtt: MqttConfig, worker: str, protocol: aiomqtt.ProtocolVersion) -> aiomqtt.Client:
    client = Client(
        mqtt.host,
        mqtt.port,
        username=mqtt.username,
        password=mqtt.password(),
        identifier=f"{worker}-hand-{secrets.token_hex(4)}",
        protocol=protocol,
        clean_session=True if protocol is aiomqtt.ProtocolVersion.V311 else None,
        keepalive=mqtt.keepalive_s,
        tls_context=mqtt.tls_context(),
        timeout=CONNECT_S,
    )
    return await client.__aenter__()
