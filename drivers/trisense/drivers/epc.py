"""EPC decoding after the GS1 Tag Data Standard 1.x: what a tag's number says, and nothing it does not.

A number with an unknown header, or with a length its scheme does not have, stays a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from trisense.core.model import Field, FieldType, Value
from trisense.drivers.sdk import Frame, Observed

__all__ = ["EPC", "SIGHTING", "TAG_FIELDS", "EpcCodec", "decode", "tag_values"]

SIGHTING: Final = "tag_sighting"
"""Measurement of the rows that tell one tag that a reader saw."""
TAG_FIELDS: Final = (
    Field("epc", "", FieldType.STR),
    Field("scheme", "", FieldType.STR),
    Field("epc_uri", "", FieldType.STR),
)

SCHEMES: Final[Mapping[int, str]] = {
    0x2C: "GDTI-96",
    0x2D: "GSRN-96",
    0x2E: "GSRNP-96",
    0x2F: "USDoD-96",
    0x30: "SGTIN-96",
    0x31: "SSCC-96",
    0x32: "SGLN-96",
    0x33: "GRAI-96",
    0x34: "GIAI-96",
    0x35: "GID-96",
    0x36: "SGTIN-198",
    0x37: "GRAI-170",
    0x38: "GIAI-202",
    0x39: "SGLN-195",
    0x3B: "ADI-var",
    0x3C: "CPI-96",
    0x3D: "CPI-var",
    0x3E: "GDTI-174",
    0x3F: "SGCN-96",
    0x40: "ITIP-110",
    0x41: "ITIP-212",
    0xF7: "SGTIN+",
}
PREFIX_BITS: Final = (40, 37, 34, 30, 27, 24, 20)
"""Bits of the company prefix by partition; it has 12 - partition digits."""
HEAD_BITS: Final = 8 + 3 + 3
"""Header, filter and partition, before the company prefix of every partitioned scheme."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A scheme of header, filter, partition, company prefix, reference and what follows."""

    urn: str
    reference: str
    """Sheet name of the number behind the company prefix."""
    key_bits: int
    """Company prefix and reference together."""
    key_digits: int
    """Digits of company prefix and reference together."""
    tail: str = ""
    """``serial`` or ``extension``: an integer; ``text``: 7-bit characters; empty: zeros to the end."""
    bits: int = 96


LAYOUTS: Final[Mapping[str, _Layout]] = {
    "SGTIN-96": _Layout("sgtin", "item_reference", 44, 13, "serial"),
    "SGTIN-198": _Layout("sgtin", "item_reference", 44, 13, "text", 198),
    "SSCC-96": _Layout("sscc", "serial_reference", 58, 17),
    "SGLN-96": _Layout("sgln", "location_reference", 41, 12, "extension"),
    "GRAI-96": _Layout("grai", "asset_type", 44, 12, "serial"),
    "GIAI-96": _Layout("giai", "asset_reference", 82, 25),
    "GDTI-96": _Layout("gdti", "document_type", 41, 12, "serial"),
    "GSRN-96": _Layout("gsrn", "service_reference", 58, 17),
    "GSRNP-96": _Layout("gsrnp", "service_reference", 58, 17),
}
UNPADDED: Final = {"GIAI-96"}
"""Schemes whose reference is a plain number, without leading zeros."""


class _Bits:
    """Reads a number from its most significant bit on."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self.left = len(data) * 8

    def take(self, count: int) -> int:
        self.left -= count
        return (self._value >> self.left) & ((1 << count) - 1)


def decode(epc: bytes) -> Frame:
    """Give ``header`` and ``scheme`` (None where the header names none), and the scheme's parts and ``uri``.

    A number that breaks its scheme's own rules has ``error`` and no ``uri``. A scheme known by name only
    (see ``SCHEMES`` against ``LAYOUTS``) has no parts. Of an empty number nothing is known.
    """
    if not epc:
        return {"header": None, "scheme": None}
    frame: Frame = {"header": epc[0], "scheme": SCHEMES.get(epc[0])}
    scheme = frame["scheme"]
    if scheme == "GID-96" and len(epc) == 12:
        _decode_gid(epc, frame)
    elif scheme in LAYOUTS:
        layout = LAYOUTS[scheme]
        # Tag memory is counted in 16-bit words: 198 bits lie in 208.
        if len(epc) * 8 != -(-layout.bits // 16) * 16:
            frame["error"] = f"{len(epc) * 8} bits are no {scheme}"
        else:
            _decode_partitioned(epc, layout, frame)
    return frame


def tag_values(epc: bytes) -> dict[str, Value]:
    """What ``TAG_FIELDS`` tell of a tag's number; scheme and URI only where it is a valid EPC."""
    decoded = decode(epc)
    values: dict[str, Value] = {"epc": epc.hex()}
    return values | {"scheme": decoded["scheme"], "epc_uri": decoded["uri"]} if "uri" in decoded else values


