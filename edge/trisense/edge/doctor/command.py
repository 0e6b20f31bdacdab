"""``trisense edge doctor``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.status import Status as Spinner
from trisense.core import logs
from trisense.core.errors import LinkError
from trisense.edge.commands.port_report import holders
from trisense.edge.config import load
from trisense.edge.doctor import broker, disk, machine, mqtt, portcheck, timekeeping
from trisense.edge.doctor.examine import examine
from trisense.edge.doctor.model import Check, Finding, Patient, Verdict
from trisense.edge.status.client import Client, find_config, find_socket
from trisense.edge.status.screen import count

__all__ = ["CHECKS", "doctor", "patient_of"]

CHECKS: Final[Mapping[str, Check]] = {
    "service": machine.check_service,
    "file system": disk.check_file_system,
    "fsync": disk.check_fsync,
    "room": disk.check_room,
    "clock": timekeeping.check_clock,
    "real-time clock": timekeeping.check_rtc,
    "boot id": timekeeping.check_boot_id,
    "ports": portcheck.check_ports,
    "meddlers": portcheck.check_meddlers,
    "certificates": broker.check_certificates,
    "way to the broker": broker.check_way,
    "MQTT": mqtt.check_mqtt,
    "hardware watchdog": machine.check_watchdog,
    "temperature": machine.check_heat,
    "memory": machine.check_memory,
    "power": machine.check_power,
}
STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.BAD: "bold red"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.toml", help="Left out: /etc/trisense/edge.toml, else edge.toml here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Measure what the promises of a box rest on, and say what to do.

    Disk (does fsync keep its word, how long does it take, is there room), clock, serial ports, certificates,
    broker and gateway, power, heat, memory, service. It may run while the box does: it takes no lock, opens
    no port, and does not disturb the box's connection. No check takes longer than 5 s.

    Exit 0: all is well. 1: something is not. 2: the file has mistakes.
    """
    logs.configure("error")
    patient = patient_of(find_config(config))
    found = []
    console = Console(highlight=False, soft_wrap=True)
    with Spinner("examining", console=Console(stderr=True)) as spinner:
        for finding in examine(patient, CHECKS):
            found.append(finding)
            spinner.update(f"examined: {finding.name}")
            if not as_json:
                _show(console, finding)
    worst = max((list(Verdict).index(finding.verdict) for finding in found), default=0)
    if as_json:
        checks = [_dump(finding) for finding in found]
        dump = {"box": patient.config.box.id, "verdict": list(Verdict)[worst]}
        typer.echo(json.dumps(dump | {"checks": checks}))
    else:
        console.print(_summary(found))
    if worst:
        raise typer.Exit(1)


def _summary(found: Sequence[Finding]) -> str:
    """The last line, which stays on the screen."""
    bad = sum(finding.verdict is Verdict.BAD for finding in found)
    doubtful = sum(finding.verdict is Verdict.WARN for finding in found)
    counts = [f"{bad} bad"] * bool(bad) + [count(doubtful, "warning", "warnings")] * bool(doubtful)
    return f"{' and '.join(counts)}: each says above what to do." if counts else "All is well."


def patient_of(config: Path) -> Patient:
    """The box that a configuration describes, and what it says where it runs.

    Raises:
        ConfigError: the file has mistakes.
    """
    box = load(config)
    lock = box.spool.path.with_name(box.spool.path.name + ".lock")
    occupied = bool(holders(lock))
    try:
        with Client(find_socket(config), config) as client:
            running = client.status()
    except LinkError:
        running = None
    return Patient(box, running, occupied or running is not None)


def _show(console: Console, finding: Finding) -> None:
    style = STYLES[finding.verdict]
    console.print(f"[{style}]{finding.verdict:<5}[/] {finding.name:<22} ", end="")
    console.print(finding.measured, markup=False)
    if finding.advice:
        console.print(f"      -> {finding.advice}", markup=False)


def _dump(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.name,
        "verdict": finding.verdict,
        "measured": finding.measured,
        "advice": finding.advice,
        "values": dict(finding.values),
    }
