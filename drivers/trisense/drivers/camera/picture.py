"""Pictures as bytes: where a JPEG ends, how large it is, and how it is decoded and encoded within bounds.

Bytes from a camera are hostile until proven otherwise: nothing is decoded before its markers say that it
is complete and of a size we can hold, and no other error than ``FrameError`` leaves this module.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from trisense.drivers import FrameError

__all__ = ["Jpeg", "Luma", "Polygon", "Preview", "cut", "decode", "luma", "preview", "split"]

Luma = NDArray[np.uint8]
"""Y, 0 to 255, rows by columns."""
Polygon = Sequence[tuple[float, float]]
"""Corners in parts of width and height, 0 to 1."""

MAX_PIXELS: Final = 40_000_000
"""Largest picture that is decoded; an 8K camera has 33 million."""
WORK_PIXELS: Final = 2_100_000
"""Beyond it (about 1920x1080) a picture is decoded at a half, quarter or eighth: memory stays bounded.
One camera always gets the same factor, so its baseline never mixes sizes."""
SOI: Final = b"\xff\xd8"
EOI: Final = b"\xff\xd9"
FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Start-of-frame markers of the processes a camera uses: baseline, extended, progressive."""
LONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and RST0 to RST7."""
DROPPED: Final = frozenset({0xFE, *range(0xE1, 0xEE), 0xEF})
"""COM and APP1 to APP15 without APP14 (Adobe's colour transform); APP0 says that colours are YCbCr."""
SOS: Final = 0xDA
GREY: Final = 128
ZONE_MARGIN: Final = 0.02
"""A privacy zone grows by this part of the width: camera mounts sway."""
QUALITIES: Final = (80, 60, 40)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """What the markers of a complete JPEG say, before any pixel is decoded."""

    data: bytes
    """From FF D8 to FF D9."""
    bare: bytes
    """The same without comments and application segments, save those that say what the colours are: what
    the decoder need not parse (EXIF, thumbnails, profiles) cannot hurt it."""
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture small enough to travel."""

    data: bytes
    width: int
    height: int

    @property
    def id(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def cut(data: bytes, start: int = 0) -> Jpeg:
    """The JPEG at ``start``; what follows its end (padding of some cameras) is left out.

    Raises:
        FrameError: no JPEG, no end marker, a marker out of place, or more than ``MAX_PIXELS``.
    """
    if data[start : start + 2] != SOI:
        raise FrameError("jpeg", "does not start with FF D8", data[start : start + 16])
    width = height = 0
    bare = bytearray(SOI)
    at = start + 2
    while True:
        began = at
        marker, at = _next_marker(data, at)
        if marker == EOI[1]:
            break
        if marker in LONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            raise FrameError("jpeg", f"segment {marker:02X} runs past the end")
        if marker in FRAMES and length >= 8:
            height = int.from_bytes(data[at + 3 : at + 5], "big")
            width = int.from_bytes(data[at + 5 : at + 7], "big")
        at += length
        if marker == SOS:
            at = _end_of_scan(data, at)
        if marker not in DROPPED:
            bare += data[began:at]
    bare += EOI
    if not 0 < width * height <= MAX_PIXELS:
        raise FrameError("jpeg", f"expected 1 to {MAX_PIXELS} pixels, got {width}x{height}")
    return Jpeg(data[start:at], bytes(bare), width, height)


def split(data: bytes) -> tuple[list[Jpeg], FrameError | None]:
    """The pictures of a recording of concatenated JPEGs up to the first damaged one, and what ails that."""
    found: list[Jpeg] = []
    at = 0
    while at < len(data):
        try:
            found.append(cut(data, at))
        except FrameError as error:
            return found, error
        at += len(found[-1].data)
    return found, None


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Read a marker with its fill bytes (B.1.1.2); gives it and the offset behind it."""
    if data[at : at + 1] != b"\xff":
        raise FrameError("jpeg", f"no marker at byte {at} of {len(data)}")
    while data[at : at + 1] == b"\xff":
        at += 1
    if at >= len(data) or data[at] == 0:
        raise FrameError("jpeg", f"no marker at byte {at} of {len(data)}")
    return data[at], at + 1


def _end_of_scan(data: bytes, at: int) -> int:
    """Offset of the marker that ends entropy-coded data: stuffed zeros and restarts belong to it."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise FrameError("jpeg", "does not end with FF D9")
        follows = data[at + 1]
        if follows not in (0x00, 0xFF) and follows not in LONE:
            return at
        at += 1 if follows == 0xFF else 2


def decode(jpeg: Jpeg) -> Image.Image:
    """Decode to RGB, scaled down by a power of two where it is larger than ``WORK_PIXELS``.

    Raises:
        FrameError: the decoder refuses it.
    """
    try:
        with Image.open(io.BytesIO(jpeg.bare), formats=("JPEG",)) as picture:
            scale = 1
            while jpeg.width * jpeg.height > WORK_PIXELS * scale**2 and scale < 8:
                scale *= 2
            if scale > 1:
                picture.draft("RGB", (jpeg.width // scale, jpeg.height // scale))
            return picture.convert("RGB")
    # What Pillow's parsers are known to raise on damaged input, beside their own SyntaxError.
    except (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
        raise FrameError("jpeg", f"cannot be decoded: {error}") from error


def luma(picture: Image.Image) -> Luma:
    """Y = 0.299 R + 0.587 G + 0.114 B (camera sheet, section 4.2)."""
    return np.asarray(picture.convert("L"))


def preview(picture: Image.Image, *, width: int, max_bytes: int, zones: Sequence[Polygon] = ()) -> Preview:
    """Scale down to ``width``, hide the privacy zones and encode within ``max_bytes``.

    Nothing of the camera's own metadata is kept: its thumbnail would show what the zones hide.

    Raises:
        FrameError: it does not fit even at the lowest quality and an eighth of the width.
    """
    shown = picture.copy()
    if zones:
        _hide(shown, zones)
    for shrink in (1, 2, 4, 8):
        shown.thumbnail((max(1, width // shrink), shown.height))
        for quality in QUALITIES:
            out = io.BytesIO()
            shown.save(out, "JPEG", quality=quality)
            if out.tell() <= max_bytes:
                return Preview(out.getvalue(), *shown.size)
    raise FrameError("jpeg", f"no preview of {max_bytes} bytes can be made")


def _hide(picture: Image.Image, zones: Sequence[Polygon]) -> None:
    draw = ImageDraw.Draw(picture)
    margin = max(1, round(2 * ZONE_MARGIN * picture.width))
    for zone in zones:
        corners = [(x * picture.width, y * picture.height) for x, y in zone]
        draw.polygon(corners, fill=(GREY, GREY, GREY))
        draw.line([*corners, corners[0]], fill=(GREY, GREY, GREY), width=margin, joint="curve")
