"""Winsen MH-Z19 CO2 sensors and ZE07 gas modules on a UART."""

from trisense.drivers.winsen.driver import Winsen, WinsenConfig

__all__ = ["Winsen", "WinsenConfig"]
