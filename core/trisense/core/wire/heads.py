"""Batches without their rows: identities, classes, clocks and hashes, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trisense.core import limits
from trisense.core.errors import ValueRefused, WireError
from trisense.core.model import EPOCH_MAX, HASH_BYTES, Batch, BatchClass, ClockState, Counters
from trisense.core.wire import integers, lists
from trisense.core.wire.bits import BitReader, fixed, natural
from trisense.core.wire.bundle import BatchHead

__all__ = ["COUNTER_MAX", "HEADS_MAX", "read_heads", "write_heads"]

CLASSES: Final = tuple(BatchClass)
COUNTER_MAX: Final = 2**63 - 1
HEADS_MAX: Final = limits.BUNDLE_ROWS


def write_heads(batches: Sequence[Batch], counters: Counters) -> str:
    """Bits of the heads; ``seq`` counts back from the next one, so most are small.

    Raises:
        ValueRefused: a number or hash no bundle may carry.
    """
    if any(len(batch.hash) != HASH_BYTES for batch in batches):
        raise ValueRefused("hash", f"not {HASH_BYTES} bytes")
    if any(
        not 0 <= batch.seq <= COUNTER_MAX
        or not 0 <= batch.epoch <= EPOCH_MAX
        or not 0 <= (batch.clock.error_ms or 0) < COUNTER_MAX
        for batch in batches
    ):
        raise ValueRefused("head", "a number out of range")
    epochs = list(dict.fromkeys([counters.epoch, *(batch.epoch for batch in batches)]))
    place = {epoch: at for at, epoch in enumerate(epochs)}
    columns = (
        [counters.next_seq - 1 - batch.seq for batch in batches],
        [place[batch.epoch] for batch in batches],
        [CLASSES.index(batch.batch_class) for batch in batches],
        [int(batch.clock.synced) for batch in batches],
        [0 if batch.clock.error_ms is None else batch.clock.error_ms + 1 for batch in batches],
        [int(batch.blob is not None) for batch in batches],
    )
    bits = natural(len(batches)) + natural(len(epochs) - 1)
    bits += "".join([fixed(epoch, 64) for epoch in epochs[1:]])
    bits += "".join([integers.encode(column) for column in columns])
    return bits + "".join([fixed(int.from_bytes(batch.hash, "big"), 64) for batch in batches])


def read_heads(reader: BitReader, counters: Counters, blobs: Sequence[bytes]) -> list[BatchHead]:
    """What ``write_heads`` wrote, with the blobs that go with it; samples are counted later."""
    count = reader.bounded(HEADS_MAX, "batches")
    epochs = [counters.epoch]
    epochs += lists.plane(reader, reader.bounded(count, "epochs"), 64)
    seqs = _numbers(reader, count, counters.next_seq - 1 - COUNTER_MAX, counters.next_seq - 1)
    places = _numbers(reader, count, 0, len(epochs) - 1)
    classes = _numbers(reader, count, 0, len(CLASSES) - 1)
    synced = _numbers(reader, count, 0, 1)
    errors = _numbers(reader, count, 0, COUNTER_MAX)
    with_blob = _numbers(reader, count, 0, 1)
    if sum(with_blob) != len(blobs):
        raise WireError("blob", f"{len(blobs)} blobs for {sum(with_blob)} batches")
    next_blob = iter(blobs)
    return [
        BatchHead(
            epochs[place],
            counters.next_seq - 1 - back,
            CLASSES[class_],
            ClockState(bool(is_synced), error - 1 if error else None),
            digest.to_bytes(HASH_BYTES, "big"),
            0,
            next(next_blob) if has_blob else None,
        )
        for back, place, class_, is_synced, error, has_blob, digest in zip(
            seqs,
            places,
            classes,
            synced,
            errors,
            with_blob,
            lists.plane(reader, count, 8 * HASH_BYTES),
            strict=True,
        )
    ]


def _numbers(reader: BitReader, count: int, low: int, high: int) -> list[int]:
    values: list[int] = integers.decode(reader, count, lists).values
    if values and not low <= min(values) <= max(values) <= high:
        raise WireError("range", f"{min(values)} to {max(values)} is not within {low} to {high}")
    return values
