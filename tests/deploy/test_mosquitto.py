"""The shipped Mosquitto configuration: who gets in, and what each may say and hear."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

import aiomqtt
import pytest
from trisense.core import mqtt, topics
from trisense.core.topics import Lane

from .conftest import Broker, certificates

pytestmark = pytest.mark.peer


def box(broker: Broker, name: str = "kx-001", **options: object) -> aiomqtt.Client:
    return _client(broker.boxes_port, broker.tls(f"boxes/{name}"), **options)


def gateway(broker: Broker, client_id: str = "gateway-urgent") -> aiomqtt.Client:
    tls = broker.tls("gateways/gateway")
    return _client(broker.gateways_port, tls, identifier=client_id)


def _client(port: int, tls: ssl.SSLContext, **options: object) -> aiomqtt.Client:
    return mqtt.Client("127.0.0.1", port, tls_context=tls, timeout=1.5, **options)  # type: ignore[arg-type]


async def heard(client: aiomqtt.Client, last: str) -> list[str]:
    """Topics of what arrives, up to and with ``last``."""
    found: list[str] = []
    async with asyncio.timeout(10):
        async for message in client.messages:
            found.append(message.topic.value)
            if found[-1] == last:
                return found
    return found


async def test_a_box_publishes_its_own_topics_and_the_gateway_hears_them(broker: Broker) -> None:
    mine = [topics.up("kx-001", lane) for lane in Lane] + [topics.birth("kx-001"), topics.state("kx-001")]
    async with gateway(broker) as ears, box(broker) as mouth:
        await ears.subscribe("tri/v1/#", qos=1)
        for topic in mine:
            await mouth.publish(topic, b"x", qos=1)
        assert await heard(ears, mine[-1]) == mine


async def test_what_a_box_says_in_another_name_reaches_nobody(broker: Broker) -> None:
    forged = [topics.up("kx-002", Lane.LIVE), topics.receipt("kx-001"), topics.gateway_state("gateway")]
    honest = topics.state("kx-001")
    async with gateway(broker) as ears, box(broker) as mouth:
        await ears.subscribe("tri/#", qos=1)
        for topic in forged:
            await mouth.publish(topic, b"x", qos=1)
        await mouth.publish(honest, b"x", qos=1)
        # MQTT 3.1.1 acknowledges what it refuses, so only what arrives tells.
        assert await heard(ears, honest) == [honest]


async def test_a_box_hears_its_own_receipts_and_no_other_box(broker: Broker) -> None:
    own = topics.receipt("kx-001")
    async with box(broker) as ears, gateway(broker) as mouth:
        await ears.subscribe("tri/#", qos=1)
        for topic in (topics.receipt("kx-002"), topics.up("kx-002", Lane.LIVE), own):
            await mouth.publish(topic, b"x", qos=1)
        assert await heard(ears, own) == [own]


async def test_the_gateway_commands_a_box_and_hears_its_answers(broker: Broker) -> None:
    down = [topics.command("kx-001", "a1"), topics.desired("kx-001")]
    up = [topics.reply("kx-001", "a1"), topics.reported("kx-001")]
    async with box(broker) as field, gateway(broker) as hand:
        await field.subscribe("tri/#", qos=1)
        await hand.subscribe("tri/v1/#", qos=1)
        for topic in (topics.command("kx-002", "a1"), topics.desired("kx-002"), *down):
            await hand.publish(topic, b"x", qos=1)
        assert await heard(field, down[-1]) == down
        for topic in up:
            await field.publish(topic, b"x", qos=1)
        assert await heard(hand, up[-1]) == up


async def test_no_box_commands_another_nor_itself(broker: Broker) -> None:
    forged = [
        f(name)
        for name in ("kx-001", "kx-002")
        for f in (topics.desired, partial(topics.command, identity="a"))
    ]
    forged += [topics.reply("kx-002", "a"), topics.reported("kx-002")]
    honest = topics.state("kx-001")
    async with gateway(broker) as ears, box(broker, "kx-002") as other, box(broker) as mouth:
        await ears.subscribe("tri/v1/#", qos=1)
        await other.subscribe("tri/#", qos=1)
        for topic in (*forged, honest):
            await mouth.publish(topic, b"x", qos=1)
        assert await heard(ears, honest) == [honest]
        await ears.publish(topics.receipt("kx-002"), b"x", qos=1)
        assert await heard(other, topics.receipt("kx-002")) == [topics.receipt("kx-002")]


async def test_a_box_cannot_take_the_session_of_another_client(broker: Broker) -> None:
    async with box(broker, "kx-001") as first, box(broker, "kx-002", identifier="kx-001") as second:
        await second.publish(topics.state("kx-002"), b"x", qos=1)
        await first.publish(topics.state("kx-001"), b"x", qos=1)


@pytest.mark.parametrize("name", ["boxes/kx-revoked", "stranger"])
async def test_a_revoked_or_foreign_certificate_is_refused(broker: Broker, name: str) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with _client(broker.boxes_port, broker.tls(name)) as client:
            await client.publish("tri/v1/x/state", b"x", qos=1)


async def test_a_box_certificate_is_worth_nothing_on_the_gateways_listener(broker: Broker) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with _client(broker.gateways_port, broker.tls("boxes/kx-001")) as client:
            await client.publish(topics.receipt("kx-002"), b"x", qos=1)


async def test_no_certificate_no_entry(broker: Broker) -> None:
    anonymous = ssl.create_default_context(cafile=str(broker.folder / "gateways-ca.crt"))
    with pytest.raises(aiomqtt.MqttError):
        async with _client(broker.boxes_port, anonymous) as client:
            await client.publish(topics.state("kx-001"), b"x", qos=1)


async def test_the_broker_takes_the_largest_bundle(broker: Broker) -> None:
    topic = topics.up("kx-001", Lane.MEDIA)
    async with gateway(broker) as ears, box(broker) as mouth:
        await ears.subscribe(topic, qos=1)
        await mouth.publish(topic, bytes(256 * 1024), qos=1)
        assert await heard(ears, topic) == [topic]


@pytest.mark.parametrize("name", ["+", "#", "KX", "a b", "-a", "a" * 33, "../x"])
def test_no_certificate_is_issued_for_a_name_that_is_none(broker: Broker, name: str) -> None:
    result = certificates("box", str(broker.folder), name)
    assert result.returncode == 2
    assert "not " + name in result.stderr


def test_keys_are_readable_by_their_owner_alone(broker: Broker) -> None:
    keys = list(broker.folder.rglob("*.key"))
    assert len(keys) >= 6
    assert [k for k in keys if k.parent != broker.folder and k.stat().st_mode & 0o077] == []
