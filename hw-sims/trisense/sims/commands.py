"""``trisense sim``: run one simulated device, or a whole city of them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from trisense.core.cli import cannot
from trisense.sims.base import Faults, Truth, World, serve_pty, serve_tcp

__all__ = ["KINDS", "app"]

KINDS: Final = {
    "plantower": "trisense.sims.plantower:Plantower",
    "sps30": "trisense.sims.sps30:Sps30",
    "wxt": "trisense.sims.wxt:Wxt",
    "nmea-weather": "trisense.sims.nmea:NmeaStation",
    "sdi12": "trisense.sims.sdi12:Sdi12",
    "winsen": "trisense.sims.winsen:Winsen",
    "a02yyuw": "trisense.sims.a02yyuw:A02yyuw",
    "rg15": "trisense.sims.rg15:Rg15",
    "davis": "trisense.sims.davis:Vantage",
    "maxbotix": "trisense.sims.maxbotix:Maxbotix",
    "nova": "trisense.sims.nova:Nova",
    "ld2450": "trisense.sims.ld2450:Ld2450",
    "timmwave": "trisense.sims.timmwave:TiMmwave",
    "timmwave-cli": "trisense.sims.timmwave:TiMmwaveCli",
    "ld2410": "trisense.sims.hilink:Ld2410",
    "ld2451": "trisense.sims.hilink:Ld2451",
    "ops243": "trisense.sims.ops243:Ops243",
    "dr500": "trisense.sims.dr500:Dr500",
    "ss125": "trisense.sims.ss125:Ss125",
    "rtms-g4": "trisense.sims.rtms:RtmsG4",
    "ws90": "trisense.sims.modbus:Ws90",
    "sensecap": "trisense.sims.modbus:SenseCap",
    "modbus": "trisense.sims.modbus:ModbusLine",
    "llrp": "trisense.sims.llrp:LlrpReader",
    "r200": "trisense.sims.r200:R200Module",
    "uhfreader18": "trisense.sims.uhfreader18:UhfReader18",
    "pn532": "trisense.sims.pn532:Pn532",
    "adsb": "trisense.sims.beast:BeastFeed",
    "http-camera": "trisense.sims.camera:SnapshotCamera",
    "ndvi-scenes": "trisense.sims.scenes:NdviScenes",
}
"""Imported when asked for: pictures and rasters need packages that the others do not."""
BASE: Final = frozenset({"self", "world", "truth", "faults", "seed", "name", "base", "return"})

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run simulated devices.")


def simulator_class(kind: str) -> Any:
    """The class of a kind; ends the program where there is none."""
    if kind not in KINDS:
        cannot(f"no simulator {kind!r}; there are {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def options_of(cls: Any) -> dict[str, Any]:
    """A simulator's own options: name and type, from its constructor."""
    hints = get_type_hints(cls.__init__)
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in BASE]
    return {name: hints[name] for name in known if name in hints}


