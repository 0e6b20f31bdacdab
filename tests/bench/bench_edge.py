"""What a field box costs: 64 Modbus TCP devices at 1 Hz through a real broker, and a backlog drained.

Eight simulated endpoints with eight stations each, ten readings a station; the box is `trisense edge run`
in a process of its own, the gateway a receiver that receipts everything and decodes after the measurement.
The comparison figures are those of collectd and the ThingsBoard gateway on the same task, measured on
another machine (design: Numbers to reach).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trisense.core import mqtt, topics
from trisense.core.messages import EpochReceipt, pack_receipts
from trisense.core.model import BatchClass, Sample, Value
from trisense.core.wire import unpack
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.config import load
from trisense.edge.spool import Cut, Spool
from trisense.sims.processes import free_port

ENDPOINTS = UNITS = 8
NS = 1_000_000_000
TICKS = os.sysconf("SC_CLK_TCK")
CPU_TARGET, MEMORY_TARGET_MB, BYTES_TARGET, DRAIN_TARGET_S = 0.06, 64, 2.0, 300.0
START_S, DRAIN_LIMIT_S = 60.0, 120.0
"""A bench that cannot begin or end must say so."""
DAY_READINGS = 86_400 * 600


@contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nobody listens on {port}")


def broker_command(folder: Path, port: int) -> list[str]:
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 327680\n")
    return [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(config)]


def simulator_command(port: int, units: int) -> list[str]:
    models = ",".join(f"{unit}=ecowitt-ws90" for unit in range(1, units + 1))
    program = [sys.executable, "-m", "trisense.core", "sim", "run", "modbus", "--tcp", f"127.0.0.1:{port}"]
    return [*program, "-o", f"units={models}", "-o", "framing=tcp", "-o", "latency_ms=1"]


def box_config(folder: Path, mqtt_port: int, endpoints: list[int]) -> Path:
    text = '[clock]\nhold_s = 0\n[box]\nid = "bench-1"\nsite = "bench"\n'
    text += f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt_port}\n'
    for index, port in enumerate(endpoints):
        for unit in range(1, UNITS + 1):
            text += f'[[device]]\nname = "w{index}-{unit}"\ndriver = "modbus:ecowitt-ws90"\nunit = {unit}\n'
            text += f'framing = "tcp"\nline = "tcp://127.0.0.1:{port}"\n'
    file = folder / "box.toml"
    file.write_text(text)
    return file


class Receiver:
    """Receipts what comes, keeps the payloads, decodes them when asked."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.payloads: list[bytes] = []
        self.batches = 0

    async def run(self) -> None:
        async with mqtt.Client("127.0.0.1", self._port) as client:
            await client.subscribe(f"{topics.ROOT}/+/up/+", 1)
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                self.payloads.append(message.payload)
                bundle = unpack(message.payload)
                self.batches += len(bundle.heads)
                receipts = [EpochReceipt(h.epoch, ((h.seq, h.seq),)) for h in bundle.heads]
                for first in range(0, len(receipts), 500):
                    part = pack_receipts(receipts[first : first + 500])
                    await client.publish(topics.receipt(bundle.box), part, 1)

    def times_ns(self) -> dict[str, list[int]]:
        """Times of the samples by device."""
        found: dict[str, list[int]] = {}
        for payload in self.payloads:
            for block in unpack(payload).blocks:
                found.setdefault(block.stream.device, []).extend(map(int, block.times_ns))
        return found

    def readings(self) -> int:
        return sum(
            len(column.values) - len(column.nulls)
            for payload in self.payloads
            for block in unpack(payload).blocks
            for column in block.columns
        )


