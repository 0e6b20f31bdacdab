"""The bus against a scripted slave on a real pty or socket: what the field does to a master (A3)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from trisense.core.errors import DeviceRefused, DeviceTimeout, FrameError, LineError
from trisense.drivers import Lines
from trisense.drivers.modbus import BusSettings, ModbusBus, Party, Question, Trouble, ask
from trisense.drivers.modbus.framing import Framing, rtu_frame, tcp_frame
from trisense.drivers.modbus.pdu import registers_of
from trisense.drivers.modbus.timing import Pace

UNIT = 17
WARM_UP = ask(UNIT, 3, 999, 1)
PARTY = Party(device="weather", timeout_s=10.0)
HASTY = Party(device="weather", timeout_s=0.05)
"""Where the time is meant to run out."""
Script = Callable[[bytes], bytes]
"""Takes one request and gives what the slave puts on the line."""


def answer(request: bytes, *registers: int) -> bytes:
    data = b"".join(register.to_bytes(2, "big") for register in registers)
    return rtu_frame(request[0], bytes([request[1], len(data)]) + data)


def is_warm_up(request: bytes) -> bool:
    return request[2:4] == WARM_UP.pdu[1:3]


def question(address: int = 0, count: int = 2) -> Question:
    return ask(UNIT, 3, address, count)


def filled(request: bytes, register: int) -> bytes:
    """An answer with as many registers as were asked for."""
    return answer(request, *[register] * request[5])


class Slave:
    """Holds the master side of a pty; every RTU read request has eight bytes."""

    def __init__(self) -> None:
        self.script: Script = lambda _: b""
        self.requests: list[bytes] = []
        self._buffer = b""
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self._slave = slave
        asyncio.get_running_loop().add_reader(self._master, self._receive)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            self._buffer += os.read(self._master, 4096)
        while len(self._buffer) >= 8:
            request, self._buffer = self._buffer[:8], self._buffer[8:]
            if is_warm_up(request):
                self.say(answer(request, *[0] * request[5]))
                continue
            self.requests.append(request)
            self.say(self.script(request))

    def say(self, data: bytes) -> None:
        if data:
            os.write(self._master, data)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
async def slave() -> AsyncIterator[Slave]:
    made = Slave()
    yield made
    made.close()


async def warm_up(bus: ModbusBus) -> None:
    """The first exchange after opening may be repeated."""
    await bus.ask(WARM_UP, PARTY)
    bus._units[UNIT].counters.clear()


@asynccontextmanager
async def opened(slave: Slave, *, echo: bool = False, warm: bool = True) -> AsyncIterator[ModbusBus]:
    bus = ModbusBus(BusSettings(f"serial://{slave.path}?baud=115200", "rtu", echo))
    await bus.connect(Lines())
    try:
        if warm:
            await warm_up(bus)
        yield bus
    finally:
        await bus.close()


async def registers(bus: ModbusBus, asked: Question, party: Party = PARTY) -> list[int]:
    return registers_of(await bus.ask(asked, party))


@pytest.fixture(autouse=True)
def _opened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen to each line for a whole time-out before the first question."""
    monkeypatch.setattr("trisense.drivers.modbus.bus.LISTEN_MAX_S", 0.0)


def scripted(*replies: Script) -> Script:
    """One reply after the other; silence behind the last."""
    left: Iterator[Script] = iter(replies)

    def reply(request: bytes) -> bytes:
        script = next(left, None)
        return b"" if script is None else script(request)

    return reply


async def test_an_answer_comes_back_and_is_counted(slave: Slave) -> None:
    slave.script = lambda request: answer(request, 141, 142)
    async with opened(slave) as bus:
        assert await registers(bus, question()) == [141, 142]
        assert bus.counters(UNIT) == bus.totals() == {"answers": 1}
        assert bus.turns.taken_s > 0
        assert bus.turns.waiting == 0


