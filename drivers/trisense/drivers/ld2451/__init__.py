"""Hi-Link LD2451, a 24 GHz radar for vehicles."""

from trisense.drivers.ld2451.driver import Ld2451, Ld2451Config

__all__ = ["Ld2451", "Ld2451Config"]
