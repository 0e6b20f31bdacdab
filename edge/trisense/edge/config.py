"""A box's configuration: one TOML file, checked whole before anything is opened."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field as Constrained
from pydantic import ValidationError, field_validator, model_validator
from trisense.core import limits, logs
from trisense.core.alarms import Rule
from trisense.core.broker import BrokerTable
from trisense.core.config import ConfigModel, check, mistakes_of, parse_toml, read_text
from trisense.core.errors import ConfigError, MissingExtra, Mistake
from trisense.core.messages import Position
from trisense.core.model import BOX_DEVICE, NAME, RESERVED, Stream
from trisense.core.remote import VERBS, Verb
from trisense.drivers.lines import LineUrl
from trisense.drivers.registry import driver_class
from trisense.drivers.sdk import Driver
from trisense.edge.sending.hours import Hours
from trisense.edge.sensing.treatment import Treatment, ValuesTable, load_certificates, treat, values_of
from trisense.edge.status.table import StatusTable
from trisense.edge.telling.alarm_tables import alarm_rules, unwatchable

__all__ = [
    "BoxConfig",
    "BoxTable",
    "ClockTable",
    "Device",
    "LinkTable",
    "MqttTable",
    "RemoteTable",
    "SpoolTable",
    "checked",
    "load",
]

Name = Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Model = TypeVar("Model", bound=ConfigModel)


class BoxTable(ConfigModel):
    """The box itself."""

    id: Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    """Unique in the network; also its MQTT client id."""
    site: Name
    """The place it senses."""
    latitude: Annotated[float, Constrained(ge=-90, le=90)] | None = None
    """Degrees north, WGS 84."""
    longitude: Annotated[float, Constrained(ge=-180, le=180)] | None = None
    """Degrees east, WGS 84."""
    height_m: Annotated[float, Constrained(ge=-500, le=100_000)] | None = None
    """Metres above the ellipsoid."""

    @model_validator(mode="after")
    def _both_or_none(self) -> BoxTable:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude together, or neither")
        return self

    @property
    def position(self) -> Position | None:
        if self.latitude is None or self.longitude is None:
            return None
        return Position(latitude=self.latitude, longitude=self.longitude, height_m=self.height_m)


class SpoolTable(ConfigModel):
    """The queue on disk."""

    path: Path = Path("spool.db")
    """File of the queue; files with the same name and an ending lie beside it."""
    max_bytes: Annotated[int, Constrained(ge=1 << 20)] = 1 << 30
    """Cap of that file; its log beside it adds about one MiB. At the cap receipted batches go first, then
    media, previews, the oldest data, alarms last."""
    media_share: Annotated[float, Constrained(gt=0, le=1)] = 0.5
    """Part of ``max_bytes`` that waiting pictures may hold; beyond it the oldest are dropped."""
    preview_share: Annotated[float, Constrained(gt=0, le=1)] = 0.1
    """Part of ``max_bytes`` that waiting previews may hold; beyond it the oldest are dropped."""
    commit_s: Annotated[float, Constrained(ge=0.05, le=60)] = limits.COMMIT_INTERVAL_S
    """Longest time a sample waits in memory for its commit: what a crash or power cut can take."""
    commit_rows: Annotated[int, Constrained(ge=1, le=1000)] = limits.COMMIT_ROWS
    """So many samples are committed without waiting for that."""
    ballast_bytes: Annotated[int, Constrained(ge=1 << 18)] = 4 << 20
    """Room kept aside on the disk for the moment when it is full."""
    keep_hours: Annotated[float, Constrained(ge=0)] = 24.0
    """How long receipted batches are kept while the box runs, so that a restored store can be refilled."""


class MqttTable(BrokerTable):
    """The broker."""

    keepalive_s: Annotated[int, Constrained(ge=5, le=120)] = 30
    """A dead link is noticed after about one and a half times it; the broker we ship takes up to 120 s."""


Traffic = Literal["live", "alarms", "nothing"]
"""What goes on: live data and alarms, alarms only, or nothing, not even the connection."""


class LinkTable(ConfigModel):
    """How the way to the broker is shared, and what it may cost."""

    order: Literal["oldest", "newest"] = "oldest"
    """Which end of the backlog is sent first; previews go before it in any case."""
    backlog_share: Annotated[float, Constrained(gt=0, lt=1)] = 0.25
    """Least part of a busy link, and of ``daily_bytes``, that backlog and pictures get while live data needs
    all of it."""
    media_share: Annotated[float, Constrained(gt=0, lt=1)] = 0.25
    """Part of that which pictures get while a backlog waits too; the rest is the backlog's."""
    daily_bytes: Annotated[int, Constrained(ge=100_000)] | None = None
    """Bytes a day, UTC, both ways, with the headers of IP, TCP, TLS and MQTT; none for no limit."""
    at_limit: Traffic = "alarms"
    """What goes on when they are spent, until the next day; alarms and signs of life still cost."""
    hours: tuple[str, ...] = ()
    """Windows of the day, UTC, in which everything may go, such as "05:00-07:00"; none for always. Always too
    while the clock cannot be trusted."""
    outside_hours: Traffic = "live"
    """What goes on outside them."""
    preview: bool = True
    """Whether an outage is summed up by minute (lowest, mean, highest of each number), to be sent first."""
    preview_after_s: Annotated[float, Constrained(ge=10, le=3600)] = 60.0
    """How long an outage must last for that."""

    @field_validator("hours")
    @classmethod
    def _windows(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        Hours.parse(hours)
        return hours


class RemoteTable(ConfigModel):
    """What may be done from afar, by whoever has the gateway's rights at the broker.

    All of it needs TLS, or a broker on the box itself; see ``over_plain``.
    """

    commands: tuple[Verb, ...] = VERBS
    """Commands that are done; the others are refused. An empty list switches them off."""
    config: bool = True
    """Whether a configuration that comes over the link may be put to work."""
    health_s: Annotated[float, Constrained(ge=1, le=3600)] = 120.0
    """How long such a configuration may take to prove itself healthy before it is rolled back."""
    over_plain: bool = False
    """Whether all this is taken over a network without TLS, too, from whoever can reach the broker or the
    wires to it."""


class ClockTable(ConfigModel):
    """How the box knows the time."""

    hold_s: Annotated[float, Constrained(ge=0, le=86_400)] = 600.0
    """Seconds after the start of the machine, or after a step of its clock, in which samples may wait on the
    box for the right time; then they go as they are, flagged. 0: they never wait."""
    gnss: LineUrl | None = None
    """Line of a GNSS receiver that sends NMEA sentences: it is asked while the kernel is not synchronised."""


class LogTable(ConfigModel):
    level: logs.Level = "info"
    """debug, info, warning or error."""


class _File(ConfigModel):
    box: BoxTable
    spool: SpoolTable = SpoolTable()
    mqtt: MqttTable
    link: LinkTable = LinkTable()
    remote: RemoteTable = RemoteTable()
    status: StatusTable = StatusTable()
    clock: ClockTable = ClockTable()
    log: LogTable = LogTable()
    device: Annotated[list[dict[str, Any]], Constrained(min_length=1)]
    alarm: Annotated[list[dict[str, Any]], Constrained(default_factory=list)]


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its driver, made but not connected."""

    name: str
    driver: Driver[Any]
    treatment: Treatment

    @property
    def streams(self) -> tuple[Stream, ...]:
        """What it sends: the driver's streams, as calibration leaves them."""
        return self.treatment.streams

    def alike(self, other: Device) -> bool:
        """Whether ``other`` would do just the same: then it need not be exchanged."""
        return (
            type(self.driver) is type(other.driver)
            and self.driver.config == other.driver.config
            and self.driver.streams() == other.driver.streams()
            and self.treatment == other.treatment
        )


@dataclass(frozen=True, slots=True)
class BoxConfig:
    """A whole checked configuration; every path in it is absolute."""

    path: Path
    box: BoxTable
    spool: SpoolTable
    mqtt: MqttTable
    link: LinkTable
    remote: RemoteTable
    status: StatusTable
    clock: ClockTable
    log: LogTable
    devices: tuple[Device, ...]
    alarms: tuple[Rule, ...]
    hash: str
    """Sixteen hex digits over the file's content: two boxes with one hash are configured alike."""
    text: str
    """What was read."""


def load(path: Path) -> BoxConfig:
    """Read and check a configuration.

    Raises:
        ConfigError: with every mistake in the file, those of the devices' drivers included.
    """
    text = read_text(path)
    return checked(path, text, parse_toml(path, text))


def checked(path: Path, text: str, tables: Mapping[str, Any]) -> BoxConfig:
    """Check the ``tables`` that ``text`` holds; relative paths start at the folder of ``path``.

    Raises:
        ConfigError: with every mistake in them, those of the devices' drivers included.
    """
    found: list[Mistake] = []
    try:
        whole: _File | None = check(path, tables, _File)
    except ConfigError as error:
        whole = None
        found += error.mistakes
    devices = _devices(path, tables.get("device"), found)
    rules = [] if whole is None else alarm_rules(whole.alarm, found)
    if not found:
        found += unwatchable(rules, devices)
    if found or whole is None:
        raise ConfigError(str(path), found)
    folder = path.resolve().parent
    return BoxConfig(
        path=path,
        box=whole.box,
        spool=_rooted(whole.spool, folder),
        mqtt=_rooted(whole.mqtt, folder),
        link=whole.link,
        remote=whole.remote,
        status=_rooted(whole.status, folder),
        clock=whole.clock,
        log=whole.log,
        devices=tuple(devices),
        alarms=tuple(rules),
        hash=hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode()).hexdigest()[:16],
        text=text,
    )


