"""PN532 NFC modules on a UART (HSU)."""

from trisense.drivers.pn532.driver import Pn532, Pn532Config

__all__ = ["Pn532", "Pn532Config"]
