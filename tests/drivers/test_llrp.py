"""The LLRP driver against a simulated reader over real TCP, and its codec against damage and recordings."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, LineError
from trisense.core.model import Quality, check_value
from trisense.drivers import Damage, Lines, Observed
from trisense.drivers.llrp import Config, Llrp
from trisense.drivers.llrp.client import Offer
from trisense.drivers.llrp.codec import LLRP
from trisense.drivers.llrp.messages import MAX_MESSAGE_BYTES, MessageDecoder
from trisense.drivers.llrp.rows import Sightings
from trisense.sims.base import Faults, Told, Truth, World, listening
from trisense.sims.llrp import LlrpReader
from trisense.sims.llrp_bytes import gen2_crc, message, status, tlv, tv

HERE = Path(__file__)
FOLDER = HERE.parents[2] / "drivers" / "trisense" / "drivers" / "llrp"
RECORDINGS = HERE.parents[2] / ".." / "shared" / "data" / "rfid"
recorded = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not beside the repository")

EPC = bytes.fromhex("3074257bf7194e4000001a85")
REPORT = message(61, 7, tlv(240, tv(13, EPC) + tv(1, b"\0\1") + tv(6, b"\xbc")))
CONNECTED = message(63, 1, tlv(246, tlv(128, bytes(8)) + tlv(256, b"\0\0")))


def report(*parameters: bytes, epc: bytes = EPC) -> dict[str, Any]:
    """A decoded report of one tag with these parameters beside its number."""
    (frame,) = LLRP.frames(message(61, 1, tlv(240, tv(13, epc) + b"".join(parameters))))
    return dict(frame)


# --- codec ------------------------------------------------------------------------------------------


@recorded
def test_the_recorded_session_decodes_exactly_as_told() -> None:
    data = (RECORDINGS / "llrp_session_2007.bin").read_bytes()
    expected = json.loads((RECORDINGS / "llrp_session_2007.expected.json").read_text())
    frames = LLRP.frames(data)

    assert LLRP.damaged(data) == []
    assert (len(data), len(frames)) == (expected["bytes"], expected["messages"])
    assert Counter(str(f["type"]) for f in frames) == expected["by_type"]
    assert [f["type"] for f in frames if f["type"] != 63] == expected["non_event_message_order"]
    stamps = {"UTCTimestamp", "Uptime"}
    events = [
        name for f in frames if f["type"] == 63 for name in f["ReaderEventNotificationData"].keys() - stamps
    ]
    assert Counter(events) == expected["events"]
    tags = [tag for f in frames if f["type"] == 61 for tag in f["tags"]]
    assert len(tags) == expected["tag_reports"] == expected["gen2_crc_valid"]
    assert {epc: summary([t for t in tags if t["EPC96"] == epc]) for epc in {t["EPC96"] for t in tags}} == (
        expected["per_epc"]
    )


def summary(tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "reports": len(tags),
        "reads": sum(t["TagSeenCount"] for t in tags),
        "antennas": sorted({t["AntennaID"] for t in tags}),
        "rssi_min": min(t["PeakRSSI"] for t in tags),
        "rssi_max": max(t["PeakRSSI"] for t in tags),
        "first": min(t["FirstSeenTimestampUTC"] for t in tags),
        "last": max(t["LastSeenTimestampUTC"] for t in tags),
    }


@recorded
def test_the_capabilities_of_a_real_reader_are_understood() -> None:
    (frame,) = LLRP.frames((RECORDINGS / "llrp_get_reader_capabilities_response.body.bin").read_bytes())
    told = json.loads((RECORDINGS / "llrp_get_reader_capabilities_response.json").read_text())
    general = frame["params"][0]
    names = told["GeneralDeviceCapabilities"]
    assert general["ReaderFirmwareVersion"] == names["FirmwareVersion"]
    assert general["HasUTCClockCapability"] == names["HasUTCClock"]

    offer = Offer.of(frame)
    assert offer.antennas == names["MaxSupportedAntennas"]
    assert (offer.powers_dbm[1], offer.powers_dbm[81]) == (10.0, 30.0)
    assert offer.hop_table == 1


@recorded
def test_the_configuration_of_a_real_reader_is_understood() -> None:
    (frame,) = LLRP.frames((RECORDINGS / "llrp_get_reader_config_response.body.bin").read_bytes())
    told = json.loads((RECORDINGS / "llrp_get_reader_config_response.json").read_text())
    params: dict[str, list[dict[str, Any]]] = {}
    for param in frame["params"]:
        params.setdefault(param["name"], []).append(param)
    assert frame["body_of"] == 12
    assert "Unknown" not in params
    assert [bool(p["AntennaConnected"]) for p in params["AntennaProperties"]] == [
        p["AntennaConnected"] for p in told["AntennaProperties"]
    ]
    assert len(params["AntennaConfiguration"]) == len(told["AntennaConfigurations"])
    assert len(params["GPIPortCurrentState"]) == len(told["GPIPortCurrentStates"])
    (keepalive,) = params["KeepaliveSpec"]
    assert keepalive["PeriodicTriggerValue"] == told["KeepAliveSpec"]["Interval"]
    (state,) = params["LLRPConfigurationStateValue"]
    assert state["LLRPConfigurationStateValue"] == told["LLRPConfigurationStateValue"]


@pytest.mark.parametrize(
    ("frequencies", "hop_table"),
    [
        (tlv(146, b"\x80" + tlv(147, struct.pack(">BBHI", 3, 0, 1, 902_750))), 3),
        (tlv(146, b"\x00" + tlv(148, struct.pack(">HI", 1, 865_700))), None),
        (b"", None),
    ],
)
def test_the_hop_table_is_the_readers_own(frequencies: bytes, hop_table: int | None) -> None:
    regulatory = tlv(143, struct.pack(">HH", 276, 2) + tlv(144, frequencies))
    (frame,) = LLRP.frames(message(11, 1, status() + regulatory))
    assert Offer.of(frame) == Offer(0, {}, hop_table)


@given(st.binary(max_size=60), st.binary(max_size=12), st.lists(st.integers(0, 300), max_size=6))
@settings(deadline=None)
def test_any_split_of_any_bytes_gives_the_same_messages(noise: bytes, tail: bytes, cuts: list[int]) -> None:
    data = noise + REPORT + tail + CONNECTED + REPORT
    decoder, found = MessageDecoder(), []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += decoder.feed(data[start:end])
    found += decoder.finish()
    assert [piece for piece in found if not isinstance(piece, Damage)] == LLRP.frames(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_messages_raise_nothing(data: st.DataObject) -> None:
    message_bytes = bytearray(REPORT + CONNECTED + message(30, 1, status(101, "no", 2)))
    for _ in range(data.draw(st.integers(1, 6))):
        message_bytes[data.draw(st.integers(0, len(message_bytes) - 1))] = data.draw(st.integers(0, 255))
    for frame in LLRP.frames(bytes(message_bytes)):
        LLRP.observed(frame)
    LLRP.damaged(bytes(message_bytes))


@pytest.mark.parametrize("size", range(1, len(REPORT)))
def test_a_message_cut_short_does_not_take_the_next_one_with_it(size: int) -> None:
    assert [f["id"] for f in LLRP.frames(REPORT[:size] + REPORT + CONNECTED)] == [7, 1]


def test_a_header_that_claims_too_much_is_no_message() -> None:
    claim = struct.pack(">HII", 1 << 10 | 61, MAX_MESSAGE_BYTES + 1, 1)
    decoder = MessageDecoder()
    assert [p for p in decoder.feed(claim + REPORT) if not isinstance(p, Damage)] == LLRP.frames(REPORT)


def test_an_unknown_tv_drops_its_message_and_an_unknown_tlv_is_skipped() -> None:
    def with_parameter(parameter: bytes) -> bytes:
        return message(61, 1, tlv(240, tv(13, EPC) + parameter))

    assert LLRP.frames(with_parameter(b"\xff\0")) == []
    assert "unknown TV" in LLRP.damaged(with_parameter(b"\xff\0"))[0]
    (frame,) = LLRP.frames(with_parameter(tlv(900, b"abc")))
    assert frame["tags"][0]["EPC96"] == EPC.hex()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(tlv(240, tv(1, b"\0\1")), id="no EPC"),
        pytest.param(tlv(240, tv(13, EPC) * 2), id="two EPCs"),
        pytest.param(tlv(240, tv(13, EPC[:5])), id="EPC past its parent"),
        pytest.param(tlv(240, tlv(241, b"\xff\xff" + EPC)), id="bit count past the end"),
        pytest.param(tlv(183, b"\xff\xff\0\1"), id="list past its parent"),
        pytest.param(b"\x00\xf0\x00\x03", id="length below 4"),
        pytest.param(b"\x00\xf0\x00\x40" + tv(13, EPC), id="length past the message"),
        pytest.param(b"\x00\xf0\x00", id="half a header"),
    ],
)
def test_a_report_that_breaks_the_standard_gives_nothing(body: bytes) -> None:
    assert LLRP.frames(message(61, 1, body)) == []
    assert LLRP.damaged(message(61, 1, body))


@pytest.mark.parametrize("antennas", [1, 2])
def test_a_rospec_is_read_as_it_was_written(antennas: int) -> None:
    settings_of = [
        {"AntennaID": i + 1, "ModeIndex": 2, "Session": 1, "TagPopulation": 32} for i in range(antennas)
    ]
    asked = {
        "ROSpecID": 5,
        "start_trigger": 1,
        "stop_trigger": 1,
        "stop_duration_ms": 3000,
        "AntennaIDs": [1, 2],
        "antenna_configurations": settings_of,
        "ROReportTrigger": 2,
        "N": 1,
        "selector_bits": 0x1F80,
        "EnableCRC": 1,
    }
    (frame,) = LLRP.frames(LLRP.encode({"type": 20, "id": 3, **asked}) or b"")
    read = [{name: each[name] for name in settings_of[0]} for each in frame["antenna_configurations"]]
    assert {**{name: frame[name] for name in asked}, "antenna_configurations": read} == asked
    assert ("AntennaConfiguration" in frame) == (antennas == 1)


def test_nesting_without_end_is_refused() -> None:
    nested = b""
    for _ in range(40):
        nested = tlv(289, bytes(4) + nested)
    said = message(100, 0, tlv(287, bytes(4) + nested))
    assert LLRP.frames(said) == []
    assert "nested" in LLRP.damaged(said)[0]


def test_bytes_behind_a_message_without_content_are_damage() -> None:
    assert LLRP.frames(message(62, 42)) == [{"ver": 1, "type": 62, "id": 42, "length": 10}]
    assert LLRP.frames(message(62, 42, b"\0")) == []


# --- rows -------------------------------------------------------------------------------------------


def test_what_a_reader_leaves_out_is_what_it_said_last() -> None:
    sightings = Sightings()
    sightings.rows(report(tv(1, b"\0\3"), tv(6, b"\xc4"), tv(8, b"\0\5")))
    (row,) = sightings.rows(report(tv(6, b"\xc5")))
    assert (row.values["antenna"], row.values["rssi"], row.values["seen_count"]) == (3, -59, 5)
    (row,) = Sightings().rows(report(tv(6, b"\xc5")))
    assert "antenna" not in row.values


def test_after_a_lost_message_nothing_earlier_stands_for_what_it_said() -> None:
    sightings = Sightings()
    sightings.rows(report(tv(1, b"\0\3")))
    sightings.forget()
    (row,) = sightings.rows(report(tv(6, b"\xc5")))
    assert "antenna" not in row.values


def test_a_tag_whose_crc_contradicts_its_number_is_dropped_and_counted() -> None:
    pc = b"\x30\x00"
    right = struct.pack(">H", gen2_crc(pc + EPC))
    wrong = struct.pack(">H", gen2_crc(pc + EPC) ^ 1)
    sightings = Sightings()
    assert len(sightings.rows(report(tv(12, pc), tv(11, right)))) == 1
    assert sightings.rows(report(tv(12, pc), tv(11, wrong))) == []
    assert sightings.damaged_count == 1
    assert "CRC" in LLRP.damaged(message(61, 1, tlv(240, tv(13, EPC) + tv(12, pc) + tv(11, wrong))))[0]


def test_a_saturated_count_is_suspect() -> None:
    (row,) = Sightings().rows(report(tv(8, b"\xff\xff")))
    assert row.values["seen_count"] == 65_535
    assert row.quality == {"seen_count": Quality.SUSPECT}


def test_numbers_keep_their_length_and_only_gs1_numbers_have_a_uri() -> None:
    long = bytes.fromhex("00e2801160600002054e4d7a11aabbcc")
    (frame,) = LLRP.frames(message(61, 1, tlv(240, tlv(241, b"\0\x80" + long))))
    (row,) = Sightings().rows(frame)
    assert row.values == {"epc": long.hex()}
    (row,) = Sightings().rows(report())
    assert row.values["scheme"] == "SGTIN-96"
    assert row.values["epc_uri"] == "urn:epc:id:sgtin:0614141.812345.6789"


def test_reports_of_another_rospec_are_not_ours() -> None:
    sightings = Sightings()
    assert sightings.rows(report(tv(9, struct.pack(">I", 5))), rospec_id=1) == []
    assert len(sightings.rows(report(tv(9, struct.pack(">I", 1))), rospec_id=1)) == 1


# --- driver -----------------------------------------------------------------------------------------


class Memory(Truth):
    """Keeps what was told in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str | None, dict[str, Any]]] = []

    def write(
        self, device: str, told: Told, *, fault: str | None, sent: bytes, t_ns: int | None = None
    ) -> None:
        super().write(device, told, fault=fault, sent=sent, t_ns=t_ns)
        self.rows.append((fault, dict(told.values)))

    def good(self) -> list[dict[str, Any]]:
        return [values for fault, values in self.rows if fault in (None, "garbage", "late", "stuck")]


