"""The driver SDK: import everything a driver needs from here."""

from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.core.model import BatchClass, Field, FieldType, Layer, Quality, Stream, Value
from trisense.drivers.asking import AskedDriver, Dialogue
from trisense.drivers.framing import (
    Cut,
    Damage,
    Decoder,
    FramedCodec,
    FramedConfig,
    FramedDriver,
    read_frames,
)
from trisense.drivers.lines import Line, Lines, LineUrl
from trisense.drivers.sdk import (
    Codec,
    DeviceConfig,
    Driver,
    Frame,
    GivenCodec,
    Observed,
    Part,
    Picturing,
    PolledDriver,
    StreamingDriver,
)

__all__ = [
    "AskedDriver",
    "BatchClass",
    "Codec",
    "Cut",
    "Damage",
    "Decoder",
    "DeviceConfig",
    "DeviceError",
    "DeviceRefused",
    "DeviceTimeout",
    "Dialogue",
    "Driver",
    "Field",
    "FieldType",
    "Frame",
    "FrameError",
    "FramedCodec",
    "FramedConfig",
    "FramedDriver",
    "GivenCodec",
    "Layer",
    "Line",
    "LineError",
    "LineUrl",
    "Lines",
    "Observed",
    "Part",
    "Picturing",
    "PolledDriver",
    "Quality",
    "Stream",
    "StreamingDriver",
    "Value",
    "read_frames",
]
