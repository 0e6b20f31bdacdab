"""What a whole field box costs: 100 mixed devices at 1 Hz, a gateway with DuckDB, an outage and its backlog.

The devices are simulated on real ptys and sockets in a process of their own; box and gateway are the real
programs, the broker is Mosquitto. The outage is simulated: the spool is filled with as many one-second
batches of the same streams as the outage has seconds, then the box runs without a broker until it is
steady. Draining, the devices stay at work. Targets: design, Numbers to reach.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trisense.core import mqtt, topics
from trisense.core.messages import unpack_receipts
from trisense.core.model import BatchClass, Field, FieldType, Sample, Value
from trisense.core.wire import unpack
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.config import load
from trisense.edge.spool import Cut, Spool
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.commands import simulator_class
from trisense.sims.processes import Child, Children, free_port, program, trisense, wait_for_port

NS: Final = 1_000_000_000
TICKS: Final = os.sysconf("SC_CLK_TCK")
CPU_TARGET_PERCENT, MEMORY_TARGET_MB, LIVE_BYTES_TARGET, DRAIN_BYTES_TARGET = 6.0, 80.0, 3.5, 1.0
LIVE_TARGET_S, DAY_TARGET_S = 2.0, 300.0
SETTLE_S: Final = 8.0
"""Out of the start, into the steady state."""
LIMIT_S: Final = 300.0
"""A bench that cannot begin or end must say so."""
UNITS: Final = 8
DEVICES: Final = {
    "modbus": 32,
    "plantower": 12,
    "sps30": 10,
    "winsen": 8,
    "nova": 18,
    "a02yyuw": 10,
    "rg15": 10,
}
OPTIONS: Final[dict[str, dict[str, Any]]] = {"winsen": {"model": "mhz19", "boot_s": 0.0}}
BAUD: Final = {"sps30": 115_200}
EXTRA: Final = {"winsen": 'model = "mhz19"\n'}

COUNTER: Final = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static void count(void)
{
    static volatile uint64_t *counter;
    if (!counter) {
        int fd = open(getenv("SYNC_COUNT"), O_RDWR | O_CLOEXEC);
        counter = mmap(0, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
    }
    __sync_fetch_and_add(counter, 1);
}
int fsync(int fd) { count(); return (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { count(); return (int)syscall(SYS_fdatasync, fd); }
"""


