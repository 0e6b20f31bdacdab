"""Every error trisense raises on purpose, as one tree.

Branch on what the caller does next::

    TrisenseError
    ├── ConfigError          fix the file; carries every mistake found in it
    ├── MissingExtra         install an extra of the package
    ├── DeviceError          one device; the runtime backs off and tries again
    │   ├── DeviceTimeout    nothing (or not enough) came in time
    │   ├── FrameError       a damaged frame: drop it and count it
    │   ├── DeviceRefused    the device answered, and said no
    │   └── LineError        the line is gone: open it again
    ├── WireError            bytes that are no valid bundle: refuse them for ever
    │   └── ValueRefused     a value that may never be packed (NaN, infinity, too large)
    ├── LinkError            the broker: keep the data, connect again
    ├── RemoteError          a command or a pushed configuration is refused; the other side is told why
    ├── SpoolError           the box's disk queue
    │   ├── SpoolLocked      another process owns it
    │   └── SpoolFull        no room, even with the ballast freed
    └── StoreError           where samples end
        ├── StoreUnavailable keep the batches, try again after ``retry_after_s``
        └── StoreRefused     these batches can never be stored; carries the reasons
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "ConfigError",
    "DeviceError",
    "DeviceRefused",
    "DeviceTimeout",
    "FrameError",
    "LineError",
    "LinkError",
    "MissingExtra",
    "Mistake",
    "RemoteError",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "TrisenseError",
    "ValueRefused",
    "WireError",
]


class TrisenseError(Exception):
    """Base of every error in the tree above."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration file."""

    where: str
    """Key path such as ``device[2].line``, or ``line 7`` where the file is no TOML."""
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, got {self.got}"


class ConfigError(TrisenseError):
    """A configuration cannot be used. Holds all its mistakes, not just the first."""

    def __init__(self, file: str, mistakes: Sequence[Mistake]) -> None:
        self.file = file
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{file}: {mistake}" for mistake in self.mistakes))


class MissingExtra(TrisenseError):
    """Part of trisense is there, but what it depends on is not installed."""

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(f"needs trisense[{extra}] (module {module} is not installed)")


class DeviceError(TrisenseError):
    """A device did not do what it should."""

    def __init__(self, device: str, what: str) -> None:
        self.device = device
        self.what = what
        super().__init__(f"{device}: {what}")


class DeviceTimeout(DeviceError):
    """Nothing usable came within the time-out."""

    def __init__(self, device: str, what: str, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(device, f"{what} (waited {timeout_s:g} s)" if timeout_s else what)


class FrameError(DeviceError):
    """A frame is damaged: nothing of it may be used. ``frame`` holds its bytes."""

    def __init__(self, device: str, what: str, frame: bytes = b"") -> None:
        self.frame = frame
        shown = frame[:48].hex(" ") + (" ..." if len(frame) > 48 else "")
        super().__init__(device, f"{what}: {shown}" if frame else what)


class DeviceRefused(DeviceError):
    """The device answered with an error of its own; ``code`` is the protocol's number."""

    def __init__(self, device: str, what: str, *, code: int) -> None:
        self.code = code
        super().__init__(device, f"{what} (code {code})")


class LineError(DeviceError):
    """The line to a device cannot be opened, or is gone."""


class WireError(TrisenseError):
    """Bytes that are no valid bundle; ``reason`` is one short word for counters and receipts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class ValueRefused(WireError):
    """A value that no bundle may carry: NaN, infinity, an integer beyond 64 bits, a wrong type."""


class LinkError(TrisenseError):
    """The broker cannot be reached or refuses us."""


class RemoteError(TrisenseError):
    """What came from afar cannot be done; ``reason`` is one word for programs."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class SpoolError(TrisenseError):
    """The box's disk queue cannot do what was asked."""


class SpoolLocked(SpoolError):
    """Another process holds the spool."""


class SpoolFull(SpoolError):
    """The disk or the byte cap is full and the policy found nothing to drop."""


class StoreError(TrisenseError):
    """A store did not take what it was given."""


class StoreUnavailable(StoreError):
    """The store is down, slow or full: nothing is decided about the batches, write them again."""

    def __init__(self, what: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(what)


class StoreRefused(StoreError):
    """Some batches can never be stored.

    ``reasons`` maps (epoch, seq) to a reason; all other batches of the call are stored.
    """

    def __init__(self, reasons: Mapping[tuple[int, int], str]) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{seq}: {why}" for (_, seq), why in self.reasons.items()))
