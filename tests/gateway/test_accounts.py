"""The audit's arithmetic, on facts of every kind."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trisense.core.errors import SpoolError
from trisense.core.messages import SEQ_MAX
from trisense.gateway.accounts import Facts, Waiting, balance, facts_from_json, facts_json, read_spool

EPOCH = "00000000000000aa"
NOW_MS = 1_000_000_000
WHOLE = Facts(
    box="kx-001",
    epoch=EPOCH,
    next_seq=10,
    low_seq=10,
    committed=100,
    progress_ms=NOW_MS,
    stored=100,
    refused=0,
    in_flight=0,
    stored_seqs=[(0, 9)],
    refusals=[],
    losses=[],
    forks=0,
)
"""Ten batches of ten samples, all stored."""
HOLE = replace(WHOLE, stored=80, stored_seqs=[(0, 3), (6, 9)])
"""Batches 4 and 5 are not there."""


def test_all_stored_balances() -> None:
    account = balance(WHOLE, None)
    assert (account.balanced, account.unaccounted, account.missing) == (True, 0, [])


def test_a_hole_below_low_seq_does_not_balance() -> None:
    account = balance(HOLE, None, now_ms=NOW_MS)
    assert (account.balanced, account.unaccounted, account.missing) == (False, 20, [(4, 5)])


def test_refused_and_lost_fill_the_hole() -> None:
    facts = replace(HOLE, refused=10, refusals=[(4, 10, "type")], losses=[(5, 5, 10, 0, "cap")])
    account = balance(facts, None)
    assert (account.balanced, account.refused, account.lost) == (True, 10, 10)


def test_what_the_spool_holds_is_counted_there() -> None:
    facts = replace(HOLE, low_seq=4)
    account = balance(facts, {EPOCH: Waiting({4: 10, 5: 10, 9: 10, 12: 10})})
    assert (account.balanced, account.waiting) == (True, 20)


def test_a_spool_that_lacks_a_batch_does_not_balance() -> None:
    account = balance(replace(HOLE, low_seq=4), {EPOCH: Waiting({4: 10})}, now_ms=NOW_MS)
    assert (account.balanced, account.unaccounted, account.missing) == (False, 10, [(5, 5)])


def test_without_the_spool_a_box_that_moves_on_is_believed() -> None:
    facts = replace(HOLE, low_seq=4)
    soon = balance(facts, None, now_ms=NOW_MS + 5_000)
    assert (soon.balanced, soon.pending, soon.missing) == (True, 20, [])
    late = balance(facts, None, now_ms=NOW_MS + 3_600_000)
    assert (late.balanced, late.unaccounted, late.missing) == (False, 20, [(4, 5)])


def test_stored_comes_before_lost() -> None:
    facts = replace(HOLE, losses=[(3, 5, 30, 10, "corrupt")])
    account = balance(facts, None)
    assert (account.balanced, account.lost, account.lost_unknown) == (True, 20, False)


def test_a_loss_without_count_is_unknown_and_never_invented() -> None:
    facts = replace(HOLE, losses=[(4, 5, None, 0, "corrupt")])
    account = balance(facts, None)
    assert (account.balanced, account.lost, account.lost_unknown, account.unaccounted) == (True, 0, True, 20)


def test_a_loss_to_the_end_of_an_epoch_covers_what_was_reported() -> None:
    facts = replace(HOLE, stored=40, stored_seqs=[(0, 3)], losses=[(4, SEQ_MAX, None, 0, "corrupt")])
    assert balance(facts, None).balanced


def test_an_unknown_loss_elsewhere_excuses_no_hole() -> None:
    facts = replace(HOLE, losses=[(7, 8, None, 20, "corrupt")])
    assert not balance(facts, None).balanced


def test_the_same_loss_declared_twice_counts_once() -> None:
    facts = replace(HOLE, losses=[(4, 5, 20, 0, "cap"), (4, 5, 20, 0, "cap")])
    account = balance(facts, None)
    assert (account.balanced, account.lost) == (True, 20)


def test_more_stored_than_committed_does_not_balance() -> None:
    account = balance(replace(WHOLE, stored=101), None)
    assert (account.balanced, account.unaccounted) == (False, -1)


def test_an_epoch_that_only_a_loss_names_is_told_as_unknown() -> None:
    facts = replace(
        WHOLE,
        next_seq=None,
        low_seq=None,
        committed=None,
        stored=0,
        stored_seqs=[],
        losses=[(0, SEQ_MAX, None, 0, "corrupt")],
    )
    account = balance(facts, None)
    assert (account.balanced, account.committed, account.lost_unknown) == (True, None, True)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["stored", "refused", "lost", "spool", "gone"]), st.integers(1, 50)),
        max_size=30,
    )
)
def test_it_balances_exactly_when_nothing_is_gone(fates: list[tuple[str, int]]) -> None:
    of = {
        fate: [(i, n) for i, (f, n) in enumerate(fates) if f == fate]
        for fate in ("stored", "refused", "lost")
    }
    facts = Facts(
        box="kx-001",
        epoch=EPOCH,
        next_seq=len(fates),
        low_seq=0,
        committed=sum(n for _, n in fates),
        progress_ms=0,
        stored=sum(n for _, n in of["stored"]),
        refused=sum(n for _, n in of["refused"]),
        in_flight=0,
        stored_seqs=[(i, i) for i, _ in of["stored"]],
        refusals=[(i, n, "type") for i, n in of["refused"]],
        losses=[(i, i, n, 0, "cap") for i, n in of["lost"]],
        forks=0,
    )
    spool = {EPOCH: Waiting({i: n for i, (f, n) in enumerate(fates) if f == "spool"})}
    account = balance(facts_from_json(facts_json(facts)), spool)
    gone = sum(n for f, n in fates if f == "gone")
    assert (account.unaccounted, account.balanced) == (gone, gone == 0)


def test_a_spool_file_is_read_beside_its_edge(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with sqlite3.connect(path) as spool:
        spool.execute(f"PRAGMA application_id = {0x74726973}")
        spool.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE epoch (epoch TEXT PRIMARY KEY, next_seq INTEGER);"
            "CREATE TABLE batch (epoch TEXT, seq INTEGER, samples INTEGER, settled INTEGER);"
            "INSERT INTO epoch VALUES ('00000000000000aa', 3), ('00000000000000bb', 0);"
        )
        rows = [(EPOCH, 0, 5, 1), (EPOCH, 1, 6, 0), (EPOCH, 2, 7, 0)]
        spool.executemany("INSERT INTO batch VALUES (?, ?, ?, ?)", rows)
    spool.close()
    assert read_spool(path) == {EPOCH: Waiting({1: 6, 2: 7}), "00000000000000bb": Waiting({})}


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but long enough to be read" * 9])
def test_what_is_no_spool_is_said_to_be_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spool.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpoolError, match=r"spool\.db"):
        read_spool(path)
