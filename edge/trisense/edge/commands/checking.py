"""``trisense edge check``: what a configuration means, and what its devices say now."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from trisense.core.alarms import bind
from trisense.core.errors import DeviceError, Mistake
from trisense.core.model import Quality, Sample
from trisense.drivers import Lines, Observed, PolledDriver, StreamingDriver
from trisense.edge.clocks.clock import Stamp, SystemClock
from trisense.edge.commands import calibration_report
from trisense.edge.commands.port_report import unstable_names
from trisense.edge.config import BoxConfig, Device
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.stamping import Stamper
from trisense.edge.sensing.supervisor import CLOSE_S, Deadline
from trisense.edge.telling.alarm_tables import sources

__all__ = ["Reading", "as_json", "read_devices", "row_of", "show", "warnings"]

FIRST_ROW_S: Final = 10.0
WATCHED: Final = 5
"""Most subjects of a rule that are named."""
PATIENCE: Final = 1.5
"""How long a streaming device is listened to: so many seconds, or so many of its own time-outs, for its
driver knows best when silence is a fault and when there is just nothing to tell."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one device said."""

    device: str
    samples: tuple[Sample, ...] = ()
    """Empty without an error: it is there, and had nothing to tell."""
    error: str | None = None


def absent_files(config: BoxConfig) -> list[Mistake]:
    """Secrets and certificates that are not there: the box senses without them, but is not heard."""
    named = {
        name: path
        for name in ("password_file", "ca_file", "cert_file", "key_file")
        if (path := getattr(config.mqtt, name)) is not None
    }
    return [
        Mistake(f"mqtt.{name}", "a file that can be read", f"nothing at {path}")
        for name, path in named.items()
        if not os.access(path, os.R_OK)
    ]


def warnings(config: BoxConfig) -> list[Mistake]:
    """What keeps a checked configuration from doing what its writer hoped for."""
    return [
        *absent_files(config),
        *unstable_names(config),
        *calibration_report.warnings(config, time.time_ns()),
    ]


async def read_devices(config: BoxConfig) -> list[Reading]:
    """Connect every device, read it once, let go of it; all at the same time."""
    lines = Lines()
    return list(await asyncio.gather(*(_read(device, lines) for device in config.devices)))


async def _read(device: Device, lines: Lines) -> Reading:
    driver = device.driver
    stamper = Stamper(device.treatment, lambda _: Ordinals())
    try:
        async with Deadline(driver, "connect"):
            await driver.connect(lines)
        rows = await _first_rows(driver)
    except DeviceError as error:
        return Reading(device.name, error=str(error))
    except Exception as error:  # noqa: BLE001  # a driver's bug must not hide what the other devices say
        return Reading(device.name, error=repr(error))
    finally:
        with contextlib.suppress(TimeoutError, DeviceError):
            async with asyncio.timeout(CLOSE_S):
                await driver.close()
    clock = SystemClock()
    at = Stamp(clock.now_ns(), clock.state())
    return Reading(device.name, tuple(sample for _, sample in stamper.stamp(rows, at)))


async def _first_rows(driver: Any) -> Sequence[Observed]:
    if isinstance(driver, PolledDriver):
        async with Deadline(driver, "read"):
            return await driver.peek()
    if not isinstance(driver, StreamingDriver):
        raise TypeError(f"{type(driver).__name__} is neither a polled nor a streaming driver")
    rows = driver.observe()
    try:
        async with asyncio.timeout(max(FIRST_ROW_S, PATIENCE * driver.config.timeout_s)):
            async for row in rows:
                return (row,)
    except TimeoutError:
        return ()
    finally:
        close = getattr(rows, "aclose", None)
        if close is not None:
            await close()
    return ()


