"""``trisense driver record``: a line written down both ways while a driver runs on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tomllib
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.status import Status
from trisense.core.cli import cannot
from trisense.core.config import mistakes_of
from trisense.core.errors import ConfigError, DeviceError, LineError
from trisense.drivers.lines import check_url
from trisense.drivers.recording import Recorder, RecordingLines
from trisense.drivers.registry import driver_class
from trisense.drivers.sdk import Driver, PolledDriver, StreamingDriver

__all__ = ["chosen", "record"]

SHOW_S: Final = 0.5


def record(
    url: Annotated[str, typer.Argument(help="The line, such as serial:///dev/ttyUSB0?baud=9600.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; it must not exist yet.")],
    name: Annotated[
        str | None, typer.Option("--driver", help="Driver to run on the line; without it: only listen.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="End after so long; without it: at Ctrl-C.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="An option of the driver.")
    ] = None,
) -> None:
    """Write down what goes over a line, both ways, with its times.

    The file is a line: replay://FILE plays the device back at its own pace, replay://FILE?speed=10 faster.
    A recording ends when the line is lost. Exit codes: 0 something was received, 1 nothing, 2 cannot.
    """
    try:
        check_url(url)
    except ValueError as error:
        cannot(f"{url}: expected {error}")
    driver = None if name is None else _driver(name, url, options or [])
    try:
        file = out.open("x", encoding="utf-8")
    except OSError as error:
        cannot(f"{out}: {error.strerror}")
    began = time.monotonic()
    with file:
        recorder = Recorder(file, line=url, driver=name or "")
        status = Console(stderr=True).status("opening the line")
        with contextlib.suppress(KeyboardInterrupt), status:
            ended = asyncio.run(_run(url, driver, recorder, seconds, status))
            if ended:
                typer.echo(f"trisense: {ended}", err=True)
    took_s = time.monotonic() - began
    typer.echo(
        f"{out}: {recorder.rx_bytes} bytes received, {recorder.tx_bytes} sent, {took_s:.1f} s", err=True
    )
    raise typer.Exit(0 if recorder.rx_bytes else 1)


def _driver(name: str, url: str, options: list[str]) -> Driver[Any]:
    """The driver on this line; ends the program where its configuration is wrong."""
    try:
        cls = driver_class(name)
    except ConfigError as error:
        cannot(str(error))
    tables = {"name": "recorded", "driver": name, "line": url, **chosen(options)}
    try:
        return cls(cls.config_model.model_validate(tables))
    except ValidationError as error:
        cannot("; ".join(str(mistake) for mistake in mistakes_of(error)))


def chosen(options: list[str]) -> dict[str, Any]:
    """Options of a driver as they stand behind -o."""
    pairs = [option.partition("=") for option in options]
    return {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> Any:
    """A TOML value; what is none is a string, so that quotes are not needed."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


async def _run(
    url: str, driver: Driver[Any] | None, recorder: Recorder, seconds: float | None, status: Status
) -> str:
    """Record until the time is up or the line is lost; says why it ended, "" where that was wanted."""
    lines = RecordingLines(recorder)
    showing = asyncio.create_task(_show(recorder, status))
    try:
        async with asyncio.timeout(seconds):
            await (_listen(lines, url) if driver is None else _drive(driver, lines))
    except TimeoutError:
        return ""
    except DeviceError as error:
        return f"ended: {error}"
    finally:
        showing.cancel()
        if driver is not None:
            await driver.close()
    return ""


async def _show(recorder: Recorder, status: Status) -> None:
    while True:
        status.update(f"{recorder.rx_bytes} bytes received, {recorder.tx_bytes} sent; Ctrl-C ends")
        await asyncio.sleep(SHOW_S)


async def _listen(lines: RecordingLines, url: str) -> None:
    line = await lines.open(url)
    try:
        while True:
            await line.read()
    finally:
        await line.close()


async def _drive(driver: Driver[Any], lines: RecordingLines) -> None:
    """What the runtime does, without its reconnecting."""
    await driver.connect(lines)
    if isinstance(driver, StreamingDriver):
        async with aclosing(driver.observe()) as rows:  # type: ignore[type-var]  # an async generator
            async for _ in rows:
                pass
        return
    assert isinstance(driver, PolledDriver)  # noqa: S101  # there are two shapes
    while True:
        try:
            await driver.read()
        except LineError:
            raise
        except DeviceError as error:
            typer.echo(f"trisense: {error}", err=True)
        await asyncio.sleep(driver.config.interval_s)
