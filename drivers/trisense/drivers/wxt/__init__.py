"""Vaisala WXT520 and WXT530 weather transmitters, ASCII protocol."""

from trisense.drivers.wxt.driver import Wxt, WxtConfig

__all__ = ["Wxt", "WxtConfig"]
