"""Which configuration is the box's: its own file, the last good one from afar, or one on trial."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from trisense.core.errors import ConfigError, RemoteError
from trisense.core.remote import LIST_MAX, Desired, MistakeJson, Reported, content_hash
from trisense.edge.clocks.clock import Clock, SystemClock
from trisense.edge.config import BoxConfig
from trisense.edge.remote import record as records
from trisense.edge.remote import watch
from trisense.edge.remote.checking import from_afar
from trisense.edge.remote.record import Outcome, Record, Tried, Watch

__all__ = ["Keeper", "now_text"]

log = structlog.get_logger(__name__)


def now_text() -> str:
    """The box's clock, ISO 8601 UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Start:
    """What a box begins with."""

    config: BoxConfig
    reported: Reported


class Keeper:
    """Owns the record. Methods that change it block for an fsync."""

    def __init__(self, local: BoxConfig, path: Path, clock: Clock | None = None) -> None:
        self.local = local
        """The box's own file, as it was read last."""
        self._path = path
        self._clock = clock or SystemClock()
        # A change that is cut off by a stop goes on in its thread while the stop is written down.
        self._one = threading.RLock()
        self._record = Record(base=content_hash(local.text))

    @property
    def tried(self) -> Tried | None:
        """The configuration desired last, and what became of it."""
        return self._record.tried

    def begin(self) -> Start:
        """What to run after a start, whatever happened before it.

        The box's own file wins when it changed since; else the last good configuration from afar runs,
        and one that was on trial is given up.
        """
        try:
            found = records.load(self._path)
        except RemoteError as error:
            log.error("remote_record_damaged", why=error.detail)
            return Start(
                self.local, self.report(reason=f"the record of remote configuration: {error.detail}")
            )
        if found is None:
            return Start(self.local, self.report())
        self._record = found.model_copy(update={"base": self._record.base})
        if found.base != self._record.base:
            return Start(self.local, self.own_file_wins(self.local))
        if found.trial is not None:
            self.roll_back("the box stopped before the configuration had proved itself")
        self._watch_start(tried=found.trial is not None)
        return self._last_good()

    def _watch_start(self, *, tried: bool) -> None:
        """Note a start of a configuration in its first day; go back when the box died of it too often."""
        was = self._record.watch
        if was is None:
            return
        now = watch.started(was, self._clock.boot_id, self._boot_s(), tried=tried)
        unclean = len(now.unclean_s)
        if unclean and now.unclean_s != was.unclean_s:
            log.warning("unclean_start", times=unclean, of=watch.UNCLEAN_MAX)
        if not watch.given_up(now):
            self._save(watch=None if watch.over(now) else now)
            return
        given_up = content_hash(self._record.good or "")[:16]
        reason = f"{given_up} was accepted, but the box died of it {unclean} times, each soon after the other"
        log.error("configuration_rolled_back", why=reason)
        self._save(good=was.before, tried=self._outcome("rolled_back", reason), watch=self._fresh(was.before))

    def _fresh(self, good: str | None, before: str | None = None) -> Watch | None:
        """The watch over a configuration that is at work from now on; the box's own file needs none."""
        if good is None:
            return None
        return Watch(before=before, boot_id=self._clock.boot_id, counted_s=self._boot_s())

    def _boot_s(self) -> float:
        return self._clock.boot_ns() / 1e9

    def stopped(self) -> None:
        """The box ends in order: its next start says nothing against what runs."""
        with self._one:
            if self._record.watch is not None:
                self._save(watch=watch.stopped(self._record.watch, self._boot_s()))

    def aged(self) -> None:
        """Count the time of running; to be called every ``watch.AGE_EVERY_S``."""
        with self._one:
            if self._record.watch is not None:
                now = watch.aged(self._record.watch, self._boot_s())
                self._save(watch=None if watch.over(now) else now)

    def _last_good(self) -> Start:
        if self._record.good is None:
            return Start(self.local, self.report())
        try:
            return Start(from_afar(self.local, self._record.good), self.report())
        except Exception as error:  # whatever it is now, a box that starts has to go on
            # It was good with another version of this software, or of the files that it names.
            log.exception("remote_configuration_unusable")
            reason = f"it no longer checks: {error}"
            self._save(good=None, watch=None, tried=self._outcome("rolled_back", reason))
            found = error.mistakes[:LIST_MAX] if isinstance(error, ConfigError) else ()
            mistakes = [MistakeJson.of(mistake) for mistake in found]
            return Start(self.local, self.report().model_copy(update={"mistakes": mistakes}))

    def put_on_trial(self, desired: Desired) -> None:
        """Remember that ``desired`` is being tried, before anything is changed.

        Raises:
            OSError: the disk; nothing is changed.
        """
        tried = Tried(hash=desired.hash, attempt=desired.attempt, outcome="trial", at=now_text())
        self._replace(trial=desired.content, tried=tried)

    def confirm(self) -> None:
        """What is on trial is the last good configuration from now on.

        Raises:
            OSError: the disk; it is still on trial.
        """
        good, before = self._record.trial, self._record.good
        tried = self._outcome("running", "")
        self._replace(good=good, trial=None, tried=tried, watch=self._fresh(good, before))

    def roll_back(self, reason: str) -> None:
        """Give up what is on trial; a disk that fails only makes the next start do it again."""
        log.error("configuration_rolled_back", why=reason)
        self._save(trial=None, tried=self._outcome("rolled_back", reason))

    def own_file_wins(self, local: BoxConfig) -> Reported:
        """The deployer changed the box's own file: what came from afar is over; says so."""
        self.local = local
        tried = (
            None if self._record.tried is None else self._outcome("superseded", "the box's own file changed")
        )
        if self._record.good is not None:
            log.warning("own_file_wins", file=str(local.path))
        self._save(base=content_hash(local.text), good=None, trial=None, tried=tried, watch=None)
        return self.report()

    def report(self, *, reason: str = "") -> Reported:
        """What runs, and what became of the configuration desired last."""
        tried = self._record.tried
        good = self._record.good
        return Reported(
            running=content_hash(self.local.text if good is None else good),
            source="local" if good is None else "remote",
            state="running" if tried is None else tried.outcome,
            desired=None if tried is None else tried.hash,
            attempt=0 if tried is None else tried.attempt,
            reason=reason or ("" if tried is None else tried.reason),
            since=now_text(),
        )

    def _outcome(self, outcome: Outcome, reason: str) -> Tried | None:
        tried = self._record.tried
        if tried is None:
            return None
        return tried.model_copy(update={"outcome": outcome, "reason": reason[:2000], "at": now_text()})

    def _replace(self, **changes: object) -> None:
        with self._one:
            changed = self._record.model_copy(update=changes)
            records.save(self._path, changed)
            self._record = changed

    def _save(self, **changes: object) -> None:
        """``_replace``, but a disk that fails changes what runs all the same."""
        with self._one:
            self._record = self._record.model_copy(update=changes)
            try:
                records.save(self._path, self._record)
            except OSError as error:
                log.error("remote_record_failed", path=str(self._path), why=str(error))
