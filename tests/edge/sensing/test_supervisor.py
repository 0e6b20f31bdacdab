"""One device that fails, hangs or babbles costs its neighbours nothing, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs
from trisense.drivers import (
    DeviceConfig,
    DeviceTimeout,
    Field,
    FrameError,
    Layer,
    LineError,
    Lines,
    Observed,
    PolledDriver,
    Stream,
    StreamingDriver,
)
from trisense.edge.sensing import supervisor as module
from trisense.edge.sensing.supervisor import Schedule, Supervisor

ROW = Observed("weather", {"air_temperature": 20.0})
Step = Callable[[], Any]


class Station(PolledDriver[DeviceConfig]):
    """Answers by script; after its end it is silent for good."""

    name = "station"
    family = "environment"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def __init__(self, config: DeviceConfig, script: Sequence[Any]) -> None:
        super().__init__(config)
        self.script = list(script)
        self.connects = 0
        self.closes = 0
        self.finished = asyncio.Event()

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),)),)

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        self.connects += 1

    async def close(self) -> None:
        self.closes += 1

    async def read(self) -> Sequence[Observed]:
        if not self.script:
            self.finished.set()
            await asyncio.Event().wait()
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        if step == "hang":
            await asyncio.Event().wait()
        return [ROW]


class Reader(StreamingDriver[DeviceConfig]):
    """Sends what the script holds, then the line is lost."""

    name = "reader"
    family = "rfid"
    summary = "for tests"
    config_model: ClassVar[type[DeviceConfig]] = DeviceConfig

    def __init__(self, config: DeviceConfig, rows: int) -> None:
        super().__init__(config)
        self.rows = rows
        self.connects = 0
        self.twice = asyncio.Event()

    def streams(self) -> tuple[Stream, ...]:
        return (Stream(self.config.name, "weather", Layer.GROUND, (Field("air_temperature", "Cel"),)),)

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # the SDK's signature
        self.connects += 1
        if self.connects == 2:
            self.twice.set()

    async def observe(self) -> AsyncIterator[Observed]:
        for _ in range(self.rows):
            yield ROW
        raise LineError("reader", "gone")


@pytest.fixture
def config() -> DeviceConfig:
    return DeviceConfig(name="mast", driver="station", interval_s=0.001)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.002)


async def supervise(driver: Any, done: asyncio.Event) -> tuple[Supervisor, list[Observed]]:
    rows: list[Observed] = []
    supervisor = Supervisor(driver, Lines(), rows.extend)
    task = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return supervisor, rows


async def test_a_failed_read_keeps_the_line_and_reads_again(config: DeviceConfig) -> None:
    silent = DeviceTimeout("mast", "no answer", timeout_s=1)
    station = Station(config, ["row", silent, silent, "row"])
    supervisor, rows = await supervise(station, station.finished)
    assert (len(rows), station.connects, supervisor.health.failures) == (2, 1, 2)
    assert supervisor.health.error is None


async def test_while_it_fails_its_health_says_why_since_when_and_when_it_is_tried_again(
    config: DeviceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("FIRST_WAIT_S", "LONGEST_WAIT_S"):
        monkeypatch.setattr(module, wait, 60.0)
    station = Station(config, ["row", DeviceTimeout("mast", "no answer", timeout_s=1), "row"])
    supervisor = Supervisor(station, Lines(), lambda _: None)
    health = supervisor.health
    task = asyncio.create_task(supervisor.run())
    while health.next_try_s is None:  # noqa: ASYNC110  # a supervisor that rests tells nobody
        await asyncio.sleep(0)
    assert health.error == "mast: no answer (waited 1 s)"
    assert health.reasons == {"timeout": 1}
    assert health.failing_since_s is not None
    assert 40 < health.next_try_s - health.failing_since_s < 80
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_device_that_rests_after_a_failure_is_tried_at_once_when_woken(
    config: DeviceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("FIRST_WAIT_S", "LONGEST_WAIT_S"):
        monkeypatch.setattr(module, wait, 3600.0)
    station = Station(config, [LineError("mast", "gone"), "row"])
    supervisor = Supervisor(station, Lines(), lambda _: None)
    task = asyncio.create_task(supervisor.run())
    while supervisor.health.next_try_s is None:  # noqa: ASYNC110  # a supervisor that rests tells nobody
        await asyncio.sleep(0)
    supervisor.wake()
    await asyncio.wait_for(station.finished.wait(), 10)
    assert (supervisor.health.error, supervisor.health.rows, station.connects) == (None, 1, 2)
    supervisor.wake()  # one that works is left in peace
    assert not supervisor._asked
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_line_is_closed_and_opened_again(config: DeviceConfig) -> None:
    station = Station(config, ["row", LineError("mast", "gone"), "row"])
    _, rows = await supervise(station, station.finished)
    assert (len(rows), station.connects, station.closes) == (2, 2, 2)


async def test_a_bug_in_a_driver_is_logged_with_its_traceback_and_the_device_goes_on(
    config: DeviceConfig,
) -> None:
    station = Station(config, [ZeroDivisionError("oops"), ZeroDivisionError("oops"), "row"])
    with capture_logs() as logs:
        _, rows = await supervise(station, station.finished)
    assert len(rows) == 1
    told = [(entry["event"], entry["log_level"], bool(entry.get("exc_info"))) for entry in logs]
    assert told == [
        ("device_failed", "warning", True),
        ("device_failed", "debug", True),
        ("device_recovered", "info", False),
    ]


async def test_a_device_that_fails_every_other_time_is_told_once_for_each_kind_of_failure(
    config: DeviceConfig,
) -> None:
    silent, damaged = DeviceTimeout("mast", "no answer", timeout_s=1), FrameError("mast", "checksum")
    station = Station(config, [silent, "row", silent, "row", damaged, "row", silent, "row", damaged, "row"])
    with capture_logs() as logs:
        supervisor, _ = await supervise(station, station.finished)
    told = [(entry["event"], entry.get("error")) for entry in logs if entry["log_level"] != "debug"]
    assert told == [
        ("device_failed", "DeviceTimeout"),
        ("device_recovered", None),
        ("device_failed", "FrameError"),
        ("device_recovered", None),
    ]
    assert supervisor.health.reasons == {"timeout": 3, "damaged": 2}


async def test_a_driver_that_hangs_is_cut_and_started_again(
    config: DeviceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "deadline_s", lambda _: 0.01)
    station = Station(config, ["hang", "row", "row"])
    supervisor = Supervisor(station, Lines(), lambda _: None)
    task = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(station.finished.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert supervisor.health.reads == 2
    assert station.connects >= 2


class Stubborn(Station):
    """Answers being cancelled with an error of its own."""

    async def read(self) -> Sequence[Observed]:
        self.finished.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise RuntimeError("a bug on the way out") from error
        return []


async def test_a_driver_that_swallows_its_end_is_ended_all_the_same(config: DeviceConfig) -> None:
    station = Stubborn(config, [])
    task = asyncio.create_task(Supervisor(station, Lines(), lambda _: None).run())
    await station.finished.wait()
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert station.closes == 1


class Unaware(Station):
    """Its answer comes in the moment in which it is told to end: once it goes on as if nothing had been."""

    async def read(self) -> Sequence[Observed]:
        if not self.finished.is_set():
            self.finished.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return [ROW]
        return await super().read()


class UnawareReader(Reader):
    async def observe(self) -> AsyncIterator[Observed]:
        self.twice.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield ROW
        await asyncio.Event().wait()


async def test_a_driver_that_answers_in_the_moment_of_its_end_is_not_read_again(config: DeviceConfig) -> None:
    station, reader = Unaware(config, []), UnawareReader(config, rows=0)
    for driver, begun in ((station, station.finished), (reader, reader.twice)):
        rows: list[Observed] = []
        task = asyncio.create_task(Supervisor(driver, Lines(), rows.extend).run())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert rows == []


async def test_a_stream_that_ends_is_followed_again(config: DeviceConfig) -> None:
    reader = Reader(config, rows=3)
    supervisor, rows = await supervise(reader, reader.twice)
    assert reader.connects == 2
    assert len(rows) in (3, 6)  # the second connection may have sent its rows by now
    assert supervisor.health.failures >= 1


class Night(Reader):
    """Fails once, then is there and has nothing to tell."""

    async def observe(self) -> AsyncIterator[Observed]:
        if self.connects == 1:
            raise LineError("reader", "gone")
        await asyncio.Event().wait()
        yield ROW


async def test_a_stream_that_came_back_works_though_it_has_nothing_to_tell(config: DeviceConfig) -> None:
    reader = Night(config.model_copy(update={"timeout_s": 0.01}), rows=0)
    supervisor = Supervisor(reader, Lines(), lambda _: None)
    task = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(reader.twice.wait(), 10)
    assert supervisor.health.error is not None
    async with asyncio.timeout(10):
        while supervisor.health.error is not None:  # noqa: ASYNC110  # health has no event
            await asyncio.sleep(0.005)
    assert (supervisor.health.rows, supervisor.health.failures) == (0, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_schedule_does_not_drift_and_leaves_out_what_it_missed() -> None:
    schedule = Schedule(1.0, 0.25, 100.0)
    assert schedule.next(100.0) == (100.25, 0)
    assert schedule.next(100.9) == (101.25, 0)
    assert schedule.next(104.5) == (105.25, 3)
    assert schedule.next(105.3) == (106.25, 0)
