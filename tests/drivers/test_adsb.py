"""The ADS-B driver against a simulated feed over real TCP, its decoders against damage and recordings."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trisense.core.errors import DeviceTimeout, FrameError, LineError
from trisense.core.messages import Position
from trisense.core.model import Layer, check_value
from trisense.drivers import Damage, Lines, Observed
from trisense.drivers.adsb import Adsb, Config, cpr, modes
from trisense.drivers.adsb.feeds import BeastDecoder
from trisense.drivers.adsb.tracker import FORGET_S, Tracker
from trisense.sims.base import Faults, Told, Truth, World, listening
from trisense.sims.beast import MESSAGES, Airframe, BeastFeed
from trisense.sims.world import Aircraft

HERE = Path(__file__)
FOLDER = HERE.parents[2] / "drivers" / "trisense" / "drivers" / "adsb"
RECORDINGS = HERE.parents[2] / ".." / "shared" / "data" / "air"
recorded = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not beside the repository")

BEAST, AVR, SBS = (Adsb.codecs[f"adsb-{feed}"] for feed in ("beast", "avr", "sbs"))
# dump1090 output of the AMC421 capture: DF17 with an escaped 0x1A, DF11, DF4
LONG = bytes.fromhex("1a330000001a1a45044d8f4d202358773450b7862ce80171")
SHORT = bytes.fromhex("1a32000000147226305d4d20237a55af")


def recording(name: str) -> bytes:
    return (RECORDINGS / f"adsb_amc421.{name}").read_bytes()


# --- recordings -------------------------------------------------------------------------------------


@recorded
def test_the_three_forms_of_one_recording_say_the_same() -> None:
    beast, avr, sbs = (
        BEAST.frames(recording("beast")),
        AVR.frames(recording("avr")),
        SBS.frames(recording("sbs")),
    )
    assert len(beast) == len(avr) == len(sbs) == 319
    assert (
        BEAST.damaged(recording("beast"))
        == AVR.damaged(recording("avr"))
        == SBS.damaged(recording("sbs"))
        == []
    )
    shared = ("df", "icao", "tc", "altitude_ft", "callsign", "squawk", "gs_kt", "track", "cpr_lat")
    for binary, text, line in zip(beast, avr, sbs, strict=True):
        assert [binary.get(name) for name in shared] == [text.get(name) for name in shared]
        assert line["icao"] == binary["icao"] == "4D2023"
        for name, tolerance in (("altitude_ft", 0), ("vr_fpm", 0), ("gs_kt", 1), ("track", 1)):
            if line[name] is not None:
                assert binary[name] == pytest.approx(line[name], abs=tolerance)
        for name in ("callsign", "squawk", "on_ground"):
            assert line[name] in (None, binary.get(name))


@recorded
def test_positions_of_the_recording_are_those_of_dump1090() -> None:
    beast, sbs = BEAST.frames(recording("beast")), SBS.frames(recording("sbs"))
    placed = [(b, s) for b, s in zip(beast, sbs, strict=True) if s["lat"] is not None]
    assert len(placed) > 60
    for binary, line in placed:
        assert (binary["lat"], binary["lon"]) == pytest.approx((line["lat"], line["lon"]), abs=2e-5)


@recorded
def test_the_flight_of_the_recording_is_followed_once_its_silent_parts_are_back() -> None:
    # The recording's silent parts were cut out: put its messages a second apart, as the sheet says.
    tracker = Tracker(interval_s=0.1, max_aircraft=10, receiver=(37.0, 13.8))
    rows = [tracker.take(frame, float(i)) for i, frame in enumerate(BEAST.frames(recording("beast")))]
    fixes = [row for row in rows if row and "latitude" in row]
    assert len(fixes) >= 74
    assert all(35 < row["latitude"] < 38 and 13 < row["longitude"] < 15 for row in fixes)  # type: ignore[operator]
    assert fixes[-1]["latitude"] < fixes[0]["latitude"]  # type: ignore[operator]  # south of Sicily, heading south
    assert fixes[-1]["callsign"] == "AMC421"
    assert tracker.doubted_count == 0


# --- messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(112))
def test_every_flipped_bit_of_a_squitter_is_refused(bit: int) -> None:
    damaged = bytearray.fromhex("8D406B902015A678D4D220AA4BDA")
    damaged[bit // 8] ^= 0x80 >> bit % 8
    try:
        frame = modes.decode(bytes(damaged))
    except FrameError:
        return
    # Another format has its check overlaid with the address: it may pass, and says what it rests on.
    assert "crc_ok" not in frame


def test_the_gray_code_of_altitude_has_each_hundred_feet_once() -> None:
    codes = (code for code in range(1, 1 << 13) if not code & 0x50)  # neither M nor Q
    feet = [altitude for code in codes if (altitude := modes.altitude13(code)) is not None]
    assert sorted(feet) == list(range(-1200, 126_800, 100))


@pytest.mark.parametrize(
    ("squawk_code", "digits"),
    [(0b1010101010101, "7000"), (0, "0000"), (0x1FBF, "7777")],
)
def test_squawks_are_text_of_four_octal_digits(squawk_code: int, digits: str) -> None:
    # 7000 is A4 A2 A1: bits 11, 9 and 7 of the 13-bit code
    code = 1 << 11 | 1 << 9 | 1 << 7 if digits == "7000" else squawk_code
    assert modes.squawk(code) == digits


@pytest.mark.parametrize(
    ("latitude", "count"),
    [(0, 59), (10.47, 59), (10.48, 58), (-10.48, 58), (52.0, 36), (86.5, 3), (86.6, 2), (87, 2), (88, 1)],
)
def test_longitude_zones_narrow_towards_the_poles(latitude: float, count: int) -> None:
    assert cpr.zones(latitude) == count


@given(st.floats(-86, 86), st.floats(-180, 179.9), st.booleans())
@settings(deadline=None)
def test_any_place_survives_its_even_and_odd_message(latitude: float, longitude: float, odd: bool) -> None:
    messages = [position(latitude, longitude, each) for each in (not odd, odd)]
    place = cpr.globally(messages[0], messages[1])
    if place is None:  # the two halves lie on both sides of a zone's edge
        place = cpr.locally(messages[1], (latitude, longitude))
    assert place is not None
    assert cpr.distance_m(place, (latitude, longitude)) < 10
    near = cpr.locally(messages[1], (latitude + 0.9, longitude))
    assert near is not None
    assert cpr.distance_m(near, (latitude, longitude)) < 10


def position(latitude: float, longitude: float, odd: bool) -> cpr.Cpr:
    flying = Aircraft(0x3C0001, "X", latitude, longitude, 5000.0, 0.0, 0.0, 0.0)
    message, _ = MESSAGES["position"](flying, Airframe({}, odd=odd))
    frame = modes.decode(message)
    return cpr.Cpr(bool(frame["cpr_odd"]), frame["cpr_lat"], frame["cpr_lon"])


def test_surface_positions_need_a_reference_and_use_it() -> None:
    # Encoded by the rule of DO-260B for 51.99, 4.3757: spans of 90 degrees.
    def surface(odd: bool) -> cpr.Cpr:
        height = 90 / (60 - odd)
        width = 90 / max(cpr.zones(51.99) - odd, 1)
        return cpr.Cpr(
            odd,
            round(51.99 % height / height * 2**17) % 2**17,
            round(4.3757 % width / width * 2**17) % 2**17,
            surface=True,
        )

    assert cpr.globally(surface(False), surface(True)) is None
    for place in (
        cpr.globally(surface(False), surface(True), (52.3, 4.7)),
        cpr.locally(surface(True), (52.1, 4.6)),
    ):
        assert place == pytest.approx((51.99, 4.3757), abs=1e-4)


@pytest.mark.parametrize(
    ("code", "knots"),
    [
        (0, None),
        (1, 0.0),
        (2, 0.125),
        (8, 0.875),
        (9, 1.0),
        (12, 1.75),
        (13, 2.0),
        (38, 14.5),
        (39, 15.0),
        (94, 70.0),
        (108, 98.0),
        (109, 100.0),
        (123, 170.0),
        (124, 175.0),
        (125, None),
    ],
)
def test_surface_speed_follows_its_steps(code: int, knots: float | None) -> None:
    me = (5 << 51 | code << 44).to_bytes(7, "big")
    assert modes.extended_squitter(me)["gs_kt"] == knots


def test_an_emergency_squawk_is_read_from_its_own_message() -> None:
    # jet1090's public test message: no emergency, 6513
    frame = modes.decode(bytes.fromhex("8DA2C1B6E112B600000000760759"))
    assert (frame["tc"], frame["subtype"], frame["emergency"], frame["squawk"]) == (28, 1, 0, "6513")


@pytest.mark.parametrize(("capability", "on_ground"), [(4, True), (5, False), (6, None), (7, None)])
def test_a_capability_may_tell_whether_the_aircraft_is_on_the_ground(
    capability: int, on_ground: bool | None
) -> None:
    head = bytes([11 << 3 | capability]) + b"\x3c\x00\x01"
    all_call = head + modes.remainder(head + bytes(3)).to_bytes(3, "big")
    assert modes.decode(all_call)["on_ground"] is on_ground


def test_one_message_needs_a_reference() -> None:
    message = MESSAGES["position"](flying(), Airframe({}))[0]
    assert Adsb.codecs["adsb-cpr-local"].frames(message) == []


def test_two_bare_messages_make_a_position_and_two_aircraft_make_none() -> None:
    codec = Adsb.codecs["adsb-cpr-global"]
    even, odd = (MESSAGES["position"](flying(), Airframe({}, odd=each))[0] for each in (False, True))
    stranger = MESSAGES["position"](flying(0x3C0002), Airframe({}, odd=True))[0]
    (frame,) = codec.frames(even + odd)
    assert frame["latest"] == "odd"
    assert (frame["lat"], frame["lon"]) == pytest.approx((48.0, 11.0), abs=1e-4)
    for pair in (even + stranger, even + even, even, even[:-1] + b"\0" + odd):
        assert codec.frames(pair) == []


@pytest.mark.parametrize(("apart_s", "paired"), [(9, True), (11, False)])
def test_halves_of_one_recording_make_a_position_while_they_are_close(apart_s: int, paired: bool) -> None:
    def framed(odd: bool, ticks: int) -> bytes:
        body = ticks.to_bytes(6, "big") + b"\x40" + MESSAGES["position"](flying(), Airframe({}, odd=odd))[0]
        return b"\x1a3" + body.replace(b"\x1a", b"\x1a\x1a")

    frames = BEAST.frames(framed(False, 1) + framed(True, 1 + apart_s * 12_000_000))
    assert [("lat" in frame) for frame in frames] == [False, paired]


# --- feeds ------------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.binary(max_size=12), st.lists(st.integers(0, 150), max_size=6))
@settings(deadline=None)
def test_any_split_of_any_bytes_gives_the_same_messages(noise: bytes, tail: bytes, cuts: list[int]) -> None:
    data = noise + LONG + tail + SHORT + LONG
    decoder, found = BeastDecoder(), []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += decoder.feed(data[start:end])
    found += decoder.finish()
    good = [piece["payload"] for piece in found if not isinstance(piece, Damage) and "payload" in piece]
    assert good == [frame["payload"] for frame in BEAST.frames(data)]


@given(st.binary(max_size=200), st.sampled_from(sorted(Adsb.codecs)))
@settings(max_examples=300, deadline=None)
def test_no_codec_raises_whatever_comes(data: bytes, device: str) -> None:
    codec = Adsb.codecs[device]
    for frame in codec.frames(data):
        codec.observed(frame)
    codec.damaged(data)


@given(
    st.lists(
        st.sampled_from([b"*", b"@", b";", b"8D406B902015A678D4D220AA4BDA", b"0000", b"\n", b"MSG,3", b","])
    )
)
@settings(deadline=None)
def test_no_text_breaks_the_text_codecs(words: list[bytes]) -> None:
    for codec in (AVR, SBS):
        codec.frames(b"".join(words))
        codec.damaged(b"".join(words))


@pytest.mark.parametrize("size", range(1, len(LONG)))
def test_a_message_cut_short_does_not_take_the_next_one_with_it(size: int) -> None:
    assert [f["payload"] for f in BEAST.frames(LONG[:size] + SHORT)] == ["5D4D20237A55AF"]


def test_nothing_without_a_parity_is_found_inside_a_damaged_message() -> None:
    mode_ac = b"\x1a1" + bytes(7) + b"\x12\x34"
    assert [frame["payload"] for frame in BEAST.frames(mode_ac + mode_ac)] == ["1234", "1234"]
    # A doubled 0x1A followed by the digits of other types, in messages whose parity fails.
    for type_ in (b"\x31", b"\x34"):
        inside = b"\x1a3" + bytes(7) + b"\x8d\x1a\x1a" + type_ + bytes(11)
        assert [frame["df"] for frame in BEAST.frames(inside + SHORT)] == [11]


def test_types_of_other_makers_are_skipped_and_no_damage() -> None:
    status = b"\x1a\x34" + bytes(9) + b"\x1a\x1a\x07"
    receiver_id = b"\x1a\xe3" + b"\x01" * 8
    data = status + receiver_id + SHORT + status + LONG
    assert [frame["df"] for frame in BEAST.frames(data)] == [11, 17]
    assert BEAST.damaged(data) == []


def test_old_avr_forms_and_heartbeats_are_understood() -> None:
    data = (
        b"*0000;\n*8d406b902015a678d4d220aa4bda;\n@0123456789ab5D4D20237A55AF;\n"
        b"*5D4D20237A55AF;1a2b;0A;3F;\nnoise\n*12;"
    )
    frames = AVR.frames(data)
    assert [frame["df"] for frame in frames] == [17, 11, 11]
    assert frames[1]["ticks"] == 0x0123456789AB
    assert (frames[2]["ticks"], frames[2]["clock_mhz"]) == (0x1A2B, 20)
    assert len(AVR.damaged(data)) == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("MSG,3" + "," * 19, "21 fields"),
        ("MSG,9" + "," * 20, "transmission type 9"),
        ("MSG,3,,,XYZ123" + "," * 17, "ICAO"),
        ("MSG,3,,,4D2023,,,,,,,,,,91.5,13.7,,,,,,", "within 90"),
        ("MSG,3,,,4D2023,,,,,,,nan,,,,,,,,,,", "no number"),
        ("MSG,6,,,4D2023,,,,,,,,,,,,,7800,,,,", "squawk"),
        ("MSG,3,,,4D2023,,2026/13/01,00:00:00.000,,,,,,,,,,,,,,", "time data"),
        ("MSG,3,,,4D2023,,,,,,,,,,,,,,2,,,", "flag"),
        ("HELLO,1", "2 fields"),
    ],
)
def test_lines_that_are_no_basestation_lines_are_refused(line: str, why: str) -> None:
    assert SBS.frames(line.encode()) == []
    assert why in SBS.damaged(line.encode())[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "SEL,,496,2286,4CA4E5,27215,2010/02/19,18:06:07.710,2010/02/19,18:06:07.710,RYR1427",
            {"callsign": "RYR1427"},
        ),
        (
            "ID,,496,7162,405637,27928,2010/02/19,18:06:07.115,2010/02/19,18:06:07.115,EZY691A",
            {"callsign": "EZY691A"},
        ),
        ("STA,,5,179,400AE7,10103,2008/11/28,14:58:51.153,2008/11/28,14:58:51.153,RM", {"status": "RM"}),
        ("AIR,,496,5906,400F01,27931,2010/02/19,18:06:07.128,2010/02/19,18:06:07.128", {"icao": "400F01"}),
        ("CLK,,496,-1,,-1,2010/02/19,18:18:19.036,2010/02/19,18:18:19.036", {"icao": None}),
    ],
)
def test_the_shorter_lines_are_understood(line: str, expected: dict[str, Any]) -> None:
    (frame,) = SBS.frames(line.encode())
    assert {name: frame[name] for name in expected} == expected
    assert {"callsign", "status"} & frame.keys() == expected.keys() - {"icao"}


def test_flags_are_true_also_where_they_are_minus_one() -> None:
    (frame,) = SBS.frames(b"MSG,5,,,4D2023,,,,,,,1000,,,,,,,-1,0,,1")
    assert [frame[name] for name in ("alert", "emergency", "spi", "on_ground")] == [True, False, None, True]
    (row,) = SBS.observed(frame)
    assert row.values == {"icao": "4D2023", "pressure_altitude": 304.8, "on_ground": 1}


# --- tracker ----------------------------------------------------------------------------------------


def flying(
    icao: int = 0x3C0001, *, latitude: float = 48.0, track: float = 90.0, speed: float = 200.0
) -> Aircraft:
    return Aircraft(icao, "DLH1", latitude, 11.0, 3000.0, speed, track, 0.0)


def told(what: str, aircraft: Aircraft, *, odd: bool = False) -> dict[str, Any]:
    return dict(modes.decode(MESSAGES[what](aircraft, Airframe({}, odd=odd))[0]))


def tracker(**options: Any) -> Tracker:
    return Tracker(**{"interval_s": 1.0, "max_aircraft": 100, **options})


def test_a_first_fix_is_told_when_a_second_confirms_it() -> None:
    follow, plane = tracker(interval_s=0.1), flying()
    rows = [follow.take(told("position", plane, odd=bool(i % 2)), i * 0.5) for i in range(4)]
    assert [bool(row and "latitude" in row) for row in rows] == [False, False, True, True]


def test_a_jump_is_not_believed_until_it_is_confirmed() -> None:
    follow = tracker(interval_s=0.1)
    for i in range(4):
        follow.take(told("position", flying(), odd=bool(i % 2)), i * 0.5)
    elsewhere = [
        follow.take(told("position", flying(latitude=49.5), odd=bool(i % 2)), 2 + i * 0.5) for i in range(4)
    ]
    assert [bool(row and "latitude" in row) for row in elsewhere] == [False, True, True, True]


def test_positions_beyond_the_radio_horizon_are_not_believed() -> None:
    follow = tracker(interval_s=0.1, receiver=(40.0, 11.0))
    rows = [follow.take(told("position", flying(), odd=bool(i % 2)), i * 0.5) for i in range(6)]
    assert not any(row and "latitude" in row for row in rows)


def test_an_aircraft_that_was_not_heard_for_a_while_is_still_the_same() -> None:
    follow = tracker(interval_s=0.1)
    for i in range(4):
        follow.take(told("position", flying(), odd=bool(i % 2)), i * 0.5)
    # 20 km in 60 s are 650 kt.
    row = follow.take(told("position", flying(latitude=48.18)), 61.0)
    assert row is not None
    assert row["latitude"] == pytest.approx(48.18, abs=1e-4)


def test_an_old_half_makes_no_pair() -> None:
    follow = tracker(interval_s=0.1)
    rows = [follow.take(told("position", flying(), odd=bool(i % 2)), i * 11.0) for i in range(6)]
    assert not any(row and "latitude" in row for row in rows)


def test_a_phantom_velocity_is_dropped_and_a_real_turn_is_followed() -> None:
    # Vectors air-045 and air-046: 1.6 s apart, both with right parity.
    follow = tracker(interval_s=0.1)
    before = modes.decode(bytes.fromhex("8D484556990DBE021008840E71C9"))
    phantom = modes.decode(bytes.fromhex("8D484556990CB8423008844B2DE1"))
    follow.take(before, 0.0)
    assert follow.take(before, 1.0) is not None
    row = follow.take(phantom, 2.6)
    assert row is not None
    assert "ground_speed" not in row
    assert follow.doubted_count == 1
    row = follow.take(before, 3.2)
    assert row is not None
    assert row["ground_speed"] == pytest.approx(445.2527 * 1852 / 3600, abs=0.01)
    follow.take(phantom, 4.0)
    row = follow.take(phantom, 4.5)  # twice the same is no phantom
    assert row is not None
    assert row["ground_speed"] == pytest.approx(558.8139 * 1852 / 3600, abs=0.01)


def test_a_reply_without_a_check_of_its_own_is_believed_while_its_address_is_known() -> None:
    follow, plane = tracker(interval_s=0.1), flying()
    assert follow.take(told("altitude", plane), 0.0) is None
    assert len(follow) == 0
    follow.take(told("all_call", plane), 1.0)
    follow.take(told("all_call", plane), 2.0)
    row = follow.take(told("altitude", plane), 3.0)
    assert row is not None
    assert row["pressure_altitude"] == pytest.approx(3000, abs=4)
    assert follow.take(told("altitude", plane), 63.0) is None


def test_an_aircraft_is_told_at_most_once_per_interval_and_nothing_measured_is_told_twice() -> None:
    follow, plane = tracker(), flying()
    follow.take(told("identity", plane), 0.0)
    follow.take(told("velocity", plane), 0.1)
    rows = [(i / 10, row) for i in range(2, 60) if (row := follow.take(told("all_call", plane), i / 10))]
    assert all(b[0] - a[0] >= 1.0 for a, b in itertools.pairwise(rows))
    assert sum(row["messages"] for _, row in rows) <= 60  # type: ignore[misc]  # a count
    assert [("ground_speed" in row) for _, row in rows] == [True] + [False] * (len(rows) - 1)
    assert all(row["callsign"] == "DLH1" for _, row in rows)
    assert rows[1][1]["messages"] == round(10 * (rows[1][0] - rows[0][0]))


def test_the_table_is_bounded_and_forgets_who_is_gone() -> None:
    follow = tracker(max_aircraft=3)
    for icao in range(5):
        follow.take(told("all_call", flying(icao)), float(icao))
    assert (len(follow), follow.evicted_count) == (3, 2)
    follow.take(told("all_call", flying(9)), 5 + FORGET_S)
    assert len(follow) == 1


def test_an_address_that_is_not_icaos_is_marked() -> None:
    follow = tracker(interval_s=0.1)
    frame = {**told("velocity", flying()), "icao_address": False}
    follow.take(frame, 0.0)
    row = follow.take(frame, 1.0)
    assert row is not None
    assert row["icao"] == "~3C0001"


# --- driver -----------------------------------------------------------------------------------------


class Memory(Truth):
    """Keeps what was told in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.good: list[dict[str, Any]] = []

    def write(
        self, device: str, told: Told, *, fault: str | None, sent: bytes, t_ns: int | None = None
    ) -> None:
        super().write(device, told, fault=fault, sent=sent, t_ns=t_ns)
        if fault in (None, "garbage", "late", "stuck"):
            self.good.append(dict(told.values))


