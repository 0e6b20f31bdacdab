"""OmniPreSense OPS241, OPS242 and OPS243 Doppler radars."""

from trisense.drivers.ops243.driver import Ops243, Ops243Config

__all__ = ["Ops243", "Ops243Config"]
