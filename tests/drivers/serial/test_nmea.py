"""The NMEA weather driver against a simulated station on a pty, and its decoder against damage."""

from __future__ import annotations

from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trisense.core.errors import DeviceTimeout
from trisense.drivers.nmea import NmeaWeather, NmeaWeatherConfig
from trisense.drivers.nmea.codec import NmeaCodec, NmeaDecoder
from trisense.sims.base import plugged
from trisense.sims.nmea import NmeaStation

GOOD = b"$WIMWV,12.1,T,10.1,N,A*27\r\n"
CODEC = NmeaCodec()


def sentence(body: str) -> bytes:
    """A sentence with the right check."""
    return f"${body}*{reduce(xor, body.encode(), 0):02X}\r\n".encode()


def driver(link: Path | str, **options: Any) -> NmeaWeather:
    settings = {"name": "wind", "driver": "nmea-weather", "line": f"serial://{link}", **options}
    return NmeaWeather(NmeaWeatherConfig.model_validate(settings))


def rows_of(body: str, **options: Any) -> dict[str, dict[str, Any]]:
    """The rows that a driver makes of a sentence, by stream."""
    (frame,) = CODEC.frames(sentence(body))
    return {row.measurement: dict(row.values) for row in driver("/dev/null", **options).rows(frame)}


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(GOOD) - 2))
def test_every_damaged_bit_is_refused(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_sentence_gives_nothing_and_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD) - 2):
        assert CODEC.frames(GOOD[:size]) == []
        assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1
    every_split(NmeaDecoder, b"\xff\r\n!AIVDM,1*00\r\n" + GOOD[:12] + GOOD + b"$$*\r\n" + GOOD[:20])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("WIMWV,361.0,T,10.1,N,A", "implausible"),
        ("WIMWV,12.1,T,-10.1,N,A", "implausible"),
        ("WIMWV,12.1,Q,10.1,N,A", "format"),
        ("WIMWV,12.1,T,10.1,Q,A", "format"),
        ("WIMWV,12.1,T,10.1,N,B", "format"),
        ("WIMWV,12.1,T,10.1,N", "format"),
        ("WIMWV,12.1,T,1O.1,N,A", "format"),
        ("INMTW,17.9,F", "format"),
        ("WIMDA,29.4473,I,0.9972,C", "format"),
        ("WITXT,01,01", "format"),
        ("wimwv,12.1,T,10.1,N,A", "format"),
        ("", "format"),
    ],
)
def test_a_right_check_is_not_enough(body: str, why: str) -> None:
    assert CODEC.frames(sentence(body)) == []
    assert CODEC.damaged(sentence(body))[0].startswith(why)


def test_a_sentence_without_an_end_does_not_hold_up_memory() -> None:
    decoder = NmeaDecoder()
    for _ in range(200):
        decoder.feed(b"$" + b"W" * 40)
        decoder.feed(b"W" * 600)
    assert len(decoder._rest) <= NmeaDecoder.max_frame


def test_inches_and_knots_count_where_the_better_ones_are_empty() -> None:
    assert rows_of("WIMDA,29.92,I,,,,,,,,,,,,,,,10.0,N,,")["weather"] == pytest.approx(
        {"barometric_pressure": 1013.2, "wind_speed": 5.1444}, abs=0.01
    )
    assert rows_of("WIMWD,270.0,T,268.0,M,10.0,N,5.2,M")["true_wind"] == {
        "wind_direction": 270.0,
        "wind_direction_magnetic": 268.0,
        "wind_speed": 5.2,
    }


def test_status_v_or_no_speed_gives_no_row() -> None:
    assert rows_of("WIMWV,,T,,N,V") == rows_of("WIMWV,12.0,T,3.0,N,V") == rows_of("WIMWV,12.0,T,,N,A") == {}


def test_a_sentence_of_another_type_is_no_damage() -> None:
    for body in ("GPGGA,123519,4807.038,N", "PASHR,1"):
        assert rows_of(body) == {}
        assert CODEC.damaged(sentence(body)) == []


# --- transducers ------------------------------------------------------------------------------------


def test_an_angle_is_a_direction_only_where_the_head_points_north() -> None:
    body = "IIMWV,074,R,18.0,K,A"
    assert rows_of(body)["wind"] == {"wind_angle": 74.0, "wind_speed": 5.0, "reference": "relative"}
    assert rows_of(body, aligned_to_north=True)["wind"]["wind_direction"] == 74.0


