"""``trisense driver``: which drivers there are, what one takes and gives, what captured bytes mean."""

from __future__ import annotations

import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table
from trisense.core.cli import cannot
from trisense.core.errors import ConfigError, MissingExtra
from trisense.core.model import Stream
from trisense.drivers.kit.commands import score
from trisense.drivers.kit.record import record
from trisense.drivers.kit.scaffold import new
from trisense.drivers.registry import known, load
from trisense.drivers.sdk import Codec, Driver, Frame, GivenCodec, Observed, Part

__all__ = ["app"]

MODBUS = "modbus"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List, show, test, start a driver; decode captured bytes, record a line.",
)
app.command("test")(score)
app.command()(record)
app.command()(new)


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of ``driver list``; what a missing extra hides is None."""

    name: str
    family: str | None
    kind: str | None
    summary: str
    needs: str | None = None

    def as_json(self) -> dict[str, str | None]:
        shown = {"name": self.name, "family": self.family, "kind": self.kind}
        return shown if self.needs is None else {**shown, "needs": self.needs}


def listed() -> Iterator[Listed]:
    """Every driver, and every Modbus profile behind its driver."""
    for name in known():
        try:
            cls = load(name)
        except MissingExtra as error:
            yield Listed(name, None, None, str(error), f"trisense[{error.extra}]")
            continue
        yield Listed(name, cls.family, cls.kind, cls.summary)
        if name == MODBUS:
            for profile, title in _profile_titles().items():
                yield Listed(f"{MODBUS}:{profile}", cls.family, cls.kind, title)


def _profile_titles() -> Mapping[str, str]:
    from trisense.drivers.modbus import profiles  # noqa: PLC0415  # needs an extra

    return {name: profile.device.vendor for name, profile in profiles().items()}


def _find(name: str) -> type[Driver[Any]]:
    """The driver class; ends the program where there is none."""
    base, _, profile = name.partition(":")
    if base not in known():
        _unknown(name)
    cls = load(base)
    if profile and (base != MODBUS or profile not in _profile_titles()):
        _unknown(name)
    return cls


def _unknown(name: str) -> NoReturn:
    cannot(f"no driver {name!r}; there are {', '.join(driver.name for driver in listed())}")


@app.command("list")
def list_drivers(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the drivers."""
    if as_json:
        typer.echo(json.dumps([driver.as_json() for driver in listed()], indent=2))
        return
    table = Table("name", "family", "kind", "reads", box=None)
    for driver in listed():
        table.add_row(driver.name, driver.family or "", driver.kind or "", driver.summary)
    _console().print(table)


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


# --- show -------------------------------------------------------------------------------------------


@app.command()
def show(name: Annotated[str, typer.Argument(help="Driver, see `trisense driver list`.")]) -> None:
    """Show what a driver is, its configuration, its streams and a sample to start from."""
    cls = _find(name)
    console = _console()
    folder = resources.files(known()[name.partition(":")[0]].module)
    readme, sample = folder / "README.md", folder / "sample.toml"
    console.print(_opening(readme.read_text(encoding="utf-8")) if readme.is_file() else cls.summary)
    console.print(f"\nfamily {cls.family}, layer {cls.layer.value}, {cls.kind}\n")
    console.print("Configuration", style="bold")
    console.print(_config_table(cls.config_model))
    if not sample.is_file():
        return
    text = re.sub(r'(?m)^driver = ".*"$', f'driver = "{name}"', sample.read_text(encoding="utf-8"))
    for stream in _streams(cls, text):
        console.print(f"\nStream {stream.measurement}", style="bold")
        console.print(_field_table(stream))
    console.print("\nSample", style="bold")
    console.print(text.strip())


def _opening(readme: str) -> str:
    """What stands before the first section."""
    return readme.split("\n## ", 1)[0].strip()


def _config_table(model: type[BaseModel]) -> Table:
    table = Table("key", "type", "default", box=None)
    table.add_column("what it is", overflow="fold")
    for key, info in model.model_fields.items():
        table.add_row(key, _type_name(info.annotation), _default(info), info.description or "")
    return table


def _type_name(annotation: Any) -> str:
    """``float | None`` rather than a class path; a table of a configuration by its name."""
    origin = typing.get_origin(annotation)
    if origin is None:
        return "none" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return " | ".join(json.dumps(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(one) for one in arguments if one is not type(None))
    inner = ", ".join(_type_name(one) for one in arguments if one is not Ellipsis)
    return f"{origin.__name__.lower()} of {inner}"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, set | frozenset):
        default = sorted(default)
    return "" if default is None else json.dumps(default, default=str)


