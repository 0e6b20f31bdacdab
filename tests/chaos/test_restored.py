"""A gateway or a box comes back from an older copy of its files: every sample is there, once."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from trisense.core.errors import SpoolError
from trisense.sims.processes import trisense

from tests.chaos.conftest import Town

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]
WAIT_S = 60.0


def until(what: Callable[[], Any], town: Town) -> Any:
    """Ask a system until it says yes; a gateway that starts, and a spool in the making, do not answer yet."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(httpx.HTTPError, SpoolError):
            if answer := what():
                return answer
        assert time.monotonic() < deadline, town.children["gateway"].last_words()
        time.sleep(0.1)


def stored(town: Town) -> int:
    return sum(account.stored for account in town.accounts())


def copy_of(files: Path, pattern: str, into: Path) -> None:
    """Copy files of a program that does not run, in place of what is there."""
    into.mkdir(exist_ok=True)
    for old in into.glob(pattern):
        old.unlink()
    for file in filter(Path.is_file, files.glob(pattern)):
        shutil.copy(file, into)


@pytest.mark.parametrize("town", [1], indirect=True)
def test_a_gateway_restored_from_an_older_copy_is_refilled_by_its_box_to_the_last_sample(town: Town) -> None:
    (box,) = set(town.commands) - {"broker", "gateway"}
    backup, spool = town.home / "backup", town.home / "spool-backup"
    until(lambda: stored(town) > 20, town)
    town.kill("gateway")
    copy_of(town.home, "trisense.duckdb*", backup)
    since = datetime.now(UTC).isoformat()
    town.kill(box)
    copy_of(town.home / box, "spool.db*", spool)
    town.start("gateway")
    town.start(box)
    begun = until(lambda: stored(town), town)
    until(lambda: stored(town) > begun + 30, town)

    town.kill("gateway")
    copy_of(backup, "trisense.duckdb*", town.home)
    town.start("gateway")
    until(lambda: stored(town), town)
    until(lambda: any(account.missing for account in town.accounts()), town)
    asked = trisense("gateway", "replay", str(town.home / "gateway.toml"), box, "--since", since, "--json")
    assert town.children.start("replay", asked).process.wait(30) == 0
    town.children.stop("city")
    rest = town.at_rest()
    assert rest["balanced"], rest
    assert rest["exit"] == 0

    # And the box from an older copy of its spool: what it has not seen receipted goes up again, once.
    town.kill(box)
    copy_of(spool, "spool.db*", town.home / box)
    town.start(box)
    until(lambda: {a.epoch for a in town.accounts()} - {a["epoch"] for a in rest["accounts"]}, town)
    last = town.at_rest()
    deep = town.audit("--deep")
    assert last["balanced"], last
    assert deep["deep"][box]["twice"] == 0
    assert deep["deep"][box]["rows"] == sum(a["committed"] for a in deep["accounts"])
    assert deep["exit"] == 0