class SyncCounter:
    """Counts a process's fsync and fdatasync by a preloaded library; needs a C compiler, else no count."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "syncs"
        self._file.write_bytes(bytes(8))
        self._library = folder / "syncs.so"
        compiler = shutil.which("cc")
        self.works = compiler is not None
        if compiler is not None:
            source = folder / "syncs.c"
            source.write_text(COUNTER)
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", self._library, source], check=True)
        with self._file.open("rb") as file:
            self._counter = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def watching(self, command: list[str]) -> list[str]:
        """``command`` such that its syncs are counted."""
        if not self.works:
            return command
        return ["env", f"LD_PRELOAD={self._library}", f"SYNC_COUNT={self._file}", *command]

    def count(self) -> int:
        found: int = struct.unpack("=Q", self._counter[:8])[0]
        return found


def simulate(folder: Path) -> None:
    """Run the devices until killed; their places are written to ``folder``/places.json once all are there."""

    async def run() -> None:
        world = World(1, 48.137, 11.575)
        lines: list[tuple[str, str]] = []
        async with AsyncExitStack() as stack:
            for kind, number in DEVICES.items():
                cls = simulator_class(kind)
                common = {"world": world, "truth": Truth(None), "faults": Faults()}
                if kind == "modbus":
                    units = ",".join(f"{unit}=ecowitt-ws90" for unit in range(1, UNITS + 1))
                    for line in range(number // UNITS):
                        sim = cls(
                            **common, seed=line, name=f"line{line}", units=units, framing="tcp", latency_ms=1
                        )
                        lines.append(
                            (kind, f"tcp://127.0.0.1:{await stack.enter_async_context(listening(sim))}")
                        )
                    continue
                for index in range(number):
                    sim = cls(**common, seed=index, name=f"{kind}{index}", **OPTIONS.get(kind, {}))
                    link = await stack.enter_async_context(plugged(sim, folder / f"{kind}{index}"))
                    lines.append((kind, f"serial://{link}?baud={BAUD.get(kind, 9600)}"))
            ready = folder / "places.new"
            ready.write_text(json.dumps(lines))
            ready.rename(folder / "places.json")
            await asyncio.Event().wait()

    asyncio.run(run())


def tables(lines: list[tuple[str, str]]) -> Iterator[str]:
    """The ``[[device]]`` tables of the box."""
    for number, (kind, line) in enumerate(lines):
        if kind == "modbus":
            for unit in range(1, UNITS + 1):
                yield (
                    f'[[device]]\nname = "weather{number}-{unit}"\ndriver = "modbus:ecowitt-ws90"\n'
                    f'unit = {unit}\nframing = "tcp"\nline = "{line}"\n'
                )
        else:
            yield f'[[device]]\nname = "{kind}{number}"\ndriver = "{kind}"\nline = "{line}"\n'
            yield EXTRA.get(kind, "")


@dataclass
class Watcher:
    """Listens beside the gateway: what the box sends, and when the gateway says that it is stored."""

    port: int
    waiting: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """Times of the live samples by batch, until its receipt."""
    stored_batches: int = 0
    latencies_s: list[float] = field(default_factory=list)
    payload_bytes: dict[str, int] = field(default_factory=dict)
    live_readings: int = 0
    since_ns: int = 0
    """Samples older than it count for no latency: they waited for what is measured to begin."""

    async def run(self) -> None:
        async with mqtt.Client("127.0.0.1", self.port, max_queued_incoming_messages=None) as client:
            await client.subscribe([(f"{topics.ROOT}/+/up/+", 1), (f"{topics.ROOT}/+/receipt", 1)])
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                lane = str(message.topic).rsplit("/", 1)[1]
                if lane == "receipt":
                    self._receipt(message.payload)
                    continue
                self.payload_bytes[lane] = self.payload_bytes.get(lane, 0) + len(message.payload)
                if lane == "live":
                    self._live(message.payload)

    def _live(self, payload: bytes) -> None:
        bundle = unpack(payload)
        for block in bundle.blocks:
            row = 0
            for head, rows in block.counts:
                identity = (bundle.heads[head].epoch, bundle.heads[head].seq)
                times = [int(t) for t in block.times_ns[row : row + rows]]
                self.waiting.setdefault(identity, []).extend(times)
                row += rows
            self.live_readings += sum(len(c.values) - len(c.nulls) for c in block.columns)

    def _receipt(self, payload: bytes) -> None:
        now_ns = time.time_ns()
        for receipt in unpack_receipts(payload):
            for first, last in receipt.stored:
                self.stored_batches += last - first + 1
                for seq in range(first, last + 1):
                    times = self.waiting.pop((receipt.epoch, seq), ())
                    self.latencies_s += [(now_ns - t) / NS for t in times if t >= self.since_ns]

    def forget(self) -> None:
        """Begin a measurement."""
        self.since_ns = time.time_ns()
        self.latencies_s.clear()
        self.payload_bytes.clear()
        self.live_readings = 0


def cpu_s(child: Child) -> float:
    parts = Path(f"/proc/{child.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / TICKS


def memory_mb(child: Child) -> float:
    status = Path(f"/proc/{child.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmRSS"))) / 1024


def wandered(of: Field, value: Value, chance: random.Random) -> Value:
    """The next value of a field of a street: now and then one step up or down."""
    if isinstance(value, str) or value is None or chance.random() >= 0.3:
        return value
    step = chance.choice((-1, 1))
    return value + step if of.type is FieldType.INT else round(value + step / 10, 1)


def first(of: Field, chance: random.Random) -> Value:
    if of.type is FieldType.STR:
        return "ok"
    return 20 if of.type is FieldType.INT else round(chance.uniform(0, 50), 1)


def fill(config: Path, seconds: int) -> int:
    """A spool as an outage leaves it, second by second; gives the readings in it."""
    box = load(config)
    streams = [stream for device in box.devices for stream in device.driver.streams()]
    chance = random.Random(1)
    values = {stream.key: tuple(first(of, chance) for of in stream.fields) for stream in streams}
    began_ns = time.time_ns() // NS * NS - seconds * NS
    with Spool(box.spool.path, SystemClock()) as spool:
        for second in range(seconds):
            samples = []
            for index, stream in enumerate(streams):
                pairs = zip(stream.fields, values[stream.key], strict=True)
                values[stream.key] = tuple(wandered(of, value, chance) for of, value in pairs)
                time_ns = began_ns + second * NS + index * 7_000_000
                samples.append(Sample(stream, time_ns - time_ns % stream.tick_ns, values[stream.key]))
            spool.commit([Cut(BatchClass.DATA, tuple(samples))])
    return seconds * sum(len(stream.fields) for stream in streams)


class Bench:
    """One folder with devices, broker, gateway and box."""

    def __init__(self, folder: Path, children: Children) -> None:
        self._folder = folder
        self._children = children
        self._mqtt, self._http = free_port(), free_port()
        self.syncs = SyncCounter(folder)
        self.watcher = Watcher(self._mqtt)
        self._watching: asyncio.Task[None] | None = None
        self.config = folder / "box.toml"

    async def plug_in(self) -> None:
        self._children.start(
            "devices", [sys.executable, str(Path(__file__)), "--simulate", str(self._folder)]
        )
        places = self._folder / "places.json"
        await self.until(places.exists)
        head = '[clock]\nhold_s = 0\n[box]\nid = "bench-1"\nsite = "bench"\n'
        head += f'[mqtt]\nhost = "127.0.0.1"\nport = {self._mqtt}\n'
        self.config.write_text(head + "".join(tables(json.loads(places.read_text()))))

    def start_box(self) -> Child:
        return self._children.start("box", self.syncs.watching(trisense("edge", "run", str(self.config))))

    async def start_gateway(self) -> Child:
        """Broker, gateway and the watcher beside it; gives the gateway."""
        broker = self._folder / "mosquitto.conf"
        broker.write_text(
            f"listener {self._mqtt} 127.0.0.1\nallow_anonymous true\nmax_packet_size 327680\n"
            "max_queued_messages 100000\n"
        )
        child = self._children.start("broker", [program("mosquitto") or "mosquitto", "-c", str(broker)])
        wait_for_port(child, self._mqtt)
        self._watching = asyncio.create_task(self.watcher.run())
        gateway = self._folder / "gateway.toml"
        gateway.write_text(
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self._mqtt}\n[store]\nkind = "duckdb"\n'
            f'path = "store.duckdb"\n[http]\nport = {self._http}\n'
        )
        child = self._children.start("gateway", trisense("gateway", "run", str(gateway)))
        wait_for_port(child, self._http)
        return child

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something to happen; a process that died meanwhile ends the bench with its last words."""
        async with asyncio.timeout(LIMIT_S):
            while not true():
                for child in self._children.dead():
                    raise RuntimeError(f"{child.name}: {child.last_words()}")
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


