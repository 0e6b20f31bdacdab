"""Names of the epochs beside the spool's file, for the day the file cannot be read at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog
from trisense.edge import durable
from trisense.edge.spool.model import epoch_name, epoch_number

__all__ = ["EpochNote"]

log = structlog.get_logger(__name__)

OWED: Final = "lost:"
"""Before an epoch in the note: its end is still to be declared lost."""


class EpochNote:
    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".epochs")

    def write(self, epochs: Iterable[int], owed: Iterable[int] = ()) -> None:
        """Replace the note; a failure is logged, for the spool works without it.

        ``owed`` are epochs whose end was lost, and is not declared yet.
        """
        names = [*map(epoch_name, epochs), *(f"{OWED}{epoch_name(epoch)}" for epoch in owed)]
        try:
            # This makes the names of the spool's own files sure, too.
            durable.replace(self._path, "".join(f"{name}\n" for name in names).encode("ascii"))
        except OSError as error:
            log.warning("spool_note_failed", path=str(self._path), why=str(error))

    def read(self) -> list[int]:
        """The epochs noted, the one of the last opening last."""
        return [epoch for name in self._words() if (epoch := epoch_number(name)) >= 0]

    def owed(self) -> list[int]:
        """The epochs whose end was lost, and is not declared yet."""
        names = [word.removeprefix(OWED) for word in self._words() if word.startswith(OWED)]
        return [epoch for name in names if (epoch := epoch_number(name)) >= 0]

    def _words(self) -> list[str]:
        try:
            return self._path.read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError):
            return []
