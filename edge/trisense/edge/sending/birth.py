"""The birth message: what a box is, told at each connect."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import structlog
from trisense.core import limits
from trisense.core.messages import Birth, CountersJson, DeviceBirth, FieldBirth, StreamBirth
from trisense.core.model import Counters
from trisense.edge.config import BoxConfig, Device
from trisense.edge.once import Fault

__all__ = ["BirthMaker"]

EPOCHS_TOLD: Final = 1000
"""Newest epochs in the message: a box that restarted more often than that while it was offline tells the
rest when these have drained."""

log = structlog.get_logger(__name__)


class BirthMaker:
    """Makes the birth message; all but the counters stands still while the box runs."""

    def __init__(self, config: BoxConfig) -> None:
        self._fault = Fault(log, "birth_too_large")
        self.box = config.box.id
        self.site = config.box.site
        self._still = Birth(
            box=config.box.id,
            site=config.box.site,
            position=config.box.position,
            version=version("trisense"),
            config_hash=config.hash,
            counters=[],
            devices=[_device(device, config.box.site) for device in config.devices],
            alarms=[rule.name for rule in config.alarms],
        )

    def payload(self, counters: Sequence[Counters]) -> str:
        """The message with the counters of every epoch, the current one last."""
        told = [CountersJson.of(of) for of in counters[-EPOCHS_TOLD:]]
        message = self._still.model_copy(update={"counters": told})
        payload = message.model_dump_json()
        if len(payload.encode()) > limits.PAYLOAD_BYTES:
            # Every bundle describes its own streams: a box of very many devices goes without them here.
            self._fault.failed(size_bytes=len(payload), limit_bytes=limits.PAYLOAD_BYTES)
            payload = message.model_copy(update={"devices": []}).model_dump_json()
        return payload


def _device(device: Device, site: str) -> DeviceBirth:
    config = device.driver.config
    streams = [
        StreamBirth(
            measurement=stream.measurement,
            fields=[
                FieldBirth(
                    name=column.field.name,
                    unit=column.field.unit,
                    type=column.field.type,
                    calibration=[c.birth() for c in column.certificates],
                )
                for column in device.treatment.columns[stream.measurement]
            ],
        )
        for stream in device.streams
    ]
    return DeviceBirth(
        name=device.name,
        driver=config.driver,
        layer=device.driver.layer,
        site=config.site or site,
        position=config.position,
        streams=streams,
    )
