"""From batches to bundles: what cannot travel is declared, and takes nobody with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest
from trisense.core import limits
from trisense.core.model import BatchClass, Counters
from trisense.core.topics import Lane
from trisense.core.wire import unpack
from trisense.edge.config import BoxConfig
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sending.bundler import Bundler
from trisense.edge.sending.outbox import Pick
from trisense.edge.spool import Cut, Spool
from trisense.edge.spool.thread import SpoolThread

MakeCut = Callable[..., Cut]


async def test_one_batch_that_is_too_large_is_declared_and_the_others_of_its_bundle_go(
    make_spool: Callable[..., Spool], cut: MakeCut
) -> None:
    def picture(number: int, size_bytes: int) -> Cut:
        return cut(number, rows=1, batch_class=BatchClass.MEDIA, blob=os.urandom(size_bytes))

    sizes_bytes = [100, 100, limits.PAYLOAD_BYTES, 100, 100]
    given_up: list[int] = []

    def give_up(ids: Sequence[int]) -> None:
        given_up.extend(ids)

    async with SpoolThread(make_spool()) as door:
        heads = await door.run(
            lambda spool: spool.commit([picture(i, size) for i, size in enumerate(sizes_bytes)])
        )
        bundler = Bundler("kx-001", "kx", door, given_up=give_up)
        bundles = await bundler.bundles(Pick(Lane.MEDIA, tuple(head.id for head in heads)))
        assert await door.run(lambda spool: len(spool.heads(BatchClass.ALARM))) == 1

    sent = [batch.seq for bundle in bundles for batch in unpack(bundle.payload).batches()]
    assert sent == [0, 1, 3, 4]
    assert given_up == [heads[2].id]
    assert [i for bundle in bundles for i in bundle.pick.ids] == [h.id for h in heads if h.id not in given_up]
    assert sum(bundle.spool_bytes for bundle in bundles) == sum(
        head.size_bytes for head in heads if head.id not in given_up
    )


def test_a_birth_that_is_too_large_goes_without_devices_but_with_the_books(
    config: BoxConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = BirthMaker(config)
    whole = maker.payload([Counters(1, 2, 0, 6)])
    assert '"dust"' in whole
    monkeypatch.setattr(limits, "PAYLOAD_BYTES", len(whole) - 1)
    short = maker.payload([Counters(1, 2, 0, 6)])
    assert '"dust"' not in short
    assert '"next_seq":2' in short
