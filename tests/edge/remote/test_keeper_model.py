"""Whatever is tried, kept, taken back, edited and cut off in any order: a start ends on the last good one."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trisense.core.remote import Desired, content_hash
from trisense.edge.config import load
from trisense.edge.remote import record
from trisense.edge.remote.keeper import Keeper

from tests.edge.conftest import FakeClock

HEAD = '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1883\n'
DEVICE = '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"\n'

Cut = Literal["no", "before", "after"]
CUTS = st.sampled_from(["no", "no", "before", "after"])


class PowerCut(BaseException):
    """The box is gone at this moment."""


class Starts(RuleBasedStateMachine):
    """A box whose power may go just before or just after its record has been replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "box.toml"
        self.path = record.path_beside(Path(self.folder.name) / "spool.db")
        self.numbers = iter(range(1_000_000))
        self.own = self.good = self.text()
        self.file.write_text(self.own)
        self.trial: str | None = None
        self.tried: str | None = None
        self.before: list[str] = []
        """What the box would go back to when it dies too often."""
        self.deaths = 0
        self.clock = FakeClock()
        self.start()

    def teardown(self) -> None:
        self.folder.cleanup()

    def text(self) -> str:
        return f"{HEAD}{DEVICE}# {next(self.numbers)}\n"

    def start(self, after: Literal["power cut", "death", "stop"] = "power cut") -> None:
        if after == "power cut":
            self.clock.boot_id = f"boot-{next(self.numbers)}"
            self.deaths = 0
        self.keeper = Keeper(load(self.file), self.path, self.clock)
        started = self.keeper.begin()
        expected = started.reported.state  # said before
        if self.file.read_text() != self.own:
            self.own = self.good = self.file.read_text()
            self.before = []
            expected = "running" if self.tried is None else "superseded"
        elif self.trial is not None:
            expected = "rolled_back"
        elif self.before and after == "death":
            self.deaths += 1
            if self.deaths == 3:
                self.went_back()
                expected = "rolled_back"
        self.trial = None
        assert started.config.text == self.good
        assert started.reported.running == content_hash(self.good)
        assert started.reported.state == expected
        assert started.reported.source == ("local" if self.good == self.own else "remote")
        assert started.reported.desired == (None if self.tried is None else content_hash(self.tried))

    def went_back(self) -> None:
        self.deaths = 0
        (self.good,) = self.before
        self.before = [] if self.good == self.own else [self.own]

    def cut_at(self, cut: Cut, work: object, *arguments: object) -> bool:
        """Do the work; whether its record reached the disk. After a cut the box has started anew."""
        assert callable(work)
        save = record.save

        def saved(path: Path, kept: record.Record) -> None:
            if cut == "after":
                save(path, kept)
            raise PowerCut

        with pytest.MonkeyPatch.context() as patch:
            if cut != "no":
                patch.setattr(record, "save", saved)
            with contextlib.suppress(PowerCut):
                work(*arguments)
        return cut != "before"

    @rule(cut=CUTS)
    @precondition(lambda self: self.trial is None)
    def try_another(self, cut: Cut) -> None:
        content = self.text()
        if self.cut_at(cut, self.keeper.put_on_trial, Desired(hash=content_hash(content), content=content)):
            self.trial = self.tried = content
        if cut != "no":
            self.start()

    @rule(cut=CUTS)
    @precondition(lambda self: self.trial is not None)
    def keep_it(self, cut: Cut) -> None:
        if self.cut_at(cut, self.keeper.confirm):
            assert self.trial is not None
            self.before = [self.good]
            self.good, self.trial = self.trial, None
            self.deaths = 0
        if cut != "no":
            self.start()

    @rule(cut=CUTS)
    @precondition(lambda self: self.trial is not None)
    def take_it_back(self, cut: Cut) -> None:
        if self.cut_at(cut, self.keeper.roll_back, "not healthy"):
            self.trial = None
        if cut != "no":
            self.start()

    @rule()
    def power_goes(self) -> None:
        self.start()

    @rule(times=st.integers(1, 3))
    def process_dies(self, times: int) -> None:
        for _ in range(times):
            self.start("death")

    @rule()
    def is_stopped(self) -> None:
        self.keeper.stopped()
        self.start("stop")

    @rule()
    def deployer_edits(self) -> None:
        self.file.write_text(self.text())
        self.start()

    @invariant()
    def what_is_said_to_run_is_the_last_good_one(self) -> None:
        assert self.keeper.report().running == content_hash(self.good)


Starts.TestCase.settings = settings(
    max_examples=40, stateful_step_count=15, suppress_health_check=list(HealthCheck)
)
test_a_start_ends_on_the_last_good_one = Starts.TestCase
