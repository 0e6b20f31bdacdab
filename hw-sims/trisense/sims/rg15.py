"""A Hydreon RG-15 rain gauge, written from the protocol sheet: amounts as text, one-letter commands."""

from __future__ import annotations

from typing import Any, Final

from trisense.sims.base import End, Simulator, Told

__all__ = ["Rg15"]

BANNER: Final = b"; Hydreon RG-15\r\n; SW 1.000 2018.08.01\r\nReset N\r\n"
SETTINGS: Final = "PCHLMI"


class Rg15(Simulator):
    """RG-15 at 9600 8N1; ``drizzle_mm`` falls at each read besides the world's rain."""

    kind = "rg15"

    def __init__(
        self, *, inches: bool = False, drizzle_mm: float = 0.0, flags: str = "", **base: Any
    ) -> None:
        super().__init__(**base)
        self.inches = inches
        self.drizzle_mm = drizzle_mm
        self.flags = flags
        self.settings: list[str] = []
        """What the host has set."""
        self._last_mm: float | None = None
        self.power_up()

    def power_up(self) -> None:
        """Its counts begin anew."""
        self.total_mm = self._since_read_mm = 0.0

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-200:]
            while b"\n" in heard:
                line, heard = heard.split(b"\n", 1)
                await self._do(end, line.strip().decode("ascii", "replace"))

    async def _do(self, end: End, letter: str) -> None:
        if letter == "R":
            await self._tell(end)
        elif letter == "K":
            self.power_up()
            await end.write(BANNER)
        elif letter == "O":
            self.power_up()
        elif letter in SETTINGS and letter:
            self.settings.append(letter)
            if letter in "MI":
                self.inches = letter == "I"
            await end.write(letter.lower().encode() + b"\r\n")

    def _rain(self) -> float:
        """Let it rain as it did since the last look; gives the rate in mm/h."""
        weather = self.world.weather(self.now_ns())
        now_mm = weather.rain_amount_total
        fell_mm = self.drizzle_mm
        if self._last_mm is not None and now_mm > self._last_mm:
            fell_mm += now_mm - self._last_mm
        self._last_mm = now_mm
        self.total_mm += fell_mm
        self._since_read_mm += fell_mm
        return weather.rain_rate

    async def _tell(self, end: End) -> None:
        rate = self._rain()
        since_read, self._since_read_mm = self._since_read_mm, 0.0
        unit, decimals, size = ("in", 3, 25.4) if self.inches else ("mm", 2, 1.0)
        shown = [round(value / size, decimals) for value in (since_read, self.total_mm, self.total_mm, rate)]
        acc, event, total, rain = (f"{value:5.{decimals}f}" for value in shown)
        rate_unit = "iph" if self.inches else "mmph"
        text = f"Acc {acc} {unit}, EventAcc {event} {unit}, TotalAcc {total} {unit}, RInt {rain} {rate_unit}"
        text += f" {self.flags}" if self.flags else ""
        names = ("rain_amount", "rain_amount_event", "rain_amount_total", "rain_rate")
        told = {name: round(value * size, 3) for name, value in zip(names, shown, strict=True)}
        await end.send(text.encode() + b"\r\n", Told("weather", told), check=4)
