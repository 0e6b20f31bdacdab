"""The driver: looks into a folder, reads each scene once, samples it at the sites.

Once means at most once, across restarts too. A scene is written down as read, on disk, before its rows are
handed over; the runtime commits them within a second. A crash just between the two loses the rows of that
one scene, as it loses any reading not yet committed. Writing it down afterwards would store a scene twice
instead, and nothing may be stored twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field as Constrained
from pydantic import model_validator
from trisense.core.config import ConfigModel
from trisense.core.vocabulary import field
from trisense.drivers import (
    DeviceConfig,
    Field,
    FieldType,
    Frame,
    FrameError,
    Layer,
    LineError,
    Lines,
    Observed,
    PolledDriver,
    Stream,
)
from trisense.drivers.sky.codec import GeotiffNdvi, rows
from trisense.drivers.sky.ledger import Read, Scenes
from trisense.drivers.sky.scene import Point, digest, ndvi_of_file

__all__ = ["Config", "NdviScenes", "Site"]

FOLDER_FILES: Final = 20_000
"""More files than this and the folder is refused: it is never listed without end."""
TROUBLE_KEPT: Final = 100
"""Damaged scenes that wait to be told; of more, the oldest go untold."""
SUFFIXES: Final = (".tif", ".tiff")
SECOND_NS: Final = 1_000_000_000

INT, STR = FieldType.INT, FieldType.STR
SCENE: Final = (
    Field("id", "", STR),
    Field("sha256", "", STR),
    Field("crs", "", STR),
    Field("width", "{pixel}", INT),
    Field("height", "{pixel}", INT),
    Field("clear_fraction", "1", valid=(0, 1)),
    Field("ndvi_mean_clear", "1", valid=(-1, 1)),
    Field("ndvi_mean_all", "1", valid=(-1, 1)),
)
NDVI: Final = (
    Field("station", "", STR),
    field("latitude"),
    field("longitude"),
    Field("ndvi", "1", valid=(-1, 1)),
    Field("ndvi_mean", "1", valid=(-1, 1)),
    Field("clear", "1", INT, valid=(0, 1)),
    Field("clear_px", "{pixel}", INT),
    Field("px", "{pixel}", INT),
    Field("reason", "", STR),
    Field("scene", "", STR),
)

SiteName = Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class Site(ConfigModel):
    """One place to sample."""

    name: SiteName
    """What the rows call it (``station``)."""
    latitude: Annotated[float, Constrained(ge=-90, le=90)]
    """WGS 84 degrees."""
    longitude: Annotated[float, Constrained(ge=-180, le=180)]
    """WGS 84 degrees."""


class Config(DeviceConfig):
    """One folder into which something puts NDVI scenes."""

    folder: Path
    """Folder of ``*.tif`` files; sub-folders are not looked into."""
    sites: Annotated[tuple[Site, ...], Constrained(min_length=1, max_length=1000)]
    """Places to sample in each scene."""
    state_file: Path | None = None
    """Where it is written down which scenes have been read; by default ``.NAME.read.json`` in the folder."""
    interval_s: Annotated[float, Constrained(gt=0, le=86_400)] = 60.0
    """Seconds between two looks into the folder."""
    timeout_s: Annotated[float, Constrained(gt=0, le=3_600)] = 60.0
    """One look begins no further scene after half of this; the rest waits for the next look."""
    settle_s: Annotated[float, Constrained(ge=0, le=86_400)] = 2.0
    """A file that changed less than this ago may still be growing: it is left for a later look."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError("sites with different names")
        return self


