"""What the way up tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LaneStatus", "LinkStatus"]


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane since the start; what waits in the spool is the spool's to say."""

    bundles: int
    payload_bytes: int
    on_the_way: int
    """Batches that were sent and have no receipt yet."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The link now."""

    broker: str
    """host:port."""
    connected: bool
    for_s: float
    """How long it has been, or has not been, connected."""
    error: str | None
    """Why the last connection failed or ended; None once another one stands."""
    protocol: str
    """MQTT version spoken, or tried next."""
    latency_s: float | None
    """Until the broker acknowledges a small message."""
    round_trip_s: float | None
    """From sending a bundle to its receipt."""
    rate_bytes_s: float | None
    lanes: Mapping[str, LaneStatus]
    payload_bytes: int
    resent_bytes: int
    """Part of ``payload_bytes`` that had been sent before."""
    gateways: int
    """Gateway workers that say they are online."""
    allowed: str
    """What may go now: everything, live (with alarms), alarms, nothing."""
    limited_by: str | None
    """The option that holds the rest back: hours or daily_bytes."""
    hours_open: bool
    used_bytes: int
    """What today cost so far, headers included."""
    left_bytes: int | None
    """What is left of ``daily_bytes``; None without a limit."""
    bulk_left_bytes: int | None
    """What backlog and pictures may take of that now."""
    trouble: str | None
    """The likely cause, while bundles go out and no receipt comes."""
    trouble_s: float | None
    """How long no receipt has come; None while they come, or for one bundle that is stuck."""
