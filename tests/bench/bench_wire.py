"""Bytes per reading and speed of the wire format: ``python tests/bench/bench_wire.py [--json]``.

The nine files of ``../shared/data/timeseries`` at 300 rows a bundle (skipped where they are absent);
a box with 100 devices, live at a 1-s commit and draining a backlog of 300 s; pack and unpack beside
``json`` and ``influxdb-client`` Points, on the same samples in the same run. Each figure stands on a
line with its target and its ratio to it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

from influxdb_client.client.write.point import Point
from trisense.core import vocabulary
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
    batch_hash,
)
from trisense.core.wire import Header, pack, unpack
from trisense.core.wire.measure import measure

FILES = Path(__file__).parents[2] / ".." / "shared" / "data" / "timeseries"
BATCH_ROWS = 300
SECONDS = 300
START_NS = 1_780_000_000 * 1_000_000_000
EPOCH = 0x5EED_0F_A_B0C5_1234

# Kind of device: name, then for each field the start, the largest step and the resolution.
KINDS: dict[str, list[tuple[str, float, float, float]]] = {
    "weather": [
        ("air_temperature", 18, 0.05, 0.1),
        ("relative_humidity", 60, 0.3, 1),
        ("barometric_pressure", 1013, 0.05, 0.1),
        ("wind_speed", 3, 0.5, 0.1),
        ("wind_direction", 180, 12, 1),
        ("rain_amount", 0, 0, 0.1),
        ("illuminance", 20_000, 300, 10),
        ("uv_index", 3, 0.05, 0.1),
    ],
    "particles": [
        (name, 12, 0.8, 1) for name in ("pm1_cf1", "pm2_5_cf1", "pm10_cf1", "pm1", "pm2_5", "pm10")
    ],
    "gas": [
        ("co2", 460, 2, 1),
        ("no2", 22, 0.4, 0.1),
        ("o3", 35, 0.4, 0.1),
        ("so2", 3, 0.2, 0.1),
        ("co", 300, 5, 1),
        ("supply_voltage", 12.1, 0.01, 0.01),
    ],
    "soil": [
        ("soil_temperature", 14, 0.01, 0.01),
        ("soil_moisture", 22, 0.02, 0.1),
        ("soil_ec", 140, 0.5, 1),
        ("soil_ph", 6.8, 0.01, 0.1),
    ],
    "street": [
        ("laeq", 58, 2, 0.1),
        ("vehicle_speed", 38, 6, 1),
        ("vehicle_count", 2, 2, 1),
        ("occupancy", 12, 3, 0.1),
        ("distance", 4, 0.3, 0.01),
        ("supply_voltage", 12.1, 0.01, 0.01),
    ],
}
DEVICES_OF_A_KIND = 20


@dataclass(frozen=True)
class Figure:
    """One line: what was measured, and what was to be reached."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = True
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.target is None else self.value / self.target

    def line(self) -> str:
        text = f"{self.name:44s} {self.value:10.4g} {self.unit}"
        if self.target is not None:
            text += f"  target {'<=' if self.at_most else '>='} {self.target:g}, ratio {self.ratio:.2f}"
        return f"{text}  {self.note}".rstrip()


class Device:
    """Random walks at the resolution of the hardware, read at its own phase of each second."""

    def __init__(self, kind: str, number: int, rng: random.Random) -> None:
        self._rng = rng
        self._walks = [[start, step, resolution] for _, start, step, resolution in KINDS[kind]]
        fields = tuple(
            vocabulary.field(name, resolution=resolution) for name, _, _, resolution in KINDS[kind]
        )
        self.stream = Stream(f"{kind}-{number:02d}", kind, Layer.GROUND, fields)
        self._phase_ms = rng.randrange(900)
        for walk in self._walks:
            walk[0] *= rng.uniform(0.9, 1.1)

    def read(self, second: int) -> Sample:
        """One sample, a few milliseconds beside its phase as serial lines have it."""
        jitter_ms = min(max(round(self._rng.gauss(0, 4)), -20), 20)
        values = []
        for field, walk in zip(self.stream.fields, self._walks, strict=True):
            walk[0] = max(walk[0] + self._rng.gauss(0, walk[1] / 2), 0)
            ticks = round(walk[0] / walk[2])
            decimals = len(f"{walk[2]:g}".partition(".")[2])
            values.append(ticks if field.type is FieldType.INT else round(ticks * walk[2], decimals))
        time_ns = START_NS + second * 10**9 + (self._phase_ms + 20 + jitter_ms) * 10**6
        return Sample(self.stream, time_ns, tuple(values))


