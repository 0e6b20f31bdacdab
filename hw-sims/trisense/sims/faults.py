"""Faults on demand and the log of the truth: what a simulated device did wrong, and what it told."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trisense.core.model import Value

__all__ = ["DURATIONS_S", "KINDS", "Faults", "Told", "Truth"]

KINDS: Final = ("silence", "garbage", "cut", "checksum", "stuck", "late", "hangup")
"""silence drops the frame, garbage sends noise before it, cut sends only its first part, checksum
flips a bit of its check, stuck repeats the last values, late holds it back, hangup ends the conversation."""

DURATIONS_S: Final = {"silence_s": 0.0, "stuck_s": 30.0, "late_s": 2.0}
"""How long such a fault lasts; ``silence_s=0`` drops a single frame."""

SHOWN_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Told:
    """One row that a frame tells its host, in engineering units under the vocabulary's names."""

    measurement: str
    values: Mapping[str, Value]


class Faults:
    """Which fault hits which frame: by chance (``cut=0.01``) or at the Nth frame (``hangup@20``).

    A frame has at most one fault, so that a test can tell what each one costs. The same seed
    gives the same faults.
    """

    def __init__(
        self,
        chances: Mapping[str, float] | None = None,
        *,
        schedule: Mapping[int, str] | None = None,
        durations_s: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.chances = dict(chances or {})
        self.schedule = dict(schedule or {})
        durations = {**DURATIONS_S, **(durations_s or {})}
        self.late_s = durations["late_s"]
        self.stuck_s = durations["stuck_s"]
        self.silence_s = durations["silence_s"]
        self.random = random.Random(seed)
        self._count = 0

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> Faults:
        """Read ``checksum=0.05,late=0.01,late_s=1.5,hangup@20,seed=7``; empty text means no faults.

        Raises:
            ValueError: an unknown fault, or a number that is none.
        """
        chances: dict[str, float] = {}
        schedule: dict[int, str] = {}
        durations: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            if "@" in item:
                kind, _, frame = item.partition("@")
                schedule[int(frame)] = _known(kind)
                continue
            kind, _, number = item.partition("=")
            if kind == "seed":
                seed = int(number)
            elif kind in DURATIONS_S:
                durations[kind] = float(number)
            else:
                chances[_known(kind)] = float(number)
        if not 0 <= sum(chances.values()) <= 1 or any(chance < 0 for chance in chances.values()):
            raise ValueError(f"fault chances must lie between 0 and 1 together, not {chances}")
        return cls(chances, schedule=schedule, durations_s=durations, seed=seed)

    def draw(self) -> str | None:
        """The fault of the next frame, or None."""
        self._count += 1
        if self._count in self.schedule:
            return self.schedule[self._count]
        point = self.random.random()
        for kind, chance in self.chances.items():
            if point < chance:
                return kind
            point -= chance
        return None


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"no fault {kind!r}; there are {', '.join(KINDS)}, {', '.join(DURATIONS_S)}, seed")
    return kind


class Truth:
    """JSON-lines log of what simulated devices really told a connected host, flushed line by line.

    One object per row of a frame: ``{t_ns, device, measurement, values, fault, bytes}``. ``bytes`` is what
    went out as hex (a SHA-256 beyond 4 KiB), ``fault`` null or the fault injected. Frames with a
    ``silence``, ``cut`` or ``checksum`` never reached the host whole; with ``hangup`` they may have.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def write(
        self, device: str, told: Told, *, fault: str | None, sent: bytes, t_ns: int | None = None
    ) -> None:
        """Log one row, told at ``t_ns`` or now; a no-op where no file was asked for."""
        if self._file is None:
            return
        shown = sent.hex() if len(sent) <= SHOWN_BYTES else f"sha256:{hashlib.sha256(sent).hexdigest()}"
        line = {
            "t_ns": time.time_ns() if t_ns is None else t_ns,
            "device": device,
            "measurement": told.measurement,
            "values": dict(told.values),
            "fault": fault,
            "bytes": shown,
        }
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
