"""Davis Vantage Pro, Pro2 and Vue weather stations by their console's serial protocol."""

from trisense.drivers.davis.driver import Vantage, VantageConfig

__all__ = ["Vantage", "VantageConfig"]
