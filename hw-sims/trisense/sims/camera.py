"""A network camera at a street: one JPEG for a GET, with digest authentication if asked for.

Written from the camera sheet, section 3.1. What it shows follows the world: sky by the height of the sun,
vehicles by the traffic, a clock burnt in. ``view`` makes it black, covered, blurred, dazzled or turned away.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import random
import re
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from trisense.sims.base import End, Faults, Hangup, Simulator, Told, Truth, World, listening, serve_tcp

__all__ = ["SnapshotCamera", "View", "digest_response"]

View: TypeAlias = Literal["street", "black", "covered", "blurred", "dazzled", "turned"]
"""What the lens sees; all but ``street`` are what an operator wants to be told of."""

PATH: Final = "/snapshot.jpg"
REALM: Final = "camera"
HEAD_BYTES: Final = 8192
"""A request with a longer head is answered 431 and the host is cut off."""
LOGIN_PAGE: Final = b"<html><head><title>Login</title></head><body>Session expired</body></html>\n"
REASONS: Final = {
    200: "OK",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}
AUTH_PART: Final = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
CARS: Final = ((178, 32, 40), (228, 228, 224), (40, 66, 120), (70, 74, 78), (30, 30, 34), (190, 150, 40))
VIEW_M: Final = 60.0
"""Length of road in sight."""
GRAIN: Final = 3.0
"""Noise of the sensor by day, in steps of 255."""
QUALITY: Final = 85


def digest_response(
    *, user: str, password: str, realm: str, nonce: str, uri: str, method: str, qop: str, nc: str, cnonce: str
) -> str:
    """Response of RFC 2617, section 3.2.2.1, for algorithm MD5 and qop ``auth``."""
    a1, a2 = _md5(f"{user}:{realm}:{password}"), _md5(f"{method}:{uri}")
    return _md5(f"{a1}:{nonce}:{nc}:{cnonce}:{qop}:{a2}")


class SnapshotCamera(Simulator):
    """One camera; each connection may ask many times.

    Faults: silence leaves a question open, garbage answers with a login page and status 200, cut sends the
    first part of the JPEG as if it were whole, checksum answers 500, stuck repeats one picture, late waits,
    hangup closes in the middle of the picture.
    """

    kind = "http-camera"

    def __init__(
        self,
        *,
        world: World,
        truth: Truth,
        faults: Faults,
        seed: int,
        name: str,
        width: int = 640,
        height: int = 360,
        username: str = "",
        password: str = "",
        view: View = "street",
    ) -> None:
        super().__init__(world=world, truth=truth, faults=faults, seed=seed, name=name)
        self.width = width
        self.height = height
        self.view: View = view
        self._username = username
        self._password = password
        self._nonce = self.random.randbytes(16).hex()
        self._grain_seed = f"{seed}/{name}"
        self._silent_until = 0.0

    async def run(self, host: str, port: int) -> None:
        """Serve until cancelled."""
        await serve_tcp(self, host, port)

    def serving(self) -> AbstractAsyncContextManager[int]:
        """Serve on a free loopback port inside the block; gives the port."""
        return listening(self)

    async def talk(self, end: End) -> None:
        unread = b""
        while True:
            head, unread = await _read_head(end, unread)
            if head is None:
                await end.write(_answer(431, b""))
                return
            line, *lines = head.split("\r\n")
            method, path, *_ = [*line.split(" "), "", ""]
            headers = {
                key.strip().lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)
            }
            if method != "GET":
                await end.write(_answer(405, b""))
            elif path.partition("?")[0] != PATH:
                await end.write(_answer(404, b""))
            elif not self._may(headers.get("authorization", ""), method, path):
                challenge = f'WWW-Authenticate: Digest realm="{REALM}", qop="auth", nonce="{self._nonce}"'
                await end.write(_answer(401, b"", challenge))
            else:
                await self._show(end)
            if headers.get("connection", "").lower() == "close":
                return

    def _may(self, authorization: str, method: str, path: str) -> bool:
        if not self._username:
            return True
        scheme, _, rest = authorization.partition(" ")
        given = {key: quoted or plain for key, quoted, plain in AUTH_PART.findall(rest)}
        if scheme.lower() != "digest" or given.get("uri") != path:
            return False
        expected = digest_response(
            user=self._username,
            password=self._password,
            realm=REALM,
            nonce=self._nonce,
            uri=path,
            method=method,
            qop="auth",
            nc=given.get("nc", ""),
            cnonce=given.get("cnonce", ""),
        )
        return hmac.compare_digest(expected, given.get("response", ""))

    async def _show(self, end: End) -> None:
        """Answer with a picture and the fault that is due; log what the host was told."""
        fault = self._fault()
        jpeg = await asyncio.to_thread(self.snapshot, self.now_ns())
        told = Told("image_health", {"width": self.width, "height": self.height, "bytes": len(jpeg)})
        sent = b""
        match fault:
            case "silence":
                pass
            case "garbage":
                sent = _answer(200, LOGIN_PAGE)
            case "cut":
                sent = _answer(200, jpeg[: self.faults.random.randint(len(jpeg) // 4, len(jpeg) - 2)])
            case "checksum":
                sent = _answer(500, b"")
            case "hangup":
                sent = _answer(200, jpeg)[: len(jpeg) // 2]
            case _:
                if fault == "late":
                    await asyncio.sleep(self.faults.late_s)
                sent = _answer(200, jpeg)
        if sent:
            await end.write(sent)
        if fault is None and self.stuck:
            fault = "stuck"
        self.truth.write(self.name, told, fault=fault, sent=sent)
        if fault == "hangup":
            raise Hangup("fault")

    def _fault(self) -> str | None:
        if time.monotonic() < self._silent_until:
            return "silence"
        fault = self.faults.draw()
        if fault == "silence":
            self._silent_until = time.monotonic() + self.faults.silence_s
        elif fault == "stuck":
            self.get_stuck()
            return None
        return fault

    def snapshot(self, t_ns: int) -> bytes:
        """The JPEG of a UTC time; the same time gives the same bytes while ``view`` stays."""
        picture = self._seen(self._street(t_ns))
        grain = np.random.default_rng(random.Random(f"{self._grain_seed}/{t_ns}").getrandbits(64))
        level = GRAIN if self.view != "black" else 0.6
        noisy = np.asarray(picture, dtype=np.float32)
        noisy = noisy + grain.normal(0.0, level, noisy.shape[:2]).astype(np.float32)[:, :, None]
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        if self.view == "covered":
            picture.paste((28, 27, 24), (0, 0, self.width * 7 // 10, self.height))
        if self.view in ("blurred", "dazzled"):
            picture = picture.filter(ImageFilter.GaussianBlur(4 * self.width / 640))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    def _seen(self, street: Image.Image) -> Image.Image:
        match self.view:
            case "black":
                return Image.new("RGB", street.size, (2, 2, 2))
            case "dazzled":
                return Image.new("RGB", street.size, (255, 255, 252))
            case "turned":
                return ImageChops.offset(street.rotate(180), self.width // 3, self.height // 4)
            case _:
                return street

    def _street(self, t_ns: int) -> Image.Image:
        day = min(1.0, max(0.0, self.world.sun_height(t_ns) * 3 + 0.35))
        horizon, kerb = self.height * 4 // 10, self.height * 6 // 10
        picture = Image.new("RGB", (self.width, self.height), _lit((118, 168, 222), day, 0.12))
        draw = ImageDraw.Draw(picture)
        self._houses(draw, day, horizon, kerb)
        draw.rectangle((0, kerb, self.width, self.height), fill=_lit((92, 92, 96), day, 0.3))
        middle = (kerb + self.height) // 2
        for x in range(0, self.width, self.width // 10):
            draw.rectangle(
                (x, middle - 2, x + self.width // 20, middle + 1), fill=_lit((226, 226, 220), day, 0.4)
            )
        self._vehicles(draw, t_ns, day, kerb)
        clock = datetime.fromtimestamp(t_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        draw.rectangle((0, 0, 150, 14), fill=(0, 0, 0))
        draw.text((4, 2), f"{clock} {self.name}"[:40], fill=(235, 235, 235))
        return picture

    def _houses(self, draw: ImageDraw.ImageDraw, day: float, horizon: int, kerb: int) -> None:
        own = random.Random(f"{self.world.seed}/{self.world.latitude:.4f}/{self.world.longitude:.4f}/houses")
        x = 0
        while x < self.width:
            wide, top = own.randrange(50, 110) * self.width // 640, own.randrange(horizon // 3, horizon)
            shade = own.randrange(120, 190)
            draw.rectangle((x, top, x + wide, kerb), fill=_lit((shade, shade - 18, shade - 34), day, 0.2))
            for left in range(x + 8, x + wide - 12, 20):
                for up in range(top + 8, kerb - 14, 22):
                    at_home = own.random() < 0.4
                    pane = (240, 214, 140) if at_home and day < 0.5 else _lit((96, 116, 134), day, 0.15)
                    draw.rectangle((left, up, left + 9, up + 11), fill=pane)
            x += wide

    def _vehicles(self, draw: ImageDraw.ImageDraw, t_ns: int, day: float, kerb: int) -> None:
        scale = self.width / VIEW_M
        lane_height = (self.height - kerb) // 2
        for vehicle in sorted(self.world.vehicles(t_ns), key=lambda each: -each.lane):
            x = (vehicle.x_m + VIEW_M / 2) * scale
            low = kerb + lane_height * (2 - vehicle.lane) - lane_height // 6
            long, high = vehicle.length_m * scale, lane_height * (0.45 if vehicle.length_m < 6 else 0.8)
            body = _lit(CARS[vehicle.number % len(CARS)], day, 0.45)
            draw.rectangle((x, low - high, x + long, low), fill=body)
            glass = (x + long * 0.2, low - high * 0.9, x + long * 0.8, low - high * 0.55)
            draw.rectangle(glass, fill=_lit((50, 60, 70), day, 0.4))
            for wheel in (0.2, 0.8):
                centre, radius = x + long * wheel, max(2.0, lane_height * 0.1)
                draw.ellipse(
                    (centre - radius, low - radius, centre + radius, low + radius), fill=(16, 16, 16)
                )
            if day < 0.5:
                front = x + long if vehicle.speed_mps > 0 else x
                draw.ellipse(
                    (front - 4, low - high * 0.4, front + 4, low - high * 0.4 + 8), fill=(255, 250, 214)
                )


async def _read_head(end: End, unread: bytes) -> tuple[str | None, bytes]:
    """The head of the next request and what came behind it; None for one without end."""
    while b"\r\n\r\n" not in unread:
        if len(unread) > HEAD_BYTES:
            return None, b""
        unread += await end.read()
    head, _, rest = unread.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _answer(status: int, body: bytes, *headers: str) -> bytes:
    kind = "image/jpeg" if body[:2] == b"\xff\xd8" else "text/html"
    head = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body


def _lit(colour: tuple[int, int, int], day: float, night: float) -> tuple[int, int, int]:
    """A colour by day (1) or night (0), when ``night`` of it is left."""
    part = night + (1 - night) * day
    red, green, blue = (round(part * each) for each in colour)
    return red, green, blue


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