def _devices(path: Path, tables: object, found: list[Mistake]) -> list[Device]:
    """Make every driver; what is wrong is added to ``found``."""
    if not isinstance(tables, list):
        return []
    made = []
    names: Counter[object] = Counter()
    for index, table in enumerate(tables):
        if not isinstance(table, Mapping):
            continue  # told already: not a table
        where = f"device[{index}]"
        name = table.get("name")
        names[str(name)] += 1
        if name == BOX_DEVICE:
            found.append(Mistake(f"{where}.name", "another name than the box's own", repr(name)))
        elif name is not None and names[str(name)] == 2:
            found.append(Mistake(f"{where}.name", "a name of its own", f"{name!r} once more"))
        device = _device(path.resolve().parent, table, where, found)
        if device is not None:
            made.append(device)
    return made


def _device(folder: Path, table: Mapping[str, Any], where: str, found: list[Mistake]) -> Device | None:
    """A device without a mistake, or None."""
    known = len(found)
    own = {key: table[key] for key in ValuesTable.model_fields if key in table}
    values = values_of(own, where, found)
    certificates = load_certificates(values.calibration, folder, where, found)
    driver = _driver(folder, {key: table[key] for key in table if key not in own}, where, found)
    if driver is None:
        return None
    treatment = treat(driver, values, certificates, where, found)
    found += _stream_mistakes(treatment.streams, where)
    return Device(driver.config.name, driver, treatment) if len(found) == known else None


