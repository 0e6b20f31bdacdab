"""What the gateway refused, kept on disk: the raw bytes, and beside them why, as JSON.

Bounded: above ``max_bytes`` the oldest goes first and is counted (policy: drop_oldest). The same bytes are
kept once, however often they are sent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from trisense.core.errors import StoreUnavailable

__all__ = ["Kept", "Quarantine"]

BATCHES_DESCRIBED: Final = 1_000
"""Of one bundle; the bytes beside have them all."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing in quarantine."""

    id: str
    meta: dict[str, Any]
    payload_bytes: int


class Quarantine:
    """A folder of ``ID.bin`` and ``ID.json``; an id is the time and the start of the SHA-256."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        self._by_digest: dict[str, str] = {}
        self.dropped = 0
        """Oldest ones deleted for the bound."""

    @property
    def count(self) -> int:
        return len(self._sizes)

    def open(self) -> None:
        """Make the folder and count what is in it; half-written files of a crash are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for stray in [*self._folder.glob("*.part"), *self._folder.glob("*.bin")]:
            if stray.suffix == ".part" or not stray.with_suffix(".json").exists():
                stray.unlink()
        for kept in self.list():
            self._learn(kept.id)
            self._by_digest[kept.meta["sha256"]] = kept.id

    def keep(self, payload: bytes, reason: str, **meta: Any) -> str:
        """Keep bytes durably and return their id.

        Raises:
            StoreUnavailable: the disk does not take them; nothing may be refused for good then.
        """
        digest = hashlib.sha256(payload).hexdigest()
        if digest in self._by_digest:
            return self._by_digest[digest]
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S%f}-{digest[:12]}"
        about = {
            "reason": reason,
            "sha256": digest,
            "received": now.isoformat(),
            "bytes": len(payload),
        } | meta
        text = json.dumps(about, ensure_ascii=True, indent=1).encode()
        try:
            _write(self._folder / f"{name}.bin", payload)
            # The JSON comes last: with it the thing is kept, without it the bytes are a stray.
            _write(self._folder / f"{name}.json", text)
            _sync(self._folder)
        except OSError as error:
            raise StoreUnavailable(f"quarantine: {error}") from error
        self._learn(name)
        self._by_digest[digest] = name
        self._trim()
        return name

    def list(self) -> list[Kept]:
        """Everything kept, oldest first."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [self.show(name) for name in names]

    def show(self, name: str) -> Kept:
        """One of them; a unique start of its id is enough.

        Raises:
            KeyError: none or several begin so.
        """
        found = [p for p in self._folder.glob("*.json") if p.stem.startswith(name) or f"-{name}" in p.stem]
        if len(found) != 1:
            raise KeyError(f"{len(found)} in quarantine begin with {name!r}")
        meta = json.loads(found[0].read_text())
        return Kept(found[0].stem, meta, found[0].with_suffix(".bin").stat().st_size)

    def payload(self, name: str) -> bytes:
        return (self._folder / f"{self.show(name).id}.bin").read_bytes()

    def _learn(self, name: str) -> None:
        paths = (self._folder / f"{name}.bin", self._folder / f"{name}.json")
        self._sizes[name] = sum(path.stat().st_size for path in paths if path.exists())

    def _trim(self) -> None:
        total = sum(self._sizes.values())
        for name in sorted(self._sizes):
            if total <= self._max_bytes:
                break
            total -= self._sizes.pop(name)
            for suffix in (".json", ".bin"):
                (self._folder / f"{name}{suffix}").unlink(missing_ok=True)
            self._by_digest = {d: n for d, n in self._by_digest.items() if n != name}
            self.dropped += 1


def describe(heads: Mapping[tuple[int, int], str]) -> list[dict[str, Any]]:
    """Identities and reasons of refused batches, as the JSON beside the bytes has them."""
    return [
        {"epoch": f"{epoch:016x}", "seq": seq, "reason": reason}
        for (epoch, seq), reason in islice(heads.items(), BATCHES_DESCRIBED)
    ]


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
