"""The camera driver against a simulated camera over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError
from trisense.core import limits
from trisense.core.errors import ConfigError
from trisense.core.model import check_value
from trisense.drivers import (
    BatchClass,
    DeviceRefused,
    DeviceTimeout,
    FrameError,
    LineError,
    Lines,
    Observed,
    Picturing,
)
from trisense.drivers.camera import Config, HttpCamera
from trisense.drivers.camera.digest import DigestAuth
from trisense.sims.base import Faults, Truth, World
from trisense.sims.camera import SnapshotCamera


def simulated(faults: str = "", **options: Any) -> SnapshotCamera:
    options = {"width": 320, "height": 180, **options}
    return SnapshotCamera(
        world=World(1), truth=Truth(), faults=Faults.parse(faults), seed=1, name="cam", **options
    )


@asynccontextmanager
async def driving(sim: SnapshotCamera, **config: Any) -> AsyncIterator[HttpCamera]:
    async with sim.serving() as port, driver_at(f"http://127.0.0.1:{port}/snapshot.jpg", **config) as driver:
        yield driver


@asynccontextmanager
async def driver_at(url: str, **config: Any) -> AsyncIterator[HttpCamera]:
    driver = HttpCamera(Config(name="cam", driver="http-camera", url=url, **config))
    await driver.connect(Lines())
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def answering(answer: bytes, *, hold: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with the same bytes; gives its URL."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())  # type: ignore[arg-type]  # a handler is a task
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hold:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/snapshot.jpg"
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def row(rows: list[Observed] | Any, measurement: str) -> Observed:
    return next(each for each in rows if each.measurement == measurement)


async def test_a_snapshot_gives_a_health_row_and_a_picture() -> None:
    async with driving(simulated()) as driver:
        rows = await driver.read()

    health, image = row(rows, "image_health"), row(rows, "image")
    assert health.values["class"] == health.values["state"] == "normal"
    assert (health.values["width"], health.values["height"]) == (320, 180)
    assert image.batch_class is BatchClass.MEDIA
    assert image.blob is not None
    assert image.values["id"] == hashlib.sha256(image.blob).hexdigest()
    assert Image.open(io.BytesIO(image.blob)).size == (image.values["width"], image.values["height"])
    assert image.values["bytes"] == len(image.blob)
    assert len(image.blob) <= 200_000 < limits.PAYLOAD_BYTES


async def test_rows_hold_what_the_streams_promise() -> None:
    async with driving(simulated()) as driver:
        rows = [*await driver.read(), *await driver.read()]

    streams = {stream.measurement: stream for stream in driver.streams()}
    for each in rows:
        fields = {field.name: field.type for field in streams[each.measurement].fields}
        assert set(each.values) <= set(fields)
        for name, value in each.values.items():
            check_value(value, fields[name])


async def test_pictures_travel_at_the_preview_interval_only() -> None:
    async with driving(simulated(), preview_interval_s=3600) as driver:
        kinds = [[each.measurement for each in await driver.read()] for _ in range(3)]

    assert kinds == [["image_health", "image"], ["image_health"], ["image_health"]]


async def test_a_picture_that_is_asked_for_travels_at_once_and_once() -> None:
    async with driving(simulated(), preview_interval_s=3600) as driver:
        assert isinstance(driver, Picturing)
        await driver.read()
        driver.picture_next()
        assert [row.measurement for row in await driver.read()] == ["image_health", "image"]
        assert [row.measurement for row in await driver.read()] == ["image_health"]


async def test_the_second_row_compares_with_the_first() -> None:
    async with driving(simulated()) as driver:
        first, second = row(await driver.read(), "image_health"), row(await driver.read(), "image_health")

    assert "mad" not in first.values
    assert second.values["mad"] > 0.3  # type: ignore[operator]  # a number, see the stream
    assert second.values["ncc"] > 0.8  # type: ignore[operator]


async def test_a_camera_that_repeats_one_picture_shows_no_change() -> None:
    async with driving(simulated("stuck@1,stuck_s=60")) as driver:
        await driver.read()
        await driver.read()
        rows = await driver.read()

    assert row(rows, "image_health").values["mad"] == 0


@pytest.mark.parametrize(
    ("view", "expected"), [("black", "black"), ("covered", "occluded"), ("dazzled", "overexposed")]
)
async def test_what_covers_the_lens_is_told(view: Any, expected: str) -> None:
    async with driving(simulated(view=view)) as driver:
        rows = await driver.read()

    assert row(rows, "image_health").values["class"] == expected


async def test_a_truncated_jpeg_gives_a_corrupt_row_and_no_picture_and_the_next_is_good() -> None:
    async with driving(simulated("cut@1")) as driver:
        damaged = await driver.read()
        good = await driver.read()

    assert [each.measurement for each in damaged] == ["image_health"]
    assert damaged[0].values["class"] == "corrupt"
    assert "mean" not in damaged[0].values
    assert row(good, "image_health").values["class"] == "normal"
    assert row(good, "image").blob


async def test_a_login_page_with_status_200_is_no_picture() -> None:
    async with driving(simulated("garbage@1")) as driver:
        with pytest.raises(FrameError, match="expected a JPEG"):
            await driver.read()
        assert await driver.read()


async def test_an_error_status_is_refused_with_its_number() -> None:
    async with driving(simulated("checksum@1")) as driver:
        with pytest.raises(DeviceRefused) as refused:
            await driver.read()
        assert refused.value.code == 500
        assert await driver.read()


async def test_a_hang_up_in_the_middle_is_a_lost_line() -> None:
    async with driving(simulated("hangup@1")) as driver:
        with pytest.raises(LineError):
            await driver.read()
        await driver.connect(Lines())
        assert await driver.read()


async def test_silence_ends_at_the_time_out() -> None:
    async with driving(simulated("silence@1"), timeout_s=0.1) as driver:
        with pytest.raises(DeviceTimeout):
            await driver.read()


async def test_a_trickle_ends_at_the_time_out_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n\xff\xd8"
    async with answering(head, hold=True) as url, driver_at(url, timeout_s=0.1) as driver:
        with pytest.raises(DeviceTimeout):
            await driver.read()


async def test_nobody_there_is_a_lost_line() -> None:
    async with answering(b"") as url:
        pass
    async with driver_at(url) as driver:
        with pytest.raises(LineError):
            await driver.read()


async def test_an_endless_answer_is_cut_off() -> None:
    body = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(11 * 1024 * 1024)
    async with answering(body) as url, driver_at(url) as driver:
        with pytest.raises(FrameError, match="beyond"):
            await driver.read()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00" * 200,
        b"HTTP/9.9 \xff\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000,
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest \xff=,,realm\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=a, nonce=b, algorithm=X\r\n\r\n",
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="\xff", nonce="\xfe"\r\n\r\n',
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=a, nonce=b, qop=auth-int\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=a, nonce=b\r\n\r\n" + bytes(1 << 20),
    ],
)
async def test_hostile_answers_raise_device_errors_only(answer: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    async with (
        answering(answer) as url,
        driver_at(url, username="u", password_file=secret, timeout_s=2) as driver,
    ):
        with pytest.raises((FrameError, LineError, DeviceRefused)):
            await driver.read()


async def test_digest_authentication_opens_the_camera(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("Circle Of Life\n")
    sim = simulated(username="Mufasa", password="Circle Of Life")
    async with driving(sim, username="Mufasa", password_file=secret) as driver:
        assert await driver.read()
        assert await driver.read()


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        'Basic realm="a"',
        'Digest realm="a"',
        'Digest realm="a", nonce="b", qop="auth-int"',
        'Digest realm="a", nonce="b", algorithm=MD5-sess',
    ],
)
def test_a_challenge_that_cannot_be_answered_is_not_taken(challenge: str) -> None:
    assert not DigestAuth("u", "p").accept(challenge)


def test_each_answer_to_one_challenge_counts_up_and_is_right() -> None:
    auth = DigestAuth('Mu"fasa', "Circle Of Life")
    assert auth.header("GET", "/") is None
    assert auth.accept('Digest realm="a, b", nonce="c", qop="auth-int, auth", algorithm=SHA-256, opaque="d"')

    headers = [auth.header("GET", "/x?y=1") or "" for _ in range(2)]

    assert ["nc=00000001" in headers[0], "nc=00000002" in headers[1]] == [True, True]
    assert all('opaque="d"' in each and r'username="Mu\"fasa"' in each for each in headers)
    cnonce = headers[1].split('cnonce="')[1].split('"')[0]
    who = hashlib.sha256(b'Mu"fasa:a, b:Circle Of Life').hexdigest()
    what = hashlib.sha256(b"GET:/x?y=1").hexdigest()
    expected = hashlib.sha256(f"{who}:c:00000002:{cnonce}:auth:{what}".encode()).hexdigest()
    assert f'response="{expected}"' in headers[1]


async def test_basic_authentication_is_sent_at_once(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, driver_at(url, username="Aladdin", password_file=secret, auth="basic") as driver:
        with pytest.raises(DeviceRefused) as refused:
            await driver.read()

    assert refused.value.code == 503
    assert b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" in heads[0]


async def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    sim = simulated(username="Mufasa", password="Circle Of Life")
    async with driving(sim, username="Mufasa", password_file=secret) as driver:
        with pytest.raises(DeviceRefused) as refused:
            await driver.read()
    assert refused.value.code == 401


async def test_a_view_with_privacy_zones_is_withheld_while_the_camera_looks_elsewhere() -> None:
    zones = [[[0, 0], [0.5, 0], [0.5, 0.5]]]
    shifted = Image.new("RGB", (320, 180))
    async with driving(simulated()) as driver:
        blob = row(await driver.read(), "image").blob
    assert blob is not None
    shifted.paste(Image.open(io.BytesIO(blob)), (120, 40))
    out = io.BytesIO()
    shifted.save(out, "JPEG", quality=95)
    body = b"HTTP/1.1 200 OK\r\n\r\n" + out.getvalue()

    async with answering(body) as url, driver_at(url, privacy_zones=zones) as driver:
        rows = await driver.read()
    async with answering(body) as url, driver_at(url) as driver:
        shown = await driver.read()

    assert row(rows, "image_health").values["class"] == "moved"
    assert [each.measurement for each in rows] == ["image_health"]
    assert row(shown, "image").blob


async def test_reading_before_connecting_is_a_lost_line_and_closing_twice_is_fine() -> None:
    driver = HttpCamera(Config(name="cam", driver="http-camera", url="http://127.0.0.1:9/"))

    with pytest.raises(LineError):
        await driver.read()
    await driver.close()
    await driver.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://camera/"},
        {"url": "http:///snapshot.jpg"},
        {"url": "http://camera:99999/"},
        {"url": "http://user:secret@camera/"},
        {"username": "u"},
        {"password_file": "p"},
        {"preview_width": 10},
        {"privacy_zones": [[[0, 0], [1, 1]]]},
        {"privacy_zones": [[[0, 0], [1, 1], [0, 2]]]},
        {"line": "tcp://camera:80"},
    ],
)
def test_a_wrong_option_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"name": "cam", "driver": "http-camera", "url": "http://camera/", **wrong})


def test_a_missing_password_file_is_a_configuration_mistake(tmp_path: Path) -> None:
    config = Config(
        name="cam", driver="http-camera", url="http://camera/", username="u", password_file=tmp_path / "none"
    )

    with pytest.raises(ConfigError):
        HttpCamera(config)
