"""SDI-12 weather sensors behind an adapter, written from the protocol sheet: M, C, R, D, service requests."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together
from trisense.sims.wxt import letters

__all__ = ["Sdi12"]

COMMAND: Final = re.compile(r"([0-9A-Za-z?])(|I|([MCR])(C?)([0-9]?)|D([0-9]))!")
PAGE_CHARS: Final = {"M": 35, "C": 75, "R": 75}
NO_VALUE: Final = "-9999"
NAMES: Final = (
    "air_temperature",
    "relative_humidity",
    "barometric_pressure",
    "wind_speed",
    "wind_direction",
    "rain_amount_total",
    "dew_point",
)


class Sdi12(Simulator):
    """Seven values at 9600 8N1; ``ready_s`` is what it announces, ``takes_s`` what it needs."""

    kind = "sdi12"

    def __init__(
        self,
        *,
        addresses: str = "0",
        ready_s: int = 0,
        takes_s: float = 0.0,
        requests: bool = True,
        echo: bool = False,
        parity: bool = False,
        fewer: int = 0,
        wet: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.addresses = addresses
        """Of the sensors on its bus, which all stand at one place."""
        self.ready_s = ready_s
        self.takes_s = takes_s
        self.requests = requests
        """Whether its service request arrives."""
        self.echo = echo
        self.parity = parity
        """The port shows the parity bits of 7E1."""
        self.fewer = fewer
        """So many values less than announced."""
        self.wet = wet
        """Its last value is the number that stands for none."""
        self.answers_as = ""
        """An address that it gives in place of its own: its neighbour talks in between."""
        self.commands: list[str] = []
        self._ready_at: dict[str, float] = {}
        """When the measurement of an address is done; asked before, it is aborted."""
        self._pages: dict[str, list[tuple[str, list[str]]]] = {}
        self._requests: asyncio.Queue[tuple[float, str]] = asyncio.Queue()

    async def talk(self, end: End) -> None:
        await together(self._obey(end), self._request(end))

    async def _request(self, end: End) -> None:
        """Send service requests when they are due."""
        while True:
            after_s, address = await self._requests.get()
            await asyncio.sleep(after_s)
            await end.write(self._line(address))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-100:]
            while b"!" in heard:
                text, heard = heard.split(b"!", 1)
                if self.echo:
                    await end.write(text + b"!")
                await self._do(end, text.decode("ascii", "replace") + "!")

    def _line(self, text: str) -> bytes:
        line = text.encode() + b"\r\n"
        return bytes(byte | byte.bit_count() % 2 << 7 for byte in line) if self.parity else line

    async def _do(self, end: End, text: str) -> None:
        found = COMMAND.fullmatch(text)
        if found is None or found[1] not in f"{self.addresses}?":
            return
        self.commands.append(text)
        address = self.answers_as or (self.addresses[0] if found[1] == "?" else found[1])
        if found[6] is not None:
            await self._page(end, address, int(found[6]))
        elif found[3] is not None:
            await self._measure(end, address, found[3], with_crc=bool(found[4]))
        elif found[2] == "I":
            await end.send(self._line(f"{address}14TRISENSESIMSDI100{address:>5}"))
        else:
            await end.send(self._line(address))

    async def _measure(self, end: End, address: str, kind: str, *, with_crc: bool) -> None:
        weather = self.world.weather(self.now_ns())
        shown = [f"{getattr(weather, name):+.2f}" for name in NAMES]
        if self.wet:
            shown[-1] = NO_VALUE
        self._pages[address] = self._cut(
            shown[: len(shown) - self.fewer], PAGE_CHARS[kind], with_crc=with_crc
        )
        self._ready_at[address] = time.monotonic() + (self.takes_s if kind != "R" else 0)
        if kind == "R":
            await self._page(end, address, 0)
            return
        count = f"{len(shown):02d}" if kind == "C" else str(len(shown))
        await end.send(self._line(f"{address}{self.ready_s:03d}{count}"))
        if kind == "M" and self.ready_s and self.requests:
            self._requests.put_nowait((self.takes_s, address))

    def _cut(self, shown: list[str], chars: int, *, with_crc: bool) -> list[tuple[str, list[str]]]:
        """The values in pages of at most so many characters, each with whether a CRC is wanted."""
        pages: list[list[str]] = [[]]
        for value in shown:
            if len("".join(pages[-1])) + len(value) > chars:
                pages.append([])
            pages[-1].append(value)
        return [("crc" if with_crc else "", page) for page in pages]

    async def _page(self, end: End, address: str, number: int) -> None:
        if time.monotonic() < self._ready_at.get(address, 0):
            self._pages[address] = []
        pages = self._pages.get(address, [])
        check, values = pages[number] if number < len(pages) else (pages[0][0] if pages else "", [])
        text = address + "".join(values)
        if check:
            text += letters(text.encode()).decode()
        first = sum(len(page) for _, page in pages[:number])
        told = {name: float(value) for name, value in zip(NAMES[first:], values, strict=False)}
        await end.send(self._line(text), *([Told("environment", told)] if told else []), check=-3)
