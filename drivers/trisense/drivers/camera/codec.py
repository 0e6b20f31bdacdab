"""The camera sheet's devices as codecs: recorded pictures in, health out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

from trisense.drivers import Frame, FrameError, Observed, Part
from trisense.drivers.camera.digest import ALGORITHMS, response_of
from trisense.drivers.camera.health import compare, health
from trisense.drivers.camera.picture import EOI, SOI, decode, split

__all__ = ["FramePair", "HttpDigest", "ImageHealth", "JpegCheck", "health_row"]

PLAIN: Final = ("width", "height", "bytes", "mean", "std", "dark", "bright", "lapvar", "tile_lapvar_median")
"""Fields of a row that have the name the sheet gives them."""
ASKED: Final = frozenset({"user", "password", "realm", "nonce", "uri", "method"})
ASKED_TOO: Final = frozenset({"qop", "nc", "cnonce", "algorithm"})
"""What a digest answers, and what newer challenges ask besides."""


def health_row(
    frame: Mapping[str, Any], *, state: str, change: Mapping[str, float] | None = None
) -> Observed:
    """The ``image_health`` row of one good picture; ``change`` is against the picture before."""
    values = {name: frame[name] for name in PLAIN}
    values["tiles_flat"] = frame["tiles_flat_lt_1"]
    values["class"] = frame["class"]
    values["state"] = state
    if change:
        values["mad"] = change["mad"]
        values["motion"] = change["frac"]
        values["ncc"] = change["ncc"]
    return Observed("image_health", values)


class Recording(ABC):
    """What the codecs share: a recording is JPEGs one behind the other, and a camera is told nothing."""

    @abstractmethod
    def frames(self, data: bytes) -> Sequence[Frame]: ...

    def damaged(self, data: bytes) -> Sequence[str]:
        pictures, error = split(data)
        lines = []
        for jpeg in pictures:
            try:
                decode(jpeg)
            except FrameError as undecodable:
                lines.append(str(undecodable))
        return lines if error is None else [*lines, str(error)]

    def observed(self, frame: Frame) -> Sequence[Observed]:  # noqa: ARG002  # the protocol's signature
        return ()

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the protocol's signature
        return None


class ImageHealth(Recording):
    """``image-health``: one frame per picture."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        found = []
        for jpeg in split(data)[0]:
            with suppress(FrameError):
                found.append(health(jpeg.data))
        return found

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return (health_row(frame, state=frame["class"]),)


class FramePair(Recording):
    """``frame-pair``: one frame for each two pictures that follow each other."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return _pairs([jpeg.data for jpeg in split(data)[0]])

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:  # noqa: ARG002  # two pictures are the whole question
        return _pairs([part.data for part in parts])


class JpegCheck(Recording):
    """``jpeg``: one frame per complete picture; one that was cut off is damage."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return [
            {
                "complete": True,
                "starts_ffd8": jpeg.data.startswith(SOI),
                "ends_ffd9": jpeg.data.endswith(EOI),
                "width": jpeg.width,
                "height": jpeg.height,
            }
            for jpeg in split(data)[0]
        ]


class HttpDigest(Recording):
    """``http-digest``: the answer to a camera's challenge. No bytes are decoded: all is in the question."""

    def frames(self, data: bytes) -> Sequence[Frame]:  # noqa: ARG002  # the protocol's signature
        return []

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:  # noqa: ARG002  # likewise
        question = {key: str(value) for key, value in given.items() if key in ASKED | ASKED_TOO}
        if not set(question) >= ASKED or question.get("algorithm", "MD5") not in ALGORITHMS:
            return []
        return [{**question, "response": response_of(**question)}]


def _pairs(pictures: Sequence[bytes]) -> list[Frame]:
    found = []
    for first, second in pairwise(pictures):
        with suppress(FrameError):
            found.append(compare(first, second))
    return found
