"""EIS RTMS G4, a roadside traffic radar."""

from trisense.drivers.rtms.driver import RtmsG4, RtmsG4Config

__all__ = ["RtmsG4", "RtmsG4Config"]
