"""Puts the picture of a running box together."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

from trisense.core.alarms import Subject
from trisense.core.errors import SpoolError
from trisense.drivers import Lines
from trisense.drivers.modbus import Modbus
from trisense.drivers.modbus.bus import ModbusBus
from trisense.drivers.modbus.forecast import LineLoad, forecast
from trisense.edge.clocks.clock import Clock
from trisense.edge.clocks.timeline import Timeline
from trisense.edge.config import BoxConfig, Device
from trisense.edge.remote import Remote
from trisense.edge.remote.door import closed
from trisense.edge.sending.uplink import Uplink
from trisense.edge.sensing.batcher import Batcher
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.stamping import Stamper
from trisense.edge.spool import Spool
from trisense.edge.spool.model import KINDS, Summary
from trisense.edge.spool.thread import SpoolThread
from trisense.edge.spool.view import look_into
from trisense.edge.status import machine, model
from trisense.edge.status.latest import Latest, Seen
from trisense.edge.status.problems import problems
from trisense.edge.telling.alarms import AlarmWatch

__all__ = ["Gatherer", "Parts", "count_queues"]

SAMPLE_S: Final = 10.0
SAMPLES: Final = 7
"""So that a share is over the last minute."""
QUEUES_S: Final = 1.0
QUEUES_FACTOR: Final = 50.0
"""How old the count of what waits in the spool may be, at least, and by how long it took: it costs a look
at each waiting batch."""
SPOOL_S: Final = 1.0
"""Longest wait for the spool: behind a disk that hangs it has no answer."""
TEXT: Final = 200
"""Characters of a text value that are shown."""


class Parts(Protocol):
    """What a box is made of, as far as it is told."""

    config: BoxConfig
    clock: Clock
    timeline: Timeline
    devices: DeviceSet
    stampers: dict[str, Stamper]
    uplink: Uplink
    batcher: Batcher
    door: SpoolThread
    lines: Lines
    alarms: AlarmWatch
    remote: Remote


@dataclass(frozen=True, slots=True)
class _Moment:
    """Counters at one moment, to tell shares from."""

    at_s: float
    cpu_s: float
    taken_s: dict[str, float]
    """Of each bus."""


class Gatherer:
    """Knows where each figure of a box stands."""

    def __init__(self, box: Parts) -> None:
        self.latest = Latest()
        self._box = box
        self._began_s = time.monotonic()
        self._moments: deque[_Moment] = deque(maxlen=SAMPLES)
        self._queues: dict[str, model.Queue] = {}
        self._count_at_s = 0.0
        self._counting = asyncio.Lock()
        self._told: Summary | None = None
        self._spool_error: str | None = None
        self._losses: dict[str, int] = {}
        self._lost_at_s: float | None = None
        self._loads: tuple[list[Any], list[LineLoad]] = ([], [])

    async def run(self) -> None:
        """Note counters now and then, until cancelled."""
        while True:
            self.note()
            await asyncio.sleep(SAMPLE_S)

    def note(self) -> None:
        """Remember the counters of this moment: shares are told from then on."""
        self._moments.append(self._moment())

    async def status(self) -> model.Status:
        """The box now. What it cannot find out is left empty; it never raises."""
        now_s = time.monotonic()
        summary = await self._summary()
        queues = await self._count_queues()
        picture = model.Status(
            box=self._self(now_s),
            problems=[],
            devices=[self._device(device, now_s) for device in self._box.devices.devices.values()],
            buses=list(self._buses()),
            lines=list(self._lines()),
            link=self._link(),
            spool=self._spool(summary, queues, now_s),
            clock=self._clock(),
            machine=self._machine(),
            alarms=[_alarm(subject, for_s) for subject, for_s in self._box.alarms.active],
        )
        return picture.model_copy(update={"problems": list(problems(picture))})

    def _self(self, now_s: float) -> model.Box:
        config, told = self._box.config, self._box.remote.reporter.report
        return model.Box(
            id=config.box.id,
            site=config.box.site,
            version=version("trisense"),
            config=str(config.path),
            config_hash=config.hash,
            config_source="local" if told is None else told.source,
            config_state="running" if told is None else told.state,
            config_why="" if told is None else told.reason,
            closed=closed(config),
            pid=os.getpid(),
            up_s=now_s - self._began_s,
            boot_id=self._box.clock.boot_id,
        )

    def _device(self, device: Device, now_s: float) -> model.Device:
        supervisor = self._box.devices.supervisors[device.name]
        health, progress = supervisor.health, supervisor.progress
        stamper = self._box.stampers[device.name]
        config = device.driver.config
        state = "failing" if health.error is not None else "good" if health.rows else "waiting"
        return model.Device(
            name=device.name,
            driver=config.driver,
            kind=device.driver.kind,
            line=_line_of(device),
            state=state,
            connected=health.connected,
            step=progress.step,
            step_s=progress.age_s(),
            interval_s=config.interval_s if device.driver.kind == "polled" else None,
            age_s=health.age_s(),
            reads=health.reads,
            rows=health.rows,
            failures=health.failures,
            missed=health.missed,
            damaged=getattr(device.driver, "damaged_count", 0),
            reasons=dict(health.reasons),
            values=dict(stamper.counts),
            flags=stamper.flags(),
            error=health.error,
            failing_s=_since(health.failing_since_s, now_s),
            next_try_s=None if health.next_try_s is None else max(0.0, health.next_try_s - now_s),
            streams=[_stream(seen, now_s) for seen in self.latest.of(device.name)],
        )

    def _buses(self) -> Iterator[model.Bus]:
        live = _buses_of(self._box.lines)
        for load in self._forecast():
            bus = live.get(load.url)
            totals = dict(bus.totals()) if bus is not None else {}
            answers = totals.pop("answers", 0)
            yield model.Bus(
                line=load.url,
                framing=load.framing,
                devices=[device.name for device in load.devices],
                planned=load.utilisation,
                measured=self.bus_share(load.url),
                waiting=bus.turns.waiting if bus is not None else 0,
                answers=answers,
                troubles=totals,
            )

    def _forecast(self) -> list[LineLoad]:
        """What the devices ask of their buses; worked out once for one set of devices."""
        drivers = [d.driver for d in self._box.devices.devices.values() if isinstance(d.driver, Modbus)]
        if self._loads[0] != drivers:
            self._loads = (drivers, forecast(drivers))
        return self._loads[1]

    def _lines(self) -> Iterator[model.Line]:
        users = defaultdict(list)
        for device in self._box.devices.devices.values():
            users[_line_of(device)].append(device.name)
        for url, traffic in self._box.lines.traffic.items():
            if url in users:
                yield model.Line(
                    line=url,
                    devices=users[url],
                    opened=traffic.opened,
                    received_bytes=traffic.received_bytes,
                    sent_bytes=traffic.sent_bytes,
                )

    def _link(self) -> model.Link:
        counts = self._box.uplink.counts
        told = asdict(self._box.uplink.status())
        own = {"receipts": counts["receipts"], "refused": counts["batches_refused"]}
        return model.Link.model_validate(told | own)

    async def _summary(self) -> Summary | None:
        """What the spool says of itself; what it said last while the disk lets it wait."""
        try:
            async with asyncio.timeout(SPOOL_S):
                self._told = await self._box.door.run(Spool.summary)
            self._spool_error = None
        except TimeoutError:
            self._spool_error = f"the disk has kept it waiting for more than {SPOOL_S:g} s"
        except (SpoolError, OSError) as error:
            self._spool_error = str(error)
        return self._told

    def _spool(self, told: Summary | None, queues: dict[str, model.Queue], now_s: float) -> model.Spool:
        table, batcher = self._box.config.spool, self._box.batcher
        losses = dict(told.losses) if told else {}
        if losses != self._losses:
            self._losses, self._lost_at_s = losses, now_s
        horizon_ns = told.horizon_ns if told else None
        took_s = sorted(took for _, took in batcher.commits)
        recent = sum(at_s > now_s - 60 for at_s, _ in batcher.commits)
        return model.Spool(
            path=str(table.path),
            size_bytes=_size_bytes(table.path),
            cap_bytes=table.max_bytes,
            error=batcher.error or self._spool_error,
            waiting=queues,
            kept_bytes=told.kept.size_bytes if told else 0,
            kept_s=None if horizon_ns is None else max(0.0, (self._box.clock.now_ns() - horizon_ns) / 1e9),
            losses=losses,
            lost=dict(told.lost) if told else {},
            lost_s=_since(self._lost_at_s, now_s),
            committed=batcher.committed,
            pending=batcher.pending,
            dropped=batcher.dropped,
            commits_per_min=recent * 60 / min(60.0, max(1.0, now_s - self._began_s)),
            commit_p50_s=took_s[len(took_s) // 2] if took_s else None,
            commit_p99_s=took_s[len(took_s) * 99 // 100] if took_s else None,
        )

    async def _count_queues(self) -> dict[str, model.Queue]:
        async with self._counting:
            began_s = time.monotonic()
            if began_s >= self._count_at_s:
                path, now_ns = self._box.config.spool.path, self._box.clock.now_ns()
                self._queues = await asyncio.to_thread(count_queues, path, now_ns)
                now_s = time.monotonic()
                self._count_at_s = now_s + max(QUEUES_S, QUEUES_FACTOR * (now_s - began_s))
        return self._queues

    def _clock(self) -> model.Clock:
        told = self._box.timeline.status()
        return model.Clock(
            now_ns=self._box.clock.now_ns(),
            mode=told.mode.value,
            synced=told.synced,
            error_ms=told.error_ms,
            confirmed_s=told.offset_age_s,
            held_back_s=told.held_back_s,
        )

    def _machine(self) -> model.Machine:
        free, total = machine.disk_bytes(self._box.config.spool.path.parent)
        return model.Machine(
            disk_free_bytes=free,
            disk_bytes=total,
            temperature_c=machine.temperature_c(),
            cpu=self._share(lambda moment: moment.cpu_s),
            cpu_s=machine.cpu_s(),
            rss_bytes=machine.rss_bytes(),
        )

    # --- shares ---

    def _moment(self) -> _Moment:
        taken = {url: bus.turns.taken_s for url, bus in _buses_of(self._box.lines).items()}
        return _Moment(time.monotonic(), machine.cpu_s(), taken)

    def bus_share(self, url: str) -> float | None:
        """Part of its time that a bus was held over the last minute; None while nobody can say."""
        return self._share(lambda moment: moment.taken_s.get(url))

    def _share(self, of: Callable[[_Moment], float | None]) -> float | None:
        """How much of the time since the oldest moment that has it went into a counter."""
        now = self._moment()
        before = next((moment for moment in self._moments if of(moment) is not None), None)
        if before is None or now.at_s - before.at_s < 1.0:
            return None
        spent_s = (of(now) or 0.0) - (of(before) or 0.0)
        return None if spent_s < 0 else spent_s / (now.at_s - before.at_s)  # negative: made anew meanwhile


def _line_of(device: Device) -> str | None:
    """URL of the line of a device, where it has one."""
    line = getattr(device.driver.config, "line", None)
    return line if isinstance(line, str) else None


def _buses_of(lines: Lines) -> dict[str, ModbusBus]:
    return {url: bus for url, bus in lines.buses.items() if isinstance(bus, ModbusBus)}


def _stream(seen: Seen, now_s: float) -> model.Stream:
    sample = seen.sample
    codes = dict(sample.quality)
    fields: Sequence[model.Field] = [
        model.Field(
            name=field.name,
            unit=field.unit,
            value=value[:TEXT] if isinstance(value, str) else value,
            quality=codes.get(index, 1),
        )
        for index, (field, value) in enumerate(zip(sample.stream.fields, sample.values, strict=True))
    ]
    return model.Stream(
        measurement=sample.stream.measurement,
        time_ns=sample.time_ns,
        age_s=now_s - seen.at_s,
        samples=seen.count,
        fields=list(fields),
    )


def _alarm(subject: Subject, for_s: float) -> model.Alarm:
    rule = subject.rule
    return model.Alarm(
        rule=rule.name,
        device=subject.device,
        field=subject.field,
        priority=rule.priority.value,
        for_s=for_s,
    )


def _since(at_s: float | None, now_s: float) -> float | None:
    return None if at_s is None else now_s - at_s


def _size_bytes(spool: Path) -> int:
    """What the spool takes on the disk, its WAL included."""
    total_bytes = 0
    for ending in ("", "-wal"):
        with suppress(OSError):
            total_bytes += Path(f"{spool}{ending}").stat().st_size
    return total_bytes


def count_queues(spool: Path, now_ns: int) -> dict[str, model.Queue]:
    """What waits for a receipt, by class; empty where the file cannot be read now.

    By a connection of its own, so that no commit waits for it; it is closed at once, so that the WAL can
    be folded.
    """
    # Damage may have put anything into a cell.
    query = (
        "SELECT class, preview, count(*), total(samples), total(size_bytes),"
        " min(committed_ns) FILTER (WHERE typeof(committed_ns) = 'integer')"
        " FROM batch WHERE settled = 0 GROUP BY class, preview"
    )
    try:
        with look_into(spool) as db:
            rows = db.execute(query).fetchall()
    except SpoolError:
        return {}
    kinds = {(of.value, preview): name for name, (of, preview) in KINDS.items()}
    return {
        kinds[of, preview == 1]: model.Queue(
            batches=batches,
            samples=int(samples),
            size_bytes=int(size_bytes),
            oldest_s=max(0.0, (now_ns - (now_ns if oldest_ns is None else oldest_ns)) / 1e9),
        )
        for of, preview, batches, samples, size_bytes, oldest_ns in rows
        if (of, preview == 1) in kinds
    }
