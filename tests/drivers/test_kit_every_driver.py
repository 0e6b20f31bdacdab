"""Every registered driver and every Modbus profile passes the conformance matrix of the kit.

They are tested side by side within one test, for they mostly wait: all take little more than the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from trisense.drivers.kit.contract import CELLS, CellName
from trisense.drivers.kit.matrix import judge_all
from trisense.drivers.kit.subject import CONTRACT, subject_of
from trisense.drivers.modbus import profiles
from trisense.drivers.registry import known

MODBUS = "modbus"
WHOLE_PROFILE = "modbus:ecowitt-ws90"
"""The framing is one for all profiles: one of them goes through the whole matrix."""


def failures(names: Sequence[str], cells: Sequence[CellName] = tuple(CELLS)) -> dict[str, list[str]]:
    """What is wrong, by driver."""
    cards = judge_all([subject_of(name) for name in names], cells)
    return {
        card.driver: [f"{one.cell}: {one.detail}" for one in card.verdicts if one.verdict == "fail"]
        for card in cards
        if not card.passed
    }


def lasting_failures(names: Sequence[str], cells: Sequence[CellName] = tuple(CELLS)) -> dict[str, list[str]]:
    """What is wrong with drivers side by side, and again by themselves.

    Two dozen drivers and the rest of the suite share a few cores: what is late there may be the
    machine's fault. A fault of the driver's own stays when it has the machine to itself.
    """
    suspects = failures(names, cells)
    return failures(sorted(suspects), cells) if suspects else {}


def test_every_driver_has_examples_for_the_kit() -> None:
    drivers = {name: resources.files(point.module) / CONTRACT for name, point in known().items()}
    assert [name for name, file in drivers.items() if not file.is_file() and name != MODBUS] == []


def test_every_driver_passes_the_conformance_matrix() -> None:
    assert lasting_failures([WHOLE_PROFILE, *(name for name in known() if name != MODBUS)]) == {}


def test_every_profile_reads_its_registers_and_outlives_silence_and_a_foreign_unit() -> None:
    names = [f"{MODBUS}:{name}" for name in sorted(profiles())]
    assert lasting_failures(names, ("examples", "silence", "wrong unit")) == {}
