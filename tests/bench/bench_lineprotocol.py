"""MQTT payload to line protocol, readings per second and core, beside influxdb-client's Points.

The payload is a drained backlog of one box: ten weather-like streams of six decimals and a counter, 300
one-second rows each. Ours: unpack, then lines. The peer: the same values, already decoded, as Points and
their ``to_line_protocol()``; it gets the decoding for nothing. Both outputs are read back and compared.
``--live`` measures bundles of one second, one row per stream, instead.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

from influxdb_client.client.write.point import Point
from influxdb_client.domain.write_precision import WritePrecision
from trisense.core.model import (
    Batch,
    BatchClass,
    ClockState,
    Counters,
    Field,
    FieldType,
    Layer,
    Sample,
    Stream,
    Value,
    batch_hash,
)
from trisense.core.wire import Header, pack, unpack
from trisense.gateway.stores.columns import Portion
from trisense.gateway.stores.lineprotocol import lines_of

TARGET_PER_S = 2_500_000
T0_NS = 1_795_392_000_000_000_000
FIELDS = (
    Field("air_temperature", "Cel"),
    Field("relative_humidity", "%"),
    Field("barometric_pressure", "hPa"),
    Field("wind_speed", "m/s"),
    Field("wind_direction", "deg"),
    Field("pm2_5", "ug/m3"),
    Field("vehicle_count", "{vehicle}", FieldType.INT),
)


def payload(streams: int, rows: int) -> bytes:
    """One bundle of one-second batches."""
    dice = random.Random(1)
    devices = [Stream(f"mast-{i}", "weather", Layer.GROUND, FIELDS) for i in range(streams)]
    now = [[21.0, 60.0, 1013.0, 3.0, 180.0, 12.0] for _ in devices]
    batches = []
    for row in range(rows):
        samples = []
        for device, state in zip(devices, now, strict=True):
            for i, step in enumerate((0.05, 0.2, 0.05, 0.4, 8.0, 0.5)):
                state[i] += dice.gauss(0, step)
            values: tuple[Value, ...] = (*(round(value, 1) for value in state), dice.randrange(30))
            samples.append(Sample(device, T0_NS + row * 1_000_000_000, values))
        batches.append(Batch(1, row, BatchClass.DATA, ClockState(), tuple(samples), batch_hash(samples)))
    return pack(Header("kx-001", "kx", Counters(1, rows, 0, streams * rows)), batches)


def ours(packed: bytes) -> str:
    bundle = unpack(packed)
    portion = Portion(bundle, frozenset(range(len(bundle.heads))))
    return "".join(lines.text for lines in lines_of([portion], texts=True, time_divisor=1))


def points(samples: list[Sample]) -> str:
    lines = []
    new: Any = Point
    for sample in samples:
        point = new(sample.stream.measurement)
        for tag, value in (
            ("box", "kx-001"),
            ("device", sample.stream.device),
            ("layer", "ground"),
            ("site", "kx"),
        ):
            point.tag(tag, value)
        for field, reading in zip(sample.stream.fields, sample.values, strict=True):
            point.field(field.name, reading)
        point.time(sample.time_ns, WritePrecision.NS)
        lines.append(point.to_line_protocol())
    return "\n".join(lines) + "\n"


def best_s(work: Callable[[], Any], repeat: int) -> float:
    """Best CPU seconds of several runs: neighbours on the machine do not count."""
    found = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def fields_of(text: str) -> dict[str, set[str]]:
    """Series and time -> its fields, whatever their order; a float of either kind reads the same."""
    found = {}
    for line in text.splitlines():
        head, fields, at = line.split(" ")
        found[f"{head} {at}"] = {
            f"{k}={v if v.endswith('i') else repr(float(v))}"
            for k, _, v in (f.partition("=") for f in fields.split(","))
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", action="store_true", help="bundles of one second")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    streams, rows = (100, 1) if arguments.live else (10, 300)
    packed = payload(streams, rows)
    samples = [sample for batch in unpack(packed).batches() for sample in batch.samples]
    readings = len(samples) * len(FIELDS)
    if fields_of(ours(packed)) != fields_of(points(samples)):
        raise SystemExit("the two outputs differ")
    bundle = unpack(packed)
    portion = Portion(bundle, frozenset(range(len(bundle.heads))))
    whole_s = best_s(lambda: ours(packed), 15)
    lines_s = best_s(lambda: list(lines_of([portion], texts=True, time_divisor=1)), 15)
    points_s = best_s(lambda: points(samples), 3)
    figures = {
        "readings": readings,
        "payload_bytes": len(packed),
        "payload_to_lines_per_s": round(readings / whole_s),
        "columns_to_lines_per_s": round(readings / lines_s),
        "influxdb_client_points_per_s": round(readings / points_s),
        "ratio": round(points_s / whole_s, 1),
        "target_per_s": TARGET_PER_S,
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    whole, columns = figures["payload_to_lines_per_s"], figures["columns_to_lines_per_s"]
    peer, ratio = figures["influxdb_client_points_per_s"], figures["ratio"]
    print(f"{readings} readings in a payload of {len(packed)} bytes; per second and core:")
    print(f"  payload to line protocol {whole:>12,}   (to reach {TARGET_PER_S:,})")
    print(f"  columns to line protocol {columns:>12,}")
    print(f"  influxdb-client Points   {peer:>12,}   ratio {ratio}")


if __name__ == "__main__":
    main()
