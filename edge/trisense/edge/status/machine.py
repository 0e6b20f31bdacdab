"""The machine under the box: disk, temperature, and what this process takes of it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["cpu_s", "disk_bytes", "rss_bytes", "temperature_c"]

THERMAL: Final = Path("/sys/class/thermal")
PLAUSIBLE_C: Final = (-50.0, 200.0)
"""A zone that is switched off says things such as -274000."""


def temperature_c(thermal: Path = THERMAL) -> float | None:
    """The hottest of the kernel's thermal zones, or None where there are none."""
    found = []
    for zone in thermal.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):
            found.append(int(zone.read_text(encoding="ascii")) / 1000)
    return max((c for c in found if PLAUSIBLE_C[0] <= c <= PLAUSIBLE_C[1]), default=None)


def disk_bytes(path: Path) -> tuple[int | None, int | None]:
    """(free, all) bytes of the file system that holds ``path``: free to us, not to root alone.

    None where it is gone.
    """
    try:
        stat = os.statvfs(path)
    except OSError:
        return None, None
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def rss_bytes() -> int:
    """Memory of this process that is resident."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_s() -> float:
    """Processor time of this process since it began."""
    return time.process_time()
