"""What the console's server sends, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx
import pytest
from trisense.core.model import Field, FieldType, Layer, Stream
from trisense.gateway.console.app import TRY_AGAIN
from trisense.gateway.console.guard import CONTENT_SECURITY_POLICY
from trisense.gateway.console.hub import ALARMS_QUEUED, DELTAS_QUEUED, Client, Hub
from trisense.gateway.live import LiveState
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

if TYPE_CHECKING:
    from tests.gateway.console.conftest import Street

COUNTER = Stream("gate", "count", Layer.GROUND, (Field("count", "1", FieldType.INT),))


def count(live: LiveState, value: int, time_ns: int = 1_000_000_000) -> None:
    live.note_reading(
        "kx-001", "kx", COUNTER, newest_ns=time_ns, values={"count": (value, time_ns, 1)}, flags={}
    )


async def next_text(client: Client, part: str) -> str:
    """The next message with this in it."""
    async with asyncio.timeout(5):
        async for text in client.messages():
            if part in text:
                return text
    raise AssertionError("cut off")


async def test_a_change_reaches_every_client_as_one_and_the_same_text() -> None:
    live = LiveState()
    hub = Hub(live, tick_s=0.01)
    async with hub.running():
        with hub.client() as one, hub.client() as two:
            count(live, 7)
            texts = [await next_text(client, '"count"') for client in (one, two)]
    assert texts[0] is texts[1]
    assert json.loads(texts[0])["streams"][0]["fields"]["count"]["value"] == 7


async def test_a_delta_says_after_which_state_it_applies() -> None:
    live = LiveState()
    hub = Hub(live, tick_s=0.01)
    async with hub.running():
        with hub.client() as client:
            hello = json.loads(await next_text(client, '"hello"'))
            count(live, 1)
            first = json.loads(await next_text(client, '"count"'))
            count(live, 2)
            second = json.loads(await next_text(client, '"count"'))
    assert first["after"] == hello["seq"]
    assert second["after"] == first["seq"]
    assert json.loads(hub.snapshot())["seq"] == second["seq"]


async def test_a_slow_client_loses_the_oldest_deltas_and_each_is_counted() -> None:
    client = Client()
    for i in range(DELTAS_QUEUED + 3):
        client.offer_delta(str(i))
    messages = client.messages()
    assert [await anext(messages) for _ in range(DELTAS_QUEUED)] == [
        str(i) for i in range(3, DELTAS_QUEUED + 3)
    ]
    assert client.dropped == 3


async def test_a_slow_client_gets_every_alarm_and_before_any_delta() -> None:
    client = Client()
    for i in range(DELTAS_QUEUED + 3):
        client.offer_delta(f"delta {i}")
    for i in range(ALARMS_QUEUED):
        client.offer_alarm(f"alarm {i}")
    messages = client.messages()
    got = [await anext(messages) for _ in range(ALARMS_QUEUED + DELTAS_QUEUED)]
    assert got[:ALARMS_QUEUED] == [f"alarm {i}" for i in range(ALARMS_QUEUED)]
    assert got[ALARMS_QUEUED:] == [f"delta {i}" for i in range(3, DELTAS_QUEUED + 3)]


async def test_a_client_that_cannot_take_an_alarm_is_cut_off_and_never_skips_one() -> None:
    client = Client()
    for i in range(ALARMS_QUEUED + 1):
        client.offer_alarm(f"alarm {i}")
    assert [message async for message in client.messages()] == []


async def test_an_alarm_does_not_wait_for_the_tick() -> None:
    live = LiveState()
    hub = Hub(live, tick_s=3600)
    async with hub.running():
        with hub.client() as client:
            await asyncio.sleep(0)  # the hub begins to follow alarms
            live.note_alarm("kx-001", "loss", {"samples": 3})
            alarm = json.loads(await next_text(client, '"alarm"'))
    assert alarm["alarm"]["values"] == {"samples": 3}


async def test_a_snapshot_is_encoded_once_a_tick_while_pages_look() -> None:
    live = LiveState()
    hub = Hub(live, tick_s=3600)
    with hub.client():
        first = hub.snapshot()
        count(live, 1)
        assert hub.snapshot() is first
    assert json.loads(hub.snapshot())["streams"]


async def test_an_integer_that_a_browser_would_round_is_sent_as_text() -> None:
    live = LiveState()
    count(live, 2**53 + 1)
    snapshot = json.loads(Hub(live).snapshot())
    assert snapshot["streams"][0]["fields"]["count"]["value"] == "9007199254740993"


async def test_the_socket_says_hello_then_what_changes_and_ends_with_the_server(street: Street) -> None:
    await street.start()
    async with connect(f"ws://127.0.0.1:{street.port}/api/v1/live") as socket:
        hello = json.loads(await socket.recv())
        assert hello["generation"] == street.live.generation
        count(street.live, 5)
        delta = json.loads(await socket.recv())
        while not delta["streams"]:
            delta = json.loads(await socket.recv())
        assert delta["streams"][0]["fields"]["count"]["value"] == 5
        await street.stop()
        await socket.wait_closed()


async def test_a_flood_of_alarms_ends_the_connection_and_the_snapshot_has_them_all(street: Street) -> None:
    await street.start()
    async with connect(f"ws://127.0.0.1:{street.port}/api/v1/live") as socket:
        await socket.recv()
        for _ in range(ALARMS_QUEUED + 1):
            street.live.note_alarm("kx-001", "loss", {})
        await socket.wait_closed()
        assert socket.close_code == TRY_AGAIN
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{street.address}/api/v1/state")
    assert len(answer.json()["alarms"]) == ALARMS_QUEUED + 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]"])
async def test_a_foreign_host_name_is_refused(street: Street, host: str) -> None:
    await street.start()
    async with httpx.AsyncClient() as client:
        for path in ("/", "/api/v1/state", "/static/main.js", "/api/v1/media/00"):
            answer = await client.get(street.address + path, headers={"host": host})
            assert answer.status_code == 403
    with pytest.raises(InvalidStatus):
        async with connect(f"ws://127.0.0.1:{street.port}/api/v1/live", additional_headers={"host": host}):
            pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST:{port}"])
async def test_a_loopback_name_is_served(street: Street, host: str) -> None:
    await street.start()
    async with httpx.AsyncClient() as client:
        answer = await client.get(street.address, headers={"host": host.format(port=street.port)})
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_page_of_another_origin_gets_no_socket_and_no_answer(street: Street, origin: str) -> None:
    await street.start()
    with pytest.raises(InvalidStatus):
        async with connect(
            f"ws://127.0.0.1:{street.port}/api/v1/live", additional_headers={"origin": origin}
        ):
            pass
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{street.address}/api/v1/state", headers={"origin": origin})
    assert answer.status_code == 403


async def test_every_answer_carries_the_policy(street: Street) -> None:
    await street.start()
    async with httpx.AsyncClient() as client:
        for path in ("/", "/static/main.js", "/static/none.js", "/api/v1/state", "/api/v1/media/00", "/none"):
            answer = await client.get(street.address + path)
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_static_files_are_asked_about_again_and_not_sent_again(street: Street) -> None:
    await street.start()
    async with httpx.AsyncClient() as client:
        first = await client.get(f"{street.address}/static/main.js")
        assert first.headers["cache-control"] == "no-cache"
        again = await client.get(
            f"{street.address}/static/main.js", headers={"if-none-match": first.headers["etag"]}
        )
    assert (first.status_code, again.status_code) == (200, 304)