def as_json(config: BoxConfig, readings: Sequence[Reading] | None) -> str:
    """The box, its devices and streams, and what was read, as one JSON object."""
    said = {reading.device: reading for reading in readings or ()}
    devices = []
    for device in config.devices:
        entry: dict[str, Any] = {
            "name": device.name,
            "driver": device.driver.config.driver,
            "kind": device.driver.kind,
            "family": device.driver.family,
            "streams": [
                {"measurement": s.measurement, "fields": [{"name": f.name, "unit": f.unit} for f in s.fields]}
                for s in device.streams
            ],
        }
        if device.name in said:
            reading = said[device.name]
            entry["error"] = reading.error
            entry["samples"] = [row_of(sample) for sample in reading.samples]
        devices.append(entry)
    return json.dumps(
        {
            "box": config.box.id,
            "site": config.box.site,
            "config_hash": config.hash,
            "warnings": [str(mistake) for mistake in warnings(config)],
            "calibration": calibration_report.in_use(config, time.time_ns()),
            "devices": devices,
            "alarms": [rule.model_dump(mode="json", exclude_none=True) for rule in config.alarms],
        }
    )


def _alarms(config: BoxConfig) -> Table:
    """The rules, and what each of them watches."""
    subjects, _ = bind(config.alarms, sources(config.devices))
    table = Table("alarm", "kind", "priority", "watches")
    for rule in config.alarms:
        watched = [
            "/".join(filter(None, s.key[1:3])) + (f".{s.field}" if s.field else "")
            for s in subjects
            if s.rule == rule
        ]
        more = f" and {len(watched) - WATCHED} more" if len(watched) > WATCHED else ""
        table.add_row(rule.name, rule.kind, rule.priority.value, ", ".join(watched[:WATCHED]) + more)
    return table


def row_of(sample: Sample) -> dict[str, Any]:
    """A sample as JSON may carry it."""
    fields = sample.stream.fields
    return {
        "measurement": sample.stream.measurement,
        "time_ns": sample.time_ns,
        "n": sample.n,
        "values": {f.name: v for f, v in zip(fields, sample.values, strict=True)},
        "quality": {fields[index].name: code for index, code in sample.quality},
    }


def show(config: BoxConfig, readings: Sequence[Reading] | None) -> None:
    """The same as tables on stdout."""
    console = Console(highlight=False)
    streams = sum(len(device.streams) for device in config.devices)
    console.print(
        f"{config.path}: good. Box {config.box.id}, {len(config.devices)} devices, {streams} streams."
    )
    table = Table("device", "driver", "kind", "measurement", "fields")
    for device in config.devices:
        for stream in device.streams:
            names = ", ".join(f.name for f in stream.fields)
            table.add_row(
                device.name, device.driver.config.driver, device.driver.kind, stream.measurement, names
            )
    console.print(table)
    _show_calibration(console, config)
    if config.alarms:
        console.print(_alarms(config))
    if readings is None:
        return
    table = Table("device", "measurement", "field", "value", "unit", "quality")
    for reading in readings:
        if reading.error is not None:
            table.add_row(reading.device, "", "", f"cannot read: {reading.error}", "", "", style="red")
        elif not reading.samples:
            table.add_row(reading.device, "", "", "connected, nothing to tell", "", "")
        for sample in reading.samples:
            codes = dict(sample.quality)
            for index, (field, value) in enumerate(zip(sample.stream.fields, sample.values, strict=True)):
                code = Quality(codes.get(index, Quality.GOOD))
                shown = "" if value is None else str(value)
                table.add_row(
                    reading.device,
                    sample.stream.measurement,
                    field.name,
                    shown,
                    field.unit,
                    code.name.lower().replace("_", " "),
                )
    console.print(table)


def _show_calibration(console: Console, config: BoxConfig) -> None:
    used = calibration_report.in_use(config, time.time_ns())
    if not used:
        return
    table = Table("device", "calibrated", "certificate", "now", "until", "k=2", "by")
    for row in used:
        cells = (row["device"], row["field"], row["version"], row["state"], row["valid_to"])
        table.add_row(*cells, f"{row['uncertainty']:g}", row["by"])
    console.print(table)
