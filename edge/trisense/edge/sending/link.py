"""One connection to the broker: MQTT 5 first, then 3.1.1; TLS; what the box says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from trisense.core import topics
from trisense.core.errors import ConfigError, LinkError
from trisense.core.mqtt import Client
from trisense.edge.config import MqttTable

__all__ = ["QOS", "Connection", "Connector"]


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


TCP_INFO_BYTES: Final = 256
TCP_INFO_AT: Final = (128, 136, 200)
"""Offsets in Linux's ``struct tcp_info`` (linux/tcp.h; it only ever grows at its end) of bytes received,
of segments sent and received, and, since Linux 4.19, of bytes sent with those sent again."""
HEADERS_BYTES: Final = {socket.AF_INET: 52, socket.AF_INET6: 72}
"""IP and TCP with time stamps, each segment."""


class Connection(Client):
    """aiomqtt's client, which also says what the broker said of a publish and what the link carried."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_reason: Callable[[str], None] | None = None
        """Called with the name of each reason code of MQTT 5 other than Success."""

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.value and self.on_reason is not None:
            self.on_reason(reason_code.getName())
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self,
        client: Any,
        userdata: Any,
        flags: Any,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        # aiomqtt would wait for the whole time-out for an answer that cannot come any more.
        if not self._connected.done():
            error = aiomqtt.MqttCodeError(reason_code, "hung up before it answered")
            self._connected.set_exception(error)
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    async def ended(self) -> None:
        """Wait until the connection is gone: a publish alone does not notice.

        Raises:
            MqttError: it broke.
        """
        await asyncio.wait([self._disconnected])
        self._disconnected.result()

    def carried_bytes(self) -> int | None:
        """Bytes that this connection has cost so far, both ways, with IP and TCP headers and what was
        sent again; None once it is closed, and where the kernel does not say.
        """
        link = self._client.socket()
        if not isinstance(link, socket.socket):
            return None
        try:
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except OSError:
            return None
        received_at, segments_at, sent_at = TCP_INFO_AT
        if len(info) < sent_at + 8:
            return None
        (received,) = struct.unpack_from("=Q", info, received_at)
        (sent,) = struct.unpack_from("=Q", info, sent_at)
        segments = sum(struct.unpack_from("=II", info, segments_at))
        return int(received + sent + segments * HEADERS_BYTES[link.family])


class Connector:
    """Makes connections, one at a time, and remembers which protocol version the broker speaks."""

    def __init__(self, box: str, table: MqttTable) -> None:
        self.broker = f"{table.host}:{table.port}"
        self._box = box
        self._table = table
        self._connect_s = CONNECT_S
        self._protocols = [aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311]

    @property
    def protocol(self) -> str:
        """The version of MQTT that is spoken, or tried next."""
        return "5" if self._protocols[0] is aiomqtt.ProtocolVersion.V5 else "3.1.1"

    @contextlib.asynccontextmanager
    async def connect(self, will: str) -> AsyncIterator[Connection]:
        """A client that is connected and whose will is ``will`` on the box's state topic.

        A client is never used twice: paho would send again by itself what it still holds, and the
        spool alone decides what is sent.

        Raises:
            LinkError: the broker cannot be reached, refuses us, or the connection broke.
        """
        try:
            client = self._client(will)
            await self._enter(client)
        except (aiomqtt.MqttError, OSError, ConfigError, ValueError) as error:
            # ValueError: a name of a host or a file that cannot be one. The box senses without a link.
            raise LinkError(f"{self.broker}: {error}") from error
        try:
            yield client
        except aiomqtt.MqttError as error:
            raise LinkError(f"{self.broker}: {error}") from error
        finally:
            client.timeout = LET_GO_S  # a dead link answers no DISCONNECT
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)

    async def _enter(self, client: Connection) -> None:
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

    def _client(self, will: str) -> Connection:
        table = self._table
        return Connection(
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
