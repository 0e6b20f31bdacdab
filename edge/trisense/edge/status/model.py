"""The picture of a box: what ``edge status`` shows, ``--json`` prints and the socket sends."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from trisense.core.remote import ConfigState

__all__ = [
    "Alarm",
    "Box",
    "Bus",
    "Clock",
    "Device",
    "Field",
    "Lane",
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

Part = Literal["device", "bus", "link", "clock", "spool", "machine", "configuration"]


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
    config_source: Literal["local", "remote"] = "local"
    """That file, or one that came from a gateway."""
    config_state: ConfigState = "running"
    config_why: str = ""
    """What became of the configuration that a gateway desired last, and why."""
    closed: str | None = None
    """Why commands and configurations from afar are refused; null where they are not."""
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
    step: str
    """What is done with it now: connect, wait, read, follow, back off or close."""
    step_s: float
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
    values: dict[str, int]
    """What came and was refused, by kind."""
    flags: dict[str, dict[str, int]]
    """Readings that did not pass a test, by ``MEASUREMENT.FIELD`` and test."""
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


class Lane(_Told):
    """One lane since the start."""

    bundles: int
    payload_bytes: int
    on_the_way: int
    """Batches that were sent and have no receipt yet."""


class Link(_Told):
    broker: str
    connected: bool
    for_s: float
    """How long it has been, or has not been, connected."""
    error: str | None
    """Why the last connection failed or ended; None once another one stands."""
    trouble: str | None
    """The likely cause, while bundles go out and no receipt comes."""
    trouble_s: float | None
    """How long no receipt has come; None while they come, or for one bundle that is stuck."""
    protocol: str
    """MQTT version."""
    gateways: int
    """Gateway workers that say they are online."""
    latency_s: float | None
    """Until the broker acknowledges a small message."""
    round_trip_s: float | None
    """From sending a bundle to its receipt."""
    rate_bytes_s: float | None
    lanes: dict[str, Lane]
    payload_bytes: int
    resent_bytes: int
    """Part of ``payload_bytes`` that had been sent before."""
    receipts: int
    refused: int
    """Batches that the gateway refused."""
    allowed: str
    """What may go now: everything, live, alarms or nothing."""
    limited_by: str | None
    """The option that holds the rest back."""
    used_bytes: int
    """What today cost so far, headers included."""
    left_bytes: int | None
    """What is left for today; None without a limit."""

    @property
    def bundles(self) -> int:
        return sum(lane.bundles for lane in self.lanes.values())


class Queue(_Told):
    """Batches of one kind that wait for their receipt."""

    batches: int
    samples: int
    size_bytes: int
    oldest_s: float
    """Since the commit of the oldest, by the wall clock."""


class Spool(_Told):
    path: str
    size_bytes: int
    cap_bytes: int
    error: str | None
    """Why it does not work now."""
    waiting: dict[str, Queue]
    """By kind, ``alarm``, ``data``, ``preview`` or ``media``; what has none waiting is left out."""
    kept_bytes: int
    """Receipted batches, kept until age or space takes them."""
    kept_s: float | None
    """How far back a gateway could be refilled from them."""
    losses: dict[str, int]
    """Losses declared since the spool was opened, by reason."""
    lost: dict[str, int]
    """Samples in them, where somebody can say how many."""
    lost_s: float | None
    """Since the last of them was seen."""
    committed: int
    """Samples since the start."""
    pending: int
    """Samples that wait for their commit."""
    dropped: int
    """Samples dropped before their commit, because the disk did not keep up."""
    commits_per_min: float
    commit_p50_s: float | None
    commit_p99_s: float | None
    """Over the last commits; each is synced to the disk."""


class Clock(_Told):
    now_ns: int
    mode: str
    """How the time is known: unknown, anchored, holdover, doubt or unsynchronised."""
    synced: bool
    error_ms: int | None
    confirmed_s: float | None
    """Since the offset was last confirmed; None where it never was."""
    held_back_s: float
    """How far the line of time is ahead of the wall clock, and being held back."""


class Alarm(_Told):
    """A rule that is broken now."""

    rule: str
    device: str
    field: str | None
    priority: str
    for_s: float
    """How long its condition has held."""


class Machine(_Told):
    disk_free_bytes: int | None
    disk_bytes: int | None
    """Of the file system that holds the spool; None where it is gone."""
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
    alarms: list[Alarm]
