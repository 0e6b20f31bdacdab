"""What tests and calibration cost a reading from a driver's row to a sample, by what is asked for.

Ten good readings a row. "Plain" is the range of the vocabulary, which every box pays; the others are what
`[device.quality.FIELD]` and `calibration` add. The limit is a share of what a reading may cost a box in all
(design: Numbers to reach), for two tested fields out of ten and one calibrated.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from datetime import UTC, datetime
from typing import Final

from trisense.core import logs
from trisense.core.model import Field, Layer, Stream
from trisense.drivers import Observed
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.clocks.timeline import Timeline
from trisense.edge.sensing.calibration import Calibration, Certificate
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.quality import QualityTable
from trisense.edge.sensing.stamping import Stamper
from trisense.edge.sensing.treatment import ColumnPlan, Treatment

FIELDS: Final = 10
ROWS: Final = 2000
BOX_US: Final = 60.0
"""A reading may cost a box so many microseconds in all: 0.06 CPU s per 1,000."""
SHARE: Final = 0.15
STREAM: Final = Stream("mast", "weather", Layer.GROUND, tuple(Field(f"value_{i}") for i in range(FIELDS)))
TESTS: Final = QualityTable(
    range=(-50, 150), suspect=(-40, 140), spike=60, spike_fail=90, rate_per_s=1e9, flat_s=600, eps=0.0
)
POLYNOMIAL: Final = Certificate(
    device="mast",
    field="value",
    unit="1",
    polynomial=[-0.12, 1.004],
    range=(-100, 100),
    valid_from=datetime(2020, 1, 1, tzinfo=UTC),
    valid_to=datetime(2090, 1, 1, tzinfo=UTC),
    by="bench",
    uncertainty=0.2,
    version="1",
)
TABLE: Final = Certificate.model_validate(
    POLYNOMIAL.model_dump()
    | {"polynomial": None, "range": None, "table": [(x, 1.004 * x) for x in range(-100, 101, 5)]}
)


def treatment(tested: int = 0, calibrated: int = 0, certificate: Certificate = POLYNOMIAL) -> Treatment:
    """``tested`` fields with every test, ``calibrated`` ones with ``certificate``."""
    columns = tuple(
        ColumnPlan(
            field,
            field.name,
            TESTS if index < tested else None,
            Calibration((certificate,)) if index >= FIELDS - calibrated else None,
        )
        for index, field in enumerate(STREAM.fields)
    )
    return Treatment((STREAM,), {STREAM.measurement: columns})


def cost_us(of: Treatment, rows: list[Observed]) -> float:
    """CPU microseconds a reading, the best of five runs."""
    timeline = Timeline(SystemClock(), hold_s=0)
    stamper = Stamper(of, lambda _: Ordinals())
    best_s = float("inf")
    for _ in range(5):
        began_s = time.process_time()
        for row in rows:
            stamper.stamp((row,), timeline.stamp())
        best_s = min(best_s, time.process_time() - began_s)
    return best_s / len(rows) / FIELDS * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logs.configure("error")
    chance = random.Random(1)
    rows = [
        Observed("weather", {f.name: round(chance.uniform(10, 30), 1) for f in STREAM.fields})
        for _ in range(ROWS)
    ]
    found = {
        "plain": cost_us(treatment(), rows),
        "2 of 10 tested, 1 calibrated": cost_us(treatment(2, 1), rows),
        "all tested": cost_us(treatment(FIELDS), rows),
        "all calibrated by polynomial": cost_us(treatment(0, FIELDS), rows),
        "all calibrated by table": cost_us(treatment(0, FIELDS, TABLE), rows),
        "all tested and calibrated": cost_us(treatment(FIELDS, FIELDS), rows),
    }
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"stamping, {FIELDS} readings a row, CPU us a reading (a box may take {BOX_US:g} in all):")
    for name, us in found.items():
        added = 100 * (us - found["plain"]) / BOX_US
        print(f"  {name}: {us:.2f}, {added:+.1f} % of the box (to keep under {100 * SHARE:g})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
