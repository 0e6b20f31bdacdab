"""What a box remembers of configurations that came over the link: one small file beside the spool.

One file, replaced whole, so that no power cut can leave the last good configuration and the one on trial
at odds. The box's own file is never written.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from trisense.core.errors import RemoteError
from trisense.core.remote import Hash
from trisense.edge import durable

__all__ = ["Outcome", "Record", "Tried", "Watch", "load", "path_beside", "read", "save"]

RECORD_BYTES: Final = 1 << 20
"""More than three configurations, each byte written as two."""


Outcome = Literal["trial", "running", "rolled_back", "superseded"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tried(_Strict):
    """What became of the configuration desired last."""

    hash: Hash
    attempt: int = 0
    outcome: Outcome
    reason: str = ""
    at: str
    """ISO 8601 UTC by the box's clock."""


class Watch(_Strict):
    """How the box fares with a configuration from afar in its first day; see ``remote.watch``."""

    before: str | None = None
    """The last good one before it, to go back to; none: the box's own file."""
    boot_id: str
    """The boot of the machine that all times here are of."""
    at_work: bool = True
    """No stop in order since the last start."""
    ran_s: float = 0.0
    """Seconds of running with it,"""
    counted_s: float
    """counted up to this boot time."""
    unclean_s: list[float] = []
    """Boot times of starts that count against it."""


class Record(_Strict):
    """Where a box stands between its own file and what a gateway wants."""

    v: Literal[1] = 1
    base: Hash
    """Hash of the box's own file when this was written: with another one that file wins."""
    good: str | None = None
    """The last configuration from afar that proved itself; none: the box's own file."""
    trial: str | None = None
    """The one on trial: found at a start, it did not get to prove itself."""
    tried: Tried | None = None
    watch: Watch | None = None
    """Of ``good``, while it is young."""


def path_beside(spool: Path) -> Path:
    """The record's file for a spool."""
    return spool.with_name(spool.name + ".remote")


def read(path: Path) -> Record | None:
    """The record, or None where there is none; changes nothing.

    Raises:
        RemoteError: ``damaged``: the box's own file is what is left.
    """
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RemoteError("damaged", f"{path}: cannot be read: {error}") from error
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise RemoteError("damaged", f"{path}: its checksum does not match")
    try:
        return Record.model_validate_json(body)
    except ValidationError as error:
        why = f"{path}: not of this version, {error.error_count()} mistakes"
        raise RemoteError("damaged", why) from error


def load(path: Path) -> Record | None:
    """``read`` for the box itself: a damaged record is put aside.

    Raises:
        RemoteError: as ``read``.
    """
    try:
        return read(path)
    except RemoteError as error:
        aside = path.with_name(path.name + ".damaged")
        with contextlib.suppress(OSError):  # then the next record takes its place
            path.replace(aside)
        raise RemoteError(error.reason, f"{error.detail}; kept as {aside.name}") from error


def save(path: Path, record: Record) -> None:
    """Replace the record; what it says is on the disk when this returns.

    Raises:
        OSError: the disk; the record before it still stands.
    """
    body = record.model_dump_json().encode()
    durable.replace(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