def test_transducers_are_what_the_configuration_says() -> None:
    named = {"C:AIR": "air_temperature", "P:BARO": "barometric_pressure"}
    body = "IIXDR,C,21.5,C,AIR,P,1.0132,B,BARO,C,30.0,C,ENGINE,H,,P,ROOM,A,5,D"
    assert rows_of(body, transducers=named) == {
        "xdr": {"air_temperature": 21.5, "barometric_pressure": 1013.2}
    }
    assert rows_of("IIXDR,C,21.5,K,AIR", transducers=named) == {"xdr": {}}  # a unit nobody knows here


@pytest.mark.parametrize(
    "named",
    [
        {"AIR": "air_temperature"},
        {"Q:AIR": "air_temperature"},
        {"P:AIR": "air_temperature"},
        {"C:AIR": "warmth"},
        {"C:A": "air_temperature", "C:B": "air_temperature"},
    ],
)
def test_a_transducer_that_cannot_be_is_a_mistake(named: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        driver("/dev/null", transducers=named)


@pytest.mark.parametrize(
    ("told", "heating", "state"),
    [
        ("U,24.1,N,0,U,24.4,V,1", 24.1, "off"),
        ("U,24.4,V,0,U,24.1,W,1", 24.1, "full_power"),  # ids the other way round: the letter decides
        ("U,24.1,V,0,U,24.4,V,1", 24.1, "half_power"),
    ],
)
def test_heating_is_told_from_supply_by_its_letter(told: str, heating: float, state: str) -> None:
    assert rows_of(f"WIXDR,{told}", wxt_address="0")["xdr_supervisor"] == {
        "heating_voltage": heating,
        "heating_state": state,
        "supply_voltage": 24.4,
    }


def test_ids_of_a_wxt_begin_at_its_address() -> None:
    assert rows_of("WIXDR,C,9.7,C,9,C,12.0,C,A,C,15.0,C,B,P,1.0132,B,9", wxt_address="9") == {
        "xdr_ptu": {"air_temperature": 9.7, "internal_temperature": 12.0, "barometric_pressure": 1013.2},
        "xdr_supervisor": {"heating_temperature": 15.0},
    }


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["K", "M", "N"])
async def test_it_reads_what_the_station_tells(
    unit: str, tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    sim = sensor(NmeaStation, speed_unit=unit, wxt=True, period_s=0.01)
    device = driver(tmp_path / "tty", wxt_address="0")
    async with plugged(sim, tmp_path / "tty"):
        rows = await observe(device, 6)
    streams = {stream.measurement: {field.name for field in stream.fields} for stream in device.streams()}
    lines = told()
    start = next(i for i, line in enumerate(lines) if line["measurement"] == rows[0].measurement)
    for row, line in zip(rows, lines[start:], strict=False):
        assert row.measurement == line["measurement"]
        assert set(row.values) <= streams[row.measurement]
        for name, value in line["values"].items():
            assert row.values[name] == (pytest.approx(value, abs=1e-3) if name != "reference" else value)


async def test_damaged_sentences_are_counted_and_never_believed(
    tmp_path: Path, sensor: Any, observe: Any, told: Any
) -> None:
    faults = "checksum=0.1,cut=0.1,garbage=0.1,silence=0.1"
    device = driver(tmp_path / "tty")
    async with plugged(sensor(NmeaStation, faults=faults, period_s=0.001), tmp_path / "tty"):
        rows = await observe(device, 40)
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    speeds = {round(values["wind_speed"], 4) for values in good if "wind_speed" in values}
    assert device.damaged_count > 5
    assert {row.values["wind_speed"] for row in rows if row.measurement == "wind"} <= speeds


async def test_a_station_that_says_nothing_is_a_timeout(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(NmeaStation, faults="silence=1"), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="no good frame"):
            await observe(driver(tmp_path / "tty", timeout_s=0.2), 1)


async def test_an_iced_head_gives_no_wind(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(NmeaStation, iced=True, period_s=0.01), tmp_path / "tty"):
        rows = await observe(driver(tmp_path / "tty"), 3)
    assert {row.measurement for row in rows} == {"weather"}
