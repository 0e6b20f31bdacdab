"""Runs checks one after the other, each in a thread of its own and never longer than its limit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from trisense.edge.doctor.model import Check, Finding, Patient, Verdict

__all__ = ["LIMIT_S", "examine"]

LIMIT_S: Final = 5.0
"""Longest wait for the next finding of a check; a disk or resolver that hangs is a finding too."""


def examine(patient: Patient, checks: Mapping[str, Check], *, limit_s: float = LIMIT_S) -> Iterator[Finding]:
    """The findings, as they come."""
    for name, check in checks.items():
        yield from _bounded(name, check, patient, limit_s)


def _bounded(name: str, check: Check, patient: Patient, limit_s: float) -> Iterator[Finding]:
    found: queue.Queue[Finding | None] = queue.Queue()

    def run() -> None:
        try:
            for finding in check(patient):
                found.put(finding)
        except Exception as error:  # noqa: BLE001  # one check's bug must not hide what the others find
            found.put(Finding(name, Verdict.WARN, f"this check failed: {error!r}", "tell the developers"))
        found.put(None)

    threading.Thread(target=run, name=f"doctor-{name}", daemon=True).start()
    while True:
        try:
            finding = found.get(timeout=limit_s)
        except queue.Empty:
            what = f"no answer within {limit_s:g} s"
            yield Finding(name, Verdict.BAD, what, "find out what hangs; the box waits for it too")
            return
        if finding is None:
            return
        yield finding
