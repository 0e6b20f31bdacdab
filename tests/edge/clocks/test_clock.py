"""What the kernel says of its clock, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trisense.core.model import ClockState
from trisense.edge.clocks import clock as module
from trisense.edge.clocks.clock import PLAUSIBLE_NS, STA_UNSYNC, TIME_ERROR, SystemClock, worst

from tests.edge.conftest import T0_NS

Kernel = Callable[..., None]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Lets adjtimex(2) answer so, at a wall time."""

    def says(answer: int, status: int, maxerror_us: int, *, now_ns: int = T0_NS) -> None:
        def adjtimex(argument: Any) -> int:
            argument._obj.status, argument._obj.maxerror = status, maxerror_us
            return answer

        monkeypatch.setattr(module, "_adjtimex", lambda: adjtimex)
        monkeypatch.setattr(SystemClock, "now_ns", lambda _: now_ns)

    return says


@pytest.mark.parametrize(("maxerror_us", "error_ms"), [(1000, 1), (1001, 2), (0, 0), (16_000_000, 16_000)])
def test_a_clock_that_something_disciplines_is_worth_its_error_rounded_up(
    kernel: Kernel, maxerror_us: int, error_ms: int
) -> None:
    kernel(0, 0, maxerror_us)
    assert SystemClock().state() == ClockState(True, error_ms)


@pytest.mark.parametrize(
    ("answer", "status", "now_ns"),
    [
        (TIME_ERROR, 0, T0_NS),
        (-1, 0, T0_NS),  # a sandbox that forbids the call
        (0, STA_UNSYNC, T0_NS),
        (0, 0, PLAUSIBLE_NS - 1),  # a battery-less clock that somebody "disciplines"
    ],
)
def test_a_clock_is_not_believed_for_any_one_reason(
    kernel: Kernel, answer: int, status: int, now_ns: int
) -> None:
    kernel(answer, status, 1000, now_ns=now_ns)
    assert SystemClock().state() == ClockState(synced=False)


def test_what_holds_for_many_times_is_what_holds_for_the_worst() -> None:
    good, better, unknown = ClockState(True, 9), ClockState(True, 2), ClockState(True, None)
    assert worst([better, good]) == ClockState(True, 9)
    assert worst([good, unknown]) == ClockState(True, None)
    assert worst([good, ClockState(synced=False)]) == ClockState(synced=False)
    assert worst([]) == ClockState(synced=False)
