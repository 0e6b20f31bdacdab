"""The stream ``box/health``: one row a minute of what the operators of many boxes ask of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trisense.core.model import BOX_DEVICE, Field, FieldType, Layer, Stream, Value
from trisense.drivers import Observed
from trisense.edge.status.model import Status

__all__ = ["HEALTH", "HEALTH_S", "HealthTeller", "health_values"]

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
        Field("alarms_held", "{alarm}", FieldType.INT),
        Field("bus_load", "%", FieldType.FLOAT, 0.1),
        Field("link_today", "By", FieldType.INT),
    ),
    tick_ns=1_000_000_000,
)


def health_values(status: Status, *, alarms_held: int, link_today_bytes: int) -> dict[str, Value]:
    """The row of a box, by field name; null where nobody can say."""
    machine, spool, clock = status.machine, status.spool, status.clock
    loads = [bus.measured for bus in status.buses if bus.measured is not None]
    return {
        "uptime": int(status.box.up_s),
        "spool_size": spool.size_bytes,
        "spool_waiting": sum(queue.batches for queue in spool.waiting.values()),
        "spool_oldest": int(max((queue.oldest_s for queue in spool.waiting.values()), default=0.0)),
        "disk_free": machine.disk_free_bytes,
        "cpu_temperature": None if machine.temperature_c is None else round(machine.temperature_c, 1),
        "cpu_load": None if machine.cpu is None else round(100 * machine.cpu, 1),
        "memory": machine.rss_bytes,
        "clock_synchronised": int(clock.synced),
        "clock_error": clock.error_ms,
        "devices_good": sum(device.state == "good" for device in status.devices),
        "devices_failing": sum(device.state == "failing" for device in status.devices),
        "samples_committed": spool.committed,
        "samples_dropped": spool.dropped,
        "alarms_active": len(status.alarms),
        "alarms_held": alarms_held,
        "bus_load": round(100 * max(loads), 1) if loads else None,
        "link_today": link_today_bytes,
    }


class HealthTeller:
    """Tells the health of the box once a minute."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Status]],
        tell: Callable[[Sequence[Observed]], None],
        *,
        alarms_held: Callable[[], int],
        link_today_bytes: Callable[[], int],
    ) -> None:
        """``ask`` gives the picture of the box; ``tell`` is given rows of ``HEALTH``."""
        self._ask = ask
        self._tell = tell
        self._alarms_held = alarms_held
        self._link_today_bytes = link_today_bytes

    async def run(self) -> None:
        """Tell every ``HEALTH_S``, until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_S)
            values = health_values(
                await self._ask(),
                alarms_held=self._alarms_held(),
                link_today_bytes=self._link_today_bytes(),
            )
            self._tell([Observed(HEALTH.measurement, values)])
