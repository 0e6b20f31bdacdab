"""What is tested: a driver, found by its name, with the device that the kit plays to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from trisense.core.config import check, mistakes_of, read_toml
from trisense.core.errors import ConfigError, Mistake
from trisense.drivers.kit.contract import CELLS, CellName, Conformance, Example
from trisense.drivers.kit.player import Player, TablePlayer
from trisense.drivers.kit.stage import PtyStage, Stage, TcpStage
from trisense.drivers.registry import driver_class, known
from trisense.drivers.sdk import Driver

__all__ = ["CONTRACT", "DEVICE", "Setup", "Subject", "stage_of", "subject_at", "subject_of"]

CONTRACT: Final = "conformance.toml"
DEVICE: Final = "device-under-test"
TIMEOUT_S: Final = 0.3
MODBUS: Final = "modbus"
UNSEEN: Final[Mapping[CellName, str]] = {
    "examples": "what the device means is not known; its rows are held against the ranges of the streams",
    "duplicates": "where its frames begin and end is not known",
    "wrong unit": "how its frames name a unit is not known",
    "clock steps": "times of its own are not known",
}
"""Tests that need to know what a device says."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to configure the driver, and a device that fits it."""

    options: Mapping[str, Any]
    player: Callable[[], Player]
    examples: int
    transport: str
    """``pty`` or ``tcp``."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A driver under test."""

    name: str
    driver_name: str
    """What ``driver =`` says in its configuration."""
    cls: type[Driver[Any]]
    template: str
    line_key: str
    not_applicable: Mapping[CellName, str]
    setups: Sequence[Setup]
    note: str = ""
    """What the person who reads the score card must know."""
    url: str = ""
    """A device of its own, in whose line the kit stands; empty: the kit plays one."""

    def driver(self, line: str, setup: Setup) -> Driver[Any]:
        """A fresh driver for the device that stands at ``line``.

        Raises:
            ConfigError: its configuration does not take the contract's options.
        """
        tables = {
            "name": DEVICE,
            "driver": self.driver_name,
            self.line_key: line,
            **({} if self.url else {"timeout_s": TIMEOUT_S}),
            **setup.options,
        }
        try:
            return self.cls(self.cls.config_model.model_validate(tables))
        except ValidationError as error:
            raise ConfigError(f"{self.name}: {CONTRACT}", mistakes_of(error, "device")) from error


def stage_of(setup: Setup, folder: Path) -> Stage:
    """A place for the device; ``folder`` is for the link of a pty."""
    if setup.transport == "tcp":
        return TcpStage()
    return PtyStage(Path(tempfile.mkdtemp(dir=folder)) / "device")


def subject_of(name: str) -> Subject:
    """The driver ``name``: registered by any package, ``modbus:PROFILE``, or the path of a profile.

    Raises:
        ConfigError: no such driver, or its contract is missing or wrong.
        MissingExtra: what the driver depends on is not installed.
    """
    if name.endswith(".toml") or name.partition(":")[0] == MODBUS:
        from trisense.drivers.kit.profiles import subject_of_profile  # noqa: PLC0415  # needs an extra

        return subject_of_profile(name)
    cls = driver_class(name)
    contract = _contract_of(name)
    return Subject(
        name,
        name,
        cls,
        contract.line,
        contract.line_key,
        {**_left_out(contract), **contract.not_applicable},
        [_setup(contract, examples) for examples in _alike(contract.example)],
    )


def subject_at(name: str, url: str, options: Mapping[str, Any]) -> Subject:
    """The driver ``name`` with the device at ``url``, for which it is configured by ``options``.

    Raises:
        ConfigError: no such driver, no line of bytes, or options that it does not take.
        MissingExtra: what the driver depends on is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme not in ("serial", "tcp"):
        raise ConfigError("--url", [Mistake("--url", "serial:///dev/... or tcp://HOST:PORT", repr(url))])
    cls = driver_class(name)
    if "line" not in cls.config_model.model_fields:
        raise ConfigError("--url", [Mistake("--url", "a driver with the option line", name)])
    setup = Setup(options, _nobody, 1, "tcp" if scheme == "tcp" else "pty")
    subject = Subject(name, name, cls, "", "line", UNSEEN, [setup], f"the device at {url}", url)
    subject.driver(url, setup)
    return subject


def _nobody() -> Player:
    raise AssertionError("the device at the URL plays itself")


def _contract_of(name: str) -> Conformance:
    module = known()[name].module
    file = resources.files(module) / CONTRACT
    with resources.as_file(file) as path:
        return check(path, read_toml(path), Conformance)


def _left_out(contract: Conformance) -> dict[CellName, str]:
    if contract.transport == "none":
        return dict.fromkeys(CELLS, contract.reason)
    return {} if contract.foreign else {"wrong unit": "no frame of a foreign unit in the contract"}


def _alike(examples: Sequence[Example]) -> Sequence[Sequence[Example]]:
    """Examples that one configuration reads, together, in the order of their first one."""
    groups: list[list[Example]] = []
    for example in examples:
        for group in groups:
            if group[0].device == example.device and bool(group[0].frames) == bool(example.frames):
                group.append(example)
                break
        else:
            groups.append([example])
    return groups


def _setup(contract: Conformance, examples: Sequence[Example]) -> Setup:
    options = {**contract.device, **examples[0].device}
    return Setup(options, lambda: TablePlayer(contract, examples), len(examples), contract.transport)
