"""EPC numbers after the GS1 Tag Data Standard."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trisense.drivers.epc import EPC, PREFIX_BITS, decode

BITS_96 = 96


def number(*parts: tuple[int, int], size: int = BITS_96) -> bytes:
    """A number of (value, bits) from the top, filled up with zeros."""
    value = width = 0
    for part, bits in parts:
        value, width = value << bits | part, width + bits
    return (value << (size - width)).to_bytes(size // 8, "big")


@pytest.mark.parametrize(
    ("hex_number", "expected"),
    [
        # GS1 Tag Data Standard, worked examples of sections 10 and 14
        ("3074257bf7194e4000001a85", "urn:epc:id:sgtin:0614141.812345.6789"),
        ("3174257bf4499602d2000000", "urn:epc:id:sscc:0614141.1234567890"),
        ("3274257bf46072000000162e", "urn:epc:id:sgln:0614141.12345.5678"),
        ("3374257bf40c0e400000162e", "urn:epc:id:grai:0614141.12345.5678"),
        ("3474257bf40000000000162e", "urn:epc:id:giai:0614141.5678"),
        ("2d74257bf4499602d2000000", "urn:epc:id:gsrn:0614141.1234567890"),
        ("2c74257bf46072000000162e", "urn:epc:id:gdti:0614141.12345.5678"),
        ("3500e86f8000a9e000000586", "urn:epc:id:gid:952056.2718.1414"),
    ],
)
def test_the_standards_examples_decode(hex_number: str, expected: str) -> None:
    assert decode(bytes.fromhex(hex_number))["uri"] == expected


def test_a_serial_of_letters_is_escaped_in_the_uri() -> None:
    text = 0
    for letter in "32a/b".ljust(20, "\0"):
        text = text << 7 | ord(letter)
    epc = number((0x36, 8), (3, 3), (5, 3), (614141, 24), (712345, 20), (text, 140), size=208)
    frame = decode(epc)
    assert frame["serial"] == "32a/b"
    assert frame["uri"] == "urn:epc:id:sgtin:0614141.712345.32a%2Fb"


@given(st.integers(0, 6), st.integers(0, 7), st.integers(0), st.integers(0), st.integers(0, 2**38 - 1))
@settings(deadline=None)
def test_every_sgtin_keeps_its_digits(
    partition: int, filter_value: int, prefix: int, item: int, serial: int
) -> None:
    digits, bits = 12 - partition, PREFIX_BITS[partition]
    prefix, item = prefix % 10**digits, item % 10 ** (13 - digits)
    epc = number(
        (0x30, 8), (filter_value, 3), (partition, 3), (prefix, bits), (item, 44 - bits), (serial, 38)
    )
    frame = decode(epc)
    assert (frame["filter"], frame["partition"], frame["serial"]) == (filter_value, partition, serial)
    assert (frame["company_prefix"], frame["item_reference"]) == (
        f"{prefix:0{digits}d}",
        f"{item:0{13 - digits}d}",
    )
    gtin = frame["gtin14"]
    assert len(gtin) == 14
    assert sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(gtin)) % 10 == 0


@pytest.mark.parametrize(
    ("epc", "why"),
    [
        (number((0x30, 8), (1, 3), (7, 3)), "partition 7"),
        (number((0x30, 8), (1, 3), (6, 3), (2**20 - 1, 20)), "more than 6 digits"),
        (number((0x30, 8), (1, 3), (6, 3), (10**6, 20)), "more than 6 digits"),
        (number((0x30, 8), (1, 3), (0, 3), (0, 40), (10, 4)), "more than 1 digits"),
        (number((0x31, 8), (1, 3), (5, 3), (1, 24), (1, 34), (1, 24)), "reserved bits"),
        (bytes([0x30]) + bytes(15), "128 bits are no SGTIN-96"),
        (bytes([0x36]) + bytes(25), "partition 0|7-bit"),
    ],
)
def test_a_number_that_breaks_its_scheme_has_no_uri(epc: bytes, why: str) -> None:
    frame = decode(epc)
    assert "uri" not in frame
    assert EPC.damaged(epc) == [frame["error"]]
    assert any(part in frame["error"] for part in why.split("|"))


@pytest.mark.parametrize("header", [0x00, 0xE2, 0xFF])
def test_an_unknown_header_claims_nothing(header: int) -> None:
    assert decode(bytes([header]) + bytes(11)) == {"header": header, "scheme": None}


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_any_bytes_decode_without_an_error_raised(data: bytes) -> None:
    frame: dict[str, Any] = decode(data)
    assert frame["header"] == (data[0] if data else None)
    assert not ("error" in frame and "uri" in frame)
