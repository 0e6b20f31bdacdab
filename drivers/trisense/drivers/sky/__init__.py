"""Folder of GeoTIFF NDVI scenes, sampled at sites. Needs the extra ``sky``."""

from trisense.drivers.sky.driver import Config, NdviScenes, Site

__all__ = ["Config", "NdviScenes", "Site"]
