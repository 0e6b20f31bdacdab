"""A bundle for a person, or as plain data for a program."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from trisense.core.wire.bundle import Block, Bundle

__all__ = ["as_data", "as_text"]

ROWS: Final = 5
"""Rows of each block that are shown."""


def as_data(bundle: Bundle, payload: bytes, rows: int = ROWS) -> dict[str, Any]:
    """What JSON can hold: header, heads, and the first ``rows`` rows of each block."""
    counters = bundle.counters
    return {
        "bytes": len(payload),
        "codec": payload[0],
        "box": bundle.box,
        "site": bundle.site,
        "counters": {
            "epoch": f"{counters.epoch:016x}",
            "next_seq": counters.next_seq,
            "low_seq": counters.low_seq,
            "samples_committed": counters.samples_committed,
        },
        "batches": [
            {
                "epoch": f"{head.epoch:016x}",
                "seq": head.seq,
                "class": head.batch_class.value,
                "synced": head.clock.synced,
                "error_ms": head.clock.error_ms,
                "hash": head.hash.hex(),
                "samples": head.samples,
                "blob_bytes": None if head.blob is None else len(head.blob),
            }
            for head in bundle.heads
        ],
        "blocks": [_block(block, rows) for block in bundle.blocks],
    }


def _block(block: Block, rows: int) -> dict[str, Any]:
    stream = block.stream
    return {
        "device": stream.device,
        "measurement": stream.measurement,
        "layer": stream.layer.value,
        "site": stream.site,
        "rows": len(block.times_ns),
        "bytes": round(block.size_bytes, 1),
        "fields": [{"name": f.name, "unit": f.unit, "type": f.type.value} for f in stream.fields],
        "first": list(islice(_rows(block), rows)),
    }


def _rows(block: Block) -> Any:
    columns = [(column.field.name, column.to_list(), column.quality) for column in block.columns]
    for row, (time_ns, n) in enumerate(zip(block.times_ns, block.ordinals, strict=True)):
        yield {
            "time": _time(int(time_ns)),
            "n": int(n),
            "values": {name: values[row] for name, values, _ in columns},
            "quality": {name: codes[row] for name, _, codes in columns if row in codes},
        }


def _time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return (
        f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}".rstrip("0").rstrip(".") + "Z"
    )


def as_text(bundle: Bundle, payload: bytes, rows: int = ROWS) -> str:
    """A page to read."""
    data = as_data(bundle, payload, rows)
    counters = data["counters"]
    readings = sum(len(block.times_ns) * len(block.columns) - _nulls(block) for block in bundle.blocks)
    per_reading = f", {len(payload) / readings:.3f} a reading" if readings else ""
    size = f"{data['bytes']} bytes{per_reading}  codec {data['codec']}"
    progress = f"low_seq {counters['low_seq']}  samples_committed {counters['samples_committed']}"
    lines = [
        f"box {data['box']}  site {data['site'] or '-'}  {size}",
        f"epoch {counters['epoch']}  next_seq {counters['next_seq']}  {progress}",
        f"{len(data['batches'])} batches",
    ]
    for batch in data["batches"]:
        clock = "synced" if batch["synced"] else "clock not synced"
        blob = f"  blob {batch['blob_bytes']} bytes" if batch["blob_bytes"] is not None else ""
        lines.append(
            f"  {batch['epoch']}/{batch['seq']}  {batch['class']}  {batch['samples']} samples"
            f"  {clock}  hash {batch['hash']}{blob}"
        )
    lines.append(f"{len(data['blocks'])} blocks")
    for block in data["blocks"]:
        fields = ", ".join(f"{f['name']} [{f['unit']}]" for f in block["fields"])
        lines.append(
            f"  {block['device']} {block['measurement']}  {block['layer']}"
            f"  {block['rows']} rows  about {block['bytes']:g} bytes: {fields}"
        )
        for row in block["first"]:
            ordinal = f" #{row['n']}" if row["n"] else ""
            cells = "  ".join(f"{name}={value!r}" for name, value in row["values"].items())
            codes = f"  quality {row['quality']}" if row["quality"] else ""
            lines.append(f"    {row['time']}{ordinal}  {cells}{codes}")
        if block["rows"] > len(block["first"]):
            lines.append(f"    ... {block['rows'] - len(block['first'])} more")
    return "\n".join(lines)


def _nulls(block: Block) -> int:
    return sum(len(column.nulls) for column in block.columns)
