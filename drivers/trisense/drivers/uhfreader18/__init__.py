"""UHF RFID readers with the UHFReader18 protocol (Chafon and others)."""

from trisense.drivers.uhfreader18.driver import UhfReader18, UhfReader18Config

__all__ = ["UhfReader18", "UhfReader18Config"]
