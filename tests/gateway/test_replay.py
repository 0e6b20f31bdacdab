"""A gateway restored from an older copy is filled again from what the box has kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trisense.core.messages import unpack_receipts
from trisense.core.model import Batch, BatchClass, Sample, Stream
from trisense.core.topics import Lane
from trisense.core.wire import Header, split
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.spool import Cut, Spool, SpoolOptions
from trisense.gateway import ledger
from trisense.gateway.accounts import Account, balance, facts_of, read_spool
from trisense.gateway.config import DuckDbConfig
from trisense.gateway.intake import Delivery, Intake
from trisense.gateway.stores.base import Store
from trisense.gateway.stores.duck import DuckStore

BOX = "kx-001"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.db", SystemClock(), SpoolOptions(ballast_bytes=1 << 18)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _fold_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FOLD_AT", 5)


def open_store(path: Path) -> DuckStore:
    store = DuckStore(DuckDbConfig(kind="duckdb", path=path, free_floor_bytes=0))
    store.open()
    return store


def commit(spool: Spool, stream: Stream, t0_ns: int, numbers: range) -> None:
    for number in numbers:
        time_ns = t0_ns + number * 1_000_000_000
        spool.commit([Cut(BatchClass.DATA, (Sample(stream, time_ns, (20.0 + number, 50.0, number, None)),))])


def drain(spool: Spool, intake: Intake) -> list[Batch]:
    """Send everything that waits, settle the receipts; gives what was sent."""
    heads = spool.heads(BatchClass.DATA)
    batches = [batch for _, batch in spool.load(head.id for head in heads)]
    if batches:
        for payload, _ in split(Header(BOX, "kx", spool.counters()), batches):
            answers = intake.commit(intake.judge([Delivery(BOX, Lane.BACKLOG, payload)]))
            for _, receipts in answers.messages():
                spool.settle(unpack_receipts(receipts))
    return batches


def account(store: Store, spool: Spool) -> Account:
    (facts,) = facts_of(store.ledger)
    return balance(facts, read_spool(spool.path))


def fold(store: Store) -> bool:
    """Fold what may, as the gateway does once nothing can contradict it any more."""
    runs = store.ledger.foldable(now_ms=1 << 60)
    for (box, epoch), folded in runs.items():
        store.ledger.write_fold(box, epoch, folded)
        store.ledger.applied_fold(box, epoch, folded)
    return bool(runs)


def test_what_a_restored_gateway_lacks_comes_again_and_what_it_has_is_only_receipted(
    spool: Spool,
    tmp_path: Path,
    weather: Stream,
    t0_ns: int,
    make_intake: Callable[[Store], Intake],
) -> None:
    live, backup = tmp_path / "live.duckdb", tmp_path / "backup.duckdb"
    store = open_store(live)
    intake = make_intake(store)
    commit(spool, weather, t0_ns, range(10))
    drain(spool, intake)
    store.close()
    shutil.copy(live, backup)

    store = open_store(live)
    intake = make_intake(store)
    commit(spool, weather, t0_ns, range(10, 25))
    drain(spool, intake)
    assert account(store, spool).balanced
    assert spool.counters().low_seq == 25
    store.close()

    store = open_store(backup)  # the disk died; this is what there is
    intake = make_intake(store)
    commit(spool, weather, t0_ns, range(25, 27))
    drain(spool, intake)
    before = account(store, spool)
    assert (before.stored, before.missing, before.balanced) == (12, [(10, 24)], False)
    assert fold(store), "batches below low_seq are folded: their hashes are gone"

    assert spool.replay(0, 1 << 62) == 27
    assert account(store, spool).waiting == 15, "the audit finds them in the spool meanwhile"
    assert len(drain(spool, intake)) == 27

    after = account(store, spool)
    assert (after.stored, after.missing, after.balanced, after.forks) == (27, [], True, 0)
    assert (intake.counts["batches_duplicate"], intake.counts["batches_refused"]) == (12, 0)
    assert (spool.waiting(), spool.summary().kept.batches) == (0, 27)
    assert store.count(BOX).rows == 27
    store.close()
