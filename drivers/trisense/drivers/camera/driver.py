"""The driver: one GET per reading, a health row for each picture, a small preview now and then."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

import httpx
from PIL import Image
from pydantic import Field as Constrained
from pydantic import field_validator, model_validator
from trisense.core.config import read_secret
from trisense.core.errors import TrisenseError
from trisense.drivers import (
    BatchClass,
    DeviceConfig,
    DeviceRefused,
    DeviceTimeout,
    Field,
    FieldType,
    FrameError,
    LineError,
    Lines,
    Observed,
    PolledDriver,
    Stream,
    Value,
)
from trisense.drivers.camera.codec import FramePair, HttpDigest, ImageHealth, JpegCheck, health_row
from trisense.drivers.camera.digest import DigestAuth
from trisense.drivers.camera.health import identity, measure
from trisense.drivers.camera.picture import SOI, cut, decode, luma, preview
from trisense.drivers.camera.watch import Watch

__all__ = ["Config", "HttpCamera"]

SNAPSHOT_BYTES: Final = 10 * 1024 * 1024
"""Largest answer that is read (camera sheet, section 3.1)."""
READ_BYTES: Final = 65_536
PREVIEW_BYTES: Final = 200_000
"""Largest preview: a payload is 256 KiB (core limits) with its own head and metadata row."""

INT, STR = FieldType.INT, FieldType.STR
HEALTH: Final = (
    Field("class", "", STR),
    Field("state", "", STR),
    Field("width", "{pixel}", INT),
    Field("height", "{pixel}", INT),
    Field("bytes", "By", INT),
    Field("mean", "1", valid=(0, 255)),
    Field("std", "1", valid=(0, 128)),
    Field("dark", "1", valid=(0, 1)),
    Field("bright", "1", valid=(0, 1)),
    Field("lapvar", "1", valid=(0, None)),
    Field("tile_lapvar_median", "1", valid=(0, None)),
    Field("tiles_flat", "1", INT, valid=(0, 48)),
    Field("mad", "1", valid=(0, 255)),
    Field("motion", "1", valid=(0, 1)),
    Field("ncc", "1", valid=(-1, 1)),
)
IMAGE: Final = (
    Field("id", "", STR),
    Field("width", "{pixel}", INT),
    Field("height", "{pixel}", INT),
    Field("bytes", "By", INT),
    Field("content_type", "", STR),
)

Part = Annotated[float, Constrained(ge=0, le=1)]
Zone = Annotated[tuple[tuple[Part, Part], ...], Constrained(min_length=3, max_length=64)]


class Config(DeviceConfig):
    """One network camera that gives a JPEG for a GET."""

    url: str
    """Where the snapshot is, ``http://`` or ``https://``, without user and password."""
    interval_s: Annotated[float, Constrained(gt=0, le=86_400)] = 60.0
    """Seconds between two snapshots; many cameras give one or two a second at most."""
    timeout_s: Annotated[float, Constrained(gt=0, le=3_600)] = 5.0
    """Longest time for one whole snapshot, connection included."""
    username: str | None = None
    """User of the camera; needs ``password_file``."""
    password_file: Path | None = None
    """File whose first line is the password."""
    auth: Literal["digest", "basic"] = "digest"
    """How the camera asks for them; basic sends the password readable over http."""
    ca_file: Path | None = None
    """PEM certificate of a camera that signed its own, for https; without it the system's are trusted."""
    preview_interval_s: Annotated[float, Constrained(gt=0, le=86_400)] = 300.0
    """Seconds between two pictures that travel; each snapshot in between gives its health only."""
    preview_width: Annotated[int, Constrained(ge=64, le=1920)] = 640
    """Largest width of a picture that travels, in pixels."""
    privacy_zones: Annotated[tuple[Zone, ...], Constrained(max_length=32)] = ()
    """Polygons that are painted over before a picture leaves the box: [[x, y], ...] in parts of width and
    height, from the upper left. While the camera looks elsewhere no picture leaves at all."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            named = parts.port != 0 and parts.hostname
        except ValueError as error:
            raise ValueError(f"http://HOST[:PORT]/PATH ({error})") from error
        if parts.scheme not in ("http", "https") or not named:
            raise ValueError("http://HOST[:PORT]/PATH or https://...")
        if parts.username or parts.password:
            raise ValueError("a URL without user and password: use username and password_file")
        return url

    @model_validator(mode="after")
    def _check_user(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file together, or neither")
        return self


class HttpCamera(PolledDriver[Config]):
    """Keeps what it learned of the camera's view over reconnects; one request at a time."""

    name = "http-camera"
    family = "camera"
    summary = "Network camera: JPEG snapshots over HTTP with image health"
    config_model = Config
    codecs: ClassVar = {
        "image-health": ImageHealth(),
        "frame-pair": FramePair(),
        "jpeg": JpegCheck(),
        "http-digest": HttpDigest(),
    }

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._login = _login(config)
        self._target = httpx.URL(config.url).raw_path.decode("ascii")
        self._client: httpx.AsyncClient | None = None
        self._watch = Watch()
        self._preview_due_s = 0.0

    def streams(self) -> tuple[Stream, ...]:
        name, site = self.config.name, self.config.site or ""
        return (
            Stream(name, "image_health", self.layer, HEALTH, site),
            Stream(name, "image", self.layer, IMAGE, site),
        )

    def picture_next(self) -> None:
        self._preview_due_s = 0.0

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # HTTP needs no line
        """Make the client; the camera is asked at the first read.

        Raises:
            LineError: the certificate file cannot be used.
        """
        await self.close()
        self._client = httpx.AsyncClient(
            verify=self._tls(),
            timeout=self.config.timeout_s,
            # One request a connection: what a camera says twice is never the answer to the next request.
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            # An answer that is packed could unpack to any size; a JPEG gains nothing from it.
            headers={"Accept-Encoding": "identity", "Accept": "image/jpeg"},
            trust_env=False,
        )

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def read(self) -> Sequence[Observed]:
        """Fetch one snapshot. A damaged JPEG gives a health row of class ``corrupt`` and nothing else.

        Raises:
            LineError: the camera cannot be reached, or hung up.
            DeviceTimeout: no whole answer within ``timeout_s``.
            DeviceRefused: an HTTP status other than 200; 503 means busy, 401 a wrong password.
            FrameError: the answer is no JPEG at all, or beyond 10 MiB.
        """
        data = await self._fetch()
        if not data.startswith(SOI):
            raise FrameError(self.config.name, "expected a JPEG", data[:64])
        return await asyncio.to_thread(self._judge, data, time.monotonic(), time.gmtime().tm_hour)

    async def _fetch(self) -> bytes:
        """The body of a good answer, within one deadline for all of it.

        A challenge is answered once, on a new connection: the body of a refused answer is never read.
        """
        if self._client is None:
            raise LineError(self.config.url, "not connected")
        try:
            async with asyncio.timeout(self.config.timeout_s):
                try:
                    return await self._get(self._client)
                except _Challenged:
                    return await self._get(self._client)
        except _Challenged as error:
            raise DeviceRefused(self.config.name, "user or password refused", code=401) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise DeviceTimeout(
                self.config.name, "no whole snapshot", timeout_s=self.config.timeout_s
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LineError(self.config.url, f"{type(error).__name__}: {error}") from error

    async def _get(self, client: httpx.AsyncClient) -> bytes:
        body = bytearray()
        async with client.stream("GET", self.config.url, headers=self._authorization()) as answer:
            if answer.status_code == httpx.codes.UNAUTHORIZED and self._accepts(answer.headers):
                raise _Challenged
            if answer.status_code != httpx.codes.OK:
                raise DeviceRefused(self.config.name, "no snapshot", code=answer.status_code)
            async for chunk in answer.aiter_raw(READ_BYTES):
                body += chunk
                if len(body) > SNAPSHOT_BYTES:
                    raise FrameError(self.config.name, f"answer beyond {SNAPSHOT_BYTES} bytes")
        return bytes(body)

    def _accepts(self, headers: httpx.Headers) -> bool:
        challenges = headers.get_list("www-authenticate")
        return isinstance(self._login, DigestAuth) and any(map(self._login.accept, challenges))

    def _authorization(self) -> dict[bytes, bytes]:
        if isinstance(self._login, DigestAuth):
            header = self._login.header("GET", self._target)
        else:
            header = self._login
        return {} if header is None else {b"Authorization": header.encode()}

    def _judge(self, data: bytes, now_s: float, hour_of_day: int) -> list[Observed]:
        """The rows of one snapshot; runs in a thread, never twice at once."""
        try:
            jpeg = cut(data)
            picture = decode(jpeg)
        except FrameError:
            state = self._watch.damaged(now_s)
            return [Observed("image_health", {"class": "corrupt", "state": state, "bytes": len(data)})]
        found = identity(jpeg, data)
        seen = measure(luma(picture))
        verdict = self._watch.judge(seen, found["sha256"], now_s, hour_of_day=hour_of_day)
        row = {**found, **seen.metrics, "class": verdict.look}
        rows = [health_row(row, state=verdict.state, change=verdict.change)]
        hidden = bool(self.config.privacy_zones) and "moved" in (verdict.look, verdict.state)
        if now_s >= self._preview_due_s and not hidden and verdict.look != "corrupt":
            rows.append(self._preview(picture))
            self._preview_due_s = now_s + self.config.preview_interval_s
        return rows

    def _preview(self, picture: Image.Image) -> Observed:
        small = preview(
            picture,
            width=self.config.preview_width,
            max_bytes=PREVIEW_BYTES,
            zones=self.config.privacy_zones,
        )
        values: dict[str, Value] = {
            "id": small.id,
            "width": small.width,
            "height": small.height,
            "bytes": len(small.data),
            "content_type": "image/jpeg",
        }
        return Observed("image", values, batch_class=BatchClass.MEDIA, blob=small.data)

    def _tls(self) -> ssl.SSLContext:
        if self.config.url.startswith("http:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used: spares loading all certificates
        try:
            return ssl.create_default_context(cafile=self.config.ca_file)
        except OSError as error:
            raise LineError(self.config.url, f"cannot use {self.config.ca_file}: {error}") from error


class _Challenged(TrisenseError):
    """The camera's challenge has been taken: ask again with an answer to it."""


def _login(config: Config) -> DigestAuth | str | None:
    """Who to be: a digest user, the whole header of basic authentication, or nobody."""
    if config.username is None or config.password_file is None:
        return None
    password = read_secret(config.password_file)
    if config.auth == "digest":
        return DigestAuth(config.username, password)
    return "Basic " + base64.b64encode(f"{config.username}:{password}".encode()).decode()
