"""A device of its own under test: the kit stands in its line and does the faults there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from trisense.core.errors import LineError
from trisense.core.model import Field
from trisense.drivers.kit.contract import Row
from trisense.drivers.kit.player import Device, Fault, Player, Reply, as_it_is
from trisense.drivers.kit.stage import Stage
from trisense.drivers.kit.subject import Setup, Subject
from trisense.drivers.kit.trial import Broken, Trial
from trisense.drivers.lines import Line, open_line
from trisense.drivers.sdk import Observed

__all__ = ["RelayDevice", "RelayTrial"]

PAUSE_S: Final = 0.02
"""Silence that parts what the device says into frames, for all that can be known from outside."""
PATIENCE_S: Final = 10.0


class Silent(Player):
    """Says nothing by itself: the device does."""

    speaks = False

    def rows(self) -> Sequence[Row]:
        return ()

    def turn(self) -> None:
        """It has no examples."""

    def hear(self, heard: bytearray) -> Sequence[Reply]:  # noqa: ARG002  # the player's signature
        return ()

    def foreign(self, reply: Reply) -> bytes:  # noqa: ARG002  # the player's signature
        return b""


class RelayDevice(Device):
    """Passes bytes between the driver and a device at ``url``, with a fault to one frame when armed."""

    def __init__(self, stage: Stage, url: str) -> None:
        super().__init__(stage, Silent(), goes_on=False)
        self._url = url
        self._by_host = url.startswith("tcp:")
        """A network device greets each host anew, so each host gets a connection of its own."""
        self._to_device: asyncio.Queue[bytes] = asyncio.Queue()
        self._host = asyncio.Event()

    def _welcome(self) -> None:
        self._host.set()

    def _hear(self, data: bytes) -> None:
        self._to_device.put_nowait(data)

    async def answer(self) -> None:
        """Pass bytes both ways for ever.

        Raises:
            Broken: the device cannot be reached.
        """
        while True:
            if self._by_host:
                await self._host.wait()
                self._host.clear()
            try:
                line = await open_line(self._url)
            except LineError as error:
                raise Broken(f"the device itself cannot be reached: {error}") from error
            try:
                await self._relay(line)
            finally:
                await line.close()

    async def _relay(self, line: Line) -> None:
        """Until the device hangs up, or another host is there."""
        tasks = [asyncio.create_task(self._down(line)), asyncio.create_task(self._up(line))]
        if self._by_host:
            tasks.append(asyncio.create_task(self._wait_for_host()))
        for task in tasks:
            task.set_name("kit: relay")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_host(self) -> None:
        await self._host.wait()

    async def _down(self, line: Line) -> None:
        while True:
            await line.write(await self._to_device.get())

    async def _up(self, line: Line) -> None:
        while True:
            said = await line.read()
            try:
                while True:
                    async with asyncio.timeout(PAUSE_S):
                        said += await line.read()
            except TimeoutError:
                pass
            if self.mute:
                continue
            fault, self._fault = self._fault or as_it_is, None
            await self._say(fault, Reply(said))
            self.served.set()


class RelayTrial(Trial):
    """What the device means is not known, so a row is judged by what the driver says of its streams."""

    patience_s = PATIENCE_S

    def __init__(self, subject: Subject, setup: Setup, device: Device) -> None:
        super().__init__(subject, setup, device)
        driver = self.driver()
        self.patience_s = PATIENCE_S + 2 * driver.config.timeout_s
        self._fields = {
            stream.measurement: {field.name: field for field in stream.fields} for stream in driver.streams()
        }

    async def play(self, fault: Fault = as_it_is, *, at: int = 0) -> None:  # noqa: ARG002  # one reply is all
        self.device.served.clear()
        if fault is not as_it_is:
            self.device.arm(fault)
        try:
            async with asyncio.timeout(self.patience_s):
                await self.device.served.wait()
        except TimeoutError as error:
            raise Broken(f"the device said nothing for {self.patience_s:g} s{self.hint()}") from error

    def judge(self) -> tuple[int, str]:
        """Nothing is known to be missing; wrong is what no stream of the driver allows."""
        return 0, next((wrong for row in self.rows if (wrong := self._wrong_with(row))), "")

    def _wrong_with(self, row: Observed) -> str:
        fields = self._fields.get(row.measurement)
        if fields is None:
            return f"a row of no stream of the driver: {row.measurement}"
        for name, value in row.values.items():
            if name not in fields:
                return f"{row.measurement}.{name} is no field of the stream"
            if isinstance(value, int | float) and not _inside(value, fields[name]):
                return f"{row.measurement}.{name}: {value!r} is out of range"
        return ""


def _inside(value: float, field: Field) -> bool:
    low, high = field.valid or (None, None)
    return (low is None or value >= low) and (high is None or value <= high)
