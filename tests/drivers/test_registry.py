"""Drivers are found by entry point, and a missing dependency is told by the extra that brings it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from trisense.core.errors import ConfigError, MissingExtra
from trisense.drivers import registry
from trisense.drivers.sdk import Driver, PolledDriver, StreamingDriver

SEVEN = {"adsb", "http-camera", "ld2450", "llrp", "modbus", "ndvi-scenes", "plantower"}
FAMILIES = {"camera", "rfid", "environment", "radar", "air", "sky"}


def test_the_seven_drivers_are_there() -> None:
    assert set(registry.known()) >= SEVEN


@pytest.mark.parametrize("name", sorted(SEVEN))
def test_each_driver_says_what_it_is(name: str) -> None:
    cls = registry.load(name)
    assert issubclass(cls, Driver)
    assert cls.name == name
    assert cls.family in FAMILIES
    assert issubclass(cls, {"polled": PolledDriver, "streaming": StreamingDriver}[cls.kind])
    assert cls.summary
    assert cls.codecs


def test_a_modbus_profile_is_read_by_the_modbus_driver() -> None:
    assert registry.driver_class("modbus:ecowitt-ws90") is registry.load("modbus")


def test_an_unknown_driver_is_a_mistake_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.driver_class("plantwoer")
    (mistake,) = caught.value.mistakes
    assert mistake.expected == f"one of {', '.join(registry.known())}"
    assert {"adsb", "plantower"} < set(registry.known())
    assert mistake.got == "'plantwoer'"


@pytest.fixture
def needy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose dependency is not installed."""
    (tmp_path / "needy.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = {"needy": EntryPoint("needy", "needy:Needy", registry.GROUP)}
    monkeypatch.setattr(registry, "known", lambda: points)


@pytest.mark.usefixtures("needy")
def test_a_missing_dependency_is_told_with_the_extra_that_brings_it() -> None:
    with pytest.raises(MissingExtra, match=r"needs trisense\[edge\] \(module a_package_nobody_has"):
        registry.load("needy")
