"""What is done to a device's values between driver and samples: calibration, tests, raw twins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field as Constrained
from pydantic import ValidationError
from trisense.core.config import ConfigModel, load_toml, mistakes_of
from trisense.core.errors import ConfigError, Mistake
from trisense.core.model import Field, FieldType, Stream
from trisense.drivers.sdk import DeviceConfig, Driver
from trisense.edge.sensing.calibration import Calibration, Certificate
from trisense.edge.sensing.quality import QualityTable

__all__ = ["ColumnPlan", "Treatment", "ValuesTable", "load_certificates", "treat", "values_of"]

RAW: Final = "_raw"
GAP_S: Final = 60.0


class ValuesTable(ConfigModel):
    """The keys of a ``[[device]]`` table that are the box's, whatever the driver."""

    serial: str | None = None
    """Serial number of the sensor, for certificates that name it."""
    calibration: tuple[Path, ...] = ()
    """Files of calibration certificates."""
    keep_raw: bool = False
    """Whether each calibrated field has a twin ``FIELD_raw`` with the value before it."""
    quality: dict[str, QualityTable] = Constrained(default_factory=dict)
    """Tests by field."""


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """How one field of a stream is made."""

    field: Field
    source: str
    """The driver's field it is made from."""
    tests: QualityTable | None = None
    calibration: Calibration | None = None

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """In the order of their time."""
        return () if self.calibration is None else self.calibration.certificates

    @property
    def sentinels(self) -> frozenset[float]:
        return frozenset(self.tests.sentinels if self.tests is not None else ())


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a device sends, and how it is made; equal when it gives equal samples for equal rows."""

    streams: tuple[Stream, ...]
    columns: Mapping[str, tuple[ColumnPlan, ...]]
    """By measurement, one for each field of the stream, in its order."""
    gap_s: float = GAP_S
    """Silence after which tests begin anew."""

    @classmethod
    def none(cls, streams: Iterable[Stream]) -> Treatment:
        """Values as they come, held against the gross ranges only."""
        kept = tuple(streams)
        return cls(kept, {s.measurement: tuple(ColumnPlan(f, f.name) for f in s.fields) for s in kept})

    def calibrated(self) -> Iterator[tuple[str, ColumnPlan, Calibration]]:
        """(measurement, column, its calibration) of the fields that have one."""
        for measurement, columns in self.columns.items():
            for column in columns:
                if column.calibration is not None:
                    yield measurement, column, column.calibration


def values_of(table: Mapping[str, Any], where: str, found: list[Mistake]) -> ValuesTable:
    """The box's keys of a device's table; what is wrong is added to ``found``, and the rest goes on."""
    try:
        return ValuesTable.model_validate(table)
    except ValidationError as error:
        found += mistakes_of(error, where)
        bad = {tuple(map(str, item["loc"][:2])) for item in error.errors(include_url=False)}
    good = {key: value for key, value in table.items() if not any(key == at[0] for at in bad)}
    tests = table.get("quality")
    if isinstance(tests, Mapping):
        good["quality"] = {name: tests[name] for name in tests if ("quality", name) not in bad}
    return ValuesTable.model_validate(good)


def load_certificates(
    paths: Sequence[Path], folder: Path, where: str, found: list[Mistake]
) -> list[tuple[str, Certificate]]:
    """(key path and file, certificate) of each file; what is wrong with them is added to ``found``."""
    certificates = []
    for index, path in enumerate(paths):
        place = f"{where}.calibration[{index}] {path}"
        try:
            certificates.append((place, load_toml(folder / path, Certificate)))
        except ConfigError as error:
            found += [Mistake(f"{place}: {m.where}", m.expected, m.got) for m in error.mistakes]
    return certificates


def treat(
    driver: Driver[Any],
    table: ValuesTable,
    certificates: Sequence[tuple[str, Certificate]],
    where: str,
    found: list[Mistake],
) -> Treatment:
    """The treatment of a driver's streams; what does not fit them is added to ``found``."""
    streams, config = driver.streams(), driver.config
    names = _Names(streams)
    tests: dict[tuple[str, str], QualityTable] = {}
    # The qualified last, so that it wins over the plain name.
    for name in sorted(table.quality, key=lambda n: "." in n):
        for key in names.numbers(name, f'{where}.quality."{name}"', found):
            tests[key] = table.quality[name]
    owners = {config.name, table.serial}
    chains: dict[tuple[str, str], list[tuple[str, Certificate]]] = {}
    for place, certificate in certificates:
        if certificate.device not in owners:
            wanted = " or ".join(repr(owner) for owner in (config.name, table.serial) if owner)
            found.append(Mistake(f"{place}: device", wanted, repr(certificate.device)))
        for key in names.numbers(certificate.field, f"{place}: field", found):
            chains.setdefault(key, []).append((place, certificate))
    calibrations = {key: _chained(names.fields[key], chain, found) for key, chain in chains.items()}
    if table.keep_raw and not table.calibration:
        found.append(Mistake(f"{where}.keep_raw", "calibration beside it", "no certificate"))
    columns = {
        stream.measurement: tuple(
            _columns(stream, tests, calibrations, keep_raw=table.keep_raw, where=where, found=found)
        )
        for stream in streams
    }
    treated = tuple(
        replace(stream, fields=tuple(column.field for column in columns[stream.measurement]))
        for stream in streams
    )
    return Treatment(treated, columns, _gap_s(config))


