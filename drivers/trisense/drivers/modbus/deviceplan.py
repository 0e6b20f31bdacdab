"""What to ask one device for, and what is learnt from how it answers. No I/O.

A new device is first asked within the blocks that its profile declares. Once it has answered, requests may
also reach over the registers between them, where that saves bus time. A device may refuse such a request
(exception 2 or 3) or stay silent (environment.md A3, "no reply to an illegal address"); since it has just
answered a narrower one, silence then means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from trisense.drivers.modbus.planner import Span
from trisense.drivers.modbus.profile import FieldTable, Profile, Request

__all__ = ["DevicePlan"]

FORGET_S: Final = 600.0
"""What a device refused is tried again after this: a module may have been plugged in, a line repaired."""


class DevicePlan:
    """The requests of one read of one device; times are monotonic seconds."""

    def __init__(self, profile: Profile, options: Mapping[str, str], cost: Callable[[int, int], int]) -> None:
        self._profile = profile
        self._options = options
        self._cost = cost
        self._refused: set[tuple[int, Span]] = set()
        self._answered: set[tuple[int, Span]] = set()
        self._wide = False
        self._wide_from_s = 0.0
        self._forget_at_s: float | None = None
        self._requests: tuple[Request, ...] | None = None

    def requests(self, now_s: float) -> tuple[Request, ...]:
        """What the next read asks for; nothing once the device has refused every field."""
        if self._forget_at_s is not None and now_s >= self._forget_at_s:
            self._refused.clear()
            self._forget_at_s = self._requests = None
        if self._requests is None:
            self._requests = self._plan()
        return self._requests

    def read_whole(self, now_s: float) -> None:
        """All that was asked for came: from now on requests may reach over holes."""
        if not self._wide and now_s >= self._wide_from_s:
            self._wide, self._requests = True, None

    def answered(self, request: Request) -> None:
        self._answered.add((request.function, request.span))

    def refused(self, request: Request, now_s: float) -> tuple[Request, ...]:
        """Remember an exception that says "not these registers", and give the halves to ask for instead.

        Empty where there is nothing to halve: then these fields are not asked for again for a while.
        """
        self._refused.add((request.function, request.span))
        if self._forget_at_s is None:
            self._forget_at_s = now_s + FORGET_S
        self._requests = None
        return _halves(request)

    def refused_all(self) -> None:
        """Not one field was left: begin anew, as with a device just plugged in."""
        self._refused.clear()
        self._answered.clear()
        self._wide = False
        self._forget_at_s = self._requests = None

    def silent(self, request: Request, now_s: float) -> tuple[Request, ...]:
        """Give what to ask for instead of a request that reached over a hole and never was answered.

        Empty where the silence says nothing about the registers.
        """
        declared = self._profile.rules(request.function)
        if declared.allow(request.span) or (request.function, request.span) in self._answered:
            return ()
        self._wide, self._wide_from_s, self._requests = False, now_s + FORGET_S, None
        return tuple(narrow for narrow in self._plan() if request.span.holds(narrow.span))

    def _plan(self) -> tuple[Request, ...]:
        return self._profile.requests(self._options, cost=self._cost, refused=self._refused, wide=self._wide)


def _halves(request: Request) -> tuple[Request, ...]:
    """The request in two parts, parted at its largest hole, of equal ones at the one next to the middle."""
    runs = _runs(request.fields)
    if len(runs) == 1:
        return ()
    middle = len(runs) / 2
    at = max(
        range(1, len(runs)),
        key=lambda index: (runs[index][0].address - _end(runs[index - 1]), -abs(index - middle)),
    )
    return _request(request.function, runs[:at]), _request(request.function, runs[at:])


def _runs(fields: Sequence[FieldTable]) -> list[list[FieldTable]]:
    """Fields in order of address; those that share a register stay together."""
    runs: list[list[FieldTable]] = []
    for field in sorted(fields, key=lambda field: field.span):
        if runs and field.address < _end(runs[-1]):
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs


def _end(run: Sequence[FieldTable]) -> int:
    return max(field.end for field in run)


def _request(function: int, runs: Sequence[Sequence[FieldTable]]) -> Request:
    start, end = runs[0][0].address, _end(runs[-1])
    return Request(function, start, end - start, tuple(field for run in runs for field in run))