def reader(faults: str = "", kind: type[LlrpReader] = LlrpReader, **options: Any) -> LlrpReader:
    options = {"tags_per_hour": 1e6, "read_every_s": 0.05, "antenna_faults_per_hour": 0.0, **options}
    return kind(world=World(1), truth=Memory(), faults=Faults.parse(faults), seed=1, name="gate", **options)


def driver_for(port: int, **config: Any) -> Llrp:
    return Llrp(Config(name="gate", driver="llrp", line=f"tcp://127.0.0.1:{port}", **config))


@asynccontextmanager
async def driving(sim: LlrpReader, **config: Any) -> AsyncIterator[Llrp]:
    async with listening(sim) as port:
        driver = driver_for(port, **config)
        try:
            await driver.connect(Lines())
            yield driver
        finally:
            await driver.close()


async def rows_of(driver: Llrp, count: int) -> list[Observed]:
    rows: list[Observed] = []
    async with asyncio.timeout(20), aclosing(driver.observe()) as observed:  # type: ignore[type-var]
        async for row in observed:
            rows.append(row)
            if len(rows) == count:
                break
    return rows


async def test_sightings_are_what_the_reader_told() -> None:
    sim = reader()
    async with driving(sim, power_dbm=30) as driver:
        rows = await rows_of(driver, 20)
    assert isinstance(sim.truth, Memory)
    told = sim.truth.good()[: len(rows)]
    assert [
        {name: row.values[name] for name in values} for row, values in zip(rows, told, strict=True)
    ] == told
    assert driver.damaged_count == 0


