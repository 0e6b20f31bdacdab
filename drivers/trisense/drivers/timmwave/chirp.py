"""What a chirp configuration can see: range, speed and their resolution, from the lines of a .cfg file.

Formulas: TI application report SWRA553. They are checked against the figures in the header of TI's own
70 m traffic configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["Limits", "limits", "words_of"]

LIGHT_MPS: Final = 299_792_458.0
FLAT_BAND: Final = 0.8
"""Part of the sampling rate that the receiver's filter leaves usable."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the first profile of a configuration can tell."""

    range_resolution_m: float
    max_range_m: float
    max_speed_mps: float
    """Radial; whatever is faster shows as something slower, or going the other way."""
    speed_resolution_mps: float


def words_of(text: str) -> list[list[str]]:
    """The commands of a .cfg file as words, without comments and blank lines."""
    lines = (line.strip() for line in text.splitlines())
    return [line.split() for line in lines if line and not line.startswith("%")]


def limits(commands: Iterable[list[str]]) -> Limits:
    """The limits that a configuration sets itself.

    Raises:
        ValueError: it has no profile, no chirps or no frame, or a number in them is none.
    """
    by_name: dict[str, list[list[str]]] = {}
    for name, *arguments in commands:
        by_name.setdefault(name, []).append(arguments)
    try:
        profile = [float(word) for word in by_name["profileCfg"][0]]
        frame = [float(word) for word in by_name["frameCfg"][0]]
        masks = [int(arguments[7]) for arguments in by_name["chirpCfg"]]
        start_ghz, idle_us, ramp_end_us = profile[1], profile[2], profile[4]
        slope, samples, rate_ksps = profile[7] * 1e12, profile[9], profile[10]
        loops = frame[2]
        extended = any(arguments[1] == "1" for arguments in by_name.get("extendedMaxVelocity", ()))
        transmitters = len({mask for mask in masks if mask})
        chirp_s = (idle_us + ramp_end_us) / 1e6
        slot_s = chirp_s * transmitters
        wavelength_m = LIGHT_MPS / (start_ghz * 1e9)
        return Limits(
            range_resolution_m=LIGHT_MPS * rate_ksps * 1e3 / (2 * slope * samples),
            max_range_m=FLAT_BAND * rate_ksps * 1e3 * LIGHT_MPS / (2 * slope),
            max_speed_mps=wavelength_m / (4 * slot_s) * (2 if extended else 1),
            speed_resolution_mps=wavelength_m / (2 * loops * slot_s),
        )
    except KeyError as error:
        raise ValueError(f"no line {error.args[0]}") from error
    except IndexError as error:
        raise ValueError("a line of profile, chirp or frame is too short") from error
    except ZeroDivisionError as error:
        raise ValueError("a slope, a time or a count of 0") from error
