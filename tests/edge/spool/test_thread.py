"""The door to the spool: one thread, which is gone with it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from trisense.core.errors import SpoolLocked
from trisense.edge.spool import Spool
from trisense.edge.spool.thread import SpoolThread


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("spool")}


async def test_its_thread_ends_with_the_door(make_spool: Callable[..., Spool]) -> None:
    before = threads()
    async with SpoolThread(make_spool()) as door:
        assert await door.run(Spool.waiting) == 0
        assert len(threads() - before) == 1
    assert threads() == before


async def test_a_spool_that_another_holds_leaves_no_thread(
    spool: Spool, make_spool: Callable[..., Spool]
) -> None:
    before = threads()
    with pytest.raises(SpoolLocked):
        async with SpoolThread(make_spool()):
            pass
    assert threads() == before
