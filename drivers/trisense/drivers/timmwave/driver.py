"""The TI mmWave driver: configures the radar where it may, and tells what each frame saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Constrained
from trisense.core.errors import DeviceError
from trisense.core.model import Stream, Value
from trisense.drivers import traffic
from trisense.drivers.framing import FramedConfig, FramedDriver
from trisense.drivers.lines import Lines, LineUrl
from trisense.drivers.sdk import Codec, Frame, Observed
from trisense.drivers.timmwave import chirp
from trisense.drivers.timmwave.cli import Cli, CliCodec
from trisense.drivers.timmwave.codec import TiMmwaveCodec, TiMmwaveDecoder
from trisense.drivers.timmwave.counting import LineCounter
from trisense.drivers.timmwave.rows import POINT, PRESENCE, TRACK, Tracks

__all__ = ["RawWatch", "TiMmwave", "TiMmwaveConfig"]


class RawWatch:
    """Notices a line that turns CR into LF: over many frames 0x0D never comes, while its neighbours do."""

    FRAMES = 1000

    def __init__(self) -> None:
        self._frames = 0
        self._seen = {0x0C: False, 0x0D: False, 0x0E: False}

    def take(self, frame: bytes) -> None:
        self._frames += 1
        for byte, seen in self._seen.items():
            if not seen and byte in frame:
                self._seen[byte] = True

    @property
    def suspects(self) -> bool:
        """Whether the line is not raw; what comes over it has false bytes then."""
        seen = self._seen
        return self._frames >= self.FRAMES and seen[0x0C] and seen[0x0E] and not seen[0x0D]


class TiMmwaveConfig(FramedConfig):
    """A TI IWR or AWR radar; ``line`` is its data port, 921600 baud."""

    firmware: Literal["auto", "out-of-box", "sdk1", "traffic", "people-3d", "people"] = "auto"
    """What runs on it; ``auto`` looks at each header. Name it where it is known."""
    cli_line: LineUrl | None = None
    """Its command port, 115200 baud; needed to send a configuration."""
    configuration: Path | None = None
    """A .cfg file as TI's visualizer writes it: sent at each connection if ``cli_line`` is set, and read for
    the highest speed that can be told."""
    lanes: tuple[tuple[float, float], ...] = ()
    """Lanes as ranges of x in metres, such as [[-5.0, -1.5], [-1.5, 2.0]]; with a tracker's firmware the
    vehicles in each are counted where they cross ``line_m``."""
    line_m: float = 20.0
    """Distance straight ahead, in metres, of the line across the lanes."""
    statistics_s: Literal[20, 30, 60, 300, 900] = 60
    """Length of an interval of the traffic statistics, aligned to the clock and stamped with its end."""
    points: bool = True
    """Pass on each point; a tracker's targets and all counts come in any case."""
    min_period_s: Annotated[float, Constrained(ge=0, le=60)] = 0.0
    """Pass on at most one frame per this time; 0 passes on all (about 10 to 20 a second)."""


class TiMmwave(FramedDriver[TiMmwaveConfig]):
    name = "ti-mmwave"
    family = "radar"
    summary = "TI IWR/AWR mmWave radars: out-of-box demo, traffic monitoring, people counting"
    config_model = TiMmwaveConfig
    codecs: ClassVar[Mapping[str, Codec]] = {
        "ti-mmwave": TiMmwaveCodec(),
        "ti-mmwave-sdk1": TiMmwaveCodec(),
        "ti-mmwave-traffic": TiMmwaveCodec(),
        "ti-mmwave-people": TiMmwaveCodec(),
        "ti-mmwave-cli": CliCodec(),
    }

    def __init__(self, config: TiMmwaveConfig) -> None:
        super().__init__(config)
        self._tracks = Tracks()
        self._raw = RawWatch()
        self._counter = LineCounter(config.lanes, line_m=config.line_m, interval_s=config.statistics_s)
        self._max_speed_mps: float | None = None
        self._next_at = 0.0
        self._aligned_ns = time.time_ns() - time.monotonic_ns()

    def streams(self) -> tuple[Stream, ...]:
        tables = {"radar_presence": PRESENCE, "radar_track": TRACK}
        if self.config.points:
            tables["radar_point"] = POINT
        if self.config.lanes:
            tables[traffic.MEASUREMENT] = traffic.INTERVAL
        return tuple(Stream(self.config.name, name, self.layer, fields) for name, fields in tables.items())

    async def connect(self, lines: Lines) -> None:
        self._tracks, self._raw = Tracks(), RawWatch()  # the statistics live on: they see the gap themselves
        if self.config.configuration is not None:
            await self._configure(lines, self.config.configuration)
        await super().connect(lines)

    async def _configure(self, lines: Lines, file: Path) -> None:
        try:
            text = await asyncio.to_thread(file.read_text, encoding="utf-8")
            commands = chirp.words_of(text)
            self._max_speed_mps = chirp.limits(commands).max_speed_mps
        except (OSError, ValueError) as error:
            raise DeviceError(self.config.name, f"configuration {file}: {error}") from error
        if self.config.cli_line is None:
            return
        line = await lines.open(self.config.cli_line, timeout_s=self.config.timeout_s)
        try:
            cli = Cli(line, device=self.config.name, timeout_s=self.config.timeout_s)
            await cli.configure(commands)
        finally:
            await line.close()

    def decoder(self) -> TiMmwaveDecoder:
        firmware = None if self.config.firmware == "auto" else self.config.firmware
        return TiMmwaveDecoder(firmware, watch=self._raw.take)

    def rows(self, frame: Frame) -> Sequence[Observed]:
        rows = self._tracks.told(frame)  # each frame counts, whether it is passed on or not
        if self._raw.suspects:
            what = f"no byte 0D in {RawWatch.FRAMES} frames: the line is not raw, it turns CR into LF"
            raise DeviceError(self.config.name, what)
        intervals = self._intervals(rows)
        now = time.monotonic()
        if now < self._next_at:
            return intervals
        self._next_at = now + self.config.min_period_s
        wanted = rows if self.config.points else [row for row in rows if row.measurement != "radar_point"]
        return [*intervals, *(self._limited(row) for row in wanted)]

    def _intervals(self, rows: Sequence[Observed]) -> list[Observed]:
        """The intervals that are over by now.

        Aligned to the clock as it stood at the start, and then counted without it, for it may step; their
        time is the box's to say, as that of all else that happens now.
        """
        told = self._counter.take(rows, self._aligned_ns + time.monotonic_ns())
        return [replace(row, sensed_at_ns=None) for row in told]

    def _limited(self, row: Observed) -> Observed:
        """The frame's own row says up to which speed all speeds of the frame are to be believed."""
        if row.measurement != "radar_presence" or self._max_speed_mps is None:
            return row
        values: dict[str, Value] = {**row.values, "speed_limit": self._max_speed_mps}
        return replace(row, values=values)
