"""Share of the theoretical Modbus RTU rate that the driver's bus reaches, beside pymodbus's own client.

    T_cycle = (8 + 5 + 2N) * bits / baud + 2 * T3.5        environment.md A2 with T_turn = T3.5

The slave is a simulated station in a process of its own that keeps the line's timing on a pty: a request
takes its time on the wire, the answer begins T3.5 after it, its last byte comes when it would. A request
that comes less than T3.5 after an answer is a fault of the master; so is a share above 1.00. pymodbus
does not keep that pause, so it may be faster than a real line allows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
import tty
from collections.abc import Awaitable, Callable
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from trisense.drivers import Lines
from trisense.drivers.modbus import BusSettings, ModbusBus, Party, ask
from trisense.sims.base import Faults, Truth, World
from trisense.sims.modbus import SenseCap, crc

BITS = 10  # 8N1
FIFO_BYTES = 16
TARGET = 0.90


def silence_s(baud: int) -> float:
    return 38.5 / baud if baud <= 19_200 else 0.001_75


def cycle_s(baud: int, count: int) -> float:
    return (8 + 5 + 2 * count) * BITS / baud + 2 * silence_s(baud)


def sleep_until(when: float) -> None:
    while (left := when - time.monotonic()) > 0:
        time.sleep(left)


def slave(master: int, baud: int, early: Synchronized[int]) -> None:
    """Answer for ever; counts in ``early`` requests that came before the line was silent for T3.5."""
    station = SenseCap(world=World(1), truth=Truth(), faults=Faults(), seed=1, name="bench")
    byte_s = BITS / baud
    free_at = 0.0
    while True:
        request = b""
        while len(request) < 8:
            request += os.read(master, 8 - len(request))
        came = time.monotonic()
        if came < free_at:
            early.value += 1
        answer = station.answer(request[0], request[1:-2])
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


def measure(master_of: Callable[..., Any], baud: int, count: int, seconds: float) -> tuple[float, float, int]:
    """Reads a second, CPU milliseconds a read, requests that came too early."""
    master, terminal = os.openpty()
    tty.setraw(terminal)
    early: Synchronized[int] = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=slave, args=(master, baud, early), daemon=True)
    process.start()
    try:
        reads, cpu_ms = asyncio.run(master_of(os.ttyname(terminal), baud, count, seconds))
        return reads, cpu_ms, early.value
    finally:
        process.kill()
        process.join()
        os.close(master)
        os.close(terminal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
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
    if options.json:
        print(json.dumps(rows))
    # A busy machine may miss the target; a master that is faster than its line is wrong on any.
    return 1 if any(float(row["share"]) > 1.0 or row["early"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
