"""Every registered driver and every Modbus profile passes the conformance matrix of the kit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import pytest
from trisense.drivers.kit.matrix import Card, judge_all
from trisense.drivers.kit.subject import CONTRACT, subject_of
from trisense.drivers.modbus import profiles
from trisense.drivers.registry import known

DRIVERS = sorted(
    name for name, point in known().items() if (resources.files(point.module) / CONTRACT).is_file()
)
WHOLE_PROFILE = "modbus:ecowitt-ws90"
"""The framing is one for all profiles: one of them goes through the whole matrix."""


pytestmark = pytest.mark.xdist_group("kit")  # they run side by side in one process already


@pytest.fixture(scope="module")
def cards() -> Mapping[str, Card]:
    return {card.driver: card for card in judge_all([subject_of(name) for name in (*DRIVERS, WHOLE_PROFILE)])}


def failures(card: Card) -> list[str]:
    return [f"{one.cell}: {one.detail}" for one in card.verdicts if one.verdict == "fail"]


@pytest.mark.parametrize("name", [*DRIVERS, WHOLE_PROFILE])
def test_a_driver_passes_the_conformance_matrix(name: str, cards: Mapping[str, Card]) -> None:
    assert failures(cards[name]) == []


def test_every_profile_reads_its_registers_and_outlives_silence_and_a_foreign_unit() -> None:
    subjects = [subject_of(f"modbus:{name}") for name in sorted(profiles())]
    cards = judge_all(subjects, ("examples", "silence", "wrong unit"))
    assert {card.driver: failures(card) for card in cards if not card.passed} == {}
