"""Judging and committing what came: the one place where batches become stored or refused.

``judge`` turns deliveries into a group, ``commit`` makes the group durable and only then gives the
receipts. Both run on the store's writer thread; neither touches MQTT nor the event loop, so that a test
may kill, repeat and reorder at will.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
from trisense.core.errors import WireError
from trisense.core.messages import LOSS, SEQ_MAX, Birth
from trisense.core.model import RESERVED, Counters, Stream, Value
from trisense.core.topics import Lane
from trisense.core.wire import BatchHead, Block, Bundle, unpack
from trisense.gateway.glimpse import AlarmSeen, Glimpse, look
from trisense.gateway.ledger import Entry, Known, Loss, Outcome, Place, Record
from trisense.gateway.quarantine import Quarantine, describe
from trisense.gateway.receipts import Answers
from trisense.gateway.stores.base import Store
from trisense.gateway.stores.clock import with_clock
from trisense.gateway.stores.columns import Portion, readings_of, rows_of

__all__ = ["Delivery", "Group", "Intake"]

log = structlog.get_logger()

CLONE_RETURNS: Final = 4
"""Times that a box comes back to an epoch it had left, with no new one in between, before it counts as two.
One late bundle from before a restart makes two."""
EPOCHS_REMEMBERED: Final = 8
UNDECODABLE_KEPT: Final = 20
"""Of one group; more are counted and dropped (policy: keep_first)."""
BOXES_REMEMBERED: Final = 100_000


class Delivery(NamedTuple):
    """One MQTT message on an up lane."""

    box: str
    """By its topic."""
    lane: Lane
    payload: bytes


@dataclass(slots=True)
class Group:
    """What one commit makes durable."""

    portions: list[Portion] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    answers: Answers = field(default_factory=Answers)
    glimpses: list[Glimpse] = field(default_factory=list)
    alarms: list[AlarmSeen] = field(default_factory=list)
    identities: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    payloads: dict[tuple[int, int], Delivery] = field(default_factory=dict)
    """(epoch, seq) of what is to be written -> what it came in, should the store refuse it."""
    rows: int = 0
    undecodable: int = 0


class Intake:
    """Judge, commit, answer."""

    def __init__(self, store: Store, quarantine: Quarantine) -> None:
        self._store = store
        self._quarantine = quarantine
        self._recent: OrderedDict[str, list[int]] = OrderedDict()
        self._returns: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """``batches_stored``, ``samples_stored``, ``batches_duplicate``, ``batches_refused``, ``forks``,
        ``clones``, ``bundles_undecodable`` and of these ``_dropped``, ``readings`` (values that are there,
        in new batches) and ``payload_bytes`` (of all bundles but the media lane's): since the start."""

    def judge(self, deliveries: Sequence[Delivery]) -> Group:
        """Decode and decide; what is refused is in quarantine after this.

        Raises:
            StoreUnavailable: the quarantine's disk does not take it; judge the same again later.
        """
        group = Group()
        for delivery in deliveries:
            try:
                bundle = unpack(delivery.payload)
            except WireError as error:
                self._undecodable(group, delivery, error)
                continue
            self._judge_bundle(group, delivery, bundle)
            if delivery.lane is not Lane.MEDIA:
                self.counts["payload_bytes"] += len(delivery.payload)
        return group

    def commit(self, group: Group) -> Answers:
        """Write the group, then its record; the answers may be sent once this returns.

        Raises:
            StoreUnavailable: nothing is decided, commit the same group again.
        """
        if not (group.record.entries or group.record.counters or group.record.forks):
            return group.answers

        def keep(reasons: Mapping[tuple[int, int], str]) -> None:
            for identity, reason in reasons.items():
                self._refuse_payload(group, group.payloads[identity], {identity: reason}, detail=reason)

        reasons = self._store.commit(group.portions, group.record, keep)
        for entry in group.record.entries:
            reason = reasons.get((entry.epoch, entry.seq), entry.reason)
            if entry.outcome is Outcome.STORED and not reason:
                group.answers.stored(entry.box, entry.epoch, entry.seq)
                self.counts["batches_stored"] += 1
                self.counts["samples_stored"] += entry.samples
            else:
                self.counts["batches_refused"] += 1
                group.answers.refused(entry.box, entry.epoch, entry.seq, reason=reason, samples=entry.samples)
        return group.answers

    def report(self, record: Record, box: str, counters: Counters) -> None:
        """Note what a box says of an epoch; it only ever rises, but lanes overtake each other."""
        key = (box, counters.epoch)
        facts = self._store.ledger.epochs.get(key)
        for before in (
            record.counters.get(key),
            facts.reported.counters if facts and facts.reported else None,
        ):
            if before is not None:
                counters = Counters(
                    counters.epoch,
                    max(counters.next_seq, before.next_seq),
                    max(counters.low_seq, before.low_seq),
                    max(counters.samples_committed, before.samples_committed),
                )
        record.counters[key] = counters

    def note_birth(self, birth: Birth) -> list[AlarmSeen]:
        """Take what a box says of its epochs and of where its devices are; gives what is wrong with it.

        Raises:
            StoreUnavailable: note the same again later.
        """
        record = Record()
        for c in birth.counters:
            self.report(record, birth.box, Counters(c.epoch, c.next_seq, c.low_seq, c.samples_committed))
        self._store.commit([], record, lambda _: None)
        places = [
            Place(
                birth.box,
                device.name,
                device.site,
                device.layer.value,
                position.latitude,
                position.longitude,
                position.height_m,
            )
            for device in birth.devices
            if (position := device.position or birth.position) is not None
        ]
        self._store.note_places(birth.box, places)
        return self._rolled_back(birth)

    def _rolled_back(self, birth: Birth) -> list[AlarmSeen]:
        """Epochs that are over and of which a box knows less than it said before: its spool is an older copy.

        What it had made since and not sent is gone, and nobody can declare it. The last epoch is the one
        that goes on: what is said of it may come late.
        """
        alarms = []
        for c in birth.counters[:-1]:
            facts = self._store.ledger.epochs.get((birth.box, c.epoch))
            before = facts.reported.counters.next_seq if facts and facts.reported else 0
            if c.next_seq < before:
                values: dict[str, Value] = {
                    "epoch": f"{c.epoch:016x}",
                    "first": c.next_seq,
                    "last": before - 1,
                }
                alarms.append(
                    AlarmSeen(birth.box, "rollback", values, identity=(birth.box, c.epoch, c.next_seq))
                )
                log.error("rollback", box=birth.box, **values)
        return alarms

    # Judging

    def _undecodable(self, group: Group, delivery: Delivery, error: WireError) -> None:
        self.counts["bundles_undecodable"] += 1
        group.undecodable += 1
        if group.undecodable > UNDECODABLE_KEPT:
            # Nobody waits for a receipt of these, and each costs a write to disk: a babbling box must not
            # cost its neighbours theirs.
            self.counts["bundles_undecodable_dropped"] += 1
            return
        self._refuse_payload(group, delivery, {}, detail=str(error)[:300], reason=error.reason)

    def _judge_bundle(self, group: Group, delivery: Delivery, bundle: Bundle) -> None:
        box = delivery.box
        bad: dict[int, str] = {}
        if bundle.box != box:
            bad = dict.fromkeys(range(len(bundle.heads)), "box_mismatch")
        else:
            self._watch_epochs(group, box, bundle.counters)
            self.report(group.record, box, bundle.counters)
            for block in bundle.blocks:
                reason = self._learn(group, bundle.box, block.stream)
                if reason is not None:
                    bad |= {head: reason for head, _ in block.counts}
        chosen, refused = set(), {}
        for index, head in enumerate(bundle.heads):
            fate = self._judge_batch(group, box, head, bad.get(index))
            if fate == "store":
                chosen.add(index)
                group.payloads[head.epoch, head.seq] = delivery
            elif fate is not None:
                refused[head.epoch, head.seq] = fate
        if refused:
            self._refuse_payload(group, delivery, refused)
        if chosen:
            self._choose(group, Portion(bundle, frozenset(chosen)))

    def _choose(self, group: Group, portion: Portion) -> None:
        group.portions.append(Portion(with_clock(portion.bundle), portion.heads))
        group.rows += sum(portion.bundle.heads[i].samples for i in portion.heads)
        group.glimpses.append(look(portion))
        self.counts["readings"] += readings_of(portion)
        for block in portion.bundle.blocks:
            if block.stream.key == LOSS.key:
                group.record.losses += _losses(portion.bundle.box, block, portion.heads)

    def _judge_batch(self, group: Group, box: str, head: BatchHead, bad: str | None) -> str | None:
        """``store``, a reason to refuse, or None where it is decided already."""
        identity = (box, head.epoch, head.seq)
        known = self._store.ledger.find(*identity)
        digest = known.hash if known is not None else group.identities.get(identity)
        if known is None and digest is None:
            group.identities[identity] = head.hash
            outcome = Outcome.STORED if bad is None else Outcome.REFUSED
            group.record.entries.append(_entry(box, head, outcome, bad or ""))
            return bad or "store"
        if digest is not None and digest != head.hash:
            self.counts["forks"] += 1
            group.record.forks.append(_entry(box, head, Outcome.REFUSED, "fork"))
            group.answers.refused(box, head.epoch, head.seq, reason="fork", samples=head.samples)
            values: dict[str, Value] = {
                "epoch": f"{head.epoch:016x}",
                "seq": head.seq,
                "samples": head.samples,
            }
            group.alarms.append(AlarmSeen(box, "fork", values, identity=identity))
            log.error("fork", box=box, **values)
            return "fork"
        self.counts["batches_duplicate"] += 1
        if known is not None:
            _answer_again(group.answers, identity, known)
        return None

    def _learn(self, group: Group, box: str, stream: Stream) -> str | None:
        """Check a stream against what is stored of its measurement; note what is new of it."""
        ledger, record = self._store.ledger, group.record
        have = ledger.fields.get(stream.measurement, {})
        coming = record.fields.get(stream.measurement, {})
        names = [f.name for f in stream.fields]
        for f in stream.fields:
            known = have.get(f.name) or coming.get(f.name)
            twins = (f"{f.name}_q", f.name.removesuffix("_q") if f.name.endswith("_q") else "")
            if f.name in RESERVED or any(t in have or t in coming or t in names for t in twins):
                return "name"
            if known is not None and known != f.type.value:
                return "type"
        for f in stream.fields:
            if f.name not in have and f.name not in coming:
                record.fields.setdefault(stream.measurement, {})[f.name] = f.type.value
            key = (box, stream.device, stream.measurement, f.name)
            if record.units.get(key, ledger.units.get(key)) != f.unit:
                record.units[key] = f.unit
        return None

    def _watch_epochs(self, group: Group, box: str, counters: Counters) -> None:
        epochs = self._recent.setdefault(box, [])
        self._recent.move_to_end(box)
        if len(self._recent) > BOXES_REMEMBERED:
            forgotten, _ = self._recent.popitem(last=False)
            self._returns.pop(forgotten, None)
        if counters.epoch not in epochs:
            self._returns[box] = 0
        elif epochs[-1] != counters.epoch:
            epochs.remove(counters.epoch)
            self._returns[box] += 1
            if self._returns[box] == CLONE_RETURNS:
                self.counts["clones"] += 1
                values: dict[str, Value] = {"epochs": f"{epochs[-1]:016x} {counters.epoch:016x}"}
                group.alarms.append(AlarmSeen(box, "clone", values))
                log.error("clone", box=box, **values)
        else:
            return
        epochs.append(counters.epoch)
        del epochs[:-EPOCHS_REMEMBERED]

    def _refuse_payload(
        self,
        group: Group,
        delivery: Delivery,
        batches: Mapping[tuple[int, int], str],
        *,
        detail: str = "",
        reason: str | None = None,
    ) -> None:
        why = reason or next(iter(batches.values()))
        name = self._quarantine.keep(
            delivery.payload,
            why,
            box=delivery.box,
            lane=delivery.lane.value,
            detail=detail,
            batches=describe(batches),
        )
        group.alarms.append(
            AlarmSeen(
                delivery.box,
                "quarantine",
                {"reason": why, "id": name, "batches": len(batches)},
                identity=(name, 0, 0),
            )
        )
        log.warning("quarantined", box=delivery.box, reason=why, id=name, batches=len(batches), detail=detail)


def _entry(box: str, head: BatchHead, outcome: Outcome, reason: str) -> Entry:
    received_ms = time.time_ns() // 1_000_000
    return Entry(
        box,
        head.epoch,
        head.seq,
        head.batch_class.value,
        head.hash,
        head.samples,
        outcome,
        reason,
        received_ms,
    )


def _answer_again(answers: Answers, identity: tuple[str, int, int], known: Known) -> None:
    if known.outcome is Outcome.STORED:
        answers.stored(*identity)
    else:
        answers.refused(*identity, reason=known.reason, samples=known.samples)


def _losses(box: str, block: Block, heads: frozenset[int]) -> list[Loss]:
    """Declared losses of the chosen batches; one without an epoch names what no batch ever held."""
    cells = {column.field.name: column.to_list() for column in block.columns}
    found = []
    for row in rows_of(block, heads).tolist():
        values = {name: column[row] for name, column in cells.items()}
        epoch, first, last = _epoch(values.get("epoch")), values.get("first"), values.get("last")
        samples = values.get("samples")
        if epoch is None or not isinstance(first, int):
            continue
        found.append(
            Loss(
                box,
                epoch,
                first,
                last if isinstance(last, int) else SEQ_MAX,
                samples if isinstance(samples, int) else None,
                str(values.get("reason") or ""),
            )
        )
    return found


def _epoch(text: Value) -> int | None:
    if not isinstance(text, str) or len(text) != 16:
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None