async def test_a_window_tells_arrivals_of_tags_that_were_sighted_before() -> None:
    async with driving(reader(), window={"min_reads": 1, "depart_s": 60}) as driver:
        rows = await rows_of(driver, 20)
        assert driver.streams()[-1].measurement == "tag_passage"
    sighted: set[object] = set()
    arrivals = [row for row in rows if row.measurement == "tag_passage"]
    for row in rows:
        if row.measurement == "tag_sighting":
            sighted.add(row.values["epc"])
        elif row.measurement == "tag_passage":
            assert row.values["tag"] in sighted
            assert row.values["event"] == "arrived"
            assert {"antenna", "rssi"} <= set(row.values)
    assert len({row.values["tag"] for row in arrivals}) == len(arrivals) > 0


async def test_rows_hold_what_the_streams_promise() -> None:
    async with driving(reader(antenna_faults_per_hour=1e6)) as driver:
        rows = await rows_of(driver, 10)
        streams = {stream.measurement: stream for stream in driver.streams()}
    assert {row.measurement for row in rows} == {"tag_sighting", "reader_event"}
    for row in rows:
        fields = {field.name: field.type for field in streams[row.measurement].fields}
        assert set(row.values) <= set(fields)
        for name, value in row.values.items():
            check_value(value, fields[name])


