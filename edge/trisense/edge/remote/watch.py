"""The first day of a configuration from afar: whether the box dies of it after all.

A trial of two minutes sees no leak, and no driver that blocks now and then. So an accepted configuration is
watched for a day of running. A start counts against it when the run before it, in the same boot of the
machine, was not ended in order; a power cut or reboot has another boot id and proves nothing.
"""

from __future__ import annotations

from typing import Final

from trisense.edge.remote.record import Watch

__all__ = ["AGE_EVERY_S", "UNCLEAN_MAX", "aged", "given_up", "over", "started", "stopped"]

DAY_S: Final = 86_400.0
NEAR_S: Final = 900.0
"""Unclean starts further apart have nothing to do with each other."""
UNCLEAN_MAX: Final = 3
AGE_EVERY_S: Final = 3600.0
"""How often the time of running is written down: all that a power cut makes it forget."""


def started(watch: Watch, boot_id: str, boot_s: float, *, tried: bool = False) -> Watch:
    """What a start says; ``boot_s`` is boot time. ``tried``: the run before it ended with another one on
    trial, which says nothing of this one.
    """
    if boot_id != watch.boot_id:
        return watch.model_copy(
            update={"boot_id": boot_id, "counted_s": boot_s, "at_work": True, "unclean_s": []}
        )
    if not watch.at_work:
        return watch.model_copy(update={"counted_s": boot_s, "at_work": True})
    now = aged(watch, boot_s)
    if tried:
        return now
    near = watch.unclean_s and boot_s - watch.unclean_s[-1] <= NEAR_S
    unclean_s = [*watch.unclean_s, boot_s] if near else [boot_s]
    return now.model_copy(update={"unclean_s": unclean_s})


def stopped(watch: Watch, boot_s: float) -> Watch:
    """What a stop in order says."""
    return aged(watch, boot_s).model_copy(update={"at_work": False})


def aged(watch: Watch, boot_s: float) -> Watch:
    """The time of running counted up to now."""
    ran_s = watch.ran_s + max(0.0, boot_s - watch.counted_s)
    return watch.model_copy(update={"ran_s": ran_s, "counted_s": boot_s})


def given_up(watch: Watch) -> bool:
    """Whether the box dies of it too often."""
    return len(watch.unclean_s) >= UNCLEAN_MAX


def over(watch: Watch) -> bool:
    """Whether its day is over: what happens from now on is no fault of the change."""
    return watch.ran_s >= DAY_S
