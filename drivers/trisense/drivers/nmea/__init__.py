"""Weather stations and wind heads that send NMEA 0183."""

from trisense.drivers.nmea.driver import NmeaWeather, NmeaWeatherConfig

__all__ = ["NmeaWeather", "NmeaWeatherConfig"]
