"""SDI-12 sensors over an adapter that makes the break."""

from trisense.drivers.sdi12.driver import Sdi12, Sdi12Config

__all__ = ["Sdi12", "Sdi12Config"]