async def test_a_late_answer_is_never_taken_for_the_next_one(slave: Slave) -> None:
    late: list[bytes] = []

    def first(request: bytes) -> bytes:
        late.append(answer(request, 1, 1))
        return b""

    slave.script = scripted(
        first,
        lambda request: late[0] + answer(request, 5),
        lambda request: answer(request, 7, 7),
    )
    async with opened(slave) as bus:
        with pytest.raises(DeviceTimeout, match="no answer"):
            await registers(bus, question(0), HASTY)
        assert await registers(bus, question(10)) == [7, 7]
        assert [int.from_bytes(request[4:6], "big") for request in slave.requests] == [2, 1, 2]
        assert bus.counters(UNIT) == {"no_reply": 1, "wrong_count": 1, "answers": 2}


async def test_an_answer_to_a_question_from_before_a_restart_is_never_taken(
    slave: Slave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trisense.drivers.modbus.bus.LISTEN_MAX_S", 1.0)
    slave.script = lambda request: answer(request, 7, 7)
    patient = Party(device="weather", timeout_s=0.3)
    async with opened(slave, warm=False) as bus:
        asyncio.get_running_loop().call_later(0.1, slave.say, answer(bytes([UNIT, 3]), 1, 1))
        assert registers_of(await bus.ask(question(), patient)) == [7, 7]


async def test_a_slave_that_is_always_one_answer_behind_never_has_one_accepted(slave: Slave) -> None:
    held: list[bytes] = []

    def behind(request: bytes) -> bytes:
        address, count = int.from_bytes(request[2:4], "big"), int.from_bytes(request[4:6], "big")
        held.append(answer(request, *[address] * count))
        return held[-2] if len(held) > 1 else b""

    slave.script = behind
    taken = []
    async with opened(slave) as bus:
        bus_units = bus._units
        for address in range(1, 9):
            with contextlib.suppress(DeviceTimeout):
                taken.append((address, await registers(bus, question(address), HASTY)))
            bus_units[UNIT].asleep_until = 0.0
    assert all(values == [address, address] for address, values in taken)


async def test_what_came_in_while_nobody_asked_is_thrown_away(slave: Slave) -> None:
    slave.script = lambda request: answer(request, 7, 7)
    async with opened(slave) as bus:
        slave.say(answer(bytes([UNIT, 3]), 1, 1))
        assert await registers(bus, question()) == [7, 7]


@pytest.mark.parametrize(("before", "after"), [(b"\0", b""), (b"", b"\0\0"), (b"\0\0\0", b"\0")])
async def test_stray_zeros_of_the_bus_turn_around_do_no_harm(
    slave: Slave, before: bytes, after: bytes
) -> None:
    slave.script = lambda request: before + answer(request, 3, 4) + after
    async with opened(slave) as bus:
        assert await registers(bus, question()) == [3, 4]
        assert await registers(bus, question()) == [3, 4]


async def test_no_byte_has_a_meaning_of_its_own_to_the_line(slave: Slave) -> None:
    # Line ends, XON, XOFF, end of file: a reader of lines would cut the answer there (A3).
    special = [0x0A0A, 0x0D0A, 0x1113, 0x0304, 0x1A1B, 0x7FFF, 0x0000, 0xFF0A]
    slave.script = lambda request: answer(request, *special)
    async with opened(slave) as bus:
        assert await registers(bus, question(0, len(special))) == special
        assert bus.counters(UNIT) == {"answers": 1}


async def test_a_check_that_ends_in_zero_is_no_stray_byte(slave: Slave) -> None:
    value = next(n for n in range(0x1_0000) if answer(bytes([UNIT, 3]), n)[-1] == 0)
    slave.script = lambda request: answer(request, value) + b"\0"
    async with opened(slave) as bus:
        assert await registers(bus, question(0, 1)) == [value]
        assert await registers(bus, question(0, 1)) == [value]
        assert bus.counters(UNIT) == {"answers": 2}


async def test_an_answer_that_comes_twice_is_taken_once(slave: Slave) -> None:
    slave.script = lambda request: answer(request, request[3], request[3]) * 2
    async with opened(slave) as bus:
        for address in range(20):
            assert await registers(bus, question(address)) == [address, address]


async def test_an_answer_in_single_bytes_is_whole_when_its_length_says_so(slave: Slave) -> None:
    def drip(request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        for index, byte in enumerate(answer(request, 3, 4)):
            loop.call_later(0.002 * index, slave.say, bytes([byte]))
        return b""

    slave.script = drip
    async with opened(slave) as bus:
        assert await registers(bus, question()) == [3, 4]


async def test_each_kind_of_trouble_has_a_counter_of_its_own(slave: Slave) -> None:
    slave.script = scripted(
        lambda _: b"",
        lambda request: answer(request, 9),
        lambda request: answer(request, 3, 4)[:-1] + b"\xff",
        lambda request: answer(request, 9),
        lambda request: rtu_frame(request[0], bytes([request[1] | 0x80, 4])),
    )
    async with opened(slave) as bus:
        for _ in range(3):
            with contextlib.suppress(DeviceTimeout, FrameError, DeviceRefused):
                await registers(bus, question(), HASTY)
        assert bus.counters(UNIT) == {"no_reply": 1, "crc": 1, "exception": 1, "answers": 2}


async def test_an_adapter_that_hears_itself_needs_the_echo_setting(slave: Slave) -> None:
    slave.script = lambda request: request + filled(request, 3)
    async with opened(slave, echo=True, warm=False) as bus:
        assert await registers(bus, question()) == [3, 3]
    slave.script = lambda request: filled(request, 3)
    async with opened(slave, echo=True, warm=False) as bus:
        with pytest.raises(FrameError, match="echo"):
            await registers(bus, question(), HASTY)
        assert bus.counters(UNIT)["echo"] > 0


async def test_a_foreign_unit_is_ignored_until_the_own_one_answers(slave: Slave) -> None:
    slave.script = scripted(
        lambda request: rtu_frame(18, b"\x03\x04\0\1\0\1") + answer(request, 3, 4),
        lambda _: rtu_frame(18, b"\x03\x04\0\1\0\1"),
    )
    async with opened(slave) as bus:
        assert await registers(bus, question()) == [3, 4]
        with pytest.raises(DeviceTimeout, match="no answer"):
            await registers(bus, question(), HASTY)
        assert bus.counters(UNIT) == {"answers": 1, "foreign_address": 2, "no_reply": 1}


async def test_a_damaged_answer_is_refused_at_once_and_the_next_one_is_good(slave: Slave) -> None:
    slave.script = scripted(
        lambda request: answer(request, 3, 4)[:-1] + b"\xff",
        lambda request: answer(request, 9),
        lambda request: answer(request, 3, 4),
    )
    async with opened(slave) as bus:
        with pytest.raises(FrameError, match="damaged"):
            await registers(bus, question())
        assert await registers(bus, question()) == [3, 4]
        assert bus.counters(UNIT)["crc"] == 1


async def test_half_an_answer_is_a_time_out_of_its_own_kind(slave: Slave) -> None:
    slave.script = scripted(lambda request: answer(request, 3, 4)[:5])
    async with opened(slave) as bus:
        with pytest.raises(DeviceTimeout, match="half way"):
            await registers(bus, question(), HASTY)
        assert bus.counters(UNIT) == {"short": 1}


async def test_an_answer_with_another_function_is_refused(slave: Slave) -> None:
    slave.script = lambda request: rtu_frame(request[0], b"\x04\x04\0\1\0\1")
    async with opened(slave) as bus:
        with pytest.raises(FrameError, match="another function"):
            await registers(bus, question(), HASTY)
        assert bus.counters(UNIT)["wrong_function"] == 1


async def test_an_exception_says_what_the_device_refused(slave: Slave) -> None:
    slave.script = lambda request: rtu_frame(request[0], bytes([request[1] | 0x80, 2]))
    async with opened(slave) as bus:
        with pytest.raises(DeviceRefused, match="illegal data address") as refused:
            await registers(bus, question())
        assert refused.value.code == 2
        assert bus.counters(UNIT) == {"exception": 1}


async def test_the_first_exchange_after_opening_is_retried_once(slave: Slave) -> None:
    slave.script = scripted(
        lambda _: b"LCTECH relay ready\r\n",
        lambda request: answer(request, 1),
        lambda request: answer(request, 3, 4),
    )
    async with opened(slave, warm=False) as bus:
        assert await registers(bus, question(), Party(device="weather", timeout_s=0.5)) == [3, 4]


async def test_a_dead_unit_is_left_alone_and_asked_again_later(slave: Slave) -> None:
    async with opened(slave) as bus:
        for _ in range(2):
            with pytest.raises(DeviceTimeout, match=r"waited 0\.05 s"):
                await registers(bus, question(), HASTY)
        asked = len(slave.requests)
        with pytest.raises(DeviceTimeout, match="asked again in"):
            await registers(bus, question())
        assert len(slave.requests) == asked
        bus._units[UNIT].asleep_until = 0.0
        slave.script = lambda request: filled(request, 4)
        assert await registers(bus, question()) == [4, 4]
        assert await registers(bus, question()) == [4, 4]


async def test_a_dead_unit_does_not_make_its_neighbour_wait_for_it(slave: Slave) -> None:
    slave.script = lambda request: filled(request, 8) if request[0] == 5 else b""
    async with opened(slave) as bus:
        for _ in range(20):
            with contextlib.suppress(DeviceTimeout):
                await registers(bus, question(), HASTY)
            assert await registers(bus, ask(5, 3, 0, 2)) == [8, 8]
        assert bus.counters(5) == {"answers": 20}
        assert sum(request[0] == UNIT for request in slave.requests) < 6


async def test_a_cancelled_exchange_leaves_nothing_for_the_next_one(slave: Slave) -> None:
    asked = asyncio.Event()

    def first(_: bytes) -> bytes:
        asked.set()
        return b""

    slave.script = scripted(
        first,
        lambda request: answer(bytes([UNIT, 3]), 1, 1) + answer(request, 5),
        lambda request: answer(request, 7, 7),
    )
    async with opened(slave) as bus:
        task = asyncio.create_task(registers(bus, question()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await registers(bus, question()) == [7, 7]


async def test_several_devices_share_the_line_one_at_a_time(slave: Slave) -> None:
    slave.script = lambda request: filled(request, request[0] << 8 | request[3])
    async with opened(slave) as bus:
        asked = [ask(unit, 3, address, 2) for unit in (1, 2, 3) for address in range(5)]
        given = await asyncio.gather(*(registers(bus, one) for one in asked))
    assert given == [[one.unit << 8 | one.pdu[2]] * 2 for one in asked]


async def test_a_line_that_hangs_up_is_a_line_error_and_can_be_opened_again(slave: Slave) -> None:
    async with opened(slave) as bus:
        await bus.close()
        with pytest.raises(LineError, match="not open"):
            await registers(bus, question())
        slave.script = lambda request: answer(request, 3, 4)
        await bus.connect(Lines())
        assert await registers(bus, question()) == [3, 4]


async def test_a_babbling_line_is_given_up(slave: Slave) -> None:
    slave.script = lambda _: b"\x55" * 2000

    async with opened(slave) as bus:
        slave.script = lambda _: b"\x55" * 4096
        with pytest.raises(LineError, match="without an answer"):
            await registers(bus, question())


def test_the_pause_before_a_request_follows_the_line() -> None:
    assert Pace.of("serial:///dev/ttyS0?baud=9600").silence_s == pytest.approx(38.5 / 9600)
    assert Pace.of("serial:///dev/ttyS0?baud=9600").character_s == pytest.approx(10 / 9600)
    assert Pace.of("serial:///dev/ttyS0?baud=19200&format=8E1").character_s == pytest.approx(11 / 19_200)
    assert Pace.of("serial:///dev/ttyS0?baud=115200").silence_s == 0.001_75
    assert Pace.of("tcp://127.0.0.1:502") == Pace()


async def test_each_request_waits_for_the_silence_that_the_standard_asks_for(slave: Slave) -> None:
    loop = asyncio.get_running_loop()
    times: list[tuple[float, float]] = []

    def timed(request: bytes) -> bytes:
        came = loop.time()
        slave.say(filled(request, 3))
        times.append((came, loop.time()))
        return b""

    slave.script = timed
    bus = ModbusBus(BusSettings(f"serial://{slave.path}?baud=2400", "rtu"))
    await bus.connect(Lines())
    for _ in range(5):
        await registers(bus, question())
    await bus.close()
    pauses = [later[0] - earlier[1] for earlier, later in itertools.pairwise(times)]
    assert all(pause >= 38.5 / 2400 for pause in pauses)


# --- TCP ------------------------------------------------------------------------------------------


@asynccontextmanager
async def server(script: Script, framing: Framing) -> AsyncIterator[ModbusBus]:
    """A slave on a socket: takes MBAP or RTU requests, writes what the script says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readexactly(12 if framing == "tcp" else 8)
                if is_warm_up(request if framing == "rtu" else request[6:]):
                    zeros = [0] * (request[5] if framing == "rtu" else request[11])
                    reply = answer(request, *zeros) if framing == "rtu" else mbap_answer(request, *zeros)
                else:
                    reply = script(request)
                writer.write(reply)
        writer.close()
        done.set()

    done = asyncio.Event()
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    bus = ModbusBus(BusSettings(f"tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}", framing))
    await bus.connect(Lines())
    try:
        await warm_up(bus)
        yield bus
    finally:
        await bus.close()
        await done.wait()
        listener.close()
        await listener.wait_closed()


def mbap_answer(request: bytes, *registers: int, transaction: int | None = None, unit: int = UNIT) -> bytes:
    number = int.from_bytes(request[:2], "big") if transaction is None else transaction
    data = b"".join(register.to_bytes(2, "big") for register in registers)
    return tcp_frame(unit, bytes([request[7], len(data)]) + data, number)


async def test_on_tcp_a_late_answer_is_known_by_its_transaction() -> None:
    held: list[bytes] = []

    def late(request: bytes) -> bytes:
        held.append(mbap_answer(request, len(held), len(held)))
        return b"" if len(held) < 2 else held[-2] + held[-1]

    async with server(late, "tcp") as bus:
        with pytest.raises(DeviceTimeout):
            await registers(bus, question(), HASTY)
        assert await registers(bus, question()) == [1, 1]
        assert bus.counters(UNIT)[Trouble.STALE] == 1


async def test_on_tcp_another_unit_is_no_answer_unless_it_is_asked_for() -> None:
    async with server(lambda request: mbap_answer(request, 3, 4, unit=255), "tcp") as bus:
        with pytest.raises(DeviceTimeout):
            await registers(bus, question(), HASTY)
        lenient = Party(device="weather", timeout_s=10.0, ignore_unit_id=True)
        assert registers_of(await bus.ask(question(), lenient)) == [3, 4]


async def test_on_tcp_a_stream_that_stops_inside_a_frame_is_opened_again() -> None:
    async with server(lambda request: mbap_answer(request, 3, 4)[:-1], "tcp") as bus:
        with pytest.raises(LineError, match="inside a frame"):
            await registers(bus, question(), HASTY)
        with pytest.raises(LineError, match="not open"):
            await registers(bus, question())


async def test_a_converter_that_passes_raw_frames_speaks_rtu_over_tcp() -> None:
    async with server(lambda request: answer(request, 3, 4), "rtu") as bus:
        assert await registers(bus, question()) == [3, 4]


async def test_raw_frames_where_mbap_is_configured_are_a_line_error() -> None:
    async with server(lambda request: answer(request[6:], 3, 4), "tcp") as bus:
        with pytest.raises(LineError, match="MBAP"):
            await registers(bus, question())
