"""Modbus devices by TOML profile, over RTU, ASCII and TCP."""

from trisense.drivers.modbus.bus import BusSettings, ModbusBus, Party
from trisense.drivers.modbus.codec import ModbusCodec
from trisense.drivers.modbus.driver import Config, Modbus
from trisense.drivers.modbus.pdu import Question, Trouble, ask
from trisense.drivers.modbus.profile import Profile, load_profile, profiles

__all__ = [
    "BusSettings",
    "Config",
    "Modbus",
    "ModbusBus",
    "ModbusCodec",
    "Party",
    "Profile",
    "Question",
    "Trouble",
    "ask",
    "load_profile",
    "profiles",
]
