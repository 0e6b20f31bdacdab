"""Thumbnails of camera frames."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image
from trisense.core.model import Field, Layer, Stream
from trisense.gateway.console.thumbnails import shrink

if TYPE_CHECKING:
    from tests.gateway.console.conftest import Street

CAMERA = Stream("cam", "camera_frame", Layer.GROUND, (Field("sharpness", "1"),))


def jpeg(width: int, height: int, mode: str = "RGB") -> bytes:
    target = io.BytesIO()
    Image.new(mode, (width, height)).save(target, "JPEG", exif=b"Exif\0\0place")
    return target.getvalue()


async def test_a_thumbnail_fits_its_card_and_is_never_sent_twice(street: Street) -> None:
    media_id = street.frame("kx-001", CAMERA, jpeg(1920, 1080))
    await street.start()
    async with httpx.AsyncClient() as client:
        first = await client.get(f"{street.address}/api/v1/thumbnail/{media_id}")
        etag = first.headers["etag"]
        again = await client.get(
            f"{street.address}/api/v1/thumbnail/{media_id}", headers={"if-none-match": etag}
        )
    with Image.open(io.BytesIO(first.content)) as small:
        assert small.size == (480, 270)
    assert first.headers["content-type"] == "image/jpeg"
    assert "immutable" in first.headers["cache-control"]
    assert (again.status_code, again.content) == (304, b"")


async def test_a_picture_that_is_gone_or_none_gets_a_plain_answer(street: Street) -> None:
    page = street.frame("kx-001", CAMERA, b"<html><script>alert(1)</script>")
    await street.start()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{street.address}/api/v1/thumbnail/{'0' * 64}")).status_code == 404
        answer = await client.get(f"{street.address}/api/v1/thumbnail/{page}")
    assert answer.status_code == 415
    assert "script" not in answer.text


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_thumbnail_carries_no_metadata(mode: str) -> None:
    small = shrink(jpeg(640, 480, mode))
    assert small is not None
    assert b"place" not in small


def test_a_picture_that_claims_too_many_pixels_is_refused_undecoded() -> None:
    bomb = bytearray(jpeg(16, 16))
    start = bomb.index(b"\xff\xc0") + 5
    bomb[start : start + 4] = struct.pack(">HH", 20_000, 20_000)
    assert shrink(bytes(bomb)) is None


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 100, 300])
def test_a_cut_picture_is_no_thumbnail(cut: int) -> None:
    assert shrink(jpeg(640, 480)[:cut]) is None


def test_another_format_is_refused() -> None:
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG")
    assert shrink(target.getvalue()) is None