class NdviScenes(PolledDriver[Config]):
    """Reads files in a thread; a damaged scene is told once and tried again when it changes."""

    name = "ndvi-scenes"
    family = "sky"
    layer = Layer.SKY
    summary = "Folder of GeoTIFF NDVI scenes, sampled at sites"
    config_model = Config
    codecs: ClassVar = {"geotiff-ndvi": GeotiffNdvi()}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._points = [Point(site.name, site.latitude, site.longitude) for site in config.sites]
        self._state_file = config.state_file or config.folder / f".{config.name}.read.json"
        self._scenes: Scenes | None = None
        self._damaged: dict[str, tuple[int, int]] = {}
        self._ready: list[Observed] = []
        self._trouble: deque[FrameError] = deque(maxlen=TROUBLE_KEPT)
        self._one_at_a_time = threading.Lock()

    def streams(self) -> tuple[Stream, ...]:
        name, site = self.config.name, self.config.site or ""
        return (
            Stream(name, "ndvi", self.layer, NDVI, site),
            Stream(name, "scene", self.layer, SCENE, site),
        )

    async def connect(self, lines: Lines) -> None:  # noqa: ARG002  # a folder needs no line
        """Load what has been read before.

        Raises:
            LineError: no such folder, or a state file that cannot be used.
        """
        await asyncio.to_thread(self._open)

    async def read(self) -> Sequence[Observed]:
        """The rows of scenes that have come since the last look; empty where there are none.

        Raises:
            FrameError: a scene is damaged; told when there are no rows to give, one scene at a time.
            LineError: the folder or the state file is gone.
        """
        # A look that was cancelled half-way has left its rows here: they are written down as read.
        if not self._ready:
            await asyncio.to_thread(self._look)
        found, self._ready = self._ready, []
        if not found and self._trouble:
            raise self._trouble.popleft()
        return found

    async def peek(self) -> Sequence[Observed]:
        """The rows of the newest scene, read or not; nothing is written down.

        Raises:
            FrameError: it is damaged.
            LineError: the folder is gone.
        """
        return await asyncio.to_thread(self._newest)

    def _open(self) -> None:
        with self._one_at_a_time:
            if not self.config.folder.is_dir():
                raise LineError(str(self.config.folder), "no such folder")
            self._scenes = Scenes.load(self._state_file)

    def _look(self) -> None:
        """Read what is new into ``_ready``, and what is wrong with the rest into ``_trouble``."""
        until = time.monotonic() + self.config.timeout_s / 2
        found: list[Observed] = []
        read: dict[str, Read] = {}
        with self._one_at_a_time:
            if self._scenes is None:
                raise LineError(str(self.config.folder), "not connected")
            for path, stat in self._settled():
                if self._scenes.unchanged(path.name, stat) or self._known_bad(path, stat):
                    continue
                try:
                    sha256, frame = self._read_one(path, stat)
                except FrameError as error:
                    self._damaged[path.name] = (stat.st_size, stat.st_mtime_ns)
                    self._trouble.append(error)
                else:
                    twice = self._scenes.has_content(sha256) or any(sha256 == e.sha256 for e in read.values())
                    read[path.name] = Read(size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)
                    found += [] if twice else rows(frame, scene=path.stem, sha256=sha256)
                if time.monotonic() > until:
                    break
            if read:
                self._scenes.note(read)
            self._ready.extend(found)

    def _newest(self) -> list[Observed]:
        found = list(self._settled())
        if not found:
            return []
        path, stat = found[-1]
        sha256, frame = self._read_one(path, stat)
        return rows(frame, scene=path.stem, sha256=sha256)

    def _known_bad(self, path: Path, stat: os.stat_result) -> bool:
        return self._damaged.get(path.name) == (stat.st_size, stat.st_mtime_ns)

    def _read_one(self, path: Path, stat: os.stat_result) -> tuple[str, Frame]:
        """Digest and content of one scene.

        Raises:
            FrameError: it is damaged, or changed while it was read.
        """
        try:
            sha256 = digest(path)
            frame = ndvi_of_file(path, self._points)
            after = path.stat()
        except OSError as error:
            raise FrameError(self.config.name, f"{path.name}: {error}") from error
        except FrameError as error:
            raise FrameError(self.config.name, f"{path.name}: {error.what}") from error
        if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise FrameError(self.config.name, f"{path.name}: changed while it was read")
        return sha256, frame

    def _settled(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Scene files that have not changed for ``settle_s``, by name, so mostly by time."""
        try:
            with os.scandir(self.config.folder) as entries:
                listed = list(islice(entries, FOLDER_FILES + 1))
        except OSError as error:
            raise LineError(str(self.config.folder), f"cannot be listed: {error}") from error
        if len(listed) > FOLDER_FILES:
            raise LineError(str(self.config.folder), f"holds more than {FOLDER_FILES} files")
        names = {entry.name for entry in listed}
        self._damaged = {name: seen for name, seen in self._damaged.items() if name in names}
        settled_ns = time.time_ns() - int(self.config.settle_s * SECOND_NS)
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            path = self.config.folder / name
            try:
                stat = path.stat()
            except OSError:
                continue  # gone again between the listing and the look
            if stat.st_mtime_ns <= settled_ns:
                yield path, stat
