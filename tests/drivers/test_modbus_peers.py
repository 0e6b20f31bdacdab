"""Our master against pymodbus's server, and pymodbus's client against our simulated stations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from trisense.core.errors import DeviceRefused
from trisense.drivers import Lines
from trisense.drivers.modbus import BusSettings, ModbusBus, Party, ask, profiles
from trisense.drivers.modbus.framing import Framing
from trisense.drivers.modbus.pdu import READ_BITS, bits_of, registers_of
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.modbus import ModbusLine

HOLDING = [7 * address % 65_536 for address in range(300)]
INPUT = [65_535 - address for address in range(300)]
COILS = [address % 3 == 0 for address in range(300)]
INPUTS = [address % 5 == 0 for address in range(300)]
TABLES: dict[int, list[Any]] = {1: COILS, 2: INPUTS, 3: HOLDING, 4: INPUT}
PARTY = Party(device="peer", timeout_s=10.0)
FRAMERS: dict[Framing, FramerType] = {
    "rtu": FramerType.RTU,
    "ascii": FramerType.ASCII,
    "tcp": FramerType.SOCKET,
}


@pytest.fixture(autouse=True)
def _opened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen to each line for a whole time-out before the first question."""
    monkeypatch.setattr("trisense.drivers.modbus.bus.LISTEN_MAX_S", 0.0)


def device() -> SimDevice:
    return SimDevice(
        17,
        (
            [SimData(0, values=COILS, datatype=DataType.BITS)],
            [SimData(0, values=INPUTS, datatype=DataType.BITS)],
            [SimData(0, values=HOLDING, datatype=DataType.REGISTERS)],
            [SimData(0, values=INPUT, datatype=DataType.REGISTERS)],
        ),
    )


async def stopped(server: Any) -> None:
    """``shutdown`` carries no types."""
    await server.shutdown()


async def compare(bus: ModbusBus) -> None:
    """Read blocks of every table and compare."""
    for function, table in TABLES.items():
        for address, count in ((0, 1), (3, 2), (10, 17), (100, 125)):
            answer = await bus.ask(ask(17, function, address, count), PARTY)
            got = bits_of(answer)[:count] if function in READ_BITS else registers_of(answer)
            assert got == table[address : address + count]
    with pytest.raises(DeviceRefused) as refused:
        await bus.ask(ask(17, 3, 290, 20), PARTY)
    assert refused.value.code == 2


@pytest.mark.parametrize("framing", ["rtu", "ascii", "tcp"])
async def test_our_master_reads_what_pymodbus_serves_on_a_socket(framing: Framing) -> None:
    server = ModbusTcpServer(device(), framer=FRAMERS[framing], address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    transport: Any = server.transport
    port = transport.sockets[0].getsockname()[1]
    bus = ModbusBus(BusSettings(f"tcp://127.0.0.1:{port}", framing))
    try:
        await bus.connect(Lines())
        await compare(bus)
    finally:
        await bus.close()
        await stopped(server)


@contextmanager
def crossed_ptys() -> Iterator[tuple[str, str]]:
    """Two ptys with their masters tied together: a null modem."""
    loop = asyncio.get_running_loop()
    pairs = [os.openpty(), os.openpty()]
    for (_, slave), (master, _), (other, _) in zip(pairs, pairs, reversed(pairs), strict=True):
        tty.setraw(slave)
        loop.add_reader(master, lambda here, there: os.write(there, os.read(here, 4096)), master, other)
    try:
        yield os.ttyname(pairs[0][1]), os.ttyname(pairs[1][1])
    finally:
        for master, slave in pairs:
            loop.remove_reader(master)
            os.close(master)
            os.close(slave)


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_our_master_reads_what_pymodbus_serves_on_a_pty(framing: Framing) -> None:
    pytest.importorskip("serial", reason="pymodbus's serial server needs pyserial")
    with crossed_ptys() as (ours, theirs):
        server = ModbusSerialServer(device(), framer=FRAMERS[framing], port=theirs, baudrate=115_200)
        await server.serve_forever(background=True)
        bus = ModbusBus(BusSettings(f"serial://{ours}?baud=115200", framing))
        try:
            await bus.connect(Lines())
            await compare(bus)
        finally:
            await bus.close()
            await stopped(server)


def stations() -> ModbusLine:
    return ModbusLine(
        world=World(seed=1),
        truth=Truth(),
        faults=Faults(),
        seed=1,
        name="bus",
        baud=115_200,
        latency_ms=0.0,
        jitter_ms=0.0,
    )


@asynccontextmanager
async def pymodbus_client(
    line: str, folder: Path
) -> AsyncIterator[AsyncModbusTcpClient | AsyncModbusSerialClient]:
    client: AsyncModbusTcpClient | AsyncModbusSerialClient
    async with contextlib.AsyncExitStack() as stack:
        if line == "pty":
            pytest.importorskip("serial", reason="pymodbus's serial client needs pyserial")
            link = await stack.enter_async_context(plugged(stations(), folder / "tty"))
            client = AsyncModbusSerialClient(str(link), baudrate=115_200, retries=0)
        else:
            port = await stack.enter_async_context(listening(stations()))
            client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
        await client.connect()
        stack.callback(client.close)
        yield client


@pytest.mark.parametrize("line", ["pty", "tcp"])
async def test_pymodbus_reads_what_our_stations_tell(line: str, tmp_path: Path) -> None:
    async with pymodbus_client(line, tmp_path) as client:
        weather = await client.read_holding_registers(0x165, count=10, device_id=144)
        (request,) = profiles()["ecowitt-ws90"].requests({})
        assert -40 < float(str(request.values(weather.registers)["air_temperature"])) < 50
        refused = await client.read_holding_registers(0, count=1, device_id=144)
        assert refused.exception_code == 2
        other = await client.read_input_registers(0, count=22, device_id=1)
        values = profiles()["sensecap-one"].requests({})[0].values(other.registers)
        # Two makes at one place feel the same weather, each in its own resolution.
        assert abs(float(str(values["barometric_pressure"])) - weather.registers[8] / 10) < 0.2
