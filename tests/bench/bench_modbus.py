"""Share of the theoretical Modbus RTU rate that the driver's bus reaches, beside pymodbus's own client.

    T_cycle = (8 + 5 + 2N) * bits / baud + 2 * T3.5        environment.md A2 with T_turn = T3.5

The slave is a simulated station in a process of its own that keeps the line's timing on a pty: a request
takes its time on the wire, the answer begins T3.5 after it, its last byte comes when it would. A request
that comes less than T3.5 after an answer is a fault of the master; so is a share above 1.00. pymodbus
does not keep that pause, so it may be faster than a real line allows.

Then ten stations are read once a second as the runtime does it, all alive and with one of them dead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import time
import tty
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import structlog
from trisense.drivers import Lines
from trisense.drivers.modbus import BusSettings, Config, Modbus, ModbusBus, Party, ask
from trisense.edge.sensing.supervisor import Supervisor
from trisense.sims.base import Faults, Truth, World
from trisense.sims.modbus import ModbusLine, crc

BITS = 10  # 8N1
FIFO_BYTES = 16
TARGET = 0.90
LOST = 0.05


def silence_s(baud: int) -> float:
    return 38.5 / baud if baud <= 19_200 else 0.001_75


def cycle_s(baud: int, count: int) -> float:
    return (8 + 5 + 2 * count) * BITS / baud + 2 * silence_s(baud)


def sleep_until(when: float) -> None:
    while (left := when - time.monotonic()) > 0:
        time.sleep(left)


def slave(master: int, baud: int, early: Synchronized[int], units: str) -> None:
    """Answer for ever; counts in ``early`` requests that came before the line was silent for T3.5."""
    with contextlib.suppress(
        OSError
    ):  # a sensor has a processor of its own; without the right to it, as it is
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    stations = ModbusLine(units=units, world=World(1), truth=Truth(), faults=Faults(), seed=1, name="bench")
    byte_s = BITS / baud
    free_at = 0.0
    while True:
        request = b""
        while len(request) < 8:
            request += os.read(master, 8 - len(request))
        came = time.monotonic()
        if came < free_at:
            early.value += 1
        answer = stations.answer(request[0], request[1:-2])
        if answer is None:
            continue
        frame = request[:1] + answer.pdu
        frame += crc(frame)
        begins = came + 8 * byte_s + silence_s(baud)
        for start in range(0, len(frame), FIFO_BYTES):
            end = min(start + FIFO_BYTES, len(frame))
            sleep_until(begins + end * byte_s)
            os.write(master, frame[start:end])
        free_at = begins + len(frame) * byte_s + silence_s(baud)


async def rate(ask_once: Callable[[], Awaitable[Any]], seconds: float) -> tuple[float, float]:
    """Reads a second, and CPU milliseconds of this process for each read."""
    await ask_once()
    count, began, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        await ask_once()
        count += 1
    took = time.monotonic() - began
    return count / took, (time.process_time() - cpu) / count * 1000


async def ours(path: str, baud: int, count: int, seconds: float) -> tuple[float, float]:
    bus = ModbusBus(BusSettings(f"serial://{path}?baud={baud}", "rtu"))
    await bus.connect(Lines())
    question, party = ask(1, 4, 0, count), Party(device="bench", timeout_s=1.0)
    try:
        return await rate(lambda: bus.ask(question, party), seconds)
    finally:
        await bus.close()


async def theirs(path: str, baud: int, count: int, seconds: float) -> tuple[float, float]:
    from pymodbus.client import AsyncModbusSerialClient  # noqa: PLC0415  # needs pyserial

    client = AsyncModbusSerialClient(path, baudrate=baud, retries=0)
    await client.connect()
    try:
        return await rate(lambda: client.read_input_registers(0, count=count, device_id=1), seconds)
    finally:
        client.close()


@contextlib.contextmanager
def line(baud: int, units: str) -> Iterator[tuple[str, Synchronized[int]]]:
    """Path of a pty with these stations on it, and the count of requests that came too early."""
    master, terminal = os.openpty()
    tty.setraw(terminal)
    early: Synchronized[int] = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=slave, args=(master, baud, early, units), daemon=True)
    process.start()
    try:
        yield os.ttyname(terminal), early
    finally:
        process.kill()
        process.join()
        os.close(master)
        os.close(terminal)


def measure(master_of: Callable[..., Any], baud: int, count: int, seconds: float) -> tuple[float, float, int]:
    """Reads a second, CPU milliseconds a read, requests that came too early."""
    with line(baud, "1=sensecap-one") as (path, early):
        reads, cpu_ms = asyncio.run(master_of(path, baud, count, seconds))
        return reads, cpu_ms, early.value


async def ten_units(path: str, baud: int, seconds: float) -> list[int]:
    """Rows of each of ten stations read once a second, as the runtime reads them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    lines = Lines()
    rows = [0] * 10
    tasks = []
    for index in range(10):
        table = {"name": f"u{index}", "driver": "modbus:ecowitt-ws90", "framing": "rtu", "unit": index + 1}
        driver = Modbus(Config.model_validate({**table, "line": f"serial://{path}?baud={baud}"}))

        def take(_: object, index: int = index) -> None:
            rows[index] += 1

        tasks.append(asyncio.create_task(Supervisor(driver, lines, take, phase=index / 10).run()))
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rows


def neighbours(seconds: float) -> dict[str, object]:
    """Share of their samples that nine stations lose when the tenth is dead, at 9,600 baud."""
    rows = {}
    for name, count in (("all alive", 10), ("one dead", 9)):
        with line(9_600, ",".join(f"{unit}=ecowitt-ws90" for unit in range(1, count + 1))) as (path, _):
            rows[name] = asyncio.run(ten_units(path, 9_600, seconds))[:9]
    lost = [max(0.0, 1 - rows["one dead"][index] / rows["all alive"][index]) for index in range(9)]
    return {"rows": rows, "worst_lost": round(max(lost), 4), "mean_lost": round(sum(lost) / 9, 4)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--bus-seconds", type=float, default=60.0, help="length of the run with ten units")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for baud in (9_600, 19_200, 115_200):
        for count in (2, 10, 20):
            reads, cpu_ms, early = measure(ours, baud, count, options.seconds)
            share = reads * cycle_s(baud, count)
            row = {"baud": baud, "registers": count, "reads_per_s": round(reads, 2), "share": round(share, 3)}
            row |= {"cpu_ms_per_read": round(cpu_ms, 3), "early": early}
            peer_reads, _, peer_early = measure(theirs, baud, count, options.seconds)
            row |= {
                "pymodbus_share": round(peer_reads * cycle_s(baud, count), 3),
                "pymodbus_early": peer_early,
            }
            rows.append(row)
            if not options.json:
                print(
                    f"modbus rtu {baud:>6} baud {count:>3} registers: {reads:6.2f} reads/s, share {share:.3f}"
                    f" (to reach {TARGET:.2f}), {cpu_ms:.2f} ms CPU a read, {early} too early;"
                    f" pymodbus share {row['pymodbus_share']}, {peer_early} too early"
                )
    lost = neighbours(options.bus_seconds)
    if options.json:
        print(json.dumps({"rates": rows, "one_of_ten_dead": lost}))
    else:
        print(
            f"modbus rtu   9600 baud, 10 units at 1 Hz, one dead: the others lose {lost['mean_lost']:.1%} of"
            f" their samples, the worst of them {lost['worst_lost']:.1%} (to reach {LOST:.0%})"
        )
    # A busy machine may miss the target; a master that is faster than its line is wrong on any.
    return 1 if any(float(row["share"]) > 1.0 or row["early"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
