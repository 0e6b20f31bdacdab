"""``trisense driver new``: a driver package, or a Modbus profile, that passes the kit as it stands."""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer
from trisense.core.cli import cannot
from trisense.drivers.registry import known

__all__ = ["new"]

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
ENDING: Final = ".tmpl"


def new(
    name: Annotated[str, typer.Argument(help="Name of the driver or profile, such as hrxl-sonar.")],
    modbus: Annotated[
        bool, typer.Option("--modbus", help="A Modbus device: one TOML file, no code.")
    ] = False,
    folder: Annotated[Path, typer.Option("--in", help="Where to put it.")] = Path(),
) -> None:
    """Start a driver: a package that passes `trisense driver test` as it stands, to be changed from there.

    Nothing that exists is overwritten. Exit codes: 0 written, 2 cannot.
    """
    if not NAME.fullmatch(name):
        cannot(f"a name of small letters, digits and single hyphens, not {name!r}")
    if not modbus and name in known():
        cannot(f"there is a driver {name} already")
    try:
        written = _profile(name, folder) if modbus else _package(name, folder)
    except OSError as error:
        cannot(f"{error.filename}: {error.strerror}")
    for file in written:
        typer.echo(file)
    if modbus:
        typer.echo(f"\nnext: trisense driver test {written[0]}", err=True)
    else:
        package = folder / name
        shown = package if package.is_absolute() else f"./{package}"
        typer.echo(f"\nnext: pip install -e {shown}\n      trisense driver test {name}", err=True)


def _templates() -> Traversable:
    return resources.files(__package__) / "templates"


def _profile(name: str, folder: Path) -> list[Path]:
    text = Template((_templates() / f"profile.toml{ENDING}").read_text(encoding="utf-8"))
    target = folder / f"{name}.toml"
    with target.open("x", encoding="utf-8") as out:
        out.write(text.substitute(name=name))
    return [target]


def _package(name: str, folder: Path) -> list[Path]:
    module = name.replace("-", "_")
    class_name = "".join(part.title() for part in name.split("-"))
    root = folder / name
    root.mkdir()
    written = []
    for path, template in _files(_templates() / "driver", Path()):
        target = root / str(path).replace("module", module)
        target.parent.mkdir(exist_ok=True)
        text = Template(template.read_text(encoding="utf-8"))
        target.write_text(text.substitute(name=name, module=module, class_name=class_name), encoding="utf-8")
        written.append(target)
    return sorted(written)


def _files(folder: Traversable, below: Path) -> list[tuple[Path, Traversable]]:
    found: list[tuple[Path, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, below / entry.name)
        elif entry.name.endswith(ENDING):
            found.append((below / entry.name.removesuffix(ENDING), entry))
    return found
