"""What ``trisense edge check`` prints for people: lines that fit a narrow terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from trisense.core.alarms import bind
from trisense.core.model import Quality, Sample
from trisense.edge.commands import calibration_report
from trisense.edge.commands.checking import WATCHED, Reading
from trisense.edge.config import BoxConfig
from trisense.edge.status.screen import UNITS, count, number, plain
from trisense.edge.telling.alarm_tables import sources

__all__ = ["show"]

NAME_WIDTH = 22
"""Of a field, so that values stand below each other; a longer name pushes its own."""


def show(config: BoxConfig, readings: Sequence[Reading] | None) -> None:
    """What the file means and, with ``readings``, what each device said; what is wrong with them last."""
    console = Console(highlight=False)
    streams = count(sum(len(device.streams) for device in config.devices), "stream", "streams")
    devices = count(len(config.devices), "device", "devices")
    console.print(Text(f"{config.path}: good. Box {config.box.id}, {devices}, {streams}."))
    for head, lines in [*_devices(config), *_calibration(config), *_alarms(config)]:
        _print(console, head, lines)
    if readings is not None:
        console.print(Text("READ NOW", style="bold"))
        for reading in readings:
            for sample in reading.samples:
                _print(console, f"{reading.device}/{sample.stream.measurement}", list(_values(sample)))
        for text, style in _verdicts(readings):
            console.print(Text(text, style=style))


def _print(console: Console, head: str, lines: Sequence[str]) -> None:
    """Lines below a heading, set in where they wrap."""
    console.print(Text(head, style="bold"))
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def _devices(config: BoxConfig) -> Iterator[tuple[str, list[str]]]:
    for device in config.devices:
        said = [f"{s.measurement}: {', '.join(f.name for f in s.fields)}" for s in device.streams]
        yield f"{device.name}  {device.driver.config.driver}, {device.driver.kind}", said


def _calibration(config: BoxConfig) -> Iterator[tuple[str, list[str]]]:
    used = calibration_report.in_use(config, time.time_ns())
    if used:
        yield (
            "CALIBRATION",
            [
                f"{row['device']} {row['field']}: {row['version']}, {row['state']} until {row['valid_to']},"
                f" uncertainty (k=2) {row['uncertainty']:g}, by {row['by']}"
                for row in used
            ],
        )


def _alarms(config: BoxConfig) -> Iterator[tuple[str, list[str]]]:
    subjects, _ = bind(config.alarms, sources(config.devices))
    said = []
    for rule in config.alarms:
        watched = [
            "/".join(filter(None, s.key[1:3])) + (f".{s.field}" if s.field else "")
            for s in subjects
            if s.rule == rule
        ]
        more = f" and {len(watched) - WATCHED} more" if len(watched) > WATCHED else ""
        said.append(
            f"{rule.name}: {rule.kind}, {rule.priority.value}, watches {', '.join(watched[:WATCHED])}{more}"
        )
    if said:
        yield "ALARMS", said


def _values(sample: Sample) -> Iterator[str]:
    codes = dict(sample.quality)
    for index, (field, value) in enumerate(zip(sample.stream.fields, sample.values, strict=True)):
        unit = "" if value is None else UNITS.get(field.unit, field.unit)
        code = Quality(codes.get(index, Quality.GOOD))
        quality = f"({code.name.lower()})" if code in (Quality.SUSPECT, Quality.FAIL, Quality.MISSING) else ""
        yield " ".join(filter(None, (field.name.ljust(NAME_WIDTH), number(value), unit, quality)))


def _verdicts(readings: Sequence[Reading]) -> Iterator[tuple[str, str]]:
    """What is to be known of them in all, and how it is to look."""
    for reading in readings:
        if reading.error is not None:
            yield f"{reading.device}: cannot be read: {plain(reading.error)}", "bold red"
        elif not reading.samples:
            yield f"{reading.device}: connected, nothing to tell", ""
        elif all(value is None for sample in reading.samples for value in sample.values):
            yield f"{reading.device}: answers, but has no value: it warms up, or reports a fault", "yellow"
    failed = sum(reading.error is not None for reading in readings)
    if failed:
        yield f"{failed} of {count(len(readings), 'device', 'devices')} cannot be read.", "bold red"
    else:
        yield ("Every device can be read." if len(readings) > 1 else "The device can be read."), "green"
