"""What a box answered, as lines for people; checked, for it may be of any version, or anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel
from trisense.core.cli import plain, plain_lines
from trisense.core.model import Quality

__all__ = ["lines"]

NAMED: Final[Mapping[int, str]] = {
    Quality.SUSPECT: "suspect",
    Quality.FAIL: "failed its test",
    Quality.MISSING: "missing",
}


class _Problem(BaseModel):
    part: str
    name: str
    text: str
    for_s: float | None = None


class _Box(BaseModel):
    id: str
    site: str
    version: str
    config_hash: str
    up_s: float


class _Device(BaseModel):
    state: str


class _Link(BaseModel):
    used_bytes: int
    limited_by: str | None = None


class _Queue(BaseModel):
    samples: int
    oldest_s: float


class _Spool(BaseModel):
    waiting: dict[str, _Queue]


class _Alarm(BaseModel):
    rule: str
    device: str
    for_s: float | None = None


class _Status(BaseModel):
    """The part of a box's status that is told; whatever else it says is left to ``--json``."""

    box: _Box
    problems: list[_Problem]
    devices: list[_Device]
    link: _Link
    spool: _Spool
    alarms: list[_Alarm]


class _Sample(BaseModel):
    measurement: str
    time_ns: int
    values: dict[str, float | int | str | None]
    quality: dict[str, int]


class _Read(BaseModel):
    samples: list[_Sample]


def lines(verb: str, result: Mapping[str, Any] | None) -> list[str]:
    """What to print of the result of ``verb``; as JSON what is not known here."""
    try:
        if verb == "status":
            return [plain(line) for line in _status(_Status.model_validate(result))]
        if verb == "read":
            return [plain(line) for line in _read(_Read.model_validate(result))]
    except (ValueError, OverflowError, OSError):
        pass  # a box of another version, or a time that is none: its own words are better than nothing
    return plain_lines(json.dumps(result, indent=1, ensure_ascii=False)).split("\n") if result else ["done"]


def _status(status: _Status) -> Iterator[str]:
    box = status.box
    runs = f"trisense {box.version}, configuration {box.config_hash}"
    yield f"{box.id} at {box.site}, up {_time(box.up_s)}, {runs}"
    many = len(status.problems)
    yield {0: "All is well.", 1: "1 thing is wrong"}.get(many, f"{many} things are wrong")
    for problem in status.problems:
        since = "" if problem.for_s is None else f" for {_time(problem.for_s)}"
        yield f"  {' '.join(filter(None, (problem.part, problem.name)))}{since}: {problem.text}"
    if status.alarms:
        yield "alarms: " + ", ".join(map(_alarm, status.alarms))
    good = sum(device.state == "good" for device in status.devices)
    yield f"devices: {good} of {len(status.devices)} good"
    limited = f", limited by {status.link.limited_by}" if status.link.limited_by else ""
    yield f"link: {status.link.used_bytes / 1e6:.1f} MB today{limited}"
    for name, queue in status.spool.waiting.items():
        yield f"waiting: {name}, {queue.samples} samples, the oldest for {_time(queue.oldest_s)}"


def _alarm(alarm: _Alarm) -> str:
    since = "" if alarm.for_s is None else f" for {_time(alarm.for_s)}"
    return f"{alarm.rule} ({alarm.device}{since})"


def _read(read: _Read) -> Iterator[str]:
    for sample in read.samples:
        at = datetime.fromtimestamp(sample.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        yield f"{sample.measurement} at {at} UTC"
        for name, value in sample.values.items():
            shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
            code = NAMED.get(sample.quality.get(name, Quality.GOOD))
            yield f"  {name:<22} {shown}" + (f" ({code})" if code else "")


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
