"""Plantower PMS laser dust sensors on a UART."""

from trisense.drivers.plantower.driver import Plantower, PlantowerConfig

__all__ = ["Plantower", "PlantowerConfig"]
