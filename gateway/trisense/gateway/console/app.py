"""The gateway's HTTP server: the console's page and its feed, and whatever routes the gateway adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect
from trisense.core.errors import StoreUnavailable
from trisense.gateway.console.guard import Guard
from trisense.gateway.console.hub import Client, Hub
from trisense.gateway.console.thumbnails import Thumbnails
from trisense.gateway.live import LiveState
from trisense.gateway.stores.base import Media, NotSupported

__all__ = ["create_app", "serve_options"]

STATIC: Final = Path(__file__).parent / "static"
TRY_AGAIN: Final = 1013
"""WebSocket close code: come back later."""
REVALIDATE: Final = {"cache-control": "no-cache"}
UNCHANGING: Final = {"cache-control": "private, max-age=31536000, immutable"}
"""A media id is the hash of its content."""


class Pictures(Protocol):
    """The part of a store that the console needs itself."""

    async def media(self, media_id: str) -> Media | None:
        """Raises ``NotSupported`` or ``StoreUnavailable``."""
        ...


def create_app(*, live: LiveState, store: Pictures, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The application that uvicorn serves; ``routes`` come behind the same guard as the console's own."""
    console = _Console(live, store)
    return Starlette(
        routes=[
            Route("/", console.page),
            Route("/api/v1/state", console.state),
            Route("/api/v1/thumbnail/{media_id}", console.thumbnail),
            WebSocketRoute("/api/v1/live", console.live),
            Mount("/static", _Static(directory=STATIC)),
            *routes,
        ],
        middleware=[Middleware(Guard)],
        lifespan=console.lifespan,
    )


def serve_options() -> dict[str, Any]:
    """Arguments for ``uvicorn.Config`` that this application is meant to run with."""
    return {
        "ws": "websockets-sansio",
        # One encode serves all pages; deflating it again for each of them would cost what that saves.
        "ws_per_message_deflate": False,
        "ws_max_size": 4096,  # a page has nothing to say
        "access_log": False,
        "server_header": False,
        "log_config": None,
        "timeout_graceful_shutdown": 2,
    }


class _Static(StaticFiles):
    """Files that a browser asks about each time (ETag), so an upgrade shows at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:  # (starlette's signature)
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATE)
        return response


class _Console:
    def __init__(self, live: LiveState, store: Pictures) -> None:
        self._hub = Hub(live)
        self._store = store
        self._thumbnails = Thumbnails()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002 (starlette's signature)
        async with self._hub.running():
            yield

    async def page(self, request: Request) -> Response:  # noqa: ARG002 (starlette's signature)
        return FileResponse(STATIC / "index.html", headers=REVALIDATE)

    async def state(self, request: Request) -> Response:  # noqa: ARG002 (starlette's signature)
        return Response(
            self._hub.snapshot(), media_type="application/json", headers={"cache-control": "no-store"}
        )

    async def thumbnail(self, request: Request) -> Response:
        media_id: str = request.path_params["media_id"]
        etag = f'"{media_id}-small"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag, **UNCHANGING})
        small = self._thumbnails.kept(media_id)
        if small is None:
            try:
                media = await self._store.media(media_id)
            except NotSupported as error:
                return PlainTextResponse(f"{error}\n", status_code=501)
            except StoreUnavailable as error:
                return PlainTextResponse(f"{error}\n", status_code=503)
            if media is None:
                return PlainTextResponse("no such picture, or no longer kept\n", status_code=404)
            small = await self._thumbnails.make(media_id, media.blob)
            if small is None:
                return PlainTextResponse("no JPEG, or too large a one\n", status_code=415)
        return Response(small, media_type="image/jpeg", headers={"etag": etag, **UNCHANGING})

    async def live(self, socket: WebSocket) -> None:
        await socket.accept()
        with self._hub.client() as client:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(_send(socket, client), name="console client")
                # A page says nothing: this is how its leaving is noticed while the sender waits.
                while (await socket.receive())["type"] != "websocket.disconnect":
                    pass
                sender.cancel()


async def _send(socket: WebSocket, client: Client) -> None:
    with suppress(WebSocketDisconnect):
        async for text in client.messages():
            await socket.send_text(text)
        await socket.close(TRY_AGAIN)
