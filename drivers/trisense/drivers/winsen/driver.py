"""The Winsen driver: asks for readings, knows warming up, and never calibrates by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.errors import DeviceTimeout
from trisense.core.model import Field, Stream
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.lines import Lines
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.warmup import WarmUp
from trisense.drivers.winsen.codec import (
    BOOTING,
    MEASUREMENT,
    MODELS,
    WinsenCodec,
    WinsenDecoder,
    command,
)

__all__ = ["Winsen", "WinsenConfig"]

PLACEHOLDERS_PPM: Final = frozenset({410, 1215})
"""What an MH-Z19 that starts was seen to tell, with a right sum and not always with ``u`` 15000."""
SILENT_READS: Final = 2
"""So many unanswered reads one after the other may be a loss of power: warm-up begins anew."""


class WinsenConfig(FramedConfig):
    """A Winsen MH-Z19 or ZE07."""

    model: Literal["mhz19", "ze07-ch2o", "ze07-co"] = "mhz19"
    """``mhz19`` stands for MH-Z19, MH-Z19B and MH-Z19C."""
    self_calibration: Literal["leave", "on", "off"] = "leave"
    """MH-Z19's own correction, which takes the lowest value of each day for 400 ppm: right outside, wrong
    in rooms that never see fresh air. ``leave`` sends nothing."""
    warm_up_s: Annotated[float, Constrained(ge=0, le=3600)] = 180.0
    """Seconds after opening the line, or after the sensor was gone, in which readings carry code 2."""


class Winsen(AskedDriver[WinsenConfig]):
    name = "winsen"
    family = "environment"
    summary = "Winsen MH-Z19 CO2 sensors, ZE07-CH2O and ZE07-CO gas modules on a UART"
    config_model = WinsenConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        "winsen.mhz19": WinsenCodec(MODELS["mhz19"]),
        "winsen.ze07_ch2o": WinsenCodec(MODELS["ze07-ch2o"]),
        "winsen.ze07": WinsenCodec(MODELS["ze07-co"]),
    }

    def __init__(self, config: WinsenConfig) -> None:
        super().__init__(config)
        self._model = MODELS[config.model]
        self._codec = WinsenCodec(self._model)
        self._warm_up = WarmUp(config.warm_up_s)
        self._silent = 0

    def streams(self) -> tuple[Stream, ...]:
        fields = [vocabulary.field(name, resolution=1.0) for name in self._model.fields]
        if self.config.model == "ze07-co":
            fields = [vocabulary.field("co", resolution=100.0)]
        if self.config.model == "mhz19":
            fields.append(Field("internal_temperature", "Cel", resolution=1.0))
        return (Stream(self.config.name, MEASUREMENT, self.layer, tuple(fields)),)

    def decoder(self) -> WinsenDecoder:
        return WinsenDecoder(self._model)

    async def connect(self, lines: Lines) -> None:
        self._silent = 0
        self._warm_up.begin()  # how long it has been on already, nobody can say
        await super().connect(lines)

    async def begin(self, device: Dialogue) -> None:
        # Some versions answer neither of these: wait for no answer.
        if self._model.upload is not None:
            await device.tell(command("question-answer mode"))
        elif self.config.self_calibration != "leave":
            await device.tell(command(f"ABC {self.config.self_calibration}"))

    async def poll(self, device: Dialogue) -> Sequence[Observed]:
        try:
            reply = await device.ask(command("read"), _is_reading)
        except DeviceTimeout:
            self._silent += 1
            if self._silent >= SILENT_READS:
                self._warm_up.begin()
            raise
        self._silent = 0
        if "upload" in reply:  # it lost its power and sends by itself again
            await device.tell(command("question-answer mode"))
            self._warm_up.begin()
        if reply.get("u") == BOOTING:
            self._warm_up.begin()
        return self._judged(reply)

    def _judged(self, reply: Frame) -> Sequence[Observed]:
        rows = self._warm_up.mark(self._codec.observed(reply))
        if self._warm_up.lasts and reply["values"].get("co2") in PLACEHOLDERS_PPM:
            return [replace(row, values={}, quality={}) for row in rows]
        return rows


def _is_reading(frame: Frame) -> bool:
    return "values" in frame
