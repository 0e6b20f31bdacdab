"""One change at a time: what is rejected, what is taken back, and that a box never stays in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from trisense.core.errors import LinkError, RemoteError, SpoolError
from trisense.core.remote import Desired, Reported, content_hash, reported_of
from trisense.drivers import DeviceConfig, Field, FieldType, Layer, Lines, Observed, PolledDriver, Stream
from trisense.edge import config as config_module
from trisense.edge.config import BoxConfig, Device, load
from trisense.edge.remote import changes as module
from trisense.edge.remote import record
from trisense.edge.remote.changes import Changes
from trisense.edge.remote.keeper import Keeper
from trisense.edge.remote.reporter import Reporter
from trisense.edge.sensing.devices import DeviceSet
from trisense.edge.sensing.supervisor import Supervisor

HEAD = '[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\nhost = "127.0.0.1"\nport = 1\n'


class Gauge(PolledDriver[DeviceConfig]):
    """Reads; with a time-out of 1 s it fails, with 2 s it was never written well, with 3 s it soon fails."""

    name = "gauge"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig
    reads = 0

    def __init__(self, config: DeviceConfig) -> None:
        super().__init__(config)
        if config.timeout_s == 2:
            raise ZeroDivisionError("a bug")

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "count", Layer.GROUND, (Field("count", "1", FieldType.INT),)),)

    async def connect(self, lines: Lines) -> None:
        pass

    async def read(self) -> Sequence[Observed]:
        if self.config.timeout_s == 1 or (self.config.timeout_s == 3 and self.reads > 3):
            raise RuntimeError("no answer")
        self.reads += 1
        return [Observed("count", {"count": 1})]


def gauge(name: str, timeout_s: float = 5, interval_s: float = 0.02) -> str:
    return (
        f'[[device]]\nname = "{name}"\ndriver = "gauge"\ninterval_s = {interval_s}\ntimeout_s = {timeout_s}\n'
    )


class Bench:
    """A box with real devices, and a link that says yes."""

    def __init__(self, folder: Path, remote: str = "") -> None:
        self.file = folder / "box.toml"
        self.file.write_text(HEAD + remote + gauge("a"))
        self.config = load(self.file)
        self.devices = DeviceSet(self._supervise)
        self.keeper = Keeper(self.config, record.path_beside(self.config.spool.path))
        self.reporter = Reporter("kx-001", cast("Any", self))
        self.changes = Changes(self, self.keeper, self.reporter)
        self.reports: list[Reported] = []
        self.aside: list[Reported] = []
        self.news = asyncio.Event()
        self.connected = True
        self.acknowledges = True
        self.broken: Callable[[BoxConfig], None] = lambda _: None
        self.applied: list[list[str]] = []

    async def _supervise(self, device: Device, _: float) -> Supervisor:
        return Supervisor(device.driver, Lines(), lambda _: None)

    async def apply(self, config: BoxConfig) -> None:
        self.broken(config)
        self.config = config
        await self.devices.apply(config.devices)
        self.applied.append(list(self.devices.devices))

    async def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        assert topic == "tri/v1/kx-001/config/reported"
        report = reported_of(payload.encode())
        (self.reports if retain else self.aside).append(report)
        self.news.set()
        if report.state == "trial" and not self.acknowledges:
            raise LinkError("it broke")

    def put(self, content: str, *, health_s: float = 60, **more: Any) -> Desired:
        desired = Desired(hash=content_hash(content), content=content, health_s=health_s, **more)
        self.changes.put(desired.model_dump_json().encode())
        return desired

    async def report(self, *states: str) -> Reported:
        """The first report in one of the states that has not been looked at."""
        async with asyncio.timeout(10):
            while True:
                for queue in (self.reports, self.aside):
                    while queue:
                        report = queue.pop(0)
                        if report.state in states:
                            return report
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    tasks = [
        asyncio.create_task(work)
        for work in (bench.devices.run(bench.config.devices), bench.reporter.run(), bench.changes.run())
    ]
    bench.reporter.connected()
    yield bench
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "driver_class", {"gauge": Gauge}.__getitem__)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    # A trial's time runs ten times as fast.
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 10 * time.monotonic()))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(Bench(tmp_path)) as made:
        yield made


BOTH = HEAD + gauge("a") + gauge("b")


async def test_a_healthy_one_is_kept(bench: Bench) -> None:
    desired = bench.put(BOTH)
    assert (await bench.report("checking")).running == bench.keeper.report().running
    trial = await bench.report("trial")
    assert (trial.running, trial.source) == (desired.hash, "remote")
    kept = await bench.report("running", "rolled_back")
    assert (kept.state, kept.running) == ("running", desired.hash)
    assert bench.applied == [["a", "b"]]


async def test_a_device_that_is_read_once_an_hour_is_read_at_once(bench: Bench) -> None:
    bench.put(HEAD + gauge("a") + gauge("b", interval_s=3600))
    assert (await bench.report("running", "rolled_back")).state == "running"


async def test_what_is_not_healthy_is_taken_back_and_not_tried_again(bench: Bench) -> None:
    bad = HEAD + gauge("a") + gauge("b", timeout_s=1)
    bench.put(bad, health_s=1)
    back = await bench.report("running", "rolled_back")
    assert (back.state, "no answer" in back.reason) == ("rolled_back", True)
    assert bench.applied == [["a", "b"], ["a"]]
    bench.put(bad)
    assert (await bench.report("trial", "rolled_back")).state == "rolled_back"
    bench.put(bad, attempt=1)
    assert (await bench.report("trial", "rolled_back")).state == "trial"


async def test_a_few_good_reads_are_no_proof(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_S", 4.0)
    bench.put(HEAD + gauge("a") + gauge("b", timeout_s=3), health_s=16)
    back = await bench.report("running", "rolled_back")
    assert (back.state, "no answer" in back.reason) == ("rolled_back", True)


async def test_without_the_brokers_word_it_is_taken_back(bench: Bench) -> None:
    bench.acknowledges = False
    bench.put(BOTH, health_s=1)
    back = await bench.report("running", "rolled_back")
    assert "the broker has not acknowledged" in back.reason
    assert bench.applied[-1] == ["a"]


async def test_a_link_that_is_down_again_speaks_against_it(bench: Bench) -> None:
    bench.put(BOTH, health_s=10)
    await bench.report("trial")
    bench.connected = False
    assert "the broker has not acknowledged" in (await bench.report("running", "rolled_back")).reason


async def test_a_new_broker_must_be_heard_on_a_new_connection(bench: Bench) -> None:
    bench.put(BOTH.replace("port = 1", "port = 2"), health_s=1)
    back = await bench.report("running", "rolled_back")
    assert "the broker has not acknowledged" in back.reason
    bench.put(BOTH.replace("port = 1", "port = 3"))
    await bench.report("trial")
    bench.reporter.connected()
    assert (await bench.report("running", "rolled_back")).state == "running"


@pytest.mark.parametrize("error", [SpoolError("the disk"), ZeroDivisionError("a bug")])
async def test_what_goes_wrong_while_it_is_put_to_work_is_taken_back(bench: Bench, error: Exception) -> None:
    def broken(config: BoxConfig) -> None:
        if len(config.devices) == 2:
            raise error

    bench.broken = broken
    bench.put(BOTH)
    back = await bench.report("running", "rolled_back")
    assert (back.state, str(error) in back.reason) == ("rolled_back", True)
    assert bench.applied == [["a"]]


async def test_a_disk_that_cannot_keep_it_leaves_the_box_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "save", full)
    bench.put(BOTH)
    assert "No space left" in (await bench.report("rejected")).reason
    assert bench.applied == []


async def test_a_disk_that_fills_up_at_the_end_takes_it_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Keeper) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Keeper, "confirm", full)
    bench.put(BOTH)
    assert "No space left" in (await bench.report("rolled_back")).reason
    assert bench.applied == [["a", "b"], ["a"]]


async def test_a_bug_in_a_driver_is_a_reason_to_reject(bench: Bench) -> None:
    bench.put(HEAD + gauge("a", timeout_s=2))
    assert "ZeroDivisionError" in (await bench.report("rejected")).reason
    bench.put(BOTH)
    assert (await bench.report("running", "rolled_back")).state == "running"


async def test_garbage_wrong_hashes_and_mistakes_are_rejected(bench: Bench) -> None:
    bench.changes.put(b"\x00garbage")
    assert (await bench.report("rejected")).desired is None
    wrong = Desired(hash="0" * 64, content=BOTH)
    bench.changes.put(wrong.model_dump_json().encode())
    report = await bench.report("rejected")
    assert (report.desired, report.reason.split(":")[0]) == (wrong.hash, "hash")
    bench.put(BOTH.replace("timeout_s = 5", "timeout_s = -5").replace("127.0.0.1", ""))
    report = await bench.report("rejected")
    assert {m.where for m in report.mistakes} == {"mqtt.host", "device[0].timeout_s", "device[1].timeout_s"}
    bench.changes.put(b"")  # withdrawn: the box goes on as it is
    bench.put(BOTH)
    assert (await bench.report("running", "rejected")).state == "running"


async def test_a_dry_run_is_answered_beside_what_is_retained(bench: Bench) -> None:
    bench.put(BOTH, dry_run=True)
    report = await bench.report("checked")
    assert report.difference is not None
    assert report.difference.devices_added == ["b"]
    bench.put(BOTH.replace("timeout_s = 5", "timeout_s = -5"), dry_run=True)
    assert (await bench.report("rejected")).mistakes
    assert [r.state for r in bench.reports] == []
    assert bench.applied == []


async def test_a_box_that_allows_none_says_so(tmp_path: Path) -> None:
    async with running(Bench(tmp_path, "[remote]\nconfig = false\n")) as bench:
        for dry_run in (True, False):
            bench.put(BOTH, dry_run=dry_run)
            assert "config = false on the box" in (await bench.report("rejected")).reason
    assert bench.applied == []


async def test_what_runs_already_is_said_to_run(bench: Bench) -> None:
    bench.put(bench.file.read_text())
    assert (await bench.report("running")).source == "local"
    assert bench.applied == []


# --- the box's own file ---


async def test_the_own_file_takes_over_when_it_changed(bench: Bench) -> None:
    assert not await bench.changes.reload()
    desired = bench.put(BOTH)
    await bench.report("running")
    bench.file.write_text(HEAD + gauge("c"))
    assert await bench.changes.reload()
    report = await bench.report("superseded")
    assert (report.source, report.desired) == ("local", desired.hash)
    assert bench.applied[-1] == ["c"]
    bench.put(BOTH)  # the broker still wants it; the own file stays
    assert (await bench.report("superseded", "trial")).state == "superseded"


async def test_an_own_file_with_mistakes_or_for_a_restart_changes_nothing(bench: Bench) -> None:
    for text, reason in (("[", "invalid"), (HEAD.replace('"kx"', '"ky"') + gauge("a"), "cannot")):
        bench.file.write_text(text)
        with pytest.raises(RemoteError) as caught:
            await bench.changes.reload()
        assert caught.value.reason == reason
    assert bench.applied == []


async def test_the_own_file_waits_for_a_trial(bench: Bench) -> None:
    bench.put(HEAD + gauge("a") + gauge("b", timeout_s=1))
    await bench.report("trial")
    with pytest.raises(RemoteError, match="busy"):
        await bench.changes.reload()
