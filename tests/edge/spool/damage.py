"""Damage to a spool file."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def smash_an_index(path: Path) -> None:
    """Damage that the check at the start finds, and that costs no row."""
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'identity'").fetchone()
    db.close()
    image = path.read_bytes()
    path.write_bytes(image[: (page - 1) * 4096] + bytes(4096) + image[page * 4096 :])
