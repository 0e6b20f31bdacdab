"""One connection to the broker: MQTT 5 first, then 3.1.1; TLS; what the box says of itself."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import aiomqtt
from trisense.core import topics
from trisense.core.errors import ConfigError, LinkError
from trisense.edge.config import MqttTable

__all__ = ["QOS", "Connector"]


class LastWords(logging.Handler):
    """Keeps paho's last error: why TLS failed reaches nobody as an exception."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


last_words = LastWords(logging.ERROR)
quiet = logging.getLogger("trisense.edge.mqtt")
quiet.addHandler(last_words)
quiet.propagate = False

QOS: Final = 1
ANSWER_S: Final = 60.0
"""Longest wait for the broker's answer to anything, a picture on a slow link included; then the link
counts as dead. A link that is dead for other reasons shows by keep-alive."""
CONNECT_S: Final = 5.0
CONNECT_MAX_S: Final = 40.0
"""Waits for the answer to a CONNECT; it doubles, for a link may be slow and a broker may be mute."""
LET_GO_S: Final = 0.2
INCOMING: Final = 256
"""Messages that wait to be handled; what is beyond is discarded, for receipts come again."""


class Connector:
    """Makes connections, one at a time, and remembers which protocol version the broker speaks."""

    def __init__(self, box: str, table: MqttTable) -> None:
        self._box = box
        self._table = table
        self._connect_s = CONNECT_S
        self._protocols = [aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311]

    @contextlib.asynccontextmanager
    async def connect(self, will: str) -> AsyncIterator[aiomqtt.Client]:
        """A client that is connected and whose will is ``will`` on the box's state topic.

        A client is never used twice: paho would send again by itself what it still holds, and the
        spool alone decides what is sent.

        Raises:
            LinkError: the broker cannot be reached, refuses us, or the connection broke.
        """
        try:
            client = self._client(will)
            await self._enter(client)
        except (aiomqtt.MqttError, OSError, ConfigError) as error:
            raise LinkError(f"{self._table.host}:{self._table.port}: {error}") from error
        try:
            yield client
        except aiomqtt.MqttError as error:
            raise LinkError(f"{self._table.host}:{self._table.port}: {error}") from error
        finally:
            client.timeout = LET_GO_S  # a dead link answers no DISCONNECT
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)

    async def _enter(self, client: aiomqtt.Client) -> None:
        client.timeout = self._connect_s
        last_words.text = ""
        try:
            await client.__aenter__()
        except BaseException as error:
            said = last_words.text
            client.timeout = LET_GO_S
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
            if isinstance(error, aiomqtt.MqttError):
                # A broker of 3.1.1 refuses a 5 client in several ways, some just hang up: take turns.
                self._protocols.reverse()
                self._connect_s = min(2 * self._connect_s, CONNECT_MAX_S)
                raise aiomqtt.MqttError(f"{error} ({said})" if said else str(error)) from error
            raise
        client.timeout = ANSWER_S
        self._connect_s = CONNECT_S

    def _client(self, will: str) -> aiomqtt.Client:
        table = self._table
        return aiomqtt.Client(
            table.host,
            table.port,
            identifier=self._box,
            logger=quiet,
            username=table.username,
            password=table.password(),
            protocol=self._protocols[0],
            will=aiomqtt.Will(topics.state(self._box), will, QOS, retain=True),
            clean_session=True if self._protocols[0] is aiomqtt.ProtocolVersion.V311 else None,
            tls_context=table.tls_context(),
            keepalive=table.keepalive_s,
            max_queued_incoming_messages=INCOMING,
        )