async def test_a_lost_antenna_is_a_row() -> None:
    async with driving(reader(tags_per_hour=0, antenna_faults_per_hour=1e6)) as driver:
        (row,) = await rows_of(driver, 1)
    assert row.values["event"] == "antenna_lost"
    assert row.values["antenna"] == 4


async def test_what_the_reader_had_kept_from_before_is_not_told_as_new() -> None:
    sim = reader(kept_reports=True)
    async with driving(sim) as driver:
        assert driver.stale_count == 3
        rows = await rows_of(driver, 5)
    assert isinstance(sim.truth, Memory)
    assert [row.values["epc"] for row in rows] == [values["epc"] for values in sim.truth.good()[:5]]


async def test_the_reader_is_left_free_and_a_stale_rospec_is_no_obstacle() -> None:
    sim = reader()
    async with listening(sim) as port:
        first = driver_for(port)
        await first.connect(Lines())
        await rows_of(first, 1)
        await first.close()
        await first.close()
        rude = await asyncio.open_connection("127.0.0.1", port)
        await rude[0].read(10)
        for request in (LLRP.encode({"type": 20, "id": 1, "ROSpecID": 9, "AntennaIDs": [1]}),):
            rude[1].write(request or b"")
        await rude[0].readuntil(b"\x01\x1f\x00\x08\x00\x00")
        rude[1].close()
        await rude[1].wait_closed()
        second = driver_for(port)
        await connect_until_free(second)
        await rows_of(second, 1)
        await second.close()


