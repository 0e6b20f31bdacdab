"""Hi-Link LD2410, a 24 GHz radar that tells presence."""

from trisense.drivers.ld2410.driver import Ld2410, Ld2410Config

__all__ = ["Ld2410", "Ld2410Config"]
