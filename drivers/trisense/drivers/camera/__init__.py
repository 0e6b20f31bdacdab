"""Network camera over HTTP: snapshots, image health, small previews. Needs the extra ``camera``."""

from trisense.drivers.camera.driver import Config, HttpCamera

__all__ = ["Config", "HttpCamera"]
