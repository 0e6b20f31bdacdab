"""Small copies of camera frames, made once and kept for the pages that show a wall of them."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from typing import Final

from PIL import Image

__all__ = ["Thumbnails"]

WIDTH_PX: Final = 480
HEIGHT_PX: Final = 360
QUALITY: Final = 75
KEPT: Final = 512
"""About 20 kB each."""
PIXELS_MAX: Final = 50_000_000
"""Larger pictures are refused before a pixel is decoded."""


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

    async def make(self, media_id: str, picture: bytes) -> bytes | None:
        """Shrink a JPEG; None where it is none, or one too large to look at.

        In a thread, one at a time, so that pages never starve the gateway.
        """
        async with self._one_at_a_time:
            found = self.kept(media_id) or await asyncio.to_thread(shrink, picture)
            if found is not None:
                self._kept[media_id] = found
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return found


def shrink(picture: bytes) -> bytes | None:
    """A JPEG of at most 480 x 360 pixels, without the original's metadata; None: see ``make``."""
    try:
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as image:
            if image.width * image.height > PIXELS_MAX:
                return None
            image.draft("RGB", (WIDTH_PX, HEIGHT_PX))
            small = image.convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    small.thumbnail((WIDTH_PX, HEIGHT_PX))
    target = io.BytesIO()
    small.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