async def connect_until_free(driver: Llrp) -> None:
    """The reader learns of a hang-up a moment after it."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await driver.connect(Lines())
            except DeviceRefused:
                await driver.close()


async def test_a_second_client_is_refused_and_the_first_is_told() -> None:
    async with listening(reader(tags_per_hour=0)) as port:
        first, second = driver_for(port), driver_for(port)
        await first.connect(Lines())
        with pytest.raises(DeviceRefused, match="another client") as refused:
            await second.connect(Lines())
        assert refused.value.code == 2
        (row,) = await rows_of(first, 1)
        assert row.values == {"event": "connection_attempt", "detail": "status 4"}
        await second.close()
        await first.close()


async def test_a_hang_up_is_a_lost_line_and_the_reader_is_found_again() -> None:
    sim = reader("hangup@3")
    async with listening(sim) as port:
        driver = driver_for(port)
        await driver.connect(Lines())
        with pytest.raises(LineError):
            await rows_of(driver, 100)
        await driver.close()
        await connect_until_free(driver)
        assert len(await rows_of(driver, 5)) == 5
        await driver.close()


class CountsAcks(LlrpReader):
    """Tells when it has been acknowledged five keep-alives."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.alive = asyncio.Event()

    async def _keep_alive(self, client: Any) -> None:
        for number in range(5):
            await client.write(message(62, number))
            await client.acked.wait()
            client.acked.clear()
        self.alive.set()
        await asyncio.Event().wait()


