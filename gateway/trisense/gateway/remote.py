"""Commands and configuration for a box, over the gateway's broker, with the gateway's rights."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiomqtt
from pydantic import ValidationError
from trisense.core import topics
from trisense.core.errors import LinkError, RemoteError
from trisense.core.messages import State
from trisense.core.mqtt import Client
from trisense.core.remote import Command, Desired, Reply, Reported, reply_of, reported_of
from trisense.gateway.config import GatewayConfig, MqttConfig

__all__ = ["Push", "ask", "withdraw"]

CONNECT_S: Final = 5.0
KNOWN_S: Final = 3.0
"""Longest wait for what the broker keeps of a box,"""
NEAREST_S: Final = 1.0
"""and of all others, to name some."""
SETTLED: Final = frozenset({"running", "rejected", "rolled_back", "superseded", "checked"})
"""States after which nothing more comes by itself."""


async def ask(config: GatewayConfig, box: str, command: Command, *, timeout_s: float) -> Reply:
    """Send a command and wait for its reply.

    Raises:
        LinkError: no broker, a box that it does not know or that is offline, or no answer in time.
        RemoteError: an answer that is none.
    """
    identity = secrets.token_hex(8)
    reply = topics.reply(box, identity)
    async with _client(config) as client:
        state, _ = await _known(client, box)
        if not state.online:
            raise LinkError(f"{box} is offline since {state.since} or later")
        await client.subscribe(reply, 1)
        await client.publish(topics.command(box, identity), command.model_dump_json(exclude_none=True), 1)
        try:
            async with asyncio.timeout(timeout_s):
                async for message in client.messages:
                    if message.topic.value == reply:
                        return reply_of(_bytes(message))
                    state = _state_of(message) or state
                    if not state.online:
                        raise LinkError(f"{box} went offline; it may have done it")
        except TimeoutError as error:
            raise LinkError(f"no answer from {box} within {timeout_s:g} s; it is online") from error
    raise LinkError("the broker ended the connection")


class Push:
    """One configuration on its way to a box."""

    def __init__(
        self,
        config: GatewayConfig,
        box: str,
        desired: Desired,
        *,
        tell: Callable[[Reported], None],
        note: Callable[[str], None],
    ) -> None:
        """``tell`` is given each report of the box, ``note`` what else whoever waits should know."""
        self._config = config
        self._box = box
        self._desired = desired
        self._tell = tell
        self._note = note
        self._sent = False
        self._offline_since: str | None = None
        self._last: Reported | None = None

    async def follow(self, timeout_s: float) -> Reported:
        """Publish it and wait until the box has settled.

        Raises:
            LinkError: no broker, a box that it does not know or that tries another configuration, or nothing
                settled in time. Says what was sent and what goes on.
            RemoteError: a report that is none.
        """
        try:
            async with _client(self._config) as client:
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._send(client)
                        return await self._settled(client)
                except TimeoutError as error:
                    raise LinkError(f"{self._box} has not settled within {timeout_s:g} s") from error
        except LinkError as error:
            raise LinkError(f"{error}: {self.standing()}") from error

    async def leave(self) -> None:
        """Publish it; the broker keeps it for the box.

        Raises:
            LinkError: as ``follow``.
        """
        async with _client(self._config) as client:
            await self._send(client)

    def standing(self) -> str:
        """Where it stands as far as we have looked, in words."""
        again = "the same command again says where it stands"
        if not self._sent:
            return "nothing was sent"
        if self._desired.dry_run:
            return "nothing changes"
        if self._last is not None:
            said = f"its last word is {self._last.state!r}, it goes on by itself, {again}"
            moves = "; its [mqtt] changes: if it does not come back, it is at another broker"
            return said + (moves if _moves(self._last) else "")
        if self._offline_since is not None:
            since = self._offline_since
            return (
                f"offline since {since} or later, the broker keeps it for the box (--withdraw takes it back)"
            )
        return f"it was sent, the box has not answered yet, {again}"

    async def _send(self, client: aiomqtt.Client) -> None:
        state, reported = await _known(client, self._box)
        if not state.online:
            if self._desired.dry_run:
                raise LinkError(
                    f"{self._box} is offline since {state.since} or later, and a dry run needs it"
                )
            self._offline_since = state.since
            self._note(
                f"{self._box}: offline since {state.since} or later; the broker keeps this until it is back"
            )
        elif reported is not None and not self._desired.dry_run and self._is_another(reported):
            raise LinkError(
                f"expected one change at a time, but {self._box} is trying another one,"
                f" {(reported.desired or '')[:16]}, since {reported.since}"
            )
        # A dry run goes beside the retained one: it only asks, and must not take its place.
        payload = self._desired.model_dump_json(exclude_none=True)
        await client.publish(topics.desired(self._box), payload, 1, retain=not self._desired.dry_run)
        self._sent = True

    def _is_another(self, reported: Reported) -> bool:
        return reported.state in ("checking", "trial") and not self._is_ours(reported)

    def _is_ours(self, reported: Reported) -> bool:
        return (reported.desired, reported.attempt) == (self._desired.hash, self._desired.attempt)

    async def _settled(self, client: aiomqtt.Client) -> Reported:
        async for message in client.messages:
            if message.topic.value == topics.state(self._box):
                state = _state_of(message)
                if state is not None:
                    self._offline_since = None if state.online else state.since
            elif not message.retain:  # what is retained was said before we asked
                reported = reported_of(_bytes(message))
                if self._is_ours(reported):
                    self._tell(reported)
                    # What follows a difference says it no more.
                    change = reported.difference or (self._last and self._last.difference)
                    self._last = reported.model_copy(update={"difference": change})
                    if reported.state in SETTLED:
                        return reported
        raise LinkError("the broker ended the connection")


async def withdraw(config: GatewayConfig, box: str) -> None:
    """Have the broker keep no configuration for the box; what the box runs stays.

    Raises:
        LinkError: no broker.
    """
    async with _client(config) as client:
        await client.publish(topics.desired(box), b"", 1, retain=True)


async def _known(client: aiomqtt.Client, box: str) -> tuple[State, Reported | None]:
    """What the broker keeps of a box; stays subscribed to both.

    Raises:
        LinkError: nothing; with the names of others.
    """
    # In this order: the state comes last, and then the report has come, if there is one.
    await client.subscribe([(topics.reported(box), 1), (topics.state(box), 1)])
    reported = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KNOWN_S):
            async for message in client.messages:
                if message.topic.value != topics.state(box):
                    with contextlib.suppress(RemoteError):
                        reported = reported_of(_bytes(message))
                elif (state := _state_of(message)) is not None:
                    return state, reported
    others = await _nearest(client, box)
    raise LinkError(f"this broker has never heard of {box}, it knows {others}")


async def _nearest(client: aiomqtt.Client, box: str) -> str:
    """The boxes that the broker knows with the most similar names."""
    found = set()
    await client.subscribe(topics.state("+"), 1)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NEAREST_S):
            async for message in client.messages:
                found.add(topics.parse(message.topic.value)[0])
    return ", ".join(difflib.get_close_matches(box, sorted(found), n=5, cutoff=0.0)) or "no box"


def _state_of(message: aiomqtt.Message) -> State | None:
    with contextlib.suppress(ValidationError):
        return State.model_validate_json(_bytes(message))
    return None


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
