"""R200, YRM100 and M100 UHF RFID modules on a UART."""

from trisense.drivers.r200.driver import R200, R200Config

__all__ = ["R200", "R200Config"]