async def test_keepalives_are_acknowledged_while_no_tag_passes() -> None:
    sim = reader(kind=CountsAcks, tags_per_hour=0)
    async with driving(sim) as driver:
        following = asyncio.create_task(rows_of(driver, 1))
        async with asyncio.timeout(10):
            await sim.alive.wait()  # type: ignore[attr-defined]  # reader() gives what it is asked for
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class FallsSilent(LlrpReader):
    async def _keep_alive(self, client: Any) -> None:  # noqa: ARG002  # the simulator's signature
        await asyncio.Event().wait()


async def test_a_reader_without_keepalives_is_given_up() -> None:
    async with driving(reader(kind=FallsSilent, tags_per_hour=0), keepalive_s=0.1) as driver:
        with pytest.raises(DeviceTimeout, match="silent"):
            await rows_of(driver, 1)


class Refuses(LlrpReader):
    def _add(self, body: bytes) -> bytes:  # noqa: ARG002  # the simulator's signature
        return status(101, "//ROSpec : invalid HopTableID", 1)


async def test_a_refusal_says_what_the_reader_said() -> None:
    with pytest.raises(DeviceRefused, match=r"invalid HopTableID.*FieldNum") as refused:
        async with driving(reader(kind=Refuses)):
            pass
    assert refused.value.code == 101


class Baffled(LlrpReader):
    """An old reader that does not know one of the requests."""

    async def _answer(self, client: Any, request: Any) -> None:
        if request.type == 22:
            await client.write(message(100, request.id, status(109)))
        else:
            await super()._answer(client, request)


async def test_an_error_message_answers_a_request_that_the_reader_does_not_know() -> None:
    with pytest.raises(DeviceRefused, match="message 22: refused") as refused:
        async with driving(reader(kind=Baffled), timeout_s=5):
            pass
    assert refused.value.code == 109


async def test_the_reader_is_set_up_as_configured() -> None:
    sim = reader()
    async with driving(sim, keepalive_s=7.5, tag_crc=False):
        assert sim._keepalive_s == 7.5
        assert [event for event, on in sim._events.items() if on] == [2, 3, 4, 8]
        assert sim._rospec is not None
        assert (sim._rospec.report_at, sim._rospec.stop_s, sim._rospec.memory) == (1, None, 0)
    assert sim._rospec is None


async def test_an_antenna_that_is_not_there_is_refused_before_the_reader_is_asked() -> None:
    with pytest.raises(DeviceError, match="antenna 9: the reader has 4"):
        async with driving(reader(), antennas=[2, 9]):
            pass


async def test_only_the_chosen_antennas_are_read() -> None:
    async with driving(reader(), antennas=[3]) as driver:
        assert {row.values["antenna"] for row in await rows_of(driver, 8)} == {3}


@pytest.mark.parametrize(("asked", "index"), [(30.0, 81), (30.1, 81), (99.0, 91), (10.0, 1)])
def test_power_is_the_highest_step_not_above_what_is_asked(asked: float, index: int) -> None:
    offer = Offer(4, {i: 10 + 0.25 * (i - 1) for i in range(1, 92)}, None)
    driver = driver_for(5084, power_dbm=asked)
    antenna = driver._rospec(offer)["AntennaConfiguration"]
    assert antenna["TransmitPower"] == index
    # Fixed frequencies: no hop table, and a channel instead.
    assert (antenna["HopTableID"], antenna["ChannelIndex"]) == (0, 1)