def _streams(cls: type[Driver[Any]], sample: str) -> Sequence[Stream]:
    """The streams of the sample's device."""
    try:
        return cls(cls.config_model.model_validate(tomllib.loads(sample)["device"][0])).streams()
    except (ValidationError, ConfigError):
        # A profile may ask for options that the sample of another one does not have.
        return ()


def _field_table(stream: Stream) -> Table:
    table = Table("field", "unit", "type", "resolution", "valid", box=None)
    for field in stream.fields:
        low, high = field.valid or (None, None)
        valid = (
            "" if field.valid is None else f"{'' if low is None else low} … {'' if high is None else high}"
        )
        resolution = "" if field.resolution is None else f"{field.resolution:g}"
        table.add_row(field.name, field.unit, field.type.value, resolution, valid)
    return table


# --- decode -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one codec makes of captured bytes."""

    device: str
    frames: Sequence[Frame]
    samples: Sequence[Observed]
    damaged: Sequence[str]


@app.command()
def decode(
    name: Annotated[str, typer.Argument(help="Driver, see `trisense driver list`.")],
    file: Annotated[Path | None, typer.Argument(help="File of captured bytes.")] = None,
    hex_text: Annotated[str | None, typer.Option("--hex", help="Captured bytes as hex.")] = None,
    device: Annotated[
        str | None, typer.Option("--as", help="Which of the driver's devices or formats it is.")
    ] = None,
) -> None:
    """Decode captured bytes: one JSON object per sample; damage is counted on stderr.

    Exit codes: 0 good, 1 damaged bytes or nothing decoded, 2 no such driver, file or hex.
    """
    codecs = _codecs(_find(name), name)
    if device is not None and device not in codecs:
        cannot(f"--as {device!r}: {name} reads {', '.join(codecs)}")
    part = _captured(file, hex_text)
    candidates = [device] if device else list(codecs)
    if device is None and name == MODBUS:  # registers do not tell whose they are
        candidates = candidates[:1]
    found = [_decode(one, codecs[one], part) for one in candidates]
    best = max(found, key=lambda d: (len(d.samples), len(d.frames), -len(d.damaged)))
    for sample in best.samples:
        typer.echo(json.dumps(_as_json(sample), ensure_ascii=False))
    for line in best.damaged:
        typer.echo(f"damaged: {line}", err=True)
    typer.echo(
        f"as {best.device}: {len(best.frames)} good frames, {len(best.samples)} samples, "
        f"{len(best.damaged)} damaged",
        err=True,
    )
    raise typer.Exit(1 if best.damaged or not best.frames else 0)


def _codecs(cls: type[Driver[Any]], name: str) -> Mapping[str, Codec]:
    """The driver's codecs, the preferred one first; of a Modbus profile that alone."""
    _, _, profile = name.partition(":")
    if profile:
        from trisense.drivers.modbus import ModbusCodec, profiles  # noqa: PLC0415  # needs an extra

        return {name: ModbusCodec(profiles()[profile])}
    if not cls.codecs:
        cannot(f"{name} has no codec")
    return cls.codecs


def _captured(file: Path | None, hex_text: str | None) -> Part:
    if (file is None) is (hex_text is None):
        cannot("captured bytes as --hex HEX or as a FILE")
    if file is not None:
        try:
            return Part(file.read_bytes(), file.name)
        except OSError as error:
            cannot(f"{file}: {error.strerror}")
    try:
        return Part(bytes.fromhex("".join(str(hex_text).split())))
    except ValueError as error:
        cannot(f"--hex: {error}")


def _decode(device: str, codec: Codec, part: Part) -> Decoded:
    frames = codec.frames_given([part], {}) if isinstance(codec, GivenCodec) else codec.frames(part.data)
    samples = [sample for frame in frames for sample in codec.observed(frame)]
    return Decoded(device, frames, samples, codec.damaged(part.data))


def _as_json(sample: Observed) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "measurement": sample.measurement,
        "values": dict(sample.values),
        "quality": {field: int(code) for field, code in sample.quality.items()},
    }
    if sample.sensed_at_ns is not None:
        shown["sensed_at_ns"] = sample.sensed_at_ns
    if sample.blob is not None:
        shown["blob_bytes"] = len(sample.blob)
    return shown
