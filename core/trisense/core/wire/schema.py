"""What a table is: the shape that its streams share, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from trisense.core import limits
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import NAME, Field, FieldType, Layer, Stream
from trisense.core.vocabulary import PROPERTIES
from trisense.core.wire.bits import BitReader, fixed, natural
from trisense.core.wire.names import UNIT_BYTES, read_name, read_unit, write_name, write_unit

__all__ = [
    "Names",
    "Shape",
    "read_shape",
    "read_stream",
    "shape_of",
    "write_shape",
    "write_stream",
]

T = TypeVar("T")

LAYERS: Final = tuple(Layer)
TYPES: Final = tuple(FieldType)
PROPERTY_NAMES: Final = tuple(PROPERTIES)
"""By their place; the vocabulary may only grow at its end (see its VERSION)."""
PROPERTY_BITS: Final = 8
UNIT: Final = re.compile(rf"[!-~]{{0,{UNIT_BYTES}}}")
TICK_NS: Final = 1_000_000
TICK_MAX_NS: Final = limits.TIME_MAX_NS
FIELDS_MAX: Final = 1024


class Shape(NamedTuple):
    """A stream without the names of its device and site."""

    measurement: str
    layer: Layer
    tick_ns: int
    fields: tuple[Field, ...]


@dataclass
class Names:
    """The last name of each kind."""

    device: str = ""
    site: str = ""
    measurement: str = ""
    field: str = ""


def _check_stream(stream: Stream) -> None:
    for name in (stream.device, stream.measurement, *(field.name for field in stream.fields)):
        if not NAME.fullmatch(name):
            raise ValueRefused("name", repr(name))
    if stream.site and not NAME.fullmatch(stream.site):
        raise ValueRefused("name", repr(stream.site))
    for field in stream.fields:
        if not UNIT.fullmatch(field.unit):
            raise ValueRefused("unit", repr(field.unit))
    if not 1 <= stream.tick_ns <= TICK_MAX_NS:
        raise ValueRefused("tick", f"{stream.tick_ns} ns")
    if len(stream.fields) > FIELDS_MAX:
        raise ValueRefused("fields", f"{len(stream.fields)}, at most {FIELDS_MAX}")


@lru_cache(maxsize=1024)
def shape_of(stream: Stream) -> Shape:
    """Its resolution and valid ranges stay on the box.

    Raises:
        ValueRefused: no bundle can say what the stream is.
    """
    _check_stream(stream)
    fields = tuple(Field(field.name, field.unit, field.type) for field in stream.fields)
    return Shape(stream.measurement, stream.layer, stream.tick_ns, fields)


def write_shape(shape: Shape, names: Names) -> str:
    """Bits of a shape."""
    bits = write_name(shape.measurement, names.measurement) + fixed(LAYERS.index(shape.layer), 2)
    names.measurement = shape.measurement
    bits += "0" if shape.tick_ns == TICK_NS else "1" + natural(shape.tick_ns - 1)
    return bits + natural(len(shape.fields)) + "".join([_write_field(field, names) for field in shape.fields])


def read_shape(reader: BitReader, names: Names) -> Shape:
    """What ``write_shape`` wrote."""
    names.measurement = read_name(reader, names.measurement)
    layer = _pick(LAYERS, reader.fixed(2))
    tick_ns = reader.bounded(TICK_MAX_NS - 1, "tick") + 1 if reader.fixed(1) else TICK_NS
    count = reader.bounded(FIELDS_MAX, "fields")
    return Shape(names.measurement, layer, tick_ns, tuple(_read_field(reader, names) for _ in range(count)))


def write_stream(device: str, site: str, names: Names) -> str:
    """Bits of what tells one stream of a table from another."""
    bits = write_name(device, names.device) + ("0" if site == names.site else "1" + write_name(site, ""))
    names.device, names.site = device, site
    return bits


def read_stream(reader: BitReader, shape: Shape, names: Names) -> Stream:
    """What ``write_stream`` wrote."""
    names.device = read_name(reader, names.device)
    if reader.fixed(1):
        names.site = read_name(reader, "", may_be_empty=True)
    return Stream(names.device, shape.measurement, shape.layer, shape.fields, names.site, shape.tick_ns)


def _write_field(field: Field, names: Names) -> str:
    known = PROPERTIES.get(field.name)
    if known is not None:
        bits = "1" + fixed(PROPERTY_NAMES.index(field.name), PROPERTY_BITS)
    else:
        bits = "0" + write_name(field.name, names.field)
        names.field = field.name
    usual = _usual(field.name)
    if field == usual:
        return bits + "1"
    return bits + "0" + fixed(TYPES.index(field.type), 2) + write_unit(field.unit)


def _read_field(reader: BitReader, names: Names) -> Field:
    if reader.fixed(1):
        name = _pick(PROPERTY_NAMES, reader.fixed(PROPERTY_BITS))
    else:
        name = names.field = read_name(reader, names.field)
    if reader.fixed(1):
        return _usual(name)
    type_ = _pick(TYPES, reader.fixed(2))
    return Field(name, read_unit(reader), type_)


def _usual(name: str) -> Field:
    """As the vocabulary has it, or else a pure number."""
    known = PROPERTIES.get(name)
    return Field(name, known.unit, known.type) if known is not None else Field(name)


def _pick(choices: Sequence[T], at: int) -> T:
    if at >= len(choices):
        raise WireError("range", f"choice {at} of {len(choices)}")
    return choices[at]
