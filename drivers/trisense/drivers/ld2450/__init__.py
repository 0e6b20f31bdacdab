"""Hi-Link LD2450, a 24 GHz radar that follows up to three people."""

from trisense.drivers.ld2450.driver import Ld2450, Ld2450Config

__all__ = ["Ld2450", "Ld2450Config"]
