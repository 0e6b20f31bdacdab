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

from trisense.core.errors import DeviceError, Mistake
from trisense.core.model import Sample
from trisense.drivers import Lines, Observed, PolledDriver, StreamingDriver
from trisense.edge.clocks.clock import Stamp, SystemClock
from trisense.edge.commands import calibration_report
from trisense.edge.commands.port_report import unstable_names
from trisense.edge.config import BoxConfig, Device
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.stamping import Stamper
from trisense.edge.sensing.supervisor import CLOSE_S, Deadline

__all__ = ["Reading", "as_json", "read_devices", "row_of", "warnings"]

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
