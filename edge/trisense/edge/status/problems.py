"""What is wrong with a box, in the order in which somebody on a ladder wants to hear it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from trisense.edge.status.model import Box, Bus, Clock, Device, Link, Machine, Problem, Spool, Status

__all__ = ["problems"]

BUS_FULL: Final = 0.95
SPOOL_FULL: Final = 0.8
DISK_SHORT: Final = 0.05
"""Part of the disk: below it a box's own logs and updates begin to fail."""
HOT_C: Final = 80.0
"""Where the boards that boxes are made of begin to slow down."""


CLOCK: Final = {
    "unknown": "nobody has said what time it is: samples wait for it",
    "doubt": "it has stepped: samples wait until the new time has stood",
    "holdover": "not synchronised any more: samples are flagged, their error grows",
    "unsynchronised": "not synchronised: samples are flagged",
}
"""What to say of the modes of a clock that is not synchronised."""
WAITS_S: Final = 60.0
"""Age of what waits from which it is told that nobody takes it: a restart of the gateway is no news."""
LOST_S: Final = 3600.0
"""How long a loss is told."""


def problems(status: Status) -> Iterator[Problem]:
    """All that is wrong; nothing when all is well."""
    yield from _devices(status.devices)
    yield from _buses(status.buses)
    yield from _link(status.link, status.spool)
    yield from _clock(status.clock)
    yield from _spool(status.spool)
    yield from _machine(status.machine)
    yield from _configuration(status.box)


def _devices(devices: Sequence[Device]) -> Iterator[Problem]:
    for device in devices:
        if device.error is not None:
            text = device.error.removeprefix(f"{device.name}: ").removeprefix(f"{device.line}: ")
            yield Problem(part="device", name=device.name, text=text, for_s=device.failing_s)


def _buses(buses: Sequence[Bus]) -> Iterator[Problem]:
    for bus in buses:
        if bus.measured is not None and bus.measured > BUS_FULL:
            text = f"busy {bus.measured:.0%} of the time, its devices ask for {bus.planned:.0%}"
            yield Problem(part="bus", name=bus.line, text=text)


def _link(link: Link, spool: Spool) -> Iterator[Problem]:
    if link.connected:
        oldest_s = max((queue.oldest_s for queue in spool.waiting.values()), default=0.0)
        if link.trouble is not None:
            yield Problem(part="link", name=link.broker, text=link.trouble, for_s=link.trouble_s)
        elif not link.gateways and link.limited_by is None and oldest_s > WAITS_S:
            # A backlog alone is not even sent while nobody is there to take it.
            text = "no gateway worker is online, and samples wait for one"
            yield Problem(part="link", name=link.broker, text=text)
    elif link.limited_by is None:  # else it is as it was wanted
        text = (link.error or "not connected").removeprefix(f"{link.broker}: ")
        yield Problem(part="link", name=link.broker, text=text, for_s=link.for_s)


def _clock(clock: Clock) -> Iterator[Problem]:
    if not clock.synced:
        text = CLOCK.get(clock.mode, CLOCK["unsynchronised"])
        if clock.held_back_s:
            ahead = f"{clock.held_back_s:.0f} s"
            text = f"it was set back: samples go on {ahead} ahead of it, flagged, until it has caught up"
        yield Problem(part="clock", name="", text=text)


def _spool(spool: Spool) -> Iterator[Problem]:
    if spool.error is not None:
        yield Problem(part="spool", name="", text=spool.error.removeprefix(f"{spool.path}: "))
    if spool.lost_s is not None and spool.lost_s < LOST_S:
        lost = ", ".join(f"{samples} ({reason})" for reason, samples in sorted(spool.lost.items()))
        yield Problem(part="spool", name="", text=f"samples declared lost since the start: {lost}")
    waiting_bytes = sum(queue.size_bytes for queue in spool.waiting.values())
    if waiting_bytes > SPOOL_FULL * spool.cap_bytes:
        part = waiting_bytes / spool.cap_bytes
        yield Problem(
            part="spool", name="", text=f"{part:.0%} of its cap wait to be sent, then the oldest go"
        )


def _machine(machine: Machine) -> Iterator[Problem]:
    if machine.disk_free_bytes is None or machine.disk_bytes is None:
        yield Problem(part="machine", name="", text="the disk of the spool is gone")
    elif machine.disk_free_bytes < DISK_SHORT * machine.disk_bytes:
        free_mb = machine.disk_free_bytes // 1_000_000
        yield Problem(part="machine", name="", text=f"disk almost full: {free_mb} MB free")
    if machine.temperature_c is not None and machine.temperature_c > HOT_C:
        yield Problem(part="machine", name="", text=f"hot: {machine.temperature_c:.0f} °C")


def _configuration(box: Box) -> Iterator[Problem]:
    if box.config_state in ("rejected", "rolled_back"):
        text = f"what a gateway desired was {box.config_state.replace('_', ' ')}: {box.config_why}"
        yield Problem(part="configuration", name="", text=text)
    elif box.config_state == "running" and box.config_why:
        yield Problem(part="configuration", name="", text=box.config_why)
