"""A console with a street behind it, and a real Chromium to look at it, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from starlette.routing import BaseRoute
from trisense.core.messages import Birth, CountersJson, DeviceBirth, Position, State, StreamBirth
from trisense.core.model import Counters, Stream, Value
from trisense.gateway import api
from trisense.gateway.console.app import create_app, serve_options
from trisense.gateway.live import LiveState
from trisense.gateway.stores.base import Function, History, Media, Span, StreamRef, Table
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import stop

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
WAIT_S = 20.0
"""Longest wait for something that a page should show; only a failing test waits so long."""


class Memory:
    """A store of two dictionaries: what was fed to the street."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, ...], list[tuple[int, float]]] = {}
        """(box, device, measurement, field) -> (time_ns, value)."""
        self.frames: dict[str, Media] = {}

    async def media(self, media_id: str) -> Media | None:
        return self.frames.get(media_id)

    async def aggregate(
        self, stream: StreamRef, field: str, span: Span, *, buckets: int, functions: Sequence[Function]
    ) -> Table:
        step_ns = (span.t1_ns - span.t0_ns) // buckets
        points = self.points.get((stream.box, stream.device, stream.measurement, field), [])
        inside = sorted(p for p in points if span.t0_ns <= p[0] < span.t1_ns)
        summary: dict[str, Callable[[Sequence[float]], float]] = {
            "mean": statistics.fmean,
            "min": min,
            "max": max,
        }
        rows: list[tuple[Value, ...]] = []
        for bucket, group in itertools.groupby(inside, key=lambda p: (p[0] - span.t0_ns) // step_ns):
            values = [value for _, value in group]
            rows.append((span.t0_ns + bucket * step_ns, *(summary[f](values) for f in functions)))
        return Table(("time_ns", *functions), rows)

    def routes(self) -> Sequence[BaseRoute]:
        """The gateway's own, over this."""

        async def audit(_: bool) -> dict[str, Any]:
            return {}

        # The page asks nothing else of a store.
        return api.routes(cast("History", self), audit=audit, health=lambda: {"ok": True})


class Street:
    """Boxes whose readings a test makes up, and the console's server over them."""

    def __init__(self) -> None:
        self.live = LiveState()
        self.memory = Memory()
        self.port = 0
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def box(
        self, name: str, *, at: tuple[float, float] | None = None, site: str = "street", online: bool = True
    ) -> None:
        position = Position(latitude=at[0], longitude=at[1]) if at else None
        counters = Counters(epoch=1, next_seq=1, low_seq=0, samples_committed=0)
        self.live.note_birth(
            Birth(
                box=name,
                site=site,
                position=position,
                version="0.1.0",
                config_hash="",
                counters=[CountersJson.of(counters)],
                devices=self._devices.get(name, []),
            )
        )
        self.live.note_state(name, State(online=online, boot_id="b", since="2026-11-23T06:00:00Z"))
        self.live.note_seen(name, site, counters)

    _devices: Mapping[str, list[DeviceBirth]] = {}

    def devices(self, box: str, streams: Sequence[tuple[Stream, str]]) -> None:
        """Tell the drivers of a box's devices; before ``box``."""
        self._devices = {
            **self._devices,
            box: [
                DeviceBirth(
                    name=stream.device,
                    driver=driver,
                    layer=stream.layer,
                    site="street",
                    streams=[StreamBirth(measurement=stream.measurement, fields=[])],
                )
                for stream, driver in streams
            ],
        }

    def read(
        self,
        box: str,
        stream: Stream,
        values: Mapping[str, Value],
        *,
        time_ms: int | None = None,
        flags: Mapping[str, int] | None = None,
    ) -> None:
        """A reading of a stream, in the live state and in the store."""
        time_ns = (now_ms() if time_ms is None else time_ms) * 1_000_000
        flags = flags or {}
        self.live.note_reading(
            box,
            "street",
            stream,
            newest_ns=time_ns,
            values={k: (v, time_ns, flags.get(k, 1)) for k, v in values.items()},
            flags=flags,
        )
        for name, value in values.items():
            if isinstance(value, int | float):
                key = (box, stream.device, stream.measurement, name)
                self.memory.points.setdefault(key, []).append((time_ns, value))

    def frame(self, box: str, stream: Stream, picture: bytes) -> str:
        """A picture of a camera; returns its media id."""
        media_id, time_ns = hashlib.sha256(picture).hexdigest(), now_ms() * 1_000_000
        self.memory.frames[media_id] = Media(media_id, box, stream.device, time_ns, picture)
        self.live.note_media(box, "street", stream, media_id=media_id, time_ns=time_ns)
        return media_id

    async def start(self) -> None:
        """Serve, on the port of the last time if there was one."""
        app = create_app(live=self.live, store=self.memory, routes=self.memory.routes())
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, **serve_options()))
        self._server = server
        self._serving = asyncio.create_task(server.serve(), name="console server")
        while not server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.01)
        self.port = server.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = None

    def restart_live(self) -> None:
        """What a restarted gateway has: a new, empty state."""
        self.live = LiveState()


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    made = Street()
    yield made
    await made.stop()


