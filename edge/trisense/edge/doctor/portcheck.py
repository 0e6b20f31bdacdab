"""The serial ports that the configuration names: there, ours to open, free, and named so that it lasts."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trisense.drivers import ports
from trisense.edge.commands.port_report import Holder, holders, named_ports, survey, unstable_names
from trisense.edge.doctor.model import Finding, Patient, Verdict
from trisense.edge.doctor.timekeeping import commands

__all__ = ["check_meddlers", "check_ports"]

SERVICE_USER: Final = "trisense"
"""Of the shipped unit."""
MEDDLERS: Final = {
    "ModemManager": "it asks new ports whether they are modems: systemctl disable --now ModemManager",
    "brltty": "it takes ports for Braille displays: apt remove brltty",
    "agetty": "it is a login on the port: systemctl disable --now serial-getty@NAME",
}


def check_ports(patient: Patient) -> Iterator[Finding]:
    """Each port of the configuration; nothing is opened."""
    seen = set()
    for _, user, path in named_ports(patient.config):
        if path not in seen:
            seen.add(path)
            yield _port(f"port of {user}", path, patient)
    for mistake in unstable_names(patient.config):
        yield Finding(
            "port name", Verdict.WARN, f"{mistake.where}: {mistake.got}", f"name it {mistake.expected}"
        )
    shared = [str(use.port.node) for use in survey(None) if use.ambiguous]
    if shared:
        advice = "name them below /dev/serial/by-path: trisense edge ports"
        yield Finding("equal adapters", Verdict.WARN, f"one name in by-id for {', '.join(shared)}", advice)


def _port(name: str, path: Path, patient: Patient) -> Finding:
    try:
        status = path.stat()
    except OSError:
        known = ", ".join(str(use.best_name) for use in survey(None)) or "none"
        return Finding(
            name, Verdict.BAD, f"{path} is not there; ports: {known}", "plug it in, or name another"
        )
    who = holders(path)
    ours = patient.running.box.pid if patient.running is not None else None
    others = [holder for holder in who if holder.pid != ours and not _is_a_box(holder, patient)]
    if others:
        names = ", ".join(f"{holder.command} ({holder.pid})" for holder in others)
        advice = next(
            (MEDDLERS[h.command] for h in others if h.command in MEDDLERS), "stop it, or free the port"
        )
        return Finding(name, Verdict.BAD, f"{path} is held by {names}", advice)
    refused = _refused(status)
    if refused is not None:
        return Finding(name, Verdict.BAD, f"{path}: {refused[0]}", refused[1])
    return Finding(
        name, Verdict.OK, f"{path} is there" + (", held by the running box" if who else " and free")
    )


def _is_a_box(holder: Holder, patient: Patient) -> bool:
    return patient.running is None and patient.occupied and holder.command.startswith(("trisense", "python"))


def _refused(status: os.stat_result) -> tuple[str, str] | None:
    """(what, advice) where the box's user may not open the port: that of the service, else who asks."""
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        user = pwd.getpwuid(os.geteuid())
    group = _group(status.st_gid)
    groups = {user.pw_gid, *os.getgrouplist(user.pw_name, user.pw_gid)}
    owns = user.pw_uid in (0, status.st_uid)
    bits = status.st_mode >> (6 if owns else 3 if status.st_gid in groups else 0) & 0o6
    if user.pw_uid == 0 or bits == 0o6:
        return None
    return (
        f"user {user.pw_name} may not read and write it: mode {status.st_mode & 0o777:o}, group {group}",
        f"usermod --append --groups {group} {user.pw_name}, then restart the service",
    )


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def check_meddlers(patient: Patient) -> Iterator[Finding]:
    """Programs that open serial ports unasked, where there are adapters for them."""
    running = commands(patient.root) & {"ModemManager", "brltty"}
    if running and any(port.adapter is not None for port in ports.THIS.ports()):
        for name in sorted(running):
            yield Finding("meddlers", Verdict.WARN, f"{name} runs", MEDDLERS[name])
