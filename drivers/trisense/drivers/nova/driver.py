"""The Nova driver: a sensor that sends by itself, sleeps when told to and may work in periods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field as Constrained
from trisense.core import vocabulary
from trisense.core.errors import DeviceError, DeviceTimeout, FrameError
from trisense.core.model import Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.lines import Line
from trisense.drivers.nova.codec import (
    MEASUREMENT,
    MODELS,
    PERIOD_REPLY,
    NovaCodec,
    NovaDecoder,
    command,
    period,
)
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.warmup import WarmUp

__all__ = ["Nova", "NovaConfig"]

TRIES: Final = 3
"""After waking the sensor begins with some bytes of noise, which may hit the first reply."""
RESOLUTION: Final = {"pm100": 1.0}


class NovaConfig(FramedConfig):
    """A Nova SDS dust sensor."""

    model: Literal["sds011", "sds198"] = "sds011"
    """``sds011`` stands for SDS011, SDS018 and SDS021; ``sds198`` tells dust up to 100 um."""
    wake: bool = True
    """Send "work" and "report mode: active" after opening the line; harmless where its RX is not wired."""
    period_min: Annotated[int, Constrained(ge=0, le=30)] | None = None
    """Let it work for 30 s in every so many minutes, which saves its laser; 0 is without a pause. Left
    out, it stays as it is. It needs the sensor's RX, and the sensor remembers it."""
    warm_up_s: Annotated[float, Constrained(ge=0, le=600)] = 30.0
    """Seconds after opening the line in which readings carry code 2."""


class Nova(FramedDriver[NovaConfig]):
    name = "nova"
    family = "environment"
    summary = "Nova SDS011, SDS018, SDS021 and SDS198 dust sensors on a UART"
    config_model = NovaConfig
    codecs: ClassVar[Mapping[str, Codec]] = {f"nova.{name}": NovaCodec(name) for name in MODELS}

    def __init__(self, config: NovaConfig) -> None:
        super().__init__(config)
        self._codec = NovaCodec(config.model)
        self._warm_up = WarmUp(config.warm_up_s)

    def streams(self) -> tuple[Stream, ...]:
        _, names = MODELS[self.config.model]
        fields = tuple(vocabulary.field(name, resolution=RESOLUTION.get(name, 0.1)) for name in names)
        return (Stream(self.config.name, MEASUREMENT, self.layer, fields),)

    def decoder(self) -> NovaDecoder:
        return NovaDecoder(self.config.model)

    def silence_s(self) -> float:
        return self.config.timeout_s + 60.0 * (self.config.period_min or 0)

    async def begin(self, line: Line) -> None:
        if self.config.wake:
            await line.write(command("work"))
            await line.write(command("report mode: active"))
        if self.config.period_min is not None:
            await self._set_period(line, self.config.period_min)
        self._warm_up.begin()

    async def _set_period(self, line: Line, minutes: int) -> None:
        """Write the period only where it is another one: the sensor keeps it in a memory that wears out."""
        device = Dialogue(line, self.decoder, device=self.config.name, timeout_s=self.config.timeout_s)
        reply = await self._persist(device, command("period"))
        if reply["minutes"] == minutes:
            return
        reply = await self._persist(device, period(minutes))
        if reply["minutes"] != minutes:
            raise DeviceError(self.config.name, f"period is {reply['minutes']} min after setting {minutes}")

    async def _persist(self, device: Dialogue, question: bytes) -> Frame:
        """Ask until the reply comes whole; readings that come meanwhile are not it."""
        for _ in range(TRIES - 1):
            try:
                return await device.ask(question, _tells_period)
            except (DeviceTimeout, FrameError):
                continue
        return await device.ask(question, _tells_period)

    def rows(self, frame: Frame) -> Sequence[Observed]:
        return self._warm_up.mark(self._codec.observed(frame))


def _tells_period(frame: Frame) -> bool:
    return frame.get("reply") == PERIOD_REPLY
