"""The stream ``box/health``: one row a minute of what the operators of many boxes ask of each."""

from __future__ import annotations

from typing import Final

from trisense.core.model import BOX_DEVICE, Field, FieldType, Layer, Stream

__all__ = ["HEALTH", "HEALTH_S"]

HEALTH_S: Final = 60.0

HEALTH: Final = Stream(
    device=BOX_DEVICE,
    measurement="health",
    layer=Layer.GROUND,
    fields=(
        Field("uptime", "s", FieldType.INT),
        Field("spool_size", "By", FieldType.INT),
        Field("spool_waiting", "{batch}", FieldType.INT),
        Field("spool_oldest", "s", FieldType.INT),
        Field("disk_free", "By", FieldType.INT),
        Field("cpu_temperature", "Cel", FieldType.FLOAT, 0.1),
        Field("cpu_load", "%", FieldType.FLOAT, 0.1),
        Field("memory", "By", FieldType.INT),
        Field("clock_synchronised", "1", FieldType.INT),
        Field("clock_error", "ms", FieldType.INT),
        Field("devices_good", "{device}", FieldType.INT),
        Field("devices_failing", "{device}", FieldType.INT),
        Field("samples_committed", "{sample}", FieldType.INT),
        Field("samples_dropped", "{sample}", FieldType.INT),
        Field("alarms_active", "{alarm}", FieldType.INT),
        Field("bus_load", "%", FieldType.FLOAT, 0.1),
        Field("sent_today", "By", FieldType.INT),
    ),
    tick_ns=1_000_000_000,
)