def parse_options(cls: Any, given: list[str]) -> dict[str, Any]:
    """Read ``key=value`` texts as the types that the constructor names; ends the program on a mistake."""
    types, found = options_of(cls), {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or key not in types:
            cannot(f"option {item!r}: expected KEY=VALUE with a KEY of {', '.join(types) or '(none)'}")
        found[key] = _parse(key, TypeAdapter(types[key]), text)
    return found


def _parse(key: str, adapter: TypeAdapter[Any], text: str) -> Any:
    """A plain value as it stands, a list or a table as JSON."""
    try:
        if text.startswith(("[", "{")):
            return adapter.validate_json(text)
        return adapter.validate_strings(text)
    except ValidationError as error:
        cannot(f"option {key}: {error.errors()[0]['msg']}, got {text!r}")


@app.command("list")
def list_kinds() -> None:
    """List the kinds of simulated devices and their own options."""
    table = Table("kind", "what it is", "options (-o KEY=VALUE)", box=None)
    for kind in KINDS:
        cls = simulator_class(kind)
        table.add_row(kind, (inspect.getdoc(cls) or "").split("\n\n")[0], ", ".join(options_of(cls)))
    Console().print(table)


@app.command()
def run(
    kind: Annotated[str, typer.Argument(help="Kind of device, see `trisense sim list`.")],
    *,
    pty: Annotated[Path | None, typer.Option(help="Make a pty and this symbolic link to it.")] = None,
    tcp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Listen here.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Write files here (ndvi-scenes).")] = None,
    name: Annotated[str | None, typer.Option(help="Device name in the truth; by default the kind.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another world and other faults.")] = 0,
    lat: Annotated[float, typer.Option(min=-90, max=90, help="Latitude of the place.")] = 48.137,
    lon: Annotated[float, typer.Option(min=-180, max=180, help="Longitude of the place.")] = 11.575,
    faults: Annotated[str, typer.Option(help="Such as `checksum=0.05,late=0.01,hangup@20`.")] = "",
    truth: Annotated[Path | None, typer.Option(help="Append what was told to this JSON-lines file.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="Option of the kind.")
    ] = None,
) -> None:
    """Run one simulated device until Ctrl-C."""
    cls = simulator_class(kind)
    options = parse_options(cls, option or [])
    try:
        plan = Faults.parse(faults, seed=seed)
    except ValueError as error:
        cannot(f"--faults: {error}")
    try:
        log = Truth(truth)
    except OSError as error:
        cannot(f"--truth {truth}: {error.strerror}")
    with log:
        world = World(seed, lat, lon)
        try:
            sim = cls(world=world, truth=log, faults=plan, seed=seed, name=name or kind, **options)
        except ValueError as error:
            cannot(str(error))
        asyncio.run(until_stopped(_serving(sim, pty, tcp, folder)))


def _serving(sim: Any, pty: Path | None, tcp: str | None, folder: Path | None) -> Coroutine[Any, Any, None]:
    """The coroutine that runs the device where it was asked to stand."""
    if [pty, tcp, folder].count(None) != 2:
        cannot("one place for the device: --pty LINK, --tcp HOST:PORT or --folder DIR")
    if (folder is None) is hasattr(sim, "writing"):
        cannot("--folder DIR is the place of a kind that writes files, and of no other")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return _hold(sim.writing(folder))
    if pty is not None:
        return serve_pty(sim, pty)
    host, _, port = str(tcp).rpartition(":")
    if not host or not port.isdigit():
        cannot(f"--tcp: expected HOST:PORT, got {tcp!r}")
    return serve_tcp(sim, host, int(port))


async def _hold(running: contextlib.AbstractAsyncContextManager[object]) -> None:
    async with running:
        await asyncio.Event().wait()


async def until_stopped(serving: Coroutine[Any, Any, None]) -> None:
    """Run a device until SIGTERM or SIGINT, so that links and logs are put away."""
    task = asyncio.create_task(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with _told_plainly(), contextlib.suppress(asyncio.CancelledError):
        await task


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    """A port that is taken or a folder that is not there is the user's to mend."""
    try:
        yield
    except OSError as error:
        cannot(str(error))


@app.command()
def city(
    folder: Annotated[Path, typer.Argument(help="Devices, box configurations and truth go here.")],
    *,
    boxes: Annotated[int, typer.Option(min=1, max=9, help="Number of boxes.")] = 3,
    mqtt_port: Annotated[int, typer.Option(help="Broker's port in the boxes' configurations.")] = 1883,
    seed: Annotated[int, typer.Option(help="Another seed is another city.")] = 0,
    faults: Annotated[str, typer.Option(help="Faults of every device, as in `sim run`.")] = "",
    log_level: Annotated[str, typer.Option(help="Log level in the boxes' configurations.")] = "info",
) -> None:
    """Run the devices of a whole city and write a configuration for each of its boxes."""
    # Pictures and rasters are imported with the city, not with a single sensor.
    from trisense.sims import city as whole  # noqa: PLC0415

    try:
        Faults.parse(faults)
    except ValueError as error:
        cannot(f"--faults: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    with _told_plainly():
        asyncio.run(
            whole.run(folder, boxes=boxes, mqtt_port=mqtt_port, seed=seed, faults=faults, log_level=log_level)
        )
