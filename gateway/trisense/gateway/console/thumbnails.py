"""Small copies of camera frames, made once and kept for the pages that show a wall of them."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from typing import Final

from PIL import Image

__all__ = ["BadPicture", "Thumbnails"]

WIDTH_PX: Final = 480
HEIGHT_PX: Final = 360
QUALITY: Final = 75
KEPT: Final = 512
"""About 20 kB each."""
PIXELS_MAX: Final = 50_000_000
"""Larger pictures are refused before a pixel is decoded."""


class BadPicture(Exception):
    """Bytes that are no JPEG, or one too large to look at."""


class Thumbnails:
    """Thumbnails by media id, the least recently shown forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    def kept(self, media_id: str) -> bytes | None:
        found = self._kept.get(media_id)
        if found is not None:
            self._kept.move_to_end(media_id)
        return found

    async def make(self, media_id: str, picture: bytes) -> bytes:
        """Shrink a JPEG, in a thread, one at a time so that pages never starve the gateway.

        Raises:
            BadPicture: nothing is kept.
        """
        async with self._one_at_a_time:
            found = self.kept(media_id)
            if found is None:
                found = self._kept[media_id] = await asyncio.to_thread(shrink, picture)
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return found


def shrink(picture: bytes) -> bytes:
    """A JPEG of at most 480 x 360 pixels, without the original's metadata."""
    try:
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as image:
            if image.width * image.height > PIXELS_MAX:
                raise BadPicture(f"{image.width} x {image.height} pixels")
            image.draft("RGB", (WIDTH_PX, HEIGHT_PX))
            small = image.convert("RGB")
    except OSError as error:
        raise BadPicture(str(error)) from error
    small.thumbnail((WIDTH_PX, HEIGHT_PX))
    target = io.BytesIO()
    small.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
