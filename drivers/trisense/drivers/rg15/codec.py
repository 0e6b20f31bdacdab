"""Lines of text of the RG-15: amounts with their units, no check, so the form must be exact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.core.model import Quality, Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["FLAGS", "MEASUREMENT", "READ", "Rg15Codec", "Rg15Decoder", "command"]

MEASUREMENT: Final = "weather"
NAMES: Final = ("rain_amount", "rain_amount_event", "rain_amount_total", "rain_rate")
FLAGS: Final[Mapping[str, str]] = {"LensBad": "lens_bad", "EmSat": "em_sat", "TooCold": "too_cold"}
NUMBER: Final = r" +(\d{1,6}\.\d{1,3}) +"
LINE: Final = re.compile(
    rf"Acc{NUMBER}(mm|in), +EventAcc{NUMBER}(mm|in), +TotalAcc{NUMBER}(mm|in), +RInt{NUMBER}(mm|i)ph"
    rf"((?:,? +(?:{'|'.join(FLAGS)}))*) *$"
)
ACKNOWLEDGED: Final = re.compile(r"[a-z]")
MM_PER_INCH: Final = 25.4
ROUNDING_MM: Final = 0.03
"""One step of an inch, the coarsest that it rounds to."""
READ: Final = b"R\n"


def command(letter: str) -> bytes:
    """The line that sends one of its one-letter commands."""
    return f"{letter}\n".encode()


class Rg15Decoder(Decoder):
    max_frame = 200

    def cut(self, data: bytes, start: int) -> Cut | None:
        end = data.find(b"\n", start, start + self.max_frame)
        if end < 0:
            return None
        size = end + 1 - start
        text = data[start:end].rstrip(b"\r").decode("ascii", "replace")
        if not text:
            return Cut(size)
        if ACKNOWLEDGED.fullmatch(text):
            return Cut(size, {"reply": text})
        found = LINE.search(text)  # noise, or a line cut short, may stand in front of it
        if found is None:
            return Cut(size, damage="no reading")
        values = _in_mm(found)
        if values is None:
            return Cut(size, damage="implausible")
        flags = [FLAGS[flag] for flag in re.findall(r"\w+", found[9])]
        return Cut(size, {"values": values, "flags": flags})


def _in_mm(found: re.Match[str]) -> dict[str, float] | None:
    """The four amounts; None where they contradict each other, which no check byte would tell."""
    units = {found[index][0] for index in (2, 4, 6, 8)}
    if len(units) != 1:
        return None
    factor = MM_PER_INCH if units == {"i"} else 1.0
    amounts = [round(float(found[index]) * factor, 3) for index in (1, 3, 5, 7)]
    total = amounts[2] + ROUNDING_MM
    return None if amounts[0] > total or amounts[1] > total else dict(zip(NAMES, amounts, strict=True))


class Rg15Codec(FramedCodec):
    decoder = Rg15Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "values" not in frame:
            return ()
        values: dict[str, Value] = {**frame["values"], "flags": ",".join(frame["flags"])}
        doubted = frame["values"] if frame["flags"] else ()
        return (Observed(MEASUREMENT, values, dict.fromkeys(doubted, Quality.SUSPECT)),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        letter = expected.get("command")
        return command(letter) if isinstance(letter, str) and len(letter) == 1 else None
