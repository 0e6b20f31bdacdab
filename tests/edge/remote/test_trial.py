"""What speaks against a configuration on trial, device by device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from trisense.edge.config import Device
from trisense.edge.remote.trial import Before, Trial
from trisense.edge.sensing.supervisor import DeviceHealth


@dataclass(eq=False)
class FakeSupervisor:
    health: DeviceHealth = field(default_factory=DeviceHealth)


@dataclass
class FakeConfig:
    interval_s: float = 1.0
    timeout_s: float = 5.0


@dataclass
class FakeDriver:
    kind: str = "polled"
    config: FakeConfig = field(default_factory=FakeConfig)


@dataclass
class FakeSet:
    """Devices whose health a test says."""

    devices: dict[str, Device] = field(default_factory=dict)
    supervisors: dict[str, FakeSupervisor] = field(default_factory=dict)

    def put(self, name: str, *, kind: str = "polled", interval_s: float = 1.0, **health: Any) -> DeviceHealth:
        driver = cast("Any", FakeDriver(kind, FakeConfig(interval_s)))
        self.devices[name] = Device(name, driver, cast("Any", None))
        self.supervisors[name] = FakeSupervisor(DeviceHealth(**health))
        return self.supervisors[name].health


Begin = Callable[[], Trial]


@pytest.fixture
def now() -> FakeSet:
    return FakeSet()


@pytest.fixture
def begin(now: FakeSet) -> Begin:
    """Takes the devices as they are for those before the change."""

    def make() -> Trial:
        devices = cast("Any", now)
        return Trial(Before.of(devices), devices, health_s=60.0)

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[0])
    return times


GOOD: dict[str, Any] = {"connected": True, "reads": 7}
FAILS: dict[str, Any] = {"connected": True, "error": "dust: no answer"}


def test_a_neighbour_has_to_be_read_once_more(now: FakeSet, begin: Begin) -> None:
    health = now.put("dust", **GOOD)
    trial = begin()
    assert trial.complaints() == ["dust: it has not been read since"]
    health.reads += 1
    assert trial.complaints() == []


def test_a_neighbour_that_fails_since_speaks_against_it(now: FakeSet, begin: Begin) -> None:
    health = now.put("dust", **GOOD)
    trial = begin()
    health.error = "dust: no answer"
    assert trial.complaints() == ["dust: no answer"]
    health.error, health.connected = None, False
    assert trial.complaints() == ["dust: it worked before and does not now"]


def test_a_neighbour_that_is_read_once_an_hour_need_not_be_read(now: FakeSet, begin: Begin) -> None:
    now.put("dust", interval_s=3600, **GOOD)
    assert begin().complaints() == []


def test_a_neighbour_that_was_restarted_meanwhile_counts_from_its_restart(now: FakeSet, begin: Begin) -> None:
    now.put("dust", **GOOD)
    trial = begin()
    now.supervisors["dust"] = FakeSupervisor(DeviceHealth(connected=True, reads=1))
    assert trial.complaints() == []


@pytest.mark.parametrize("changed", [False, True])
def test_who_did_not_work_before_is_not_asked(now: FakeSet, begin: Begin, changed: bool) -> None:
    now.put("dust", **FAILS)
    trial = begin()
    if changed:
        now.put("dust", **FAILS)
    assert trial.complaints() == []
    assert trial.to_ask() == []


@pytest.mark.parametrize("was", [{}, GOOD])
def test_a_new_device_and_a_changed_one_have_to_be_read(
    now: FakeSet, begin: Begin, was: dict[str, Any]
) -> None:
    if was:
        now.put("dust", **was)
    trial = begin()
    health = now.put("dust", interval_s=3600)
    assert trial.complaints() == ["dust: it does not connect"]
    assert trial.to_ask() == cast("Any", [now.supervisors["dust"]])
    health.connected = True
    assert trial.complaints() == ["dust: it has given no row"]
    health.error = "dust: no answer"
    assert trial.complaints() == ["dust: no answer"]
    health.error, health.reads = None, 1
    assert trial.complaints() == []


def test_a_device_that_streams_may_have_nothing_to_tell_for_its_own_time_out(
    now: FakeSet, begin: Begin, clock: Sequence[float]
) -> None:
    times = cast("list[float]", clock)
    trial = begin()
    health = now.put("gate", kind="streaming", connected=True)
    assert trial.complaints() == ["gate: it has given no row"]
    times[0] += 4.9
    health.error = "gate: line lost"
    assert trial.complaints() == ["gate: line lost"]
    health.error = None
    assert trial.complaints() == ["gate: it has given no row"]
    times[0] += 4.9
    assert trial.complaints() == ["gate: it has given no row"], "its time began anew with the line"
    times[0] += 0.1
    assert trial.complaints() == []
    assert trial.to_ask() == []


def test_who_is_gone_speaks_no_more(now: FakeSet, begin: Begin) -> None:
    now.put("dust", **GOOD)
    trial = begin()
    del now.devices["dust"], now.supervisors["dust"]
    assert trial.complaints() == []
