"""How the C library keeps what threads have freed."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["share"]

M_ARENA_MAX: Final = -8
"""mallopt(3)."""


def share() -> bool:
    """Let all threads share one heap; False where the C library has no such setting (musl).

    Each thread that packs would else keep a heap of its own at its largest: 5 MB of a box that has drained
    a backlog. Call it before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_ARENA_MAX, 1))
