"""The sheet's aviation units against the SI units of the rows."""

from __future__ import annotations

from typing import Final

from trisense.core.model import Value
from trisense.drivers.sdk import Frame

__all__ = ["METRES_PER_FOOT", "MPS_PER_FPM", "MPS_PER_KNOT", "si_values"]

METRES_PER_FOOT: Final = 0.3048
MPS_PER_KNOT: Final = 1852 / 3600
MPS_PER_FPM: Final = METRES_PER_FOOT / 60

_SCALED: Final = {
    "altitude_ft": ("pressure_altitude", METRES_PER_FOOT),
    "gnss_altitude_ft": ("gnss_altitude", METRES_PER_FOOT),
    "gs_kt": ("ground_speed", MPS_PER_KNOT),
    "vr_fpm": ("vertical_rate", MPS_PER_FPM),
    "track": ("track", 1.0),
    "rssi_dbfs": ("rssi", 1.0),
}


def si_values(frame: Frame) -> dict[str, Value]:
    """What a decoded message or SBS line says, under the names and in the units of the rows.

    Two decimals are below every step of the source: 25 ft, 1 kt, 64 ft/min.
    """
    values: dict[str, Value] = {
        name: round(frame[source] * scale, 2)
        for source, (name, scale) in _SCALED.items()
        if frame.get(source) is not None
    }
    values |= {name: frame[name] for name in ("callsign", "category", "squawk") if frame.get(name)}
    if frame.get("on_ground") is not None:
        values["on_ground"] = int(frame["on_ground"])
    return values