def feed(faults: str = "", **options: Any) -> BeastFeed:
    base: dict[str, Any] = {
        "world": World(1),
        "truth": Memory(),
        "faults": Faults.parse(faults),
        "seed": 1,
        "name": "sky",
    }
    return BeastFeed(**{"pace": 8.0, **options, **base})


def driver_for(port: int, **config: Any) -> Adsb:
    return Adsb(
        Config(name="sky", driver="adsb", line=f"tcp://127.0.0.1:{port}", **{"interval_s": 0.2, **config})
    )


@asynccontextmanager
async def driving(sim: BeastFeed, **config: Any) -> AsyncIterator[Adsb]:
    async with listening(sim) as port:
        driver = driver_for(port, **config)
        await driver.connect(Lines())
        try:
            yield driver
        finally:
            await driver.close()


async def rows_of(driver: Adsb, count: int) -> list[Observed]:
    rows: list[Observed] = []
    async with aclosing(driver.observe()) as observed:  # type: ignore[type-var]  # it is a generator
        async for row in observed:
            rows.append(row)
            if len(rows) == count:
                break
    return rows


def assert_true(rows: list[Observed], sim: BeastFeed) -> None:
    """Each value of each row is one that the feed told of this aircraft."""
    assert isinstance(sim.truth, Memory)
    said: dict[str, dict[str, list[Any]]] = {}
    for values in sim.truth.good:
        for name, value in values.items():
            said.setdefault(values["icao"], {}).setdefault(name, []).append(value)
    for row in rows:
        known = said[str(row.values["icao"])]
        for name, value in row.values.items():
            if name == "messages":
                continue
            if isinstance(value, float):
                assert any(math.isclose(value, each, abs_tol=0.011) for each in known[name]), (name, value)
            else:
                assert value in known[name]