async def live(bench: Bench, seconds: float) -> dict[str, float]:
    """The box at work, everything there."""
    await bench.start_gateway()
    box = bench.start_box()
    await bench.until(lambda: bench.watcher.latencies_s)
    await asyncio.sleep(SETTLE_S)
    bench.watcher.forget()
    began, cpu, syncs = time.monotonic(), cpu_s(box), bench.syncs.count()
    await asyncio.sleep(seconds)
    took, cpu, syncs = time.monotonic() - began, cpu_s(box) - cpu, bench.syncs.count() - syncs
    found = {
        "readings_per_s": bench.watcher.live_readings / took,
        "cpu_percent": 100 * cpu / took,
        "memory_mb": memory_mb(box),
        "fsyncs_per_minute": 60 * syncs / took if bench.syncs.works else float("nan"),
        "bytes_per_reading": bench.watcher.payload_bytes.get("live", 0) / max(bench.watcher.live_readings, 1),
        **quantiles(bench.watcher.latencies_s),
    }
    await bench.stop()
    return found


async def outage(bench: Bench, batches: int, seconds: float) -> dict[str, float]:
    """An hour without a broker, then the backlog into DuckDB while the devices go on."""
    readings = fill(bench.config, batches)
    box = bench.start_box()
    await asyncio.sleep(SETTLE_S + seconds)
    found = {"memory_after_outage_mb": memory_mb(box), "backlog_readings": float(readings)}
    gateway = await bench.start_gateway()
    await bench.until(lambda: bench.watcher.payload_bytes.get("backlog"))
    bench.watcher.forget()
    before, began = bench.watcher.stored_batches, time.monotonic()
    cpu, gateway_cpu = cpu_s(box), cpu_s(gateway)
    await bench.until(lambda: bench.watcher.stored_batches - before >= batches)
    took, cpu, gateway_cpu = time.monotonic() - began, cpu_s(box) - cpu, cpu_s(gateway) - gateway_cpu
    live_latencies = quantiles(bench.watcher.latencies_s)
    backlog_bytes = bench.watcher.payload_bytes.get("backlog", 0)
    await asyncio.sleep(seconds)
    await bench.stop()
    return {
        **found,
        "drain_s": took,
        "day_s": took * 86_400 / batches,
        "drain_cpu_percent": 100 * cpu / took,
        "drain_gateway_cpu_percent": 100 * gateway_cpu / took,
        "bytes_per_reading": backlog_bytes / readings,
        "memory_after_draining_mb": memory_mb(box),
        **live_latencies,
    }


