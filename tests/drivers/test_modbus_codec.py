"""Modbus captures decoded without a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.model import Quality
from trisense.drivers.modbus import Modbus, ModbusCodec, profiles
from trisense.drivers.modbus.framing import ascii_frame, rtu_frame, tcp_frame

WS90 = ModbusCodec(profiles()["ecowitt-ws90"])
ANSWER = bytes.fromhex("03141139001e0275002b000000000096000027940027")

GOOD = rtu_frame(0x90, ANSWER)


def test_a_whole_answer_of_the_station_makes_one_row_of_exact_decimals() -> None:
    (frame,) = WS90.frames(GOOD)
    (row,) = WS90.observed(frame)
    assert row.measurement == "weather"
    assert row.values == {
        "illuminance": 44090.0,
        "uv_index": 3.0,
        "air_temperature": 22.9,
        "relative_humidity": 43.0,
        "wind_speed": 0.0,
        "wind_gust": 0.0,
        "wind_direction": 150.0,
        "rain_amount": 0.0,
        "barometric_pressure": 1013.2,
        "rain_amount_total": 0.39,
    }


def test_a_sentinel_is_null_and_missing() -> None:
    (frame,) = WS90.frames(rtu_frame(0x90, b"\x03\x14" + b"\xff\xff" * 7 + b"\0\0\xff\xff\0\0"))
    (row,) = WS90.observed(frame)
    assert row.values["air_temperature"] is None
    assert row.quality["air_temperature"] is Quality.MISSING
    assert "rain_amount" not in row.quality


def test_a_request_right_before_its_answer_tells_its_address() -> None:
    codec = ModbusCodec(profiles()["sdm120"])
    current = rtu_frame(1, bytes.fromhex("0400060002")) + rtu_frame(1, bytes.fromhex("04043fc00000"))
    (frame,) = codec.frames(current)
    assert frame["address"] == 6
    assert [row.values for row in codec.observed(frame)] == [{"current": 1.5}]


def test_an_answer_that_may_come_from_several_places_makes_no_row() -> None:
    codec = ModbusCodec(profiles()["sdm120"])
    (frame,) = codec.frames(rtu_frame(1, bytes.fromhex("04043fc00000")))
    assert frame["ambiguous"]
    assert codec.observed(frame) == []


@pytest.mark.parametrize(
    "capture",
    [GOOD, ascii_frame(0x90, ANSWER), tcp_frame(0x90, ANSWER, 5), b"\0" + GOOD + b"\0\0", b"noise" + GOOD],
)
def test_the_framing_is_seen_from_the_bytes(capture: bytes) -> None:
    (frame,) = WS90.frames(capture)
    assert frame["unit"] == 0x90
    assert frame["values"]["air_temperature"] == 22.9


def test_damage_is_told_with_its_place() -> None:
    assert WS90.frames(GOOD[:-1] + b"\0") == []
    assert WS90.damaged(b"\xff\xfe" + GOOD + b"\x01") == [
        "2 bytes at 0 are no frame: ff fe",
        "1 bytes at 27 are no frame: 01",
    ]
    assert WS90.damaged(GOOD) == []


@pytest.mark.parametrize(
    ("expected", "wire"),
    [
        ({"unit": 7, "function": 5, "address": 2064, "value": True}, "07050810ff008ff9"),
        ({"unit": 7, "function": 6, "address": 4097, "value": 800}, "070610010320dd84"),
        ({"unit": 1, "function": 16, "address": 35, "count": 1, "registers": [20]}, "011000230001020014a10c"),
        (
            {"unit": 1, "function": 15, "address": 19, "count": 10, "bits": [1, 0, 1, 1, 0, 0, 1, 1, 1, 0]},
            "010f0013000a02cd0172cb",
        ),
        ({"unit": 1, "function": 3, "address": 0, "count": 10, "transaction": 2}, "00020000000601030000000a"),
    ],
)
def test_requests_are_encoded(expected: dict[str, object], wire: str) -> None:
    assert ModbusCodec().encode(expected) == bytes.fromhex(wire)


@pytest.mark.parametrize(
    "expected", [{}, {"function": 99, "address": 1}, {"function": 3, "address": 1, "count": 0}]
)
def test_what_is_no_request_has_no_encoding(expected: dict[str, object]) -> None:
    assert ModbusCodec().encode(expected) is None


def test_every_codec_goes_by_the_name_of_its_sheet() -> None:
    assert {"modbus.generic", "ecowitt.ws90", "seeed.sensecap_one", "xinda.xy_md02"} <= set(Modbus.codecs)


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([GOOD, GOOD[:9], b":", b"\r\n"]))).map(
        b"".join
    )
)
def test_any_bytes_are_decoded_or_skipped(data: bytes) -> None:
    codec = WS90
    for frame in codec.frames(data):
        codec.observed(frame)
    codec.damaged(data)


@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_a_damaged_frame_never_makes_a_row(at: int, bit: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 1 << bit
    assert WS90.frames(bytes(damaged)) == []