def test_power_below_the_readers_table_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"10 to 10\.25 dBm"):
        driver_for(5084, power_dbm=5)._rospec(Offer(4, {1: 10.0, 2: 10.25}, 1))


@pytest.mark.parametrize("fault", ["garbage", "cut", "checksum"])
async def test_damage_is_counted_and_never_told(fault: str) -> None:
    sim = reader(f"{fault}=0.4,seed=3")
    async with driving(sim) as driver:
        rows = await rows_of(driver, 30)
    assert isinstance(sim.truth, Memory)
    told = sim.truth.good()
    for row in rows:
        assert any(all(row.values.get(name) == value for name, value in values.items()) for values in told)
    assert driver.damaged_count > 0


@asynccontextmanager
async def serving(talk: Callable[[asyncio.StreamWriter], Iterator[bytes]]) -> AsyncIterator[int]:
    """A peer that writes what ``talk`` gives and then stays."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # a handler is a task
        try:
            for data in talk(writer):
                writer.write(data)
            await asyncio.Event().wait()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", REPORT])
async def test_a_peer_that_is_no_reader_is_not_waited_for(words: bytes) -> None:
    async with serving(lambda _: iter([words])) as port:
        driver = driver_for(port, timeout_s=0.2)
        with pytest.raises(DeviceTimeout):
            await driver.connect(Lines())
        await driver.close()


async def test_a_reader_that_closes_the_connection_is_a_lost_line() -> None:
    closing = message(63, 2, tlv(246, tlv(128, bytes(8)) + tlv(257)))
    async with serving(lambda _: iter([CONNECTED, closing])) as port:
        driver = driver_for(port)
        with pytest.raises(LineError, match="closes"):
            await driver.connect(Lines())
        await driver.close()


class Preempts(LlrpReader):
    """Ends its ROSpec for another one as soon as it runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._active = asyncio.Event()

    def _activate(self, rospec: Any) -> None:
        super()._activate(rospec)
        self._active.set()

    async def _inventory(self, client: Any) -> None:
        await self._active.wait()
        event = tlv(249, struct.pack(">BII", 2, 1, 7))
        await client.write(message(63, 9, tlv(246, tlv(128, bytes(8)) + event)))
        await asyncio.Event().wait()


async def test_an_inventory_that_the_reader_ends_is_a_failure_not_a_silence() -> None:
    async with driving(reader(kind=Preempts)) as driver:
        with pytest.raises(DeviceError, match="ended the inventory"):
            await rows_of(driver, 1)


# --- configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message_part"),
    [
        ({"line": "serial:///dev/ttyUSB0"}, "TCP only"),
        ({"line": "tcp://reader"}, "port"),
        ({"session": 4}, "session"),
        ({"antennas": [0]}, "antennas"),
        ({"speed": 1}, "speed"),
    ],
)
def test_mistakes_in_the_configuration_are_named(option: dict[str, Any], message_part: str) -> None:
    with pytest.raises(ValidationError, match=message_part):
        Config(**{"name": "gate", "driver": "llrp", "line": "tcp://reader:5084", **option})


def test_the_sample_shows_every_option_with_its_default() -> None:
    lines = (FOLDER / "sample.toml").read_text(encoding="utf-8").splitlines()
    live = tomllib.loads("\n".join(lines))["device"][0]
    Config.model_validate(live)
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines if " = " in line))
    defaults = {name: info.default for name, info in Config.model_fields.items() if not info.is_required()}
    assert shown.keys() - live.keys() == defaults.keys() - {"site", "position"}
    for name in shown.keys() - live.keys() - {"power_dbm", "mode", "window"}:
        assert type(defaults[name])(shown[name]) == defaults[name]
    assert (FOLDER / "sample.toml").read_text() in (FOLDER / "README.md").read_text()
