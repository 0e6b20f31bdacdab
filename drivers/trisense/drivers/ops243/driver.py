"""The OPS243 driver: sets JSON output with units, tells speeds, and asks a quiet radar whether it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final

from pydantic import Field as Constrained
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.asking import Dialogue
from trisense.drivers.framing import FramedConfig
from trisense.drivers.lines import Line
from trisense.drivers.ops243.codec import JsonDecoder, Ops243Codec
from trisense.drivers.quiet import QuietDriver
from trisense.drivers.sdk import Codec, Frame, Observed

__all__ = ["Ops243", "Ops243Config"]

CLEARS_A_HALF_TYPED_COMMAND: Final = b"\x03"
IDLE, ACTIVE, UNITS = b"PI", b"PA", b"?U"


class Ops243Config(FramedConfig):
    """An OmniPreSense OPS241, OPS242 or OPS243 on USB, or on its UART at 19200 baud."""

    min_speed: Annotated[float, Constrained(ge=0, le=100)] | None = None
    """Have the radar leave out what is slower, in the radar's own unit."""
    min_magnitude: Annotated[int, Constrained(ge=0, le=10_000)] | None = None
    """Have the radar leave out what echoes less: rain, fans, lamps."""
    quiet_s: Annotated[float, Constrained(gt=0, le=600)] = 10.0
    """Ask a radar that has been silent so long whether it is alive; nothing moves if it is."""
    command_s: Annotated[float, Constrained(ge=0, le=5)] = 0.1
    """Pause after each command at the start. The radar takes 100 to 250 ms for one; its answers come later
    than that, which does no harm."""


class Ops243(QuietDriver[Ops243Config]):
    name = "ops243"
    family = "radar"
    summary = "OmniPreSense OPS243 Doppler radars: radial speed and magnitude"
    config_model = Ops243Config
    codecs: ClassVar[Mapping[str, Codec]] = {"ops243": Ops243Codec()}

    def __init__(self, config: Ops243Config) -> None:
        super().__init__(config)
        self._codec = Ops243Codec()

    def streams(self) -> tuple[Stream, ...]:
        speed = (
            Field("radial_speed", "m/s", valid=(-100.0, 100.0)),
            Field("magnitude", "1"),
        )
        count = (Field("target_count", "{target}", FieldType.INT),)
        name, layer = self.config.name, self.layer
        return (
            Stream(name, "radar_speed", layer, speed),
            Stream(name, "radar_object", layer, speed),
            Stream(name, "radar_presence", layer, count),
        )

    def decoder(self) -> JsonDecoder:
        return JsonDecoder()

    def silence_s(self) -> float:
        return self.config.quiet_s

    async def begin(self, line: Line) -> None:
        self._codec = Ops243Codec()
        filters = []
        if self.config.min_speed is not None:
            filters.append(f"R>{self.config.min_speed:g}\n".encode())
        if self.config.min_magnitude is not None:
            filters.append(f"M>{self.config.min_magnitude}\n".encode())
        # Idle first, so that no reading stands between what follows; nothing is saved in its flash.
        for command in (CLEARS_A_HALF_TYPED_COMMAND, IDLE):
            await line.write(command)
            await asyncio.sleep(self.config.command_s)
        await line.flush_input()  # what is left of a line that had begun
        for command in (b"OJ", b"OU", b"OM", *filters, UNITS, ACTIVE):
            await line.write(command)
            await asyncio.sleep(self.config.command_s)

    def rows(self, frame: Frame) -> Sequence[Observed]:
        units = frame.get("reply", {}).get("Units")
        if isinstance(units, str):
            self._codec = Ops243Codec(units)
        return self._codec.observed(frame)

    async def ask_for_life(self, device: Dialogue) -> None:
        await device.ask(UNITS, lambda frame: True)  # noqa: ARG005  # whatever it says, it lives

    def nothing(self) -> Observed:
        return Observed("radar_presence", {"target_count": 0})
