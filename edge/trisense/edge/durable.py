"""A small file that is replaced as a whole, and survives the power going at any moment."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, content: bytes) -> None:
    """Make ``content`` what the file holds: on the disk when this returns; until then the one before stands.

    Raises:
        OSError: the disk does not take it.
    """
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the name: without it a cut may bring the older file back
    finally:
        os.close(folder)
