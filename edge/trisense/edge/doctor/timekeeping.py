"""The clock: who sets it, how far it can be trusted, and whether it survives a power cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trisense.edge.clocks.clock import PLAUSIBLE_NS, SystemClock
from trisense.edge.doctor.model import Finding, Patient, Verdict

__all__ = ["check_boot_id", "check_clock", "check_rtc"]

DAEMONS: Final = {
    "chronyd": "chrony",
    "systemd-timesyn": "systemd-timesyncd",
    "ntpd": "ntpd",
    "ntpsec": "ntpsec",
    "ptp4l": "ptp4l",
}
"""Who sets clocks, by what the kernel shows of their names: 15 characters."""
COARSE_MS: Final = 500
RTC_OFF_S: Final = 60.0


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Whether the kernel says that its clock is synchronised, and who sees to it."""
    state = SystemClock().state()
    daemons = sorted({DAEMONS[name] for name in commands(patient.root) if name in DAEMONS})
    by = f"set by {', '.join(daemons)}" if daemons else "no daemon seen that sets it"
    values = {"synced": state.synced, "error_ms": state.error_ms, "daemons": ", ".join(daemons)}
    if state.synced:
        measured = f"synchronised, error at most {state.error_ms} ms, {by}"
        coarse = state.error_ms is not None and state.error_ms > COARSE_MS
        advice = (
            "look for a nearer time server: events of several boxes cannot be put in order" if coarse else ""
        )
        yield Finding("clock", Verdict.WARN if coarse else Verdict.OK, measured, advice, values)
        return
    if time.time_ns() < PLAUSIBLE_NS:
        verdict, measured = Verdict.BAD, f"never set since power-on ({time.strftime('%Y-%m-%d')}), {by}"
    else:
        verdict, measured = Verdict.WARN, f"not synchronised, {by}"
    if daemons:
        advice = "can it reach a server? chronyc tracking, or timedatectl timesync-status, tells"
    else:
        advice = "install chrony, with a server that this network reaches, or a GNSS receiver"
    yield Finding("clock", verdict, measured, advice, values)


def check_rtc(patient: Patient) -> Iterator[Finding]:
    """Whether the time survives without power."""
    offsets_s = []
    for file in sorted((patient.root / "sys/class/rtc").glob("rtc*/since_epoch")):
        try:
            offsets_s.append(int(file.read_text(encoding="ascii")) - time.time())
        except (OSError, ValueError):
            continue
    if not offsets_s:
        advice = (
            "after a power cut the box does not know the time until the network is back: samples wait up to"
            " hold_s for it, then go flagged. A real-time clock with a battery ends that"
        )
        yield Finding("real-time clock", Verdict.WARN, "none that can be read", advice)
        return
    off_s = offsets_s[0]
    values = {"offset_s": round(off_s, 1)}
    if abs(off_s) > RTC_OFF_S:
        advice = "hwclock --systohc once the clock is right; if it comes back, change the battery"
        yield Finding("real-time clock", Verdict.WARN, f"{off_s:+.0f} s off the clock", advice, values)
    else:
        yield Finding("real-time clock", Verdict.OK, "present and right to the minute", values=values)


def check_boot_id(patient: Patient) -> Iterator[Finding]:
    """Whether times before a restart of the box can be told from those before a power cut."""
    path = patient.root / "proc/sys/kernel/random/boot_id"
    try:
        boot_id = path.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = None
    hidden = patient.running is not None and patient.running.box.boot_id != boot_id
    if boot_id is not None and not hidden:
        yield Finding("boot id", Verdict.OK, "can be read")
        return
    measured = "hidden from the running box" if hidden else f"no {path}"
    advice = (
        "do not hide /proc/sys from the box (ProcSubset=pid in its unit): else what is sensed before the"
        " clock is set gets no right time after a restart of the box"
    )
    yield Finding("boot id", Verdict.WARN, measured, advice)


def commands(root: Path = Path("/")) -> set[str]:
    """Names of the programs that run, at most 15 characters each."""
    found = set()
    for file in (root / "proc").glob("[0-9]*/comm"):
        try:
            found.add(file.read_text(encoding="utf-8", errors="replace").strip())
        except OSError:
            continue  # ended meanwhile
    return found
