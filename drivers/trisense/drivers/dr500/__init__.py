"""Houston Radar DR500, a speed radar for signs."""

from trisense.drivers.dr500.driver import Dr500, Dr500Config

__all__ = ["Dr500", "Dr500Config"]