@dataclass(slots=True)
class _Names:
    """The fields of a device under the names that people write."""

    streams: Sequence[Stream]
    fields: dict[tuple[str, str], Field] = field(init=False)

    def __post_init__(self) -> None:
        self.fields = {(s.measurement, f.name): f for s in self.streams for f in s.fields}

    def numbers(self, name: str, where: str, found: list[Mistake]) -> list[tuple[str, str]]:
        """The numeric fields called ``name`` or ``MEASUREMENT.FIELD``."""
        keys = [key for key in self.fields if name in (key[1], ".".join(key))]
        if not keys:
            known = ", ".join(sorted({f.name for f in self.fields.values() if f.type is not FieldType.STR}))
            found.append(Mistake(where, f"a field of the device ({known})", repr(name)))
        numbers = [key for key in keys if self.fields[key].type is not FieldType.STR]
        if len(numbers) < len(keys):
            found.append(Mistake(where, "a field of numbers", f"{name!r}, which is text"))
        return numbers


def _chained(of: Field, chain: Sequence[tuple[str, Certificate]], found: list[Mistake]) -> Calibration:
    ordered = sorted(chain, key=lambda item: item[1].span_ns)
    for place, certificate in ordered:
        raw_unit = certificate.raw_unit if certificate.raw_unit is not None else certificate.unit
        if raw_unit != of.unit:
            found.append(
                Mistake(f"{place}: raw_unit", f"{of.unit!r}, as the driver gives it", repr(raw_unit))
            )
        if certificate.unit != ordered[0][1].unit:
            found.append(
                Mistake(f"{place}: unit", f"{ordered[0][1].unit!r}, as before", repr(certificate.unit))
            )
    calibration = Calibration(tuple(certificate for _, certificate in ordered))
    places = {id(certificate): place for place, certificate in ordered}
    for one, after in calibration.overlaps():
        found.append(
            Mistake(
                f"{places[id(after)]}: valid_from",
                f"{one.valid_to} or later, when {one.version!r} ends",
                str(after.valid_from),
            )
        )
    return calibration


def _columns(
    stream: Stream,
    tests: Mapping[tuple[str, str], QualityTable],
    calibrations: Mapping[tuple[str, str], Calibration],
    *,
    keep_raw: bool,
    where: str,
    found: list[Mistake],
) -> Iterator[ColumnPlan]:
    for of in stream.fields:
        key = (stream.measurement, of.name)
        calibration = calibrations.get(key)
        yield ColumnPlan(_calibrated(of, calibration), of.name, tests.get(key), calibration)
    for of in stream.fields:
        key = (stream.measurement, of.name)
        if not keep_raw or key not in calibrations:
            continue
        raw = replace(of, name=of.name + RAW)
        if any(other.name == raw.name for other in stream.fields):
            found.append(Mistake(f"{where}.keep_raw", f"no field {raw.name} in the driver", "one"))
        # An error of the device is none of its raw values either.
        only = tests[key].sentinels if key in tests else ()
        yield ColumnPlan(raw, of.name, QualityTable(sentinels=only) if only else None)


def _calibrated(of: Field, calibration: Calibration | None) -> Field:
    """The field as it is after calibration: its type stays, for stores know it by its type."""
    if calibration is None:
        return of
    step = calibration.resolution
    changes: dict[str, Any] = {"resolution": max(step, 1.0) if of.type is FieldType.INT else step}
    if calibration.unit != of.unit:
        changes |= {"unit": calibration.unit, "valid": None}
    return replace(of, **changes)


def _gap_s(config: DeviceConfig) -> float:
    return max(GAP_S, 5 * config.interval_s, 2 * config.timeout_s)
