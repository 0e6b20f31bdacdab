"""JSON over HTTP for programs: audit, history, pictures, health. The page's own routes are the console's."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from trisense.core.errors import StoreUnavailable, TrisenseError
from trisense.gateway.stores.base import (
    FUNCTIONS,
    Circle,
    Found,
    Function,
    History,
    NotSupported,
    Span,
    StreamRef,
    Table,
)

__all__ = ["Audit", "Health", "routes"]

Audit = Callable[[bool], Awaitable[dict[str, Any]]]
"""Takes ``deep``."""
Health = Callable[[], dict[str, Any]]
Answer = Callable[[Request], Awaitable[Response]]

ROWS_MAX: Final = 100_000
BUCKETS_MAX: Final = 10_000
MEDIA_ID: Final = re.compile(r"[0-9a-f]{64}")
HOUR_MS: Final = 3_600_000


class BadQuery(TrisenseError):
    """A parameter that is missing or wrong; the text names it."""


def routes(history: History, *, audit: Audit, health: Health) -> Sequence[BaseRoute]:
    """The routes, to be mounted in an application."""

    async def answer_health(_: Request) -> Response:
        state = health()
        return JSONResponse(state, status_code=200 if state["ok"] else 503)

    async def answer_audit(request: Request) -> Response:
        return JSONResponse(await audit(request.query_params.get("deep") == "1"))

    async def answer_latest(request: Request) -> Response:
        query = request.query_params
        found = await history.latest(query.get("box"), query.get("device"))
        return JSONResponse({"streams": [_found_json(f) for f in found]})

    async def answer_range(request: Request) -> Response:
        fields = [name for name in request.query_params.get("fields", "").split(",") if name]
        limit = _integer(request, "limit", default=10_000, low=1, high=ROWS_MAX)
        table = await history.range(_stream(request), fields, _span(request), limit=limit)
        return JSONResponse(_table_json(table))

    async def answer_aggregate(request: Request) -> Response:
        buckets = _integer(request, "buckets", default=600, low=1, high=BUCKETS_MAX)
        table = await history.aggregate(
            _stream(request),
            _text(request, "field"),
            _span(request),
            buckets=buckets,
            functions=_functions(request),
        )
        return JSONResponse(_table_json(table))

    async def answer_near(request: Request) -> Response:
        circle = Circle(
            _number(request, "latitude", low=-90, high=90),
            _number(request, "longitude", low=-180, high=180),
            _number(request, "radius_m", low=0, high=100_000),
        )
        limit = _integer(request, "limit", default=1_000, low=1, high=ROWS_MAX)
        found = await history.near(circle, _span(request), limit=limit)
        return JSONResponse({"streams": [_found_json(f) for f in found]})

    async def answer_media(request: Request) -> Response:
        media_id = request.path_params["media_id"]
        media = await history.media(media_id) if MEDIA_ID.fullmatch(media_id) else None
        if media is None:
            return JSONResponse({"error": "no such picture"}, status_code=404)
        headers = {"ETag": f'"{media.id}"', "Cache-Control": "private, max-age=31536000, immutable"}
        return Response(media.blob, media_type=_media_type(media.blob), headers=headers)

    answers: dict[str, Answer] = {
        "/api/v1/health": answer_health,
        "/api/v1/audit": answer_audit,
        "/api/v1/latest": answer_latest,
        "/api/v1/range": answer_range,
        "/api/v1/aggregate": answer_aggregate,
        "/api/v1/near": answer_near,
        "/api/v1/media/{media_id}": answer_media,
    }
    return [Route(path, _polite(answer)) for path, answer in answers.items()]


def _polite(answer: Answer) -> Answer:
    """Turn our errors into statuses: 400 wrong query, 501 not with this store, 503 store down."""

    async def wrapped(request: Request) -> Response:
        try:
            return await answer(request)
        except BadQuery as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except NotSupported as error:
            return JSONResponse({"error": str(error)}, status_code=501)
        except StoreUnavailable as error:
            return JSONResponse({"error": str(error)}, status_code=503)

    return wrapped


def _text(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise BadQuery(f"{name}: expected a value, got nothing")
    return value


def _integer(request: Request, name: str, *, low: int, high: int, default: int | None = None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"-?[0-9]{1,15}", text) or not low <= int(text) <= high:
        raise BadQuery(f"{name}: expected an integer from {low} to {high}, got {str(text)[:40]!r}")
    return int(text)


def _number(request: Request, name: str, *, low: float, high: float) -> float:
    text = _text(request, name)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadQuery(f"{name}: expected a number from {low:g} to {high:g}, got {text[:40]!r}")
    return value


def _span(request: Request) -> Span:
    high = 4_102_444_800_000
    start = _integer(request, "from_ms", low=0, high=high)
    end = _integer(request, "to_ms", low=0, high=high, default=min(high, start + HOUR_MS))
    if end <= start:
        raise BadQuery("to_ms: expected more than from_ms")
    return Span(start * 1_000_000, end * 1_000_000)


def _stream(request: Request) -> StreamRef:
    return StreamRef(_text(request, "box"), _text(request, "device"), _text(request, "measurement"))


def _functions(request: Request) -> list[Function]:
    wanted = request.query_params.get("functions", "mean,min,max").split(",")
    chosen = [function for function in FUNCTIONS if function in wanted]
    if not chosen or len(chosen) != len(set(wanted)):
        raise BadQuery(f"functions: expected some of {', '.join(FUNCTIONS)}, got {wanted!r}")
    return chosen


def _table_json(table: Table) -> dict[str, Any]:
    """Times become milliseconds: a browser's numbers cannot hold nanoseconds."""
    return {
        "columns": ["time_ms", *table.columns[1:]],
        "rows": [[int(row[0] or 0) / 1_000_000, *row[1:]] for row in table.rows],
        "truncated": table.truncated,
    }


def _found_json(found: Found) -> dict[str, Any]:
    return {
        "box": found.stream.box,
        "device": found.stream.device,
        "measurement": found.stream.measurement,
        "layer": found.layer,
        "site": found.site,
        "distance_m": round(found.distance_m, 1),
        "units": found.units,
    } | _table_json(found.table)


def _media_type(blob: bytes) -> str:
    if blob.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if blob.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "application/octet-stream"