@dataclass
class Page:
    """One tab."""

    _send: Callable[[str, dict[str, Any]], Any]
    problems: list[str] = field(default_factory=list)
    """Uncaught exceptions, console errors and refusals by the content security policy."""

    async def open(self, address: str) -> None:
        await self._send("Page.navigate", {"url": address})
        await self.until("document.readyState == 'complete'")

    async def do(self, expression: str) -> Any:
        """Evaluate JavaScript (promises are awaited) and return its JSON value."""
        answer = await self._send(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until a JavaScript expression is truthy; return it."""
        deadline = time.monotonic() + WAIT_S
        while not (found := await self.do(condition)):
            if time.monotonic() > deadline:
                shown = await self.do("document.body.innerText")
                raise AssertionError(f"never true: {condition}\npage: {shown}\nproblems: {self.problems}")
            await asyncio.sleep(0.05)
        return found

    async def press(self, key: str) -> None:
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13}[key]
        extra = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self._send(
                "Input.dispatchKeyEvent",
                {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **extra},
            )

    async def size(self, width: int, height: int, *, mobile: bool = False, scale: float = 1) -> None:
        await self._send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile},
        )

    async def dark(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._send("Emulation.setEmulatedMedia", {"features": [scheme]})

    async def screenshot(self, *, whole: bool = False) -> bytes:
        answer = await self._send("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(answer["data"])


class Browser:
    """A Chromium's DevTools connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}

    async def page(self) -> Page:
        # A context of its own, gone with this connection: no cookies, cache or storage of other tabs.
        context = await self._send("Target.createBrowserContext", {"disposeOnDetach": True})
        target = await self._send("Target.createTarget", {"url": "about:blank", **context})
        attached = await self._send(
            "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
        )
        session = attached["sessionId"]
        page = Page(lambda method, params: self._send(method, params, session))
        self._pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._send(f"{domain}.enable", {}, session)
        return page

    async def _send(self, method: str, params: Mapping[str, Any], session: str | None = None) -> Any:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        try:
            return await asyncio.wait_for(self._answers[number], WAIT_S)
        finally:
            del self._answers[number]

    async def listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            answer = self._answers.get(message.get("id"))
            if answer is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            elif page := self._pages.get(message.get("sessionId")):
                page.problems.extend(problems_of(message["method"], message["params"]))


def problems_of(method: str, params: Mapping[str, Any]) -> Iterator[str]:
    if method == "Runtime.exceptionThrown":
        yield str(params["exceptionDetails"].get("exception", {}).get("description", params))
    elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        yield " ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"])
    elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        yield f"{params['entry']['text']} {params['entry'].get('url', '')}"


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Run a Chromium; gives its DevTools address. It and its children are gone afterwards."""
    assert CHROMIUM is not None
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={profile}"], stdout=quiet, stderr=quiet)
    try:
        # Written once it listens: the port, then the path.
        announced = profile / "DevToolsActivePort"
        deadline = time.monotonic() + WAIT_S
        while not announced.exists() or len(announced.read_text().splitlines()) < 2:
            assert process.poll() is None, "chromium ended before it listened"
            assert time.monotonic() < deadline, "chromium does not listen"
            time.sleep(0.02)
        port, path = announced.read_text().splitlines()[:2]
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        stop(process)


@asynccontextmanager
async def tab(address: str) -> AsyncIterator[Page]:
    """A tab that shares nothing with others."""
    async with connect(address, max_size=None) as socket:
        browser = Browser(socket)
        listening = asyncio.create_task(browser.listen(), name="chromium events")
        yield await browser.page()
        listening.cancel()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def page(browser: str) -> AsyncIterator[Page]:
    async with tab(browser) as opened:
        yield opened


def now_ms() -> int:
    return time.time_ns() // 1_000_000
