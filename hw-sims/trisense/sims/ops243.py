"""An OmniPreSense OPS243 Doppler radar, written from the protocol sheet: commands and JSON lines."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told, together

__all__ = ["Ops243"]

PER_MPS: Final = {"UM": ("m/s", 1.0), "US": ("mph", 2.236936), "UK": ("km/h", 3.6), "UF": ("ft/s", 3.28084)}
COMMAND: Final = re.compile(rb"\x03|[RM]>[\d.]+[\r\n]|[A-Z?][A-Za-z?0-9+|-]")
OPENING_BRACE: Final = 0


class Ops243(Simulator):
    """OPS243-A at 19200 8N1, beside the road; ``quiet=true`` sees nothing move."""

    kind = "ops243"
    baud = 19_200

    def __init__(self, *, units: str = "US", period_s: float = 0.1, quiet: bool = False, **base: Any) -> None:
        super().__init__(**base)
        if units not in PER_MPS:
            raise ValueError(f"units {units!r}: one of {', '.join(PER_MPS)}")
        self.units = units
        self.period_s = period_s
        self.quiet = quiet
        self.active = True
        self.output = set[str]()
        self.commands: list[str] = []

    async def talk(self, end: End) -> None:
        await together(self._tell(end), self._obey(end))

    async def _tell(self, end: End) -> None:
        while True:
            await asyncio.sleep(self.period_s)
            if self.active and not self.quiet:
                await self._report(end)

    async def _report(self, end: End) -> None:
        name, factor = PER_MPS[self.units]
        for vehicle in self.world.vehicles(self.now_ns())[:1]:
            # Positive is coming nearer: the radar looks towards falling x.
            speed = f"{vehicle.speed_mps * factor:.1f}"
            size = 40 + vehicle.number % 50
            if "OJ" not in self.output:
                await end.send(f"{speed}\r\n".encode())
                continue
            told: dict[str, Any] = {"unit": name} if "OU" in self.output else {}
            told |= {"magnitude": str(size)} if "OM" in self.output else {}
            values: dict[str, Value] = {"radial_speed": float(speed) / factor, "magnitude": float(size)}
            line = json.dumps({**told, "speed": speed}).encode() + b"\r\n"
            await end.send(line, Told("radar_speed", values), check=OPENING_BRACE)

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-64:]
            while (found := COMMAND.match(heard)) is not None:
                heard = heard[found.end() :]
                await self._do(end, found[0].decode("ascii").strip())

    async def _do(self, end: End, command: str) -> None:
        self.commands.append(command)
        answer: dict[str, str] = {"Output": command}
        if command == "\x03":
            return
        if command in ("PI", "PA"):
            self.active = command == "PA"
            answer = {"PowerMode": "Continuous" if self.active else "Idle"}
        elif command in PER_MPS or command == "?U":
            self.units = command if command in PER_MPS else self.units
            answer = {"Units": PER_MPS[self.units][0]}
        elif command.startswith("O"):
            self.output.add(command)
        await end.send(json.dumps(answer).encode() + b"\r\n")
