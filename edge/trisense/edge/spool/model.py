"""What the spool takes and gives: cuts, heads, declared losses, outcomes of receipts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from trisense.core.messages import LOSS
from trisense.core.model import BatchClass, ClockState, Quality, Sample, Value
from trisense.edge.sensing.ordinals import Ordinals

__all__ = [
    "DAMAGED",
    "KINDS",
    "REFUSED",
    "STORED",
    "WAITING",
    "Cut",
    "Head",
    "Held",
    "Loss",
    "Settled",
    "SpoolOptions",
    "Summary",
    "epoch_name",
    "epoch_number",
    "loss_samples",
    "runs",
]

WAITING, STORED, REFUSED, DAMAGED = range(4)
"""Column ``settled`` of a batch: no receipt, receipted as stored, as refused; damaged and declared lost."""
KINDS: Final = {
    "media": (BatchClass.MEDIA, False),
    "preview": (BatchClass.DATA, True),
    "data": (BatchClass.DATA, False),
    "alarm": (BatchClass.ALARM, False),
}
"""What people call the batches, by class and whether a preview, in the order in which they are dropped."""
LOSS_NAMES: Final = tuple(field.name for field in LOSS.fields)


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    max_bytes: int = 1 << 30
    """Cap of the file; its WAL adds about one MiB, the ballast its own size."""
    media_share: float = 0.5
    """Part of ``max_bytes`` that waiting pictures may hold; beyond it the oldest go (reason ``quota``)."""
    preview_share: float = 0.1
    """The same for waiting previews."""
    keep_s: float = 86_400.0
    """How long receipted batches are kept while the box runs, so that a restored store can be refilled."""
    ballast_bytes: int = 4 << 20
    """Room set aside on the disk for the moment when it is full."""
    salvage_s: float = 10.0
    """Longest time spent on reading a damaged file: a box must go on sensing."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Samples that are to become one batch."""

    batch_class: BatchClass
    samples: tuple[Sample, ...]
    blob: bytes | None = None
    preview: bool = False
    """Of class data, but dropped before other data and sent before other backlog."""
    offset_ns: int | None = None
    """Not None: the batch is open, its sample times are boot time plus this provisional offset."""
    final_offset_ns: int | None = None
    """Not None: the right offset has become known; the samples move on commit, and the batch is final."""
    clock: ClockState | None = None
    """How far its times can be trusted; None: as the clock stands at the commit."""
    line_ns: int | None = None
    """The newest time in it that comes from the box's own line of time."""


@dataclass(frozen=True, slots=True)
class Head:
    """A batch in the spool without its rows."""

    id: int
    """Rises with every commit, across epochs and restarts."""
    epoch: int
    seq: int
    batch_class: BatchClass
    samples: int
    size_bytes: int
    """As it lies in the spool; what it takes on the wire is usually less."""
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """So many batches of so many bytes together, as they lie in the spool."""

    batches: int = 0
    size_bytes: int = 0

    def plus(self, batches: int, size_bytes: int) -> Held:
        return Held(self.batches + batches, self.size_bytes + size_bytes)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the spool holds, for people to look at."""

    waiting: dict[str, Held]
    """Without a receipt: ``alarm``, ``data``, ``preview``, ``media``."""
    kept: Held
    """Receipted, until age or space takes them."""
    file_bytes: int
    max_bytes: int
    horizon_ns: int | None
    """Wall time of the oldest receipt whose batch is still here."""
    losses: Mapping[str, int]
    """Declared since it was opened, by reason."""
    lost: Mapping[str, int]
    """Samples in them, where somebody can say how many."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What is to be declared lost; the fields are those of ``core.messages.LOSS``."""

    reason: str
    epoch: int | None = None
    """None: samples that were never committed, or nobody can say."""
    first: int | None = None
    last: int | None = None
    """None with an epoch: to the end of that epoch."""
    samples: int | None = None
    stream: str | None = None
    t0_ns: int | None = None
    t1_ns: int | None = None

    def merged(self, other: Loss) -> Loss:
        """Both as one, where they differ in nothing but samples and times."""
        times_ns = [t for t in (self.t0_ns, self.t1_ns, other.t0_ns, other.t1_ns) if t is not None]
        known = self.samples is not None and other.samples is not None
        return replace(
            self,
            samples=(self.samples or 0) + (other.samples or 0) if known else None,
            t0_ns=min(times_ns, default=None),
            t1_ns=max(times_ns, default=None),
        )

    def values(self) -> tuple[Value, ...]:
        return (
            None if self.epoch is None else epoch_name(self.epoch),
            self.first,
            self.last,
            self.samples,
            self.stream,
            _iso(self.t0_ns),
            _iso(self.t1_ns),
            self.reason,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """What receipts did."""

    heads: tuple[Head, ...] = ()
    """Batches that had been waiting."""
    refused: int = 0
    beyond: int = 0
    """Ranges that named batches this box never made: ignored."""
    unknown_epochs: int = 0


def loss_samples(rows: Iterable[Sequence[Value]], now_ns: int, ordinals: Ordinals) -> tuple[Sample, ...]:
    """Rows of ``Loss.values`` as samples of this tick, nulls with code 9."""
    time_ns = now_ns - now_ns % LOSS.tick_ns
    return tuple(
        Sample(
            LOSS,
            time_ns,
            tuple(row),
            ordinals.take(time_ns),
            tuple((i, int(Quality.MISSING)) for i, v in enumerate(row) if v is None),
        )
        for row in rows
    )


def runs(heads: Iterable[Head]) -> Iterator[list[Head]]:
    """Group heads of consecutive seq within one epoch."""
    run: list[Head] = []
    for head in sorted(heads, key=lambda h: (h.epoch, h.seq)):
        if run and (head.epoch, head.seq) != (run[-1].epoch, run[-1].seq + 1):
            yield run
            run = []
        run.append(head)
    if run:
        yield run


def epoch_name(epoch: int) -> str:
    """An epoch as the file and declared losses write it: 16 hex digits."""
    return f"{epoch:016x}"


def epoch_number(name: object) -> int:
    """What ``epoch_name`` wrote; -1 where damage left something else."""
    try:
        number = int(str(name), 16)
    except ValueError:
        return -1
    return number if str(name) == epoch_name(number) else -1


def _iso(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
