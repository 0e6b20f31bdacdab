"""Serial ports by names that stay: equal adapters are told apart or refused, never swapped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import LineError
from trisense.drivers import ports
from trisense.drivers.lines import Lines, LineUrl
from trisense.drivers.modbus.bus import BusSettings, ModbusBus, Party
from trisense.drivers.modbus.pdu import ask
from trisense.drivers.ports import serial_paths
from trisense.drivers.sdk import DeviceConfig

from tests.usb import Usb, usb_at


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Usb]:
    with usb_at(tmp_path) as made:
        monkeypatch.setattr(ports, "THIS", made.machine)
        yield made


def test_a_port_is_told_with_driver_usb_id_and_every_name(usb: Usb) -> None:
    tenth, ninth = usb.plug("ttyUSB10", "1-1.2", serial="A10K"), usb.plug("ttyUSB9", "1-1.1", serial="B7")
    console = usb.root / "sys/class/tty/tty1"
    console.mkdir()
    found = usb.machine.ports()
    assert [port.node.name for port in found] == ["ttyUSB9", "ttyUSB10"]
    assert (found[1].driver, found[1].usb_id) == ("ftdi_sio", "0403:6001")
    assert (found[1].by_id, found[1].by_path) == ((tenth.by_id,), (tenth.by_path,))
    assert found[0].adapter is not None
    assert found[0].adapter.serial == "B7"
    assert usb.machine.find(ninth.by_path) == found[0]
    assert usb.machine.find(usb.root / "none") is None


def test_the_best_name_is_the_adapters_where_it_has_one_of_its_own_and_else_the_sockets(usb: Usb) -> None:
    own = usb.plug("ttyUSB0", "1-1", serial="A10K")
    nameless = usb.plug("ttyUSB1", "1-2")
    copied = [usb.plug(f"ttyUSB{n}", f"1-{n + 1}", serial="0001") for n in (2, 3)]
    best = [usb.machine.best_name(port) for port in usb.machine.ports()]
    assert best == [own.by_id, nameless.by_path, copied[0].by_path, copied[1].by_path]


def test_advice_is_given_on_names_that_do_not_stay_and_on_no_other(usb: Usb) -> None:
    own = usb.plug("ttyUSB0", "1-1", serial="A10K")
    nameless = usb.plug("ttyUSB1", "1-2")
    machine = usb.machine
    assert machine.advice(machine.dev / "ttyUSB0") == (
        "a number that changes with the order of plugging in",
        own.by_id,
    )
    assert machine.advice(nameless.by_id) == (
        "a name without a serial number, which any adapter of its kind answers to",
        nameless.by_path,
    )
    absent = machine.advice(machine.dev / "ttyACM7")
    assert absent is not None
    assert absent[1] is None
    for good in (own.by_id, own.by_path, nameless.by_path, machine.dev / "ttyAMA0", Path("/dev/pts/0")):
        assert machine.advice(good) is None


def test_the_serial_ports_of_a_configuration_are_found_under_any_option() -> None:
    class Config(DeviceConfig):
        line: LineUrl
        cli_line: LineUrl

    config = Config(name="r", driver="r", line="serial:///dev/a?baud=1200", cli_line="tcp://h:1")
    assert list(serial_paths(config)) == [("line", Path("/dev/a"))]


# --- opening ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serial", [None, "0001"])
async def test_two_equal_adapters_are_refused_by_id_and_open_by_path(usb: Usb, serial: str | None) -> None:
    one, two = usb.plug("ttyUSB0", "1-1", serial=serial), usb.plug("ttyUSB1", "1-2", serial=serial)
    assert one.by_id == two.by_id
    with pytest.raises(LineError, match="share this name") as refused:
        await Lines().open(f"serial://{one.by_id}")
    assert str(one.by_path) in str(refused.value)
    assert str(two.by_path) in str(refused.value)
    for adapter in (one, two):
        line = await Lines().open(f"serial://{adapter.by_path}")
        os.write(adapter.master, adapter.name.encode())
        assert await line.read() == adapter.name.encode()
        await line.close()


async def test_a_name_that_was_shared_stays_refused_when_one_of_the_adapters_is_pulled(usb: Usb) -> None:
    one, two = usb.plug("ttyUSB0", "1-1"), usb.plug("ttyUSB1", "1-2")
    for _ in range(2):
        with pytest.raises(LineError, match="share this name"):
            await Lines().open(f"serial://{two.by_id}")
        if one in usb.plugged:
            usb.pull(one)


async def test_a_line_ends_when_an_equal_adapter_comes_that_does_not_take_its_name(usb: Usb) -> None:
    one = usb.plug("ttyUSB0", "1-1")
    lines = Lines()
    line = await lines.open(f"serial://{one.by_id}")
    usb.plug("ttyUSB1", "1-2")
    usb._link(one.by_id, usb.root / "dev" / one.name)
    assert lines.drop_moved() == [f"serial://{one.by_id}"]
    await line.close()


async def test_two_adapters_of_one_kind_with_serial_numbers_open_by_id(usb: Usb) -> None:
    adapters = [usb.plug("ttyUSB0", "1-1", serial="A"), usb.plug("ttyUSB1", "1-2", serial="B")]
    for adapter in adapters:
        line = await Lines().open(f"serial://{adapter.by_id}")
        os.write(adapter.master, adapter.name.encode())
        assert await line.read() == adapter.name.encode()
        await line.close()


async def test_a_name_that_moves_while_it_is_opened_is_refused(
    usb: Usb, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = usb.plug("ttyUSB0", "1-1", serial="A"), usb.plug("ttyUSB1", "1-2", serial="B")
    opened = os.open

    def move_after(path: Any, *arguments: Any, **options: Any) -> int:
        file = opened(path, *arguments, **options)
        if str(path) == str(here.by_id):
            usb._link(here.by_id, usb.root / "dev" / there.name)
        return file

    monkeypatch.setattr(os, "open", move_after)
    with pytest.raises(LineError, match="moved to another adapter while it was opened"):
        await Lines().open(f"serial://{here.by_id}")


async def test_a_line_ends_when_its_name_goes_to_another_adapter_and_others_go_on(usb: Usb) -> None:
    one, other = usb.plug("ttyUSB0", "1-1"), usb.plug("ttyUSB2", "1-3", serial="C")
    lines = Lines()
    moving, staying = [await lines.open(f"serial://{adapter.by_id}") for adapter in (one, other)]
    assert lines.drop_moved() == []
    waiting = asyncio.create_task(moving.read())
    await asyncio.sleep(0)
    usb.plug("ttyUSB1", "1-2")
    assert lines.drop_moved() == [f"serial://{one.by_id}"]
    with pytest.raises(LineError, match="its name means another adapter now, or several"):
        await waiting
    with pytest.raises(LineError, match="its name means another adapter now, or several"):
        await moving.write(b"x")
    assert lines.drop_moved() == []
    os.write(other.master, b"still here")
    assert await staying.read() == b"still here"
    await moving.close()
    await staying.close()


async def test_a_line_whose_name_is_gone_is_left_to_the_kernel(usb: Usb) -> None:
    adapter = usb.plug("ttyUSB0", "1-1", serial="A")
    lines = Lines()
    line = await lines.open(f"serial://{adapter.by_id}")
    adapter.by_id.unlink()
    assert lines.drop_moved() == []
    usb.pull(adapter)
    with pytest.raises(LineError):
        await line.read()
    await line.close()


async def test_a_modbus_bus_ends_with_its_name_and_opens_again_by_it(usb: Usb) -> None:
    async def answer(adapter_master: int, value: int) -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        loop.add_reader(adapter_master, asked.set)
        await asked.wait()
        loop.remove_reader(adapter_master)
        os.read(adapter_master, 100)
        os.write(adapter_master, rtu(bytes([1, 3, 2, 0, value])))

    adapter = usb.plug("ttyUSB0", "1-1", serial="A")
    settings, lines = BusSettings(f"serial://{adapter.by_id}?baud=115200", "rtu"), Lines()
    bus = ModbusBus(settings)
    question, party = ask(1, 3, 0, 1), Party("meter", timeout_s=0.3)
    await bus.connect(lines)
    _, first = await asyncio.gather(answer(adapter.master, 7), bus.ask(question, party))
    assert first[-1] == 7

    usb._link(adapter.by_id, Path(usb.plug("ttyUSB1", "1-2", serial="B").slave_path))
    assert len(lines.drop_moved()) == 1
    with pytest.raises(LineError):
        await bus.ask(question, party)
    usb.pull(adapter)
    again = usb.plug("ttyUSB7", "1-1", serial="A")
    bus = ModbusBus(settings)  # its devices gave the old one back, as they do after a LineError
    await bus.connect(lines)
    _, second = await asyncio.gather(answer(again.master, 8), bus.ask(question, party))
    assert second[-1] == 8
    await bus.close()


def rtu(body: bytes) -> bytes:
    """Modbus over serial line 1.02, 6.2.2."""
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return body + crc.to_bytes(2, "little")
