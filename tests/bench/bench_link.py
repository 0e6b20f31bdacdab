"""What bad links do to a box: latency of alarms and live data while a backlog drains, and bytes sent twice.

A box's uplink with a real spool, a Mosquitto of its own and a gateway that receipts at once, with a proxy
between box and broker that is slow, far away, or resets connections. The box makes 100 readings a second
(20 devices with 5 fields) and an alarm every 1.3 s; an outage waits in its spool. Bars: bytes sent again at
most 0.3 of the rest; no bulk bundle longer than 250 ms where the link carries 1 KiB in that time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiomqtt
import structlog
from trisense.core import topics
from trisense.core.model import BatchClass, Field, FieldType, Layer, Sample, Stream
from trisense.core.topics import Lane
from trisense.core.wire import unpack
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.config import load
from trisense.edge.sending.model import LinkStatus
from trisense.edge.spool import Cut, Spool, SpoolOptions
from trisense.edge.spool.thread import SpoolThread

sys.path.append(str(Path(__file__).parents[2]))
from tests.edge.conftest import Broker  # a script: its tests' package is found one line above
from tests.edge.peers import BOX, Bench, Gateway
from tests.edge.proxy import BadLink

DEVICES, FIELDS = 20, 5
ALARM_S: Final = 1.3
RESENT_BAR: Final = 0.3
BULK_BAR_S: Final = 0.25


@dataclass(frozen=True)
class Link:
    name: str
    rate_bytes_s: float = float("inf")
    delay_s: float = 0.0
    jitter_s: float = 0.0
    reset_bytes: float = float("inf")


LINKS: Final = (
    Link("loopback"),
    Link("4G: 500 kB/s, 40 ms", 500e3, 0.02, 0.01),
    Link("3G: 50 kB/s, 150-450 ms", 50e3, 0.075, 0.15),
    Link("satellite: 30 kB/s, 600 ms", 30e3, 0.3, 0.02),
    Link("EDGE: 8 kB/s, 300 ms", 8e3, 0.15, 0.05),
    Link("GPRS: 2 kB/s, 600 ms", 2e3, 0.3, 0.1),
    Link("8 kB/s, reset about every 20 kB", 8e3, 0.1, 0.05, 20e3),
)


class Source:
    """Makes cuts of one second."""

    def __init__(self) -> None:
        self._rng = random.Random(1)
        fields = tuple(Field(f"value_{i}", "1", FieldType.FLOAT, 0.1) for i in range(FIELDS))
        self._streams = [Stream(f"dev-{i:02}", "bench", Layer.GROUND, fields) for i in range(DEVICES)]
        self._values = [[self._rng.uniform(0, 50) for _ in range(FIELDS)] for _ in range(DEVICES)]

    def second(self, time_ns: int) -> Cut:
        samples = []
        for stream, values in zip(self._streams, self._values, strict=True):
            values[:] = [value + self._rng.gauss(0, 0.2) for value in values]
            rounded = tuple(round(value, 1) for value in values)
            samples.append(Sample(stream, time_ns // 10**6 * 10**6, rounded))
        return Cut(BatchClass.DATA, tuple(samples))

    def alarm(self, time_ns: int) -> Cut:
        sample = Sample(self._streams[0], time_ns // 10**6 * 10**6, (1.0,) * FIELDS)
        return Cut(BatchClass.ALARM, (sample,))


@dataclass
class Watch(Gateway):
    """A gateway that notes when each batch came first, and the bytes of each lane."""

    came_s: dict[tuple[int, int], float] = field(default_factory=dict)
    bytes_of: dict[Lane, int] = field(default_factory=lambda: defaultdict(int))
    longest_bulk_bytes: int = 0

    async def take(self, message: aiomqtt.Message) -> None:
        _, rest = topics.parse(message.topic.value)
        if rest.startswith("up/") and isinstance(message.payload, bytes):
            lane = Lane(rest[3:])
            self.bytes_of[lane] += len(message.payload)
            if lane is Lane.BACKLOG:
                self.longest_bulk_bytes = max(self.longest_bulk_bytes, len(message.payload))
            for batch in unpack(message.payload).batches():
                self.came_s.setdefault((batch.epoch, batch.seq), time.monotonic())
        await super().take(message)


async def measure(link: Link, seconds: float, backlog_s: int, folder: Path) -> bool:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin") or "mosquitto"
    broker = Broker(program, folder)
    broker.start()
    try:
        async with AsyncExitStack() as stack:
            return await _measure(link, seconds, backlog_s, broker, folder, stack)
    finally:
        broker.stop()


async def _measure(  # noqa: PLR0917  # a bench's own inner part
    link: Link, seconds: float, backlog_s: int, broker: Broker, folder: Path, stack: AsyncExitStack
) -> bool:
    proxy = BadLink(
        broker.port, delay_s=link.delay_s, jitter_s=link.jitter_s, rate_bytes_s=link.rate_bytes_s,
        reset_bytes=link.reset_bytes,
    )  # fmt: skip
    await stack.enter_async_context(proxy.running())
    file = folder / "box.toml"
    file.write_text(
        f'[box]\nid = "{BOX}"\nsite = "bench"\n[mqtt]\nhost = "127.0.0.1"\nport = {proxy.port}\n'
        '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "serial:///dev/null?baud=9600"\n'
    )
    clock, source = SystemClock(), Source()
    door = SpoolThread(Spool(folder / "spool.db", clock, SpoolOptions()))
    await stack.enter_async_context(door)
    begin_ns = time.time_ns()
    for first in range(-backlog_s, 0, 100):
        cuts = [source.second(begin_ns + (first + i) * 10**9) for i in range(100)]
        await door.run(lambda spool, cuts=cuts: spool.commit(cuts))  # type: ignore[misc]
    gateway = Watch(broker.port)
    listening = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    bench = Bench(door, load(file), clock)
    began_s = time.monotonic()
    bench.start()
    while not bench.uplink.connected:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0.01)
    sent_s: dict[Lane, dict[tuple[int, int], float]] = {Lane.LIVE: {}, Lane.ALARM: {}}

    async def make(lane: Lane, every_s: float) -> None:
        cut = source.second if lane is Lane.LIVE else source.alarm
        while True:
            await asyncio.sleep(every_s)
            now_s = time.monotonic()
            (head,) = await bench.commit(cut(time.time_ns()))
            sent_s[lane][head.epoch, head.seq] = now_s

    makers = [asyncio.create_task(make(Lane.LIVE, 1.0)), asyncio.create_task(make(Lane.ALARM, ALARM_S))]
    await asyncio.sleep(seconds)
    for task in makers:
        task.cancel()
    await asyncio.sleep(2 * link.delay_s + 2)
    status, took_s = bench.uplink.status(), time.monotonic() - began_s
    await bench.stop()
    listening.cancel()
    await asyncio.gather(listening, *makers, return_exceptions=True)
    return report(link, gateway, sent_s, status, took_s, proxy)


def report(  # noqa: PLR0917  # a bench's own inner part
    link: Link,
    gateway: Watch,
    sent_s: dict[Lane, dict[tuple[int, int], float]],
    status: LinkStatus,
    took_s: float,
    proxy: BadLink,
) -> bool:
    def late(lane: Lane) -> str:
        waits = [gateway.came_s[key] - at for key, at in sent_s[lane].items() if key in gateway.came_s]
        missing = len(sent_s[lane]) - len(waits)
        if not waits:
            return "none came"
        text = f"{statistics.median(waits):5.2f}/{max(waits):5.2f} s"
        return text + (f" ({missing} of {len(sent_s[lane])} on the way)" if missing else "")

    known = set(sent_s[Lane.LIVE]) | set(sent_s[Lane.ALARM])
    drained = sum(key not in known for key in gateway.came_s)
    share = status.resent_bytes / max(1, status.payload_bytes - status.resent_bytes)
    bulk_s = gateway.longest_bulk_bytes / link.rate_bytes_s
    per_reading = gateway.bytes_of[Lane.BACKLOG] / max(1, drained * DEVICES * FIELDS)
    print(f"{link.name}")
    print(f"  alarm p50/max {late(Lane.ALARM)}   live p50/max {late(Lane.LIVE)}")
    print(
        f"  backlog: {drained} s drained, {drained / took_s:.1f} x real time,"
        f" {per_reading:.2f} bytes a reading;"
        f" longest bundle {gateway.longest_bulk_bytes} bytes = {bulk_s:.2f} s (bar {BULK_BAR_S})"
    )
    print(
        f"  rate seen {status.rate_bytes_s or 0:,.0f} bytes/s; resets {proxy.resets};"
        f" sent again {share:.2f} of the rest (bar {RESENT_BAR})"
    )
    return share <= RESENT_BAR


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each link is watched")
    parser.add_argument("--backlog", type=int, default=30_000, help="seconds of readings that wait")
    parser.add_argument("--only", default="", help="links whose name contains this")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    good = True
    for link in LINKS:
        if arguments.only in link.name:
            with tempfile.TemporaryDirectory() as folder:
                good &= asyncio.run(measure(link, arguments.seconds, arguments.backlog, Path(folder)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
