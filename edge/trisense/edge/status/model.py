"""The picture of a box: what ``edge status`` shows, ``--json`` prints and the socket sends."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "Box",
    "Bus",
    "Clock",
    "Device",
    "Field",
    "Line",
    "Link",
    "Machine",
    "Part",
    "Problem",
    "Queue",
    "Spool",
    "Status",
    "Stream",
]

Part = Literal["device", "bus", "link", "clock", "spool", "machine"]


class _Told(BaseModel):
    # A program may be older or newer than the box it asks: it takes what it knows.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Problem(_Told):
    """One thing that is wrong, worst parts first."""

    part: Part
    name: str
    """Of the device or line; empty where there is only one."""
    text: str
    for_s: float | None = None
    """Since when, where it is known."""


class Box(_Told):
    """Who speaks."""

    id: str
    site: str
    version: str
    config: str
    """File of its configuration."""
    config_hash: str
    pid: int
    up_s: float
    """Since this process began."""
    boot_id: str


class Field(_Told):
    """The last value of one field."""

    name: str
    unit: str
    value: int | float | str | None
    quality: int = 1
    """QARTOD code."""


class Stream(_Told):
    measurement: str
    time_ns: int
    """Of its last sample, UTC since 1970."""
    age_s: float
    """Since it was read, by a clock that never steps."""
    samples: int
    """Since the start."""
    fields: list[Field]


class Device(_Told):
    name: str
    driver: str
    kind: str
    line: str | None
    state: Literal["good", "failing", "waiting"]
    """``waiting``: no row yet, and no failure."""
    connected: bool
    interval_s: float | None
    """Of a polled device."""
    age_s: float | None
    """Since its last row."""
    reads: int
    rows: int
    failures: int
    missed: int
    """Reads left out because the one before took too long."""
    damaged: int
    """Damaged frames that were skipped since it was connected."""
    reasons: dict[str, int]
    """Failures by kind."""
    error: str | None
    failing_s: float | None
    next_try_s: float | None
    streams: list[Stream]


class Bus(_Told):
    """One Modbus line."""

    line: str
    framing: str
    devices: list[str]
    planned: float
    """Part of its time that the devices ask for."""
    measured: float | None
    """Part of its time in which units were asked or waited for, over the last minute; None at first."""
    waiting: int
    """Questions that wait for their turn now."""
    answers: int
    troubles: dict[str, int]
    """What went wrong on it, by kind; ``no_reply`` counts time-outs."""


class Line(_Told):
    """What went over one line since the start, a Modbus bus included."""

    line: str
    devices: list[str]
    opened: int
    received_bytes: int
    sent_bytes: int


class Link(_Told):
    broker: str
    connected: bool
    bundles: int
    payload_bytes: int
    receipts: int
    refused: int
    """Batches that the gateway refused."""


class Queue(_Told):
    """Batches of one class that wait for their receipt."""

    batches: int
    samples: int
    size_bytes: int
    oldest_s: float
    """Since the commit of the oldest, by the wall clock."""


class Spool(_Told):
    path: str
    size_bytes: int
    cap_bytes: int
    waiting: dict[str, Queue]
    """By class."""
    committed: int
    """Samples since the start."""
    pending: int
    """Samples that wait for their commit."""
    dropped: int
    """Samples dropped before their commit, because the disk did not keep up."""
    commit_error: str | None
    commits_per_min: float
    commit_p50_s: float | None
    commit_p99_s: float | None
    """Over the last commits; each is synced to the disk."""


class Clock(_Told):
    now_ns: int
    synced: bool
    error_ms: int | None


class Machine(_Told):
    disk_free_bytes: int
    disk_bytes: int
    temperature_c: float | None
    """Of the hottest sensor that the kernel shows; None where it shows none."""
    cpu: float | None
    """Part of one core that this process took over the last minute; None at first."""
    cpu_s: float
    rss_bytes: int


class Status(_Told):
    """The whole box at one moment."""

    v: Literal[1] = 1
    box: Box
    problems: list[Problem]
    """Empty: all is well."""
    devices: list[Device]
    buses: list[Bus]
    lines: list[Line]
    link: Link
    spool: Spool
    clock: Clock
    machine: Machine
