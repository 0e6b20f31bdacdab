"""Wavetronix SmartSensor HD (SS125), a roadside traffic radar."""

from trisense.drivers.ss125.driver import Ss125, Ss125Config

__all__ = ["Ss125", "Ss125Config"]
