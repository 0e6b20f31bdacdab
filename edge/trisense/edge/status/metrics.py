"""Metrics for Prometheus, in its text format.

Written out here: the library would bring half a megabyte of disk and 0.7 MB of memory for what is one
function, as all figures stand in the picture of the box already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from trisense.drivers.modbus.pdu import Trouble
from trisense.edge.sensing.supervisor import REASONS
from trisense.edge.spool.model import KINDS
from trisense.edge.status.model import Status

__all__ = ["Series", "exposition", "series_of"]

STATES: Final = ("good", "failing", "waiting")
LOST_FOR: Final = ("cap", "quota", "disk_full", "queue_full", "too_large", "corrupt", "trimmed")
"""Reasons of declared losses; any other is counted as such."""


@dataclass(frozen=True, slots=True)
class Series:
    """One metric and its values."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    values: Sequence[tuple[Mapping[str, str], float]]


def exposition(series: Iterable[Series]) -> str:
    """The text format 0.0.4."""
    lines = []
    for of in series:
        lines += [f"# HELP {of.name} {of.help}", f"# TYPE {of.name} {of.kind}"]
        for labels, value in of.values:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{of.name}{{{inside}}} {value!r}" if inside else f"{of.name} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def series_of(status: Status) -> Iterator[Series]:
    """Every metric of a box. Labels come from closed sets only: a device goes by its driver."""
    box, link, spool, clock, of = status.box, status.link, status.spool, status.clock, status.machine
    now_s = clock.now_ns / 1e9
    yield _one("trisense_build_info", "gauge", "Version that runs.", 1, {"version": box.version})
    yield _one("trisense_start_timestamp_seconds", "gauge", "When the process began.", now_s - box.up_s)
    yield from _devices(status)
    yield from _buses(status)
    yield _one("trisense_link_connected", "gauge", "1 while the broker has the box.", link.connected)
    yield from _lanes(status)
    yield _one(
        "trisense_link_resent_bytes_total", "counter", "Payload that went more than once.", link.resent_bytes
    )
    yield _one("trisense_link_gateways", "gauge", "Gateway workers online.", link.gateways)
    yield _one("trisense_link_used_today_bytes", "gauge", "What today cost, with headers.", link.used_bytes)
    if link.round_trip_s is not None:
        yield _one("trisense_link_round_trip_seconds", "gauge", "From bundle to receipt.", link.round_trip_s)
    yield _one("trisense_link_receipts_total", "counter", "Receipts of the gateway.", link.receipts)
    yield _one("trisense_link_refused_batches_total", "counter", "Batches it refused.", link.refused)
    yield _one("trisense_spool_bytes", "gauge", "Size of the spool, its WAL included.", spool.size_bytes)
    yield _one("trisense_spool_cap_bytes", "gauge", "Largest size of the spool.", spool.cap_bytes)
    yield from _queues(status, now_s)
    yield from _losses(status)
    yield _one("trisense_spool_kept_bytes", "gauge", "Receipted batches that are kept.", spool.kept_bytes)
    yield _one("trisense_samples_committed_total", "counter", "Samples on the disk.", spool.committed)
    yield _one(
        "trisense_samples_dropped_total", "counter", "Samples lost before their commit.", spool.dropped
    )
    yield _one("trisense_spool_failing", "gauge", "1 while the spool fails.", spool.error is not None)
    if spool.commit_p99_s is not None:
        yield _one("trisense_commit_p99_seconds", "gauge", "Of the last commits, synced.", spool.commit_p99_s)
    yield _one("trisense_clock_synchronised", "gauge", "1 while the clock is trusted.", clock.synced)
    if clock.error_ms is not None:
        yield _one(
            "trisense_clock_error_seconds", "gauge", "Estimated error of the clock.", clock.error_ms / 1000
        )
    if of.disk_free_bytes is not None and of.disk_bytes is not None:
        yield _one("trisense_disk_free_bytes", "gauge", "Free on the spool's disk.", of.disk_free_bytes)
        yield _one("trisense_disk_bytes", "gauge", "Size of the spool's disk.", of.disk_bytes)
    if of.temperature_c is not None:
        yield _one("trisense_temperature_celsius", "gauge", "Hottest thermal zone.", of.temperature_c)
    yield _one("trisense_alarms_active", "gauge", "Alarm rules that are broken now.", len(status.alarms))
    yield _one("trisense_problems", "gauge", "Things that are wrong.", len(status.problems))
    yield _one("process_cpu_seconds_total", "counter", "Processor time of the process.", of.cpu_s)
    yield _one("process_resident_memory_bytes", "gauge", "Resident memory.", of.rss_bytes)


