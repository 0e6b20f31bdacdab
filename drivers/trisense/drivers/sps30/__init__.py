"""Sensirion SPS30 particulate matter sensor over SHDLC on a UART."""

from trisense.drivers.sps30.driver import Sps30, Sps30Config

__all__ = ["Sps30", "Sps30Config"]
