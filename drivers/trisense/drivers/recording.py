"""Recordings of a line: what went both ways and when, as JSON lines, and how they are played back.

The first line says what it is, each other one what went over the line::

    {"recording": 1, "line": "serial:///dev/ttyUSB0", "driver": "winsen", "started_at": "..."}
    {"t_ms": 12.4, "dir": "tx", "hex": "ff0186000000000079"}
    {"t_ms": 21.9, "dir": "rx", "hex": "ff86026047000000d1"}

``t_ms`` counts from the opening of the line, ``rx`` is what the device said, ``tx`` what the driver said.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trisense.core.errors import LineError
from trisense.drivers.lines import Line, Lines

__all__ = ["RecordedLine", "Recorder", "RecordingLines", "is_recording", "parse"]

MARK: Final = b'{"recording":'
VERSION: Final = 1


class Entry(BaseModel):
    """One line of a recording."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    t_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    dir: Literal["rx", "tx"]
    hex: str

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.hex)


def is_recording(data: bytes) -> bool:
    """Whether a captured file is a recording; else it is the plain bytes of a device."""
    return data.startswith(MARK)


def parse(data: bytes) -> list[Entry]:
    """The entries of a recording; a last line that was cut off by a power cut is left out.

    Raises:
        ValueError: another version, or a line that is none; says which.
    """
    lines = data.decode(errors="replace").split("\n")
    if json.loads(lines[0])["recording"] != VERSION:
        raise ValueError(f"recording {VERSION}, not another version")
    entries = []
    for number, line in enumerate(lines[1:-1], start=2):
        try:
            entries.append(Entry.model_validate_json(line))
            bytes.fromhex(entries[-1].hex)
        except (ValidationError, ValueError) as error:
            raise ValueError(f'line {number}: {{"t_ms": ..., "dir": "rx" or "tx", "hex": ...}}') from error
    return entries


# --- making one -------------------------------------------------------------------------------------


class Recorder:
    """Writes a recording as it happens."""

    def __init__(self, out: TextIO, *, line: str, driver: str) -> None:
        self._out = out
        self._began = time.monotonic()
        self.rx_bytes = 0
        self.tx_bytes = 0
        started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._write({"recording": VERSION, "line": line, "driver": driver, "started_at": started})

    def opened(self) -> None:
        """The line has been opened: times count from here."""
        self._began = time.monotonic()

    def take(self, direction: Literal["rx", "tx"], data: bytes) -> None:
        """Write down what has just gone over the line."""
        if direction == "rx":
            self.rx_bytes += len(data)
        else:
            self.tx_bytes += len(data)
        t_ms = round((time.monotonic() - self._began) * 1000, 3)
        self._write({"t_ms": t_ms, "dir": direction, "hex": data.hex()})

    def _write(self, entry: dict[str, Any]) -> None:
        self._out.write(json.dumps(entry) + "\n")
        self._out.flush()


@dataclass(slots=True)
class _RecordingLine:
    """A line that writes down what goes through it."""

    _inner: Line
    _recorder: Recorder

    @property
    def url(self) -> str:
        return self._inner.url

    async def read(self) -> bytes:
        data = await self._inner.read()
        self._recorder.take("rx", data)
        return data

    async def write(self, data: bytes) -> None:
        self._recorder.take("tx", data)  # before, for the answer may be there when write returns
        await self._inner.write(data)

    async def flush_input(self) -> None:
        await self._inner.flush_input()

    async def close(self) -> None:
        await self._inner.close()


class RecordingLines(Lines):
    """Opens lines as ``Lines`` does, and records them."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    async def open(self, url: str, *, timeout_s: float = 5.0) -> Line:
        line = await super().open(url, timeout_s=timeout_s)
        self._recorder.opened()
        return _RecordingLine(line, self._recorder)  # type: ignore[return-value]  # url is read-only


# --- playing one back -------------------------------------------------------------------------------


class RecordedLine:
    """A recording as a line: the device says again what it said, when it said it.

    What follows a question in the recording is held back until the driver has asked that question, and comes
    as long after it as it did. A driver that asks something else gets a LineError, never a wrong answer.
    """

    def __init__(self, url: str, entries: Sequence[Entry], *, speed: float = 1.0) -> None:
        self.url = url
        self._entries = entries
        self._speed = speed
        self._at = 0
        self._questions = [index for index, entry in enumerate(entries) if entry.dir == "tx"]
        self._asked = b""
        """What was written of the next question so far."""
        self._news = asyncio.Event()
        self._base_s = asyncio.get_running_loop().time()
        self._closed = False

    async def read(self) -> bytes:
        while True:
            self._pass_questions()
            if self._closed or self._at == len(self._entries):
                raise LineError(self.url, "is closed" if self._closed else "the recording is over")
            entry = self._entries[self._at]
            if entry.dir == "tx":
                self._news.clear()
                await self._news.wait()
                continue
            wait_s = self._due_s(entry) - self._now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                continue
            await asyncio.sleep(0)  # others have their turn between two pieces
            self._at += 1
            return entry.data

    def _pass_questions(self) -> None:
        """Go past the questions that have been asked."""
        while self._at < len(self._entries) and self._entries[self._at].dir == "tx":
            if self._questions and self._at >= self._questions[0]:
                return
            self._at += 1

    def _due_s(self, entry: Entry) -> float:
        return self._base_s + entry.t_ms / 1000 / self._speed

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def write(self, data: bytes) -> None:
        while data:
            if not self._questions:
                raise LineError(self.url, f"the recording has no further question, asked {data.hex(' ')}")
            entry = self._entries[self._questions[0]]
            expected = entry.data[len(self._asked) :]
            part, data = data[: len(expected)], data[len(expected) :]
            if part != expected[: len(part)]:
                raise LineError(self.url, f"the recording asks {expected.hex(' ')}, not {part.hex(' ')}")
            self._asked += part
            if self._asked == entry.data:
                self._asked = b""
                del self._questions[0]
                self._base_s = self._now_s() - entry.t_ms / 1000 / self._speed
                self._news.set()

    async def flush_input(self) -> None:
        """Throw away what the device has said by now."""
        self._pass_questions()
        while self._at < len(self._entries):
            entry = self._entries[self._at]
            if entry.dir == "tx" or self._due_s(entry) > self._now_s():
                return
            self._at += 1
            self._pass_questions()

    async def close(self) -> None:
        self._closed = True
        self._news.set()
