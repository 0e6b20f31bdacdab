"""DFRobot A02YYUW and A01NYUB ultrasonic range finders: four bytes of a distance, several times a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal

from trisense.core import vocabulary
from trisense.core.model import Stream
from trisense.drivers.framing import Cut, Decoder, FramedCodec, FramedConfig, FramedDriver
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["A02yyuw", "A02yyuwCodec", "A02yyuwConfig", "A02yyuwDecoder"]

MEASUREMENT: Final = "distance"
HEAD: Final = 0xFF
FRAME_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Range:
    """What a model can measure."""

    blind_mm: int
    """Up to here its own pulse hides the echo: no distance."""
    longest_mm: int


RANGES: Final[Mapping[str, Range]] = {"a02yyuw": Range(30, 4_500), "a01nyub": Range(280, 7_500)}
LARGEST_MM: Final = 10_000
"""No model hears an echo from farther away: such a frame is damaged in spite of its 8-bit sum."""


class A02yyuwDecoder(Decoder):
    max_frame = FRAME_BYTES

    def __init__(self, blind_mm: int, sum_of: str) -> None:
        super().__init__()
        self._blind_mm = blind_mm
        self._summed_from = 0 if sum_of == "frame" else 1

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != HEAD:
            found = data.find(HEAD, start)
            return Cut((found if found >= 0 else len(data)) - start)
        frame = data[start : start + FRAME_BYTES]
        if len(frame) < FRAME_BYTES:
            return None
        if sum(frame[self._summed_from : 3]) & 0xFF != frame[3]:
            return Cut(1, damage="checksum")
        distance_mm = int.from_bytes(frame[1:3], "big")
        if distance_mm > LARGEST_MM:
            return Cut(1, damage="implausible")
        distance_m = distance_mm / 1000 if distance_mm > self._blind_mm else None
        return Cut(FRAME_BYTES, {"values": {"distance": distance_m}})


class A02yyuwCodec(FramedCodec):
    def __init__(self, model: str, sum_of: str) -> None:
        self.decoder = partial(A02yyuwDecoder, RANGES[model].blind_mm, sum_of)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return (Observed(MEASUREMENT, frame["values"]),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the protocol of a codec
        return None  # it takes no commands


class A02yyuwConfig(FramedConfig):
    """An A02YYUW or A01NYUB."""

    model: Literal["a02yyuw", "a01nyub"] = "a02yyuw"
    """``a02yyuw`` measures 0.03 to 4.5 m, ``a01nyub`` 0.28 to 7.5 m."""
    sum_of: Literal["frame", "distance"] = "frame"
    """What the check byte is the sum of: the whole ``frame``, or on some look-alike boards the two bytes of
    the ``distance`` alone."""


class A02yyuw(FramedDriver[A02yyuwConfig]):
    name = "a02yyuw"
    family = "environment"
    summary = "DFRobot A02YYUW and A01NYUB ultrasonic range finders on a UART"
    config_model = A02yyuwConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        "dfrobot.a02yyuw": A02yyuwCodec("a02yyuw", "frame"),
        "dfrobot.a01nyub": A02yyuwCodec("a01nyub", "frame"),
    }

    def __init__(self, config: A02yyuwConfig) -> None:
        super().__init__(config)
        self._codec = A02yyuwCodec(config.model, config.sum_of)

    def streams(self) -> tuple[Stream, ...]:
        longest_m = RANGES[self.config.model].longest_mm / 1000
        field = vocabulary.field("distance", resolution=0.001, valid=(0.0, longest_m))
        return (Stream(self.config.name, MEASUREMENT, self.layer, (field,)),)

    def decoder(self) -> Decoder:
        return self._codec.decoder()

    def rows(self, frame: Frame) -> Sequence[Observed]:
        return self._codec.observed(frame)
