"""What is wrong with a box, in the order in which somebody on a ladder wants to hear it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from trisense.edge.status.model import Bus, Clock, Device, Link, Machine, Problem, Spool, Status

__all__ = ["problems"]

BUS_FULL: Final = 0.95
SPOOL_FULL: Final = 0.8
DISK_SHORT: Final = 0.05
"""Part of the disk: below it a box's own logs and updates begin to fail."""
HOT_C: Final = 80.0
"""Where the boards that boxes are made of begin to slow down."""


def problems(status: Status) -> Iterator[Problem]:
    """All that is wrong; nothing when all is well."""
    yield from _devices(status.devices)
    yield from _buses(status.buses)
    yield from _link(status.link)
    yield from _clock(status.clock)
    yield from _spool(status.spool)
    yield from _machine(status.machine)


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


def _link(link: Link) -> Iterator[Problem]:
    if not link.connected:
        yield Problem(part="link", name=link.broker, text="not connected")


def _clock(clock: Clock) -> Iterator[Problem]:
    if not clock.synced:
        yield Problem(part="clock", name="", text="not synchronised: samples are flagged")


def _spool(spool: Spool) -> Iterator[Problem]:
    if spool.commit_error is not None:
        yield Problem(part="spool", name="", text=spool.commit_error)
    if spool.dropped:
        text = f"{spool.dropped} samples dropped before their commit: the disk does not keep up"
        yield Problem(part="spool", name="", text=text)
    waiting_bytes = sum(queue.size_bytes for queue in spool.waiting.values())
    if waiting_bytes > SPOOL_FULL * spool.cap_bytes:
        part = waiting_bytes / spool.cap_bytes
        yield Problem(
            part="spool", name="", text=f"{part:.0%} of its cap wait to be sent, then the oldest go"
        )


def _machine(machine: Machine) -> Iterator[Problem]:
    if machine.disk_free_bytes < DISK_SHORT * machine.disk_bytes:
        free_mb = machine.disk_free_bytes // 1_000_000
        yield Problem(part="machine", name="", text=f"disk almost full: {free_mb} MB free")
    if machine.temperature_c is not None and machine.temperature_c > HOT_C:
        yield Problem(part="machine", name="", text=f"hot: {machine.temperature_c:.0f} °C")
