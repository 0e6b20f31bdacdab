"""How long an exchange keeps a Modbus line busy (environment.md A1, A2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from trisense.drivers.lines import check_url
from trisense.drivers.modbus.framing import Framing
from trisense.drivers.modbus.pdu import READ_BITS

__all__ = ["ExchangeCost", "Pace"]

NETWORK_BYTE_S: Final = 1e-6
"""A byte on a 10 Mbit/s network: next to nothing, yet a hole is not free."""
CONVERTER: Final = "serial:///assumed?baud=9600"
"""What is taken for the line behind a converter that passes raw frames: nobody can ask it for its speed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a line is; a network line has no character time."""

    character_s: float = 0.0
    silence_s: float = 0.0
    """T3.5: the pause before each request."""

    @classmethod
    def of(cls, url: str) -> Pace:
        """The pace that a line's URL asks for."""
        parts = check_url(url)
        if parts.scheme != "serial":
            return cls()
        options = dict(parse_qsl(parts.query))
        baud = int(options.get("baud", "9600"))
        size, parity, stop = list(options.get("format", "8N1").upper())
        bits = 1 + int(size) + (parity != "N") + int(stop)
        return cls(bits / baud, 38.5 / baud if baud <= 19_200 else 0.001_75)


@dataclass(frozen=True, slots=True)
class ExchangeCost:
    """What one read costs on one line, for planning; ``Pace`` is what the bus keeps to."""

    framing: Framing
    character_s: float
    silence_s: float
    """Pause before the request: T3.5, or more where the device needs it."""
    answer_s: float
    """From the end of the request to the beginning of the answer."""

    @classmethod
    def of(cls, url: str, framing: Framing, *, answer_s: float, gap_s: float) -> ExchangeCost:
        """The cost on the line at ``url`` of a device that answers after ``answer_s``."""
        pace = Pace.of(url)
        if pace == Pace() and framing != "tcp":
            pace = Pace.of(CONVERTER)
        return cls(
            framing,
            pace.character_s or NETWORK_BYTE_S,
            max(pace.silence_s, gap_s),
            max(pace.silence_s, answer_s),
        )

    def ns(self, function: int, count: int) -> int:
        """Nanoseconds of bus time that a read of ``count`` registers or bits takes, pauses included."""
        data = (count + 7) // 8 if function in READ_BITS else 2 * count
        characters = {"rtu": 8 + 5 + data, "ascii": 17 + 11 + 2 * data, "tcp": 12 + 9 + data}[self.framing]
        return round((characters * self.character_s + self.silence_s + self.answer_s) * 1e9)
