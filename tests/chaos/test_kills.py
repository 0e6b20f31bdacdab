"""Kill -9 of edge, broker and gateway at random moments: nothing twice, nothing untrue, little missing.

Measured at rest, after the queues have drained, against the simulators' own log of what they told.
"""

from __future__ import annotations

import json
import math
import random
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from tests.chaos.conftest import Town

NS: Final = 1_000_000_000
KILLS: Final = 20
COMMIT_NS: Final = 1 * NS
COMMIT_SLACK_NS: Final = NS // 4
"""From the frame on the line to the end of its fsync, on a busy machine, beyond the interval itself."""
STAMP_NS: Final = 2 * NS
"""A sample is stamped when it has been read: at most so long after it was told."""
CLOCK_NS: Final = NS // 500
"""A stamp is cut to the stream's tick, so it may lie before the truth's time, that of the first byte."""
ENDING_NS: Final = NS // 10
TRACK_STEP: Final = 0.0101
"""An aircraft's track is computed from two speeds and rounded by each side: 7.125 may become either."""
EXACT: Final = {"weather", "air_quality", "tag_sighting", "radar_presence", "radar_target"}
"""Streams of a crossing whose rows are told one by one; others join several told rows into a sample."""

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

Row = tuple[str, str]
"""(device, measurement)."""


def test_twenty_kills_lose_only_what_was_not_committed_yet(town: Town) -> None:
    chance = random.Random(20_261_123)
    victims = ["broker", "gateway", *[name for name in town.commands if name not in ("broker", "gateway")]]
    # Every one of them at least three times, the rest by chance.
    plan = victims * 3 + chance.choices(victims, k=KILLS - 3 * len(victims))
    chance.shuffle(plan)
    for name in plan:
        time.sleep(chance.uniform(0.6, 2.4))  # the random moment
        town.kill(name)
        time.sleep(chance.uniform(0.0, 0.8))
        town.start(name)
    time.sleep(3)
    town.devices_end_ns = time.time_ns()
    town.children.stop("city")
    audit = town.at_rest()
    assert sum(map(len, town.kills.values())) == KILLS
    assert audit["balanced"], audit
    assert audit["exit"] == 0
    for name in [n for n in town.commands if n != "broker"]:
        town.children.stop(name)
    told, stored = read_truth(town.home), read_store(town.home / "trisense.duckdb")
    committed = sum(account["committed"] for account in audit["accounts"])
    assert sum(len(rows) for box in stored.values() for rows in box.values()) == committed
    missing = [
        lost for box in sorted(told) for lost in compare(told[box], stored[box], exact=box.startswith("kx"))
    ]
    unexplained = [lost for lost in missing if not explained(lost, town)]
    assert unexplained == [], [(u.box, u.row, u.t_ns, town.kills[u.box]) for u in unexplained]


# --- the comparison -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    box: str
    row: Row
    t_ns: int
    values: Mapping[str, Any]
    sure: bool
    """False: the host left while it was told."""


@dataclass(frozen=True)
class Stored:
    t_ns: int
    n: int
    values: Mapping[str, Any]


def read_truth(home: Path) -> dict[str, dict[Row, list[Told]]]:
    found: dict[str, dict[Row, list[Told]]] = {}
    for file in home.glob("*/truth.jsonl"):
        box = found.setdefault(file.parent.name, defaultdict(list))
        for line in file.read_text().splitlines():
            told = json.loads(line)
            assert told["fault"] in (None, "hangup")
            row = (told["device"], told["measurement"])
            box[row].append(Told(file.parent.name, row, told["t_ns"], told["values"], told["fault"] is None))
    return found


def read_store(file: Path) -> dict[str, dict[Row, list[Stored]]]:
    """Every stored sample; (device, measurement, time, n) is proven unique."""
    found: dict[str, dict[Row, list[Stored]]] = defaultdict(lambda: defaultdict(list))
    with duckdb.connect(str(file), read_only=True) as database:
        tables = database.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'data'"
        ).fetchall()
        for (measurement,) in tables:
            table = f'data."{measurement}"'
            query = f"SELECT *, epoch_ns(time) AS time_ns FROM {table} ORDER BY time, n"  # noqa: S608  # our own table
            cursor = database.execute(query)
            names = [column[0] for column in cursor.description]
            for values in cursor.fetchall():
                row = dict(zip(names, values, strict=True))
                values_of = {k: v for k, v in row.items() if v is not None and not k.endswith("_q")}
                sample = Stored(row["time_ns"], row["n"] or 0, values_of)
                found[row["box"]][row["device"], measurement].append(sample)
    for box in found.values():
        for samples in box.values():
            assert len({(s.t_ns, s.n) for s in samples}) == len(samples)
    return found


def compare(told: dict[Row, list[Told]], stored: dict[Row, list[Stored]], *, exact: bool) -> list[Told]:
    """What was told and not stored. Fails on a stored sample that nobody told, or that was told once only."""
    missing: list[Told] = []
    for row, samples in stored.items():
        if exact and row[1] in EXACT:
            missing += match(told[row], samples)
        elif row in told and row[1] in {"weather", "aircraft"}:
            for sample in samples:
                assert_told_in_parts(told[row], sample)
    for row, rows in told.items():
        if exact and row[1] in EXACT and row not in stored:
            missing += rows
    return missing


def match(told: list[Told], stored: list[Stored]) -> list[Told]:
    """Give each stored sample the latest fitting row told before it, each row once; the rest is missing."""
    rows = sorted(told, key=lambda t: t.t_ns)
    times = [t.t_ns for t in rows]
    free = set(range(len(rows)))
    for sample in sorted(stored, key=lambda s: (s.t_ns, s.n)):
        first, after = bisect_left(times, sample.t_ns - STAMP_NS), bisect_left(times, sample.t_ns + CLOCK_NS)
        fitting = (i for i in reversed(range(first, after)) if i in free)
        found = next((i for i in fitting if agrees(rows[i].values, sample.values)), None)
        assert found is not None, f"stored, but told by nobody (or told once and stored twice): {sample}"
        free.remove(found)
    return [row for index, row in enumerate(rows) if index in free and row.sure]


def agrees(told: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Every value told under a name that was stored is the value stored; a null (warm-up) agrees with all."""
    shared = [name for name in told if name in stored]
    return all(same(told[name], stored[name]) for name in shared)


def same(a: object, b: object, *, step: float = 1e-6) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=step)
    return a == b


def assert_told_in_parts(told: list[Told], sample: Stored) -> None:
    """Each value of a joined sample was told shortly before, by the same aircraft where there is one."""
    who = sample.values.get("icao")
    near = [
        t
        for t in told
        if sample.t_ns - 15 * NS <= t.t_ns <= sample.t_ns + CLOCK_NS and t.values.get("icao") in (who, None)
    ]
    names = {name for t in near for name in t.values}
    for name in names & set(sample.values):
        values = [t.values[name] for t in near if name in t.values]
        assert any(same(value, sample.values[name], step=TRACK_STEP) for value in values), (name, sample)
    assert names & set(sample.values), sample


def explained(lost: Told, town: Town) -> bool:
    """Told within one commit interval before a kill of its box.

    Or while the devices themselves ended: what they said then may lie unread in a pty that is gone.
    """
    if lost.t_ns >= town.devices_end_ns - ENDING_NS:
        return True
    return any(
        kill - COMMIT_NS - COMMIT_SLACK_NS <= lost.t_ns <= kill + COMMIT_SLACK_NS
        for kill in town.kills[lost.box]
    )
