"""The driver SDK: import everything a driver needs from here."""

from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.core.model import BatchClass, Field, FieldType, Layer, Quality, Stream, Value
from trisense.drivers.lines import Line, Lines
from trisense.drivers.sdk import (
    Codec,
    DeviceConfig,
    Driver,
    Frame,
    Observed,
    PolledDriver,
    StreamingDriver,
)

__all__ = [
    "BatchClass",
    "Codec",
    "DeviceConfig",
    "DeviceError",
    "DeviceRefused",
    "DeviceTimeout",
    "Driver",
    "Field",
    "FieldType",
    "Frame",
    "FrameError",
    "Layer",
    "Line",
    "LineError",
    "Lines",
    "Observed",
    "PolledDriver",
    "Quality",
    "Stream",
    "StreamingDriver",
    "Value",
]
