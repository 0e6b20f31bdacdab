"""What a disk may hold when the power goes: writes of a program, noted by a preloaded shim, played again."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SECTOR_BYTES = 512
HEAD = struct.Struct("=cxHIq")
SHIM = Path(__file__).with_name("power_cut.c")


@dataclass
class Operation:
    kind: bytes
    """w(rite), t(runcate), r(ename), u(nlink) or s(ync)."""
    name: str
    """Within the folder; empty for the folder itself."""
    offset: int
    data: bytes


@dataclass
class _File:
    sure: bytearray = field(default_factory=bytearray)
    loose: list[Operation] = field(default_factory=list)
    """Since its last sync."""


class Disk:
    """Files and names as they surely are, and what was done to each since its last sync.

    A name is sure when its folder was synced; before that a journal keeps the order in which names came
    and went, and loses the end of it.
    """

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        self._sure_names: dict[str, _File] = {}
        self._loose_names: list[dict[str, _File]] = []

    def hold(self, folder: Path) -> Disk:
        """Hold what lies there, synced."""
        for file in folder.iterdir():
            self._names[file.name] = _File(bytearray(file.read_bytes()))
        self._sure_names = dict(self._names)
        return self

    def take(self, operation: Operation) -> None:
        name = operation.name
        if operation.kind == b"s":
            if not name:
                self._sure_names, self._loose_names = dict(self._names), []
            elif name in self._names:
                file = self._names[name]
                for earlier in file.loose:
                    apply(file.sure, earlier)
                file.loose.clear()
            return
        if operation.kind == b"u":
            self._names.pop(name, None)
        elif operation.kind == b"r":
            self._names[Path(operation.data.decode()).name] = self._names.pop(name, _File())
        else:
            fresh = name not in self._names
            self._names.setdefault(name, _File()).loose.append(operation)
            if not fresh:
                return
        self._loose_names.append(dict(self._names))

    def killed(self) -> dict[str, bytes]:
        """The files when only the program dies: the system loses nothing."""
        return {name: _played(file, lambda _: True) for name, file in self._names.items()}

    def cut(self, chance: random.Random) -> dict[str, bytes]:
        """One thing the disk may hold now: any sectors of any unsynced write, in any mixture."""
        names = chance.choice([self._sure_names, *self._loose_names])
        return {name: _played(file, lambda _: chance.random() < 0.5) for name, file in names.items()}


def _played(file: _File, chosen: Callable[[Operation], bool]) -> bytes:
    content = bytearray(file.sure)
    for operation in file.loose:
        for part in sectors(operation):
            if chosen(part):
                apply(content, part)
    return bytes(content)


def sectors(operation: Operation) -> Iterator[Operation]:
    if operation.kind != b"w":
        yield operation
        return
    for at in range(0, len(operation.data), SECTOR_BYTES):
        part = operation.data[at : at + SECTOR_BYTES]
        yield Operation(b"w", operation.name, operation.offset + at, part)


def apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == b"t":
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
    else:
        end = operation.offset + len(operation.data)
        content.extend(bytes(max(0, end - len(content))))
        content[operation.offset : end] = operation.data


class Recorder:
    """Runs Python programs and notes what they do to a folder."""

    def __init__(self, work: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler")
        self._shim, self._log = work / "power_cut.so", work / "log"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(self._shim), str(SHIM)]
        subprocess.run(command, check=True)

    def run(self, program: str, folder: Path) -> list[Operation]:
        """What ``program`` did to ``folder``, its argument, in order."""
        self._log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self._shim),
            "POWER_CUT_FOLDER": str(folder),
            "POWER_CUT_LOG": str(self._log),
        }
        subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
        return list(_read_log(self._log.read_bytes(), folder))


def _read_log(log: bytes, folder: Path) -> Iterator[Operation]:
    at = 0
    while at < len(log):
        kind, path_bytes, size, offset = HEAD.unpack_from(log, at)
        at += HEAD.size
        path = Path(log[at : at + path_bytes].decode())
        at += path_bytes
        yield Operation(kind, "" if path == folder else path.name, offset, log[at : at + size])
        at += size


def lay_down(path: Path, files: dict[str, bytes]) -> None:
    """Put files in place of all that belong to the spool at ``path``."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    for name, image in files.items():
        path.with_name(name).write_bytes(image)