def quantiles(latencies_s: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies_s, n=100)
    return {"live_p50_s": cuts[49], "live_p99_s": cuts[98], "live_samples": float(len(latencies_s))}


async def measured(seconds: float, batches: int) -> dict[str, dict[str, float]]:
    found = {}
    for name in ("live", "outage"):
        with tempfile.TemporaryDirectory() as folder, Children(Path(folder)) as children:
            bench = Bench(Path(folder), children)
            await bench.plug_in()
            found[name] = await (live(bench, seconds) if name == "live" else outage(bench, batches, seconds))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each live measurement")
    parser.add_argument("--outage-s", type=int, default=3600, help="length of the simulated outage")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--simulate", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate is not None:
        simulate(options.simulate)
        return 0
    if program("mosquitto") is None:
        print("box: mosquitto is not installed, nothing measured")
        return 0
    found = asyncio.run(measured(options.seconds, options.outage_s))
    if options.json:
        print(json.dumps(found))
        return 0
    f = found["live"]
    print(
        f"box, {sum(DEVICES.values())} mixed devices: {f['readings_per_s']:.0f} readings/s,"
        f" {f['cpu_percent']:.1f} % of a core (to reach {CPU_TARGET_PERCENT:.0f}), {f['memory_mb']:.0f} MB"
        f" (to reach {MEMORY_TARGET_MB:.0f}), {f['fsyncs_per_minute']:.0f} fsyncs a minute,"
        f" {f['bytes_per_reading']:.2f} bytes a reading (to reach {LIVE_BYTES_TARGET}), device to store"
        f" p50 {f['live_p50_s']:.2f} s, p99 {f['live_p99_s']:.2f} s (to reach {LIVE_TARGET_S:.0f})"
    )
    f = found["outage"]
    print(
        f"box, {options.outage_s} s of outage: {f['memory_after_outage_mb']:.0f} MB;"
        f" {f['backlog_readings'] / 1e6:.1f} M readings drained into DuckDB in {f['drain_s']:.0f} s,"
        f" so a day in {f['day_s']:.0f} s (to reach {DAY_TARGET_S:.0f}),"
        f" {f['bytes_per_reading']:.2f} bytes a reading (to reach {DRAIN_BYTES_TARGET:.0f}),"
        f" box at {f['drain_cpu_percent']:.0f} % of a core, gateway {f['drain_gateway_cpu_percent']:.0f} %,"
        f" live meanwhile p50 {f['live_p50_s']:.2f} s, p99 {f['live_p99_s']:.2f} s;"
        f" then {f['memory_after_draining_mb']:.0f} MB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
