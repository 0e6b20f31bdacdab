"""Which scenes have been read: a small file beside the folder, replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from trisense.drivers import LineError

__all__ = ["Read", "Scenes"]

KEEP: Final = 40_000
"""Scenes remembered, twice what a folder may hold; the ones read first are forgotten first."""


class Read(BaseModel):
    """One scene that has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_bytes: int
    mtime_ns: int
    sha256: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    scenes: dict[str, Read] = {}


class Scenes:
    """What has been read, by file name and by content."""

    def __init__(self, path: Path, scenes: Mapping[str, Read]) -> None:
        self._path = path
        self._scenes = dict(scenes)
        self._contents = {each.sha256 for each in scenes.values()}

    @classmethod
    def load(cls, path: Path) -> Scenes:
        """Load the file; a missing one means that nothing has been read.

        Raises:
            LineError: it is there and cannot be used. Nothing is guessed: to read all scenes again
                would store them twice, to skip them would lose them.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, UnicodeDecodeError) as error:
            raise LineError(str(path), f"cannot be read: {error}") from error
        try:
            return cls(path, _File.model_validate_json(text).scenes)
        except ValidationError as error:
            raise LineError(str(path), f"is damaged: {error.error_count()} mistakes in it") from error

    def unchanged(self, name: str, stat: os.stat_result) -> bool:
        """The file of that name is the one that was read, as far as its size and time say."""
        known = self._scenes.get(name)
        return known is not None and (known.size_bytes, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def has_content(self, sha256: str) -> bool:
        """A file with just these bytes was read, under whatever name."""
        return sha256 in self._contents

    def note(self, read: Mapping[str, Read]) -> None:
        """Write down by file name which scenes have been read; on disk when this returns.

        Raises:
            LineError: it cannot be written; they count as not read.
        """
        scenes = {name: each for name, each in self._scenes.items() if name not in read} | dict(read)
        while len(scenes) > KEEP:
            del scenes[next(iter(scenes))]
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(_File(scenes=scenes).model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise LineError(str(self._path), f"cannot be written: {error}") from error
        self._scenes = scenes
        self._contents = {each.sha256 for each in scenes.values()}


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
