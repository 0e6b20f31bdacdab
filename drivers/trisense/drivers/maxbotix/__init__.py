"""MaxBotix ultrasonic range finders: ``R``, digits, carriage return; without a check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal

from trisense.core import vocabulary
from trisense.core.model import Stream
from trisense.drivers.framing import Cut, Decoder, FramedCodec, FramedConfig, FramedDriver
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Maxbotix", "MaxbotixCodec", "MaxbotixConfig", "MaxbotixDecoder"]

MEASUREMENT: Final = "distance"
STRAY: Final = b"\xff"
"""Comes even between digits (esphome components/hrxl_maxsonar_wr) and means nothing."""


@dataclass(frozen=True, slots=True)
class Model:
    digits: int
    unit_m: float
    nothing: int
    """What it tells where there is no echo: its longest range."""


MODELS: Final[Mapping[str, Model]] = {
    "hrxl-5m": Model(4, 0.001, 5000),
    "hrxl-10m": Model(4, 0.001, 9999),
    "xl": Model(3, 0.01, 765),
}


class MaxbotixDecoder(Decoder):
    max_frame = 16

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._whole = re.compile(rb"R(\d{%d})\r" % model.digits)
        self._so_far = re.compile(rb"R\d{0,%d}" % model.digits)

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] != ord("R"):
            found = data.find(b"R", start)
            return Cut((found if found >= 0 else len(data)) - start)
        window = data[start : start + self.max_frame]
        end = window.find(b"\r") + 1
        text = (window[:end] if end else window).replace(STRAY, b"")
        if end and (whole := self._whole.fullmatch(text)):
            raw = int(whole[1])
            distance_m = None if raw >= self._model.nothing else round(raw * self._model.unit_m, 3)
            return Cut(end, {"values": {"distance": distance_m}})
        if end or len(window) == self.max_frame or not self._so_far.fullmatch(text):
            return Cut(1, damage="format")
        return None


class MaxbotixCodec(FramedCodec):
    def __init__(self, model: Model) -> None:
        self.decoder = partial(MaxbotixDecoder, model)

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return (Observed(MEASUREMENT, frame["values"]),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # it takes no commands
        return None


class MaxbotixConfig(FramedConfig):
    """A MaxBotix range finder with serial output."""

    model: Literal["hrxl-5m", "hrxl-10m", "xl"] = "hrxl-5m"
    """HRXL-MaxSonar tell four digits of millimetres up to 5 or 10 m, ``xl`` three of centimetres."""


class Maxbotix(FramedDriver[MaxbotixConfig]):
    name = "maxbotix"
    family = "environment"
    summary = "MaxBotix HRXL- and XL-MaxSonar ultrasonic range finders on a UART"
    config_model = MaxbotixConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        f"maxbotix.{name}": MaxbotixCodec(model) for name, model in MODELS.items()
    }

    def __init__(self, config: MaxbotixConfig) -> None:
        super().__init__(config)
        self._model = MODELS[config.model]
        self._codec = MaxbotixCodec(self._model)

    def streams(self) -> tuple[Stream, ...]:
        longest_m = self._model.nothing * self._model.unit_m
        field = vocabulary.field("distance", resolution=self._model.unit_m, valid=(0.0, longest_m))
        return (Stream(self.config.name, MEASUREMENT, self.layer, (field,)),)

    def decoder(self) -> MaxbotixDecoder:
        return MaxbotixDecoder(self._model)

    def rows(self, frame: Frame) -> Sequence[Observed]:
        return self._codec.observed(frame)
