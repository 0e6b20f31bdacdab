"""Hydreon RG-15 optical rain gauge on a UART."""

from trisense.drivers.rg15.driver import Rg15, Rg15Config

__all__ = ["Rg15", "Rg15Config"]