async def test_rows_are_what_the_feed_told_under_the_names_of_the_stream() -> None:
    sim = feed()
    async with driving(sim) as driver:
        rows = await rows_of(driver, 40)
        (stream,) = driver.streams()
    assert stream.layer is Layer.AIR
    fields = {field.name: field.type for field in stream.fields}
    assert any("latitude" in row.values for row in rows)
    for row in rows:
        assert set(row.values) <= set(fields)
        for name, value in row.values.items():
            check_value(value, fields[name])
    assert_true(rows, sim)


@pytest.mark.parametrize("fault", ["garbage", "cut", "checksum"])
async def test_damage_is_counted_and_never_told(fault: str) -> None:
    sim = feed(f"{fault}=0.3,seed=2", noise_per_s=5)
    async with driving(sim) as driver:
        rows = await rows_of(driver, 30)
    assert driver.damaged_count > 0
    assert_true(rows, sim)


async def test_a_hang_up_is_a_lost_line_and_the_feed_is_found_again() -> None:
    sim = feed("hangup@10")
    async with listening(sim) as port:
        driver = driver_for(port)
        await driver.connect(Lines())
        with pytest.raises(LineError):
            await rows_of(driver, 1000)
        await driver.close()
        await driver.close()
        await driver.connect(Lines())
        assert len(await rows_of(driver, 3)) == 3
        await driver.close()


