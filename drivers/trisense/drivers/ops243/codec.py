"""Lines of the OPS243 (user manual UM-001, API notes): plain numbers, units with numbers, JSON by firmware.

Lines carry no check. A plain number that lost its beginning is another number, so a driver that has set JSON
output takes JSON lines alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from trisense.core.model import Value
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["JsonDecoder", "Ops243Codec", "OpsDecoder", "mps_of"]

NUMBER: Final = r"-?\d{1,10}(?:\.\d{1,6})?"
PLAIN: Final = re.compile(rf'(?:"(?P<unit>[\w/-]{{1,12}})",|(?P<time>{NUMBER}),)?(?P<speed>{NUMBER})')
JSON_NUMBER: Final = re.compile(NUMBER)
KEY: Final = re.compile(r"[A-Za-z][A-Za-z_ ]{0,40}")
FASTEST_MPS: Final = 150.0
PER_UNIT_MPS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("m/s", "mps", "m-per-sec"), 1.0),
    **dict.fromkeys(("cm/s", "cmps", "cm-per-sec"), 0.01),
    **dict.fromkeys(("km/h", "kmph", "kph", "kmh", "km-per-hr"), 1 / 3.6),
    **dict.fromkeys(("ft/s", "fps", "ft-per-sec"), 0.3048),
    "mph": 0.44704,
}


def mps_of(unit: str | None) -> float | None:
    """Metres per second in one of the unit, or None for one that is not known."""
    return None if unit is None else PER_UNIT_MPS.get(unit.lower())


class OpsDecoder(Decoder):
    max_frame = 1024
    json_only: ClassVar[bool] = False

    def cut(self, data: bytes, start: int) -> Cut | None:
        end = data.find(b"\n", start, start + self.max_frame)
        if end < 0:
            return None
        size = end + 1 - start
        line = data[start:end].strip(b"\r ").decode("latin-1")
        if not line:
            return Cut(size)
        # JSON lines are flat: what stands before the last brace is noise, or a line that was cut short.
        brace = line.rfind("{")
        frame = _from_json(line[brace:]) if brace >= 0 else None if self.json_only else _from_plain(line)
        return Cut(size, damage="no reading") if frame is None else Cut(size, frame)


class JsonDecoder(OpsDecoder):
    json_only = True


def _from_plain(line: str) -> Frame | None:
    found = PLAIN.fullmatch(line)
    if found is None:
        return None
    frame: Frame = {"speed": float(found["speed"])}
    if found["time"]:
        frame["time"] = float(found["time"])
    if found["unit"]:
        frame["unit"] = found["unit"]
        frame["direction"] = _direction(frame["speed"])
    return frame


def _from_json(text: str) -> Frame | None:
    if not text.isprintable() or not text.isascii():
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not all(KEY.fullmatch(key) for key in told):
        return None
    if "DetectedObjectVelocity" in told:
        return _reading(told, "DetectedObjectVelocity", {"event": "object"})
    return _reading(told, "speed", {}) if "speed" in told else {"reply": told}


def _reading(told: Mapping[str, Any], key: str, frame: Frame) -> Frame | None:
    speeds, sizes = _numbers(told[key]), _numbers(told.get("magnitude", []))
    if not speeds or sizes is None or (sizes and len(sizes) != len(speeds)):
        return None
    frame["speed"] = speeds if isinstance(told[key], list) else speeds[0]
    frame["direction"] = told.get("direction", _direction(speeds[0]))
    if frame["direction"] not in ("inbound", "outbound"):
        return None
    if sizes:
        frame["magnitude"] = sizes if isinstance(told["magnitude"], list) else sizes[0]
    times = _numbers([told[name] for name in ("time", "tick") if name in told])
    if times is None:
        return None
    if times:  # up to firmware 1.1 the milliseconds stand apart
        frame["time"] = times[0] + (times[1] / 1000 if "tick" in told and len(times) == 2 else 0.0)
    if isinstance(told.get("unit"), str):
        frame["unit"] = told["unit"]
    return frame


def _numbers(told: Any) -> list[float] | None:
    """Numbers, and texts that hold one (newer firmware); None where one is neither."""
    found = []
    for one in told if isinstance(told, list) else [told]:
        if isinstance(one, bool) or not isinstance(one, int | float | str):
            return None
        if isinstance(one, str) and not JSON_NUMBER.fullmatch(one):
            return None
        number = float(one) if isinstance(one, float | str) else float(min(one, 10**12))
        if not math.isfinite(number):
            return None
        found.append(number)
    return found


def _direction(speed: float) -> str:
    return "outbound" if speed < 0 else "inbound"


class Ops243Codec(FramedCodec):
    """``unit`` is that of lines without one, as the radar told it."""

    decoder = OpsDecoder

    def __init__(self, unit: str | None = None) -> None:
        self.unit = unit

    def observed(self, frame: Frame) -> Sequence[Observed]:
        factor = mps_of(frame.get("unit", self.unit))
        if "speed" not in frame or factor is None:
            return ()
        several = isinstance(frame["speed"], list)
        speeds = frame["speed"] if several else [frame["speed"]]
        sizes = frame.get("magnitude", [None] * len(speeds))
        rows = []
        for speed, size in zip(speeds, sizes if isinstance(sizes, list) else [sizes], strict=True):
            # Signed or not: some firmwares tell the direction beside a speed without a sign.
            away = speed < 0 or (not several and frame.get("direction") == "outbound")
            mps = abs(speed) * factor
            if mps > FASTEST_MPS:
                return ()
            values: dict[str, Value] = {"radial_speed": 0.0 - mps if away else mps}
            if size is not None:
                values["magnitude"] = size
            rows.append(Observed("radar_object" if "event" in frame else "radar_speed", values))
        return rows

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return str(expected["command"]).encode("ascii") if "command" in expected else None
