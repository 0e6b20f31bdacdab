"""TI mmWave radars: the out-of-box demo, traffic monitoring and people counting."""

from trisense.drivers.timmwave.driver import TiMmwave, TiMmwaveConfig

__all__ = ["TiMmwave", "TiMmwaveConfig"]
