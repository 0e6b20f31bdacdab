"""Others on the box use the way up too: their topics, their messages, another broker while it runs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest
from trisense.core import mqtt
from trisense.core.errors import LinkError
from trisense.edge.config import BoxConfig
from trisense.edge.sending import downlink as downlink_module
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.link import Connector
from trisense.edge.spool import Cut

from tests.edge.peers import BOX, Bench, Gateway, until

if TYPE_CHECKING:
    from tests.edge.conftest import Broker, FakeClock

pytestmark = pytest.mark.peer

COMMANDS = f"tri/v1/{BOX}/cmd/+"


class Guest:
    """Takes messages one at a time, each when the test lets it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def take(self, topic: str, payload: bytes) -> None:
        self.got.append((topic, payload))
        await self.may_go_on.wait()
        if payload == b"fault":
            raise RuntimeError("a bug in the guest")


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.fixture
async def hosting(bench: Bench, config: BoxConfig, clock: FakeClock, guest: Guest) -> AsyncIterator[Bench]:
    """A bench whose uplink serves the guest too."""
    made = Bench(bench.door, config, clock, topics=[COMMANDS], on_message=guest.take)
    made.start()
    await until(lambda: made.uplink.connected)
    yield made
    await made.stop()


async def send(gateway: Gateway, number: int, payload: bytes) -> None:
    assert gateway.client is not None
    await gateway.client.publish(f"tri/v1/{BOX}/cmd/{number}", payload, 1)


async def test_a_guest_that_hangs_delays_no_receipt_and_gets_the_newest_messages(
    hosting: Bench,
    gateway: Gateway,
    guest: Guest,
    cut: Callable[..., Cut],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downlink_module, "MAIL_MAX", 2)
    await gateway.ready.wait()
    guest.may_go_on.clear()
    await send(gateway, 0, b"0")
    await until(lambda: guest.got)
    for number in range(1, 5):
        await send(gateway, number, b"%d" % number)
    await hosting.commit(cut(1))
    await hosting.settled()
    assert len(guest.got) == 1

    guest.may_go_on.set()
    await until(lambda: len(guest.got) == 3)
    assert [payload for _, payload in guest.got] == [b"0", b"3", b"4"]
    assert guest.got[-1][0] == f"tri/v1/{BOX}/cmd/4"
    assert hosting.uplink.counts["messages_dropped"] == 2


async def test_a_fault_of_a_guest_costs_its_message_only(
    hosting: Bench, gateway: Gateway, guest: Guest
) -> None:
    await gateway.ready.wait()
    await send(gateway, 1, b"fault")
    await send(gateway, 2, b"fine")
    await until(lambda: len(guest.got) == 2)
    assert hosting.uplink.counts["messages_failed"] == 1
    assert hosting.uplink.connected


async def test_a_guest_publishes_while_there_is_a_link_and_is_told_when_there_is_none(
    hosting: Bench, gateway: Gateway, broker: Broker
) -> None:
    await gateway.ready.wait()
    await hosting.uplink.publish(f"tri/v1/{BOX}/config/reported", b"{}", retain=True)
    async with mqtt.Client("127.0.0.1", broker.port) as reader, asyncio.timeout(20):
        await reader.subscribe(f"tri/v1/{BOX}/config/reported")
        assert (await anext(reader.messages)).retain

    broker.kill()
    await until(lambda: not hosting.uplink.connected)
    with pytest.raises(LinkError, match="not connected"):
        await hosting.uplink.publish(f"tri/v1/{BOX}/config/reported", b"{}")


async def test_another_broker_is_used_at_once_and_the_old_one_is_told_goodbye(
    bench: Bench,
    gateway: Gateway,
    config: BoxConfig,
    cut: Callable[..., Cut],
    make_broker: Callable[[str], Broker],
) -> None:
    gateway.answer = False
    bench.start()
    await bench.commit(cut(1))
    await gateway.until(lambda: bool(gateway.seen))

    other = make_broker("other")
    there = Gateway(other.port)
    listening = asyncio.create_task(there.run())
    await there.ready.wait()
    bench.uplink.use(Connector(BOX, config.mqtt.model_copy(update={"port": other.port})))
    await bench.settled()
    await gateway.until(lambda: gateway.said["state"]["online"] is False)
    assert there.seen == gateway.seen[:1]
    assert there.said["state"]["online"] is True

    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_box_that_changed_tells_its_birth_again(
    bench: Bench, gateway: Gateway, config: BoxConfig
) -> None:
    bench.start()
    await gateway.until(lambda: "birth" in gateway.said)
    gateway.said.clear()
    await until(lambda: bench.uplink.connected)
    box = config.box.model_copy(update={"site": "elsewhere"})
    await bench.uplink.tell(BirthMaker(dataclasses.replace(config, box=box)))
    await gateway.until(lambda: gateway.said.get("birth", {}).get("site") == "elsewhere")