def cpu_s(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / TICKS


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmRSS"))) / 1024


async def live(seconds: float, dead: int) -> dict[str, float]:
    """The box at work; ``dead`` units of the first endpoint never answer."""
    with tempfile.TemporaryDirectory() as name:
        folder, mqtt_port = Path(name), free_port()
        ports = [free_port() for _ in range(ENDPOINTS)]
        answering = [UNITS - dead if index == 0 else UNITS for index in range(ENDPOINTS)]
        simulators = [simulator_command(port, units) for port, units in zip(ports, answering, strict=True)]
        with running(broker_command(folder, mqtt_port), *simulators):
            for port in (mqtt_port, *ports):
                wait_for(port)
            receiver = Receiver(mqtt_port)
            task = asyncio.create_task(receiver.run())
            config = box_config(folder, mqtt_port, ports)
            command = [sys.executable, "-m", "trisense.core", "edge", "run", str(config)]
            with running(command) as (box,):
                async with asyncio.timeout(START_S):
                    while len(receiver.times_ns()) < sum(answering):  # noqa: ASYNC110  # a bench may poll
                        await asyncio.sleep(0.2)
                await asyncio.sleep(3)  # out of the start, into the steady state
                receiver.payloads.clear()
                began, cpu = time.monotonic(), cpu_s(box.pid)
                await asyncio.sleep(seconds)
                took, cpu = time.monotonic() - began, cpu_s(box.pid) - cpu
                memory = memory_mb(box.pid)
                payloads = sum(map(len, receiver.payloads))
                times, readings = receiver.times_ns(), receiver.readings()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    # By the samples' own times, for bundles come once a second and the window cuts one at each end.
    per_s = sum((len(t) - 1) * NS / (max(t) - min(t)) for t in times.values()) * readings
    per_s /= sum(map(len, times.values()))
    neighbours = [t for device, t in times.items() if device.startswith("w0-")]
    missing = [1 - (len(t) - 1) / round((max(t) - min(t)) / NS) for t in neighbours]
    return {
        "readings_per_s": per_s,
        "cpu_s_per_1000_readings": cpu / took / per_s * 1000,
        "cpu_percent": 100 * cpu / took,
        "memory_mb": memory,
        "bytes_per_reading": payloads / readings,
        "neighbours_missing_percent": 100 * max(missing),
    }


def fill(config: Path, batches: int) -> int:
    """A spool as an outage leaves it: second by second, values that wander; gives the readings in it."""
    box = load(config)
    streams = [stream for device in box.devices for stream in device.driver.streams()]
    chance = random.Random(1)
    state: dict[tuple[str, str], list[Value]] = {
        s.key: [round(chance.uniform(0, 50), 1) for _ in s.fields] for s in streams
    }
    began_ns = time.time_ns() // NS * NS - 86_400 * NS
    with Spool(box.spool.path, SystemClock()) as spool:
        for second in range(batches):
            samples = []
            for index, stream in enumerate(streams):
                values = state[stream.key]
                for field in range(len(values)):
                    if chance.random() < 0.3:
                        values[field] = round(float(values[field] or 0) + chance.choice((-0.1, 0.1)), 1)
                samples.append(Sample(stream, began_ns + second * NS + index * 7_000_000, tuple(values)))
            spool.commit([Cut(BatchClass.DATA, tuple(samples))])
    return batches * sum(len(stream.fields) for stream in streams)


async def drain(batches: int) -> dict[str, float]:
    """A backlog sent by a box whose devices are all gone, into a receiver that only decodes and receipts."""
    with tempfile.TemporaryDirectory() as name:
        folder, mqtt_port = Path(name), free_port()
        config = box_config(folder, mqtt_port, [free_port() for _ in range(ENDPOINTS)])
        readings = fill(config, batches)
        with running(broker_command(folder, mqtt_port)):
            wait_for(mqtt_port)
            receiver = Receiver(mqtt_port)
            task = asyncio.create_task(receiver.run())
            with running([sys.executable, "-m", "trisense.core", "edge", "run", str(config)]) as (box,):
                async with asyncio.timeout(START_S):
                    while not receiver.payloads:  # noqa: ASYNC110  # a bench may poll
                        await asyncio.sleep(0.02)
                began, cpu = time.monotonic(), cpu_s(box.pid)
                async with asyncio.timeout(DRAIN_LIMIT_S):
                    while receiver.batches < batches:  # noqa: ASYNC110  # a bench may poll
                        await asyncio.sleep(0.02)
                took, cpu = time.monotonic() - began, cpu_s(box.pid) - cpu
                memory = memory_mb(box.pid)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return {
        "readings_per_s": readings / took,
        "cpu_s_per_million_readings": cpu / readings * 1e6,
        "memory_mb": memory,
        "bytes_per_reading": sum(map(len, receiver.payloads)) / readings,
        "day_of_600_per_s_in_s": DAY_READINGS / (readings / took),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each live measurement")
    parser.add_argument("--batches", type=int, default=1500, help="one-second batches of the backlog")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        "live": asyncio.run(live(options.seconds, dead=0)),
        "two dead": asyncio.run(live(options.seconds, dead=2)),
        "drain": asyncio.run(drain(options.batches)),
    }
    if options.json:
        print(json.dumps(found))
        return 0
    for name in ("live", "two dead"):
        f = found[name]
        print(
            f"edge, 64 Modbus TCP devices, {name}: {f['readings_per_s']:.0f} readings/s,"
            f" {f['cpu_s_per_1000_readings']:.3f} CPU s per 1,000 readings (to reach {CPU_TARGET};"
            f" collectd 0.078, ThingsBoard 0.24), {f['cpu_percent']:.1f} % of a core, {f['memory_mb']:.0f} MB"
            f" (to reach {MEMORY_TARGET_MB}), {f['bytes_per_reading']:.2f} bytes a reading"
            f" (to reach {BYTES_TARGET:.0f}), neighbours miss {f['neighbours_missing_percent']:.1f} %"
        )
    f = found["drain"]
    print(
        f"edge, backlog drained: {f['readings_per_s'] / 1e3:.0f} k readings/s,"
        f" {f['cpu_s_per_million_readings']:.2f} CPU s per million, {f['memory_mb']:.0f} MB,"
        f" {f['bytes_per_reading']:.2f} bytes a reading, a day of 600 readings/s in"
        f" {f['day_of_600_per_s_in_s']:.0f} s (to reach {DRAIN_TARGET_S:.0f})"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