def _driver(folder: Path, table: Mapping[str, Any], where: str, found: list[Mistake]) -> Driver[Any] | None:
    name = table.get("driver")
    if not isinstance(name, str):
        found.append(Mistake(f"{where}.driver", "the name of a driver", repr(name) if name else "nothing"))
        return None
    known = {mistake.where for mistake in found}
    try:
        cls = driver_class(name)
        driver = cls(_rooted(cls.config_model.model_validate(table), folder))
        fresh = list(_stream_mistakes(driver.streams(), where))
        if not fresh:
            return driver
    except ConfigError as error:
        fresh = [Mistake(f"{where}.{m.where}", m.expected, m.got) for m in error.mistakes]
    except MissingExtra as error:
        fresh = [Mistake(f"{where}.driver", "a driver whose packages are installed", str(error))]
    except ValidationError as error:
        fresh = mistakes_of(error, where)
    found += [mistake for mistake in fresh if mistake.where not in known]
    return None


def _stream_mistakes(streams: Sequence[Stream], where: str) -> Iterator[Mistake]:
    """What would be refused later, batch after batch: names no bundle carries, one stream twice."""
    keys = Counter(stream.key for stream in streams)
    for stream in streams:
        if keys[stream.key] > 1:
            yield Mistake(where, "streams with a name each", f"{stream.measurement!r} twice")
        for name in (stream.measurement, *(field.name for field in stream.fields)):
            if not NAME.fullmatch(name):
                yield Mistake(where, "names of lower-case letters, digits, _ and -", repr(name))
        fields = {field.name for field in stream.fields}
        for name in sorted(fields & RESERVED):
            yield Mistake(where, "names that no stored row has of its own", repr(name))
        for name in sorted(name for name in fields if f"{name}_q" in fields):
            yield Mistake(where, "no field with the name of a quality code", repr(f"{name}_q"))


def _rooted(table: Model, folder: Path) -> Model:
    """The table with its relative paths taken from the configuration's folder."""
    paths = {
        name: folder / value
        for name in type(table).model_fields
        if isinstance(value := getattr(table, name), Path) and not value.is_absolute()
    }
    return table.model_copy(update=paths)