def _devices(status: Status) -> Iterator[Series]:
    states: Counter[tuple[str, str]] = Counter((d.driver, d.state) for d in status.devices)
    drivers = sorted({device.driver for device in status.devices})
    yield Series(
        "trisense_devices",
        "gauge",
        "Devices by driver and state.",
        [({"driver": d, "state": s}, states[d, s]) for d in drivers for s in STATES],
    )
    figures: Mapping[str, tuple[str, Callable[[str], float]]] = {
        "reads": ("Reads that came back, of polled devices; rows, of streaming ones.", _sum(status, "reads")),
        "rows": ("Rows of devices.", _sum(status, "rows")),
        "missed": ("Reads left out because the one before took too long.", _sum(status, "missed")),
    }
    for name, (text, of) in figures.items():
        rows = [({"driver": d}, of(d)) for d in drivers]
        yield Series(f"trisense_device_{name}_total", "counter", text, rows)
    failures: Counter[tuple[str, str]] = Counter()
    for device in status.devices:
        for reason, count in device.reasons.items():
            failures[device.driver, reason] += count
    yield Series(
        "trisense_device_failures_total",
        "counter",
        "Failures of devices by driver and reason.",
        [({"driver": d, "reason": r}, failures[d, r]) for d in drivers for r in REASONS],
    )


def _sum(status: Status, what: str) -> Callable[[str], float]:
    return lambda driver: sum(getattr(d, what) for d in status.devices if d.driver == driver)


def _buses(status: Status) -> Iterator[Series]:
    """Modbus lines, all together: their names are no closed set."""
    troubles: Counter[str] = Counter()
    for bus in status.buses:
        troubles.update(bus.troubles)
    answers = sum(bus.answers for bus in status.buses)
    busiest = max((bus.measured or 0.0 for bus in status.buses), default=0.0)
    yield _one(
        "trisense_bus_busiest_ratio", "gauge", "Share of its time of the busiest Modbus line.", busiest
    )
    yield _one("trisense_bus_answers_total", "counter", "Good answers on Modbus lines.", answers)
    yield Series(
        "trisense_bus_troubles_total",
        "counter",
        "What went wrong on Modbus lines, by reason.",
        [({"reason": kind.value}, troubles[kind.value]) for kind in Trouble],
    )
    yield _one(
        "trisense_line_received_bytes_total",
        "counter",
        "Bytes that devices sent.",
        sum(line.received_bytes for line in status.lines),
    )
    yield _one(
        "trisense_line_sent_bytes_total",
        "counter",
        "Bytes sent to devices.",
        sum(line.sent_bytes for line in status.lines),
    )


def _queues(status: Status, now_s: float) -> Iterator[Series]:
    waiting = status.spool.waiting
    for name, text in (("batches", "Batches that wait for a receipt."), ("samples", "Samples in them.")):
        rows = [({"class": c}, getattr(waiting[c], name) if c in waiting else 0) for c in KINDS]
        yield Series(f"trisense_spool_waiting_{name}", "gauge", text, rows)
    oldest = [({"class": c}, now_s - queue.oldest_s) for c, queue in waiting.items()]
    yield Series(
        "trisense_spool_oldest_waiting_timestamp_seconds", "gauge", "Commit of the oldest of them.", oldest
    )


def _lanes(status: Status) -> Iterator[Series]:
    for name, text in (("bundles", "Bundles that the broker took."), ("payload_bytes", "Their payload.")):
        rows = [({"lane": n}, getattr(lane, name)) for n, lane in status.link.lanes.items()]
        yield Series(f"trisense_link_{name}_total", "counter", text, rows)


def _losses(status: Status) -> Iterator[Series]:
    spool = status.spool
    figures = {"losses": ("Losses declared.", spool.losses), "lost_samples": ("Samples in them.", spool.lost)}
    for name, (text, by_reason) in figures.items():
        other = sum(count for reason, count in by_reason.items() if reason not in LOST_FOR)
        rows = [({"reason": reason}, by_reason.get(reason, 0)) for reason in LOST_FOR]
        yield Series(f"trisense_{name}_total", "counter", text, [*rows, ({"reason": "other"}, other)])


def _one(
    name: str,
    kind: Literal["counter", "gauge"],
    text: str,
    value: float,
    labels: Mapping[str, str] | None = None,
) -> Series:
    return Series(name, kind, text, [(labels or {}, int(value) if isinstance(value, bool) else value)])