def _decode_gid(epc: bytes, frame: Frame) -> None:
    bits = _Bits(epc[1:])
    manager, object_class, serial = bits.take(28), bits.take(24), bits.take(36)
    frame |= {"manager": manager, "object_class": object_class, "serial": serial}
    frame["uri"] = f"urn:epc:id:gid:{manager}.{object_class}.{serial}"


def _decode_partitioned(epc: bytes, layout: _Layout, frame: Frame) -> None:
    bits = _Bits(epc)
    bits.take(8)
    frame["filter"], partition = bits.take(3), bits.take(3)
    frame["partition"] = partition
    if partition >= len(PREFIX_BITS):
        frame["error"] = f"partition {partition} invalid"
        return
    prefix_digits = 12 - partition
    reference_digits = layout.key_digits - prefix_digits
    prefix = bits.take(PREFIX_BITS[partition])
    reference = bits.take(layout.key_bits - PREFIX_BITS[partition])
    if prefix >= 10**prefix_digits:
        frame["error"] = f"company prefix {prefix} has more than {prefix_digits} digits"
        return
    if reference >= 10**reference_digits:
        frame["error"] = f"{layout.reference} {reference} has more than {reference_digits} digits"
        return
    frame["company_prefix"] = f"{prefix:0{prefix_digits}d}"
    width = 0 if frame["scheme"] in UNPADDED or not reference_digits else reference_digits
    frame[layout.reference] = f"{reference:0{width}d}" if reference_digits else ""
    _decode_tail(bits, layout, frame)


def _decode_tail(bits: _Bits, layout: _Layout, frame: Frame) -> None:
    parts = [frame["company_prefix"], frame[layout.reference]]
    rest = bits.take(layout.bits - HEAD_BITS - layout.key_bits) if layout.tail else bits.take(bits.left)
    if layout.tail == "text":
        text = _seven_bit_text(rest)
        if text is None:
            frame["error"] = "serial is no 7-bit text"
            return
        frame["serial"] = text
        parts.append(quote(text, safe="!'()*+,-.:;=_"))
    elif layout.tail:
        frame[layout.tail] = rest
        parts.append(str(rest))
    elif rest:
        frame["error"] = "reserved bits are not zero"
        return
    frame["uri"] = f"urn:epc:id:{layout.urn}:{'.'.join(parts)}"
    if layout.urn in KEYS:
        name, make = KEYS[layout.urn]
        frame[name] = make(frame["company_prefix"], frame[layout.reference])


def _seven_bit_text(value: int) -> str | None:
    """Twenty 7-bit characters, ended by a zero; None where one stands behind that end or is no character."""
    codes = [(value >> shift) & 0x7F for shift in range(133, -1, -7)]
    length = codes.index(0) if 0 in codes else len(codes)
    if not length or any(codes[length:]) or any(not 0x21 <= code < 0x7F for code in codes[:length]):
        return None
    return bytes(codes[:length]).decode("ascii")


def _with_check_digit(digits: str) -> str:
    """GS1 check digit: weights 3, 1 from the right."""
    total = sum(int(digit) * (1 if place % 2 else 3) for place, digit in enumerate(reversed(digits)))
    return f"{digits}{-total % 10}"


def _lead_first(prefix: str, reference: str) -> str:
    """The reference's first digit moves before the prefix: indicator of a GTIN, extension of an SSCC."""
    return _with_check_digit(reference[:1] + prefix + reference[1:])


KEYS: Final[Mapping[str, tuple[str, Callable[[str, str], str]]]] = {
    "sgtin": ("gtin14", _lead_first),
    "sscc": ("sscc18", _lead_first),
}


class EpcCodec:
    """EPC numbers as a codec: each input is one whole number."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return [decode(data)] if data else []

    def damaged(self, data: bytes) -> Sequence[str]:
        return [str(frame["error"]) for frame in self.frames(data) if "error" in frame]

    def observed(self, frame: Frame) -> Sequence[Observed]:  # noqa: ARG002  # a number is no sighting
        return []

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # nothing is sent
        return None


EPC: Final = EpcCodec()
