"""What a small file holds after the power went: the new content, or the one before, never less."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from trisense.edge import durable

FILES = Path("/proc/self/fd")


def test_content_is_on_the_disk_before_it_has_the_name_and_the_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched from within: without a power cut nobody sees what was not synced."""
    path, order = tmp_path / "note", []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        what = os.fstat(descriptor)
        order.append("folder" if stat.S_ISDIR(what.st_mode) else f"{what.st_size} bytes")
        fsync(descriptor)

    def replaced(fresh: Path, target: Path) -> Path:
        order.append("name")
        return replace(fresh, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    open_before = len(list(FILES.iterdir()))

    durable.replace(path, b"content")

    assert order == ["7 bytes", "name", "folder"]
    assert path.read_bytes() == b"content"
    assert len(list(FILES.iterdir())) == open_before


def test_what_a_disk_does_not_take_leaves_the_content_before(small_disk: Path) -> None:
    path = small_disk / "note"
    durable.replace(path, b"before")
    with pytest.raises(OSError, match="No space left"):
        durable.replace(path, bytes(16 << 20))
    assert path.read_bytes() == b"before"
