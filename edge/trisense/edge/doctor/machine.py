"""The machine under the box: who restarts it, heat, memory, power."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trisense.edge.doctor.model import Finding, Patient, Verdict
from trisense.edge.status.machine import temperature_c
from trisense.edge.status.screen import count, duration

__all__ = ["check_heat", "check_memory", "check_power", "check_service", "check_watchdog"]

WARM_C: Final = 70.0
HOT_C: Final = 80.0
"""From here on small boards slow down, and flash forgets sooner."""
LITTLE_BYTES: Final = 96 << 20
"""What the box and a camera's driver need to start anew beside what runs."""
ASK_S: Final = 3.0
NOW_BITS: Final = {0: "too little voltage", 1: "frequency capped", 2: "throttled", 3: "hot"}
"""Of ``get_throttled``, documented by Raspberry Pi; the same since power-on 16 bits higher."""


def check_service(patient: Patient) -> Iterator[Finding]:
    """Whether the box runs, and whether somebody starts it again."""
    running = patient.running
    if running is None:
        if patient.occupied:
            yield Finding("service", Verdict.WARN, "a box runs, but may not be asked", "run this as root")
        else:
            advice = "systemctl enable --now trisense-edge"
            yield Finding("service", Verdict.WARN, "no box runs with this configuration", advice)
        return
    unit = _unit(running.box.pid, patient.root)
    measured = f"process {running.box.pid}, up {duration(running.box.up_s)}"
    if unit is None:
        advice = "run it by deploy/systemd/trisense-edge.service: by hand nobody starts it again"
        yield Finding("service", Verdict.WARN, measured + ", under no unit", advice)
    else:
        yield Finding("service", Verdict.OK, f"{measured}, under {unit}", values={"unit": unit})
    if running.problems:
        names = ", ".join(problem.name or problem.part for problem in running.problems[:5])
        measured = f"{count(len(running.problems), 'problem', 'problems')}: {names}"
        yield Finding("running box", Verdict.WARN, measured, "trisense edge status tells them")


def check_watchdog(patient: Patient) -> Iterator[Finding]:
    """Whether hardware restarts a machine whose kernel hangs."""
    if not (patient.root / "dev/watchdog").exists():
        advice = "a kernel that hangs stays so until somebody comes: enable the board's watchdog"
        yield Finding("hardware watchdog", Verdict.WARN, "no /dev/watchdog", advice)
        return
    interval = _asked(["systemctl", "show", "--property=RuntimeWatchdogUSec", "--value"])
    if interval in (None, "", "0", "infinity"):
        advice = "RuntimeWatchdogSec=30 in /etc/systemd/system.conf"
        yield Finding("hardware watchdog", Verdict.WARN, "present, but systemd does not feed it", advice)
    else:
        yield Finding("hardware watchdog", Verdict.OK, f"present, fed by systemd ({interval})")


def check_heat(patient: Patient) -> Iterator[Finding]:
    """The hottest of the kernel's sensors."""
    found_c = temperature_c(patient.root / "sys/class/thermal")
    if found_c is None:
        yield Finding("temperature", Verdict.OK, "no sensor")
        return
    verdict = Verdict.BAD if found_c > HOT_C else Verdict.WARN if found_c > WARM_C else Verdict.OK
    advice = (
        "" if verdict is Verdict.OK else "shade, a heat sink or air: heat wears card and capacitors first"
    )
    yield Finding("temperature", verdict, f"{found_c:.0f} °C", advice, {"temperature_c": found_c})


def check_memory(patient: Patient) -> Iterator[Finding]:
    """What is left for a restart."""
    sizes = _sizes_bytes(patient.root / "proc/meminfo")
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    measured = f"{available >> 20} of {total >> 20} MiB available"
    values = {"available_bytes": available, "total_bytes": total}
    if available < LITTLE_BYTES:
        advice = "stop what is not needed: the kernel ends programs at random when memory runs out"
        yield Finding("memory", Verdict.WARN, measured, advice, values)
    else:
        yield Finding("memory", Verdict.OK, measured, values=values)


def check_power(patient: Patient) -> Iterator[Finding]:
    """Under-voltage and throttling, on boards that tell."""
    bits = _throttled(patient.root)
    low = any(
        _text(file) == "1" for file in (patient.root / "sys/class/hwmon").glob("hwmon*/in*_lcrit_alarm")
    )
    if bits is None and not low:
        return
    now = [word for bit, word in NOW_BITS.items() if (bits or 0) >> bit & 1]
    if low and NOW_BITS[0] not in now:
        now.append(NOW_BITS[0])
    before = [word for bit, word in NOW_BITS.items() if (bits or 0) >> (bit + 16) & 1]
    advice = "a stronger supply and a shorter, thicker cable: cards are damaged at low voltage first"
    if now:
        yield Finding("power", Verdict.BAD, f"now: {', '.join(now)}", advice)
    elif before:
        yield Finding("power", Verdict.WARN, f"since power-on: {', '.join(before)}", advice)
    else:
        yield Finding("power", Verdict.OK, "never too low since power-on")


def _throttled(root: Path) -> int | None:
    text = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None:
        text = (_asked(["vcgencmd", "get_throttled"]) or "").removeprefix("throttled=")
    try:
        return int(text, 16)
    except ValueError:
        return None


def _unit(pid: int, root: Path) -> str | None:
    """The system's unit that a process belongs to; None: a session, or none."""
    for line in (_text(root / f"proc/{pid}/cgroup") or "").splitlines():
        parts = line.split("/")
        units = [part for part in parts if part.endswith(".service")]
        if units and parts[1] == "system.slice":
            return units[-1]
    return None


def _sizes_bytes(file: Path) -> dict[str, int]:
    found = {}
    for line in (_text(file) or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdecimal():
            found[name] = int(number[0]) * 1024
    return found


def _asked(command: list[str]) -> str | None:
    """What a program says; None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
