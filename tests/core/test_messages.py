"""Topics and receipts: what is written can be read, and what is odd is refused."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core import topics
from trisense.core.errors import WireError
from trisense.core.messages import EpochReceipt, merged, pack_receipts, unpack_receipts
from trisense.core.topics import Lane

SEQ = st.integers(0, 2**63 - 1)
RECEIPT = st.builds(
    EpochReceipt,
    epoch=st.integers(0, 2**64 - 1),
    stored=st.lists(st.tuples(SEQ, SEQ).map(sorted).map(tuple), max_size=5).map(tuple),
    refused=st.lists(st.tuples(SEQ, st.text(max_size=64), SEQ), max_size=5).map(tuple),
)


@given(st.lists(RECEIPT, max_size=5))
def test_receipts_survive_the_way(receipts: list[EpochReceipt]) -> None:
    assert unpack_receipts(pack_receipts(receipts)) == receipts


@given(st.lists(RECEIPT.map(lambda r: replace(r, epoch=r.epoch % 2)), max_size=8))
def test_merged_receipts_say_the_same_and_nothing_twice(receipts: list[EpochReceipt]) -> None:
    found = merged(receipts)
    assert len({r.epoch for r in found}) == len(found)
    for r in found:
        same = [of for of in receipts if of.epoch == r.epoch]
        ends = {end for of in same for span in of.stored for end in span}
        near = {seq for end in ends for seq in (end - 1, end, end + 1)}
        for seq in near:
            said = any(first <= seq <= last for of in same for first, last in of.stored)
            assert sum(first <= seq <= last for first, last in r.stored) == said
        assert {seq for seq, _, _ in r.refused} == {seq for of in same for seq, _, _ in of.refused}


@given(st.binary(max_size=300))
def test_any_bytes_are_receipts_or_refused(payload: bytes) -> None:
    try:
        receipts = unpack_receipts(payload)
    except WireError:
        return
    assert all(isinstance(r, EpochReceipt) for r in receipts)


@pytest.mark.parametrize(
    "body",
    [
        {"v": 2, "receipts": []},
        {"v": 1},
        {"v": 1, "receipts": [], "more": 1},
        {"v": 1, "receipts": [{"epoch": -1, "stored": [], "refused": []}]},
        {"v": 1, "receipts": [{"epoch": 1, "stored": [[5, 4]], "refused": []}]},
        {"v": 1, "receipts": [{"epoch": 1, "stored": [[1, 2, 3]], "refused": []}]},
        {"v": 1, "receipts": [{"epoch": 1, "stored": [["1", "2"]], "refused": []}]},
        {"v": 1, "receipts": [{"epoch": 1, "stored": [], "refused": [[1, "x" * 65, 1]]}]},
        [],
    ],
)
def test_a_receipt_of_another_form_is_refused(body: object) -> None:
    with pytest.raises(WireError):
        unpack_receipts(msgpack.packb(body))


def test_a_receipt_beyond_its_size_is_refused_unread() -> None:
    with pytest.raises(WireError, match="size"):
        unpack_receipts(bytes(70_000))


def test_topics_are_those_of_the_design() -> None:
    assert topics.up("kx-1", Lane.LIVE) == "tri/v1/kx-1/up/live"
    assert topics.parse("tri/v1/kx-1/up/live") == ("kx-1", "up/live")
    assert topics.parse(topics.birth("kx-1")) == ("kx-1", "birth")
    assert topics.gateway_state("a") == "tri/v1g/a/state"


@pytest.mark.parametrize(
    "topic",
    [
        "tri/v2/kx/up/live",
        "tri/v1/KX/up",
        "tri/v1/kx",
        "tri/v1/kx/",
        "tri/v1//up",
        "tri/v1",
        "",
        "tri/v1g/a/state",
        "x/tri/v1/kx/up",
    ],
)
def test_a_foreign_topic_is_refused(topic: str) -> None:
    with pytest.raises(WireError):
        topics.parse(topic)
