"""Which certificates count at a moment, and what will be wrong with them, for ``edge check``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from trisense.core.errors import Mistake
from trisense.edge.config import BoxConfig

__all__ = ["in_use", "warnings"]

SOON_NS: Final = 30 * 86_400 * 1_000_000_000


def in_use(config: BoxConfig, now_ns: int) -> list[dict[str, Any]]:
    """The certificate of each calibrated field at a moment: device, field, state, and what the birth says."""
    found = []
    for device in config.devices:
        for measurement, column, calibration in device.treatment.calibrated():
            certificate, state, _ = calibration.at(now_ns)
            row = {"device": device.name, "field": f"{measurement}.{column.field.name}", "state": state}
            found.append(row | certificate.birth().model_dump())
    return found


def warnings(config: BoxConfig, now_ns: int) -> Iterator[Mistake]:
    """Holes between certificates, and what has run out or will within 30 days."""
    for device in config.devices:
        for measurement, column, calibration in device.treatment.calibrated():
            where = f"{device.name}: calibration of {measurement}.{column.field.name}"
            for one, after in calibration.holes():
                yield Mistake(
                    where,
                    f"{after.version!r} to begin when {one.version!r} ends, {_day(one.valid_to)}",
                    _day(after.valid_from),
                )
            last = calibration.certificates[-1]
            if last.span_ns[1] < now_ns + SOON_NS:
                got = f"{last.version!r}, to {_day(last.valid_to)}"
                yield Mistake(where, "one that lasts for 30 days", got)


def _day(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="minutes")