async def test_a_feed_that_falls_silent_is_given_up() -> None:
    async with driving(feed(range_km=0.0, noise_per_s=0), timeout_s=0.2) as driver:
        with pytest.raises(DeviceTimeout):
            await rows_of(driver, 1)


async def test_blocked_aircraft_are_never_told() -> None:
    sim = feed()
    seen = [f"{aircraft.icao:06x}" for aircraft in sim.world.aircraft()]
    free = seen[len(seen) // 2]  # neither just coming nor just leaving
    blocked = [icao for icao in seen if icao != free]
    async with driving(sim, blocked=blocked) as driver:
        rows = await rows_of(driver, 5)
    assert not {str(row.values["icao"]).lower() for row in rows} & set(blocked)


def test_the_receivers_place_is_taken_from_the_device() -> None:
    place = Position(latitude=48.1, longitude=11.6)
    driver = driver_for(30_005, position=place)
    assert driver._tracker._receiver == (48.1, 11.6)


# --- configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"blocked": ["4D20"]}, "blocked"),
        ({"max_aircraft": 0}, "max_aircraft"),
        ({"line": "ftp://host:1"}, "line"),
    ],
)
def test_mistakes_in_the_configuration_are_named(option: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Config(**{"name": "sky", "driver": "adsb", "line": "tcp://receiver:30005", **option})


def test_the_sample_shows_every_option_with_its_default() -> None:
    lines = (FOLDER / "sample.toml").read_text(encoding="utf-8").splitlines()
    live = tomllib.loads("\n".join(lines))["device"][0]
    Config.model_validate(live)
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines if " = " in line))
    defaults = {name: info.default for name, info in Config.model_fields.items() if not info.is_required()}
    assert shown.keys() - live.keys() == defaults.keys() - {"site"}
    for name in shown.keys() - live.keys() - {"position"}:
        assert type(defaults[name])(shown[name]) == defaults[name]
    assert (FOLDER / "sample.toml").read_text() in (FOLDER / "README.md").read_text()
