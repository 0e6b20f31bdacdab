"""A week without a gateway, compressed: the cap holds, memory is flat, the policy is the documented one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import Batch, BatchClass
from trisense.edge.spool import Cut, Head, Spool

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]
DAYS = 7
STEPS_A_DAY = 360
"""A commit stands for four minutes: what counts is how often the cap is reached, about thirty times a day."""
CAP_BYTES = 4 << 20
LOG_BYTES = 2 << 20
MEMORY_GROWTH_MAX = 1.05


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def everything(spool: Spool) -> dict[str, list[tuple[Head, Batch]]]:
    """All that waits, by kind."""
    found = {}
    for kind, of, preview in (
        ("alarm", BatchClass.ALARM, False),
        ("data", BatchClass.DATA, False),
        ("preview", BatchClass.DATA, True),
        ("media", BatchClass.MEDIA, False),
    ):
        found[kind] = spool.load(h.id for h in spool.heads(of, limit=100_000, preview=preview))
    return found


def day(spool: Spool, make: Callable[[int], list[Cut]], clock: Any, number: int) -> int:
    """One day of commits; gives the samples committed."""
    samples = 0
    for step in range(STEPS_A_DAY):
        cuts = make(number * STEPS_A_DAY + step)
        spool.commit(cuts)
        samples += sum(len(cut.samples) for cut in cuts)
        clock.advance(86_400 / STEPS_A_DAY)
        if step % 15 == 0:
            spool.tidy()
            log = spool.path.with_name("spool.db-wal").stat().st_size
            assert spool.path.stat().st_size <= CAP_BYTES
            assert log <= LOG_BYTES
    return samples


@pytest.fixture
def sensed(cut: MakeCut) -> Callable[[int], list[Cut]]:
    """What a box commits in a step: readings always, a picture often, previews and alarms now and then."""
    noise = os.urandom(1 << 20)

    def make(step: int) -> list[Cut]:
        at = step * 7919 % (1 << 19)
        cuts = [replace(cut(step), blob=noise[at : at + 12_000])]  # a blob stands for many rows
        if step % 3 == 0:
            cuts.append(cut(step, rows=1, batch_class=BatchClass.MEDIA, blob=noise[at : at + 20_000]))
        if step % 10 == 0:
            cuts.append(replace(cut(step, rows=5), preview=True, blob=noise[at : at + 3_000]))
        if step % 30 == 0:
            cuts.append(cut(step, rows=2, batch_class=BatchClass.ALARM))
        return cuts

    return make


def test_a_week_at_the_cap_is_flat_follows_the_policy_and_balances(
    make_spool: MakeSpool, sensed: Callable[[int], list[Cut]], clock: Any
) -> None:
    sizes, samples = [], 0
    for number in range(DAYS):
        with make_spool(max_bytes=CAP_BYTES) as spool:  # the box restarts each night
            spool._db.execute("PRAGMA synchronous = OFF").fetchone()  # power is not the matter here
            samples += day(spool, sensed, clock, number)
            sizes.append(resident_bytes())

    with make_spool(max_bytes=CAP_BYTES) as spool:
        held = everything(spool)
        losses = [s.values for _, b in held["alarm"] for s in b.samples if s.stream == LOSS]
        # The audit of the box: what was ever committed waits or is declared lost.
        committed = sum(c.samples_committed for c in spool.all_counters())
        waiting = sum(head.samples for part in held.values() for head, _ in part)
        lost = sum(int(str(values[3])) for values in losses)
        assert committed == waiting + lost
        assert committed == samples + len(losses)
        assert {str(values[7]) for values in losses} == {"cap"}
        named = [
            (values[0], seq)
            for values in losses
            for seq in range(int(str(values[1])), int(str(values[2])) + 1)
        ]
        assert len(named) == len(set(named)), "nothing is declared twice"

        # Pictures and previews went first, then the oldest readings; no alarm.
        alarms = sum(b.samples[0].stream != LOSS for _, b in held["alarm"])
        assert alarms == DAYS * STEPS_A_DAY / 30
        assert len(held["media"]) <= 10
        numbers = [int(str(b.samples[0].values[1])) for _, b in held["data"]]
        assert numbers == list(range(DAYS * STEPS_A_DAY - len(numbers), DAYS * STEPS_A_DAY)), (
            "the newest, unbroken"
        )
        assert len(numbers) * 12_000 > CAP_BYTES / 2, "the cap is used"

        print(f"memory after day 2 and day {DAYS}: ratio {sizes[-1] / sizes[1]:.3f}")
        assert sizes[-1] / sizes[1] < MEMORY_GROWTH_MAX

        # The gateway is back.
        for epoch in {head.epoch for part in held.values() for head, _ in part}:
            seqs = [head.seq for part in held.values() for head, _ in part if head.epoch == epoch]
            spool.settle([EpochReceipt(epoch, stored=tuple((seq, seq) for seq in seqs))])
        assert spool.waiting() == 0
        for number in range(50):
            spool.commit(sensed(number))
        after = everything(spool)
        assert not [s for _, b in after["alarm"] for s in b.samples if s.stream == LOSS], "no loss since"