def box_batches() -> list[Batch]:
    """What a box with 100 devices commits in 300 seconds, a batch each."""
    rng = random.Random(20)
    devices = [Device(kind, n, rng) for kind in KINDS for n in range(1, DEVICES_OF_A_KIND + 1)]
    batches = []
    for second in range(SECONDS):
        samples = tuple(device.read(second) for device in devices)
        batches.append(
            Batch(EPOCH, 5000 + second, BatchClass.DATA, ClockState(), samples, batch_hash(samples))
        )
    return batches


def readings_of(batches: list[Batch]) -> int:
    return sum(len(sample.values) for batch in batches for sample in batch.samples)


def header_for(batches: list[Batch]) -> Header:
    last = batches[-1].seq
    return Header("kx-001", "kx", Counters(EPOCH, last + 1, batches[0].seq, 100 * last))


def seconds_of(work: Callable[[], object], repeat: int = 3) -> float:
    """Processor time of the best of some runs."""
    best = float("inf")
    for _ in range(repeat):
        before = process_time()
        work()
        best = min(best, process_time() - before)
    return best


def file_figures() -> list[Figure]:
    paths = sorted(FILES.glob("*.csv"))
    if not paths:
        return []
    found = [measure(path, BATCH_ROWS) for path in paths]
    figures = [
        Figure(
            f"bytes a reading, {one.file}",
            one.compressed_bytes_per_reading,
            "B",
            note=f"raw {one.raw_bytes_per_reading:.1f}, pack {one.pack_per_s / 1e6:.2f} M/s, "
            f"unpack {one.unpack_per_s / 1e6:.2f} M/s, {'exact' if one.exact else 'NOT EXACT'}",
        )
        for one in found
    ]
    mean = sum(one.compressed_bytes_per_reading for one in found) / len(found)
    return [*figures, Figure(f"bytes a reading, mean of {len(found)} files", mean, "B", 0.9)]


def box_figures(batches: list[Batch]) -> list[Figure]:
    live = [len(pack(header_for([batch]), [batch])) / readings_of([batch]) for batch in batches[:30]]
    drained = len(pack(header_for(batches), batches)) / readings_of(batches)
    return [
        Figure("bytes a reading, 100 devices, live 1 s", sum(live) / len(live), "B", 3.5),
        Figure("bytes a reading, 100 devices, 300 s drained", drained, "B", 1.0),
    ]


def speed_figures(batches: list[Batch]) -> list[Figure]:
    count = readings_of(batches)
    header = header_for(batches)
    payload = pack(header, batches)
    samples = [sample for batch in batches for sample in batch.samples]
    documents = [
        {
            "device": s.stream.device,
            "t": s.time_ns,
            **dict(zip(names_of(s.stream.fields), s.values, strict=True)),
        }
        for s in samples
    ]
    text = json.dumps(documents)
    live = batches[0]
    rates = {
        "pack, drained": count / seconds_of(lambda: pack(header, batches)),
        "pack, live": readings_of([live]) / seconds_of(lambda: pack(header_for([live]), [live]), 20),
        "unpack": count / seconds_of(lambda: unpack(payload), 10),
        "json.dumps": count / seconds_of(lambda: json.dumps(documents)),
        "json.loads": count / seconds_of(lambda: json.loads(text)),
        "influxdb-client Points": count / seconds_of(lambda: [line_of(s) for s in samples], 1),
    }
    figures = [
        Figure("pack, 300 s drained", rates["pack, drained"] / 1e6, "M/s", 0.3, at_most=False),
        Figure("pack, live 1 s, 100 devices", 1e3 * readings_of([live]) / rates["pack, live"], "ms"),
        Figure("unpack, 300 s drained", rates["unpack"] / 1e6, "M/s", 5, at_most=False),
    ]
    for peer, ours in (
        ("json.dumps", "pack, drained"),
        ("json.loads", "unpack"),
        ("influxdb-client Points", "pack, drained"),
    ):
        note = f"{ours} is {rates[ours] / rates[peer]:.2f} of it"
        figures.append(Figure(peer, rates[peer] / 1e6, "M/s", note=note))
    size = Figure("bytes a reading, json.dumps", len(text) / count, "B")
    return [*figures, size]


def names_of(fields: tuple[Field, ...]) -> list[str]:
    return [field.name for field in fields]


def line_of(sample: Sample) -> str:
    new: Any = Point  # influxdb-client has no types
    point = new(sample.stream.measurement).tag("device", sample.stream.device)
    for field, value in zip(sample.stream.fields, sample.values, strict=True):
        point.field(field.name, value)
    line: str = point.time(sample.time_ns).to_line_protocol()
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    as_json = parser.parse_args().json
    batches = box_batches()
    for figure in [*file_figures(), *box_figures(batches), *speed_figures(batches)]:
        print(json.dumps({**asdict(figure), "ratio": figure.ratio}) if as_json else figure.line())


if __name__ == "__main__":
    main()
