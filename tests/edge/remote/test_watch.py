"""The first day of an accepted configuration: which starts count against it, and what it goes back to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trisense.core.remote import Desired, Reported, content_hash
from trisense.edge.config import load
from trisense.edge.remote import record
from trisense.edge.remote.keeper import Keeper

from tests.edge.conftest import FakeClock

LOCAL = (
    '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1883\n'
    '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"\n'
)
FIRST, SECOND = LOCAL + "# first\n", LOCAL + "# second\n"
DAY_S = 86_400.0


class Life:
    """A box that lives and dies."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self._file = folder / "box.toml"
        self._file.write_text(LOCAL)
        self._record = record.path_beside(folder / "spool.db")
        self.clock = clock
        self.start()

    def start(self, after_s: float = 10.0) -> Reported:
        """Start; without ``keeper.stopped`` before it, the process had died."""
        self.clock.advance(after_s)
        self.keeper = Keeper(load(self._file), self._record, self.clock)
        start = self.keeper.begin()
        assert content_hash(start.config.text) == start.reported.running
        return start.reported

    def accept(self, content: str) -> None:
        self.keeper.put_on_trial(Desired(hash=content_hash(content), content=content))
        self.keeper.confirm()


@pytest.fixture
def life(tmp_path: Path, clock: FakeClock) -> Life:
    return Life(tmp_path, clock)


def test_three_deaths_soon_after_each_other_take_it_back_and_it_is_said(life: Life) -> None:
    life.accept(FIRST)
    with capture_logs() as logs:
        for _ in range(2):
            assert life.start(after_s=899).running == content_hash(FIRST)
        back = life.start(after_s=899)
    assert (back.running, back.source, back.state) == (content_hash(LOCAL), "local", "rolled_back")
    assert back.desired == content_hash(FIRST)
    assert "the box died of it 3 times" in back.reason
    assert [line["event"] for line in logs] == ["unclean_start"] * 3 + ["configuration_rolled_back"]
    assert life.start() == back.model_copy(update={"since": life.start().since})


def stop(life: Life) -> None:
    life.keeper.stopped()


def cut_power(life: Life) -> None:
    life.clock.boot_id += "+"
    life.clock.since_boot_ns = 0


def wait(life: Life) -> None:
    life.clock.advance(901)


def die_on_trial(life: Life) -> None:
    life.keeper.put_on_trial(Desired(hash=content_hash(SECOND), content=SECOND))


@pytest.mark.parametrize("before", [stop, cut_power, wait, die_on_trial])
def test_stops_power_cuts_deaths_far_apart_and_those_of_a_trial_do_not_count(
    life: Life, before: Callable[[Life], None]
) -> None:
    life.accept(FIRST)
    for _ in range(10):
        before(life)
        assert life.start().running == content_hash(FIRST)


def test_a_stop_between_deaths_does_not_hide_them(life: Life) -> None:
    life.accept(FIRST)
    for state in ("running", "running", "rolled_back"):
        life.keeper.stopped()
        assert life.start().state == "running"
        assert life.start().state == state


def test_after_a_day_of_running_it_is_believed(life: Life) -> None:
    life.accept(FIRST)
    for hour in range(25):
        life.clock.advance(3600)
        life.keeper.aged()
        if hour % 5 == 0:
            life.keeper.stopped()
            life.clock.advance(7 * DAY_S)  # while it is off no time counts
            life.start()
    for _ in range(5):
        assert life.start().running == content_hash(FIRST)


def test_the_day_does_not_end_early(life: Life) -> None:
    life.accept(FIRST)
    life.clock.advance(DAY_S - 60)
    life.keeper.aged()
    life.start()
    life.start()
    assert life.start().state == "rolled_back"


def test_it_goes_back_to_the_one_before_and_from_there_to_the_own_file(life: Life) -> None:
    life.accept(FIRST)
    life.accept(SECOND)
    running = [life.start().running for _ in range(6)]
    expected = [SECOND, SECOND, FIRST, FIRST, FIRST, LOCAL]
    assert running == [content_hash(text) for text in expected]


def test_the_one_desired_last_is_told_which_other_one_was_taken_back(life: Life) -> None:
    life.accept(FIRST)
    life.keeper.put_on_trial(Desired(hash=content_hash(SECOND), content=SECOND))
    life.keeper.roll_back("dust: no answer")
    for _ in range(3):
        told = life.start()
    assert (told.state, told.desired) == ("rolled_back", content_hash(SECOND))
    assert told.reason.startswith(f"{content_hash(FIRST)[:16]} was accepted, but")


def test_the_boxs_own_file_is_never_given_up(life: Life) -> None:
    for _ in range(5):
        assert life.start().state == "running"
