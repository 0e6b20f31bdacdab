"""MQTT topics of version 1 (design: Topics and messages)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from trisense.core.errors import WireError
from trisense.core.model import BOX_ID

__all__ = [
    "COMMAND_ID",
    "ROOT",
    "Lane",
    "birth",
    "command",
    "desired",
    "gateway_state",
    "parse",
    "receipt",
    "reply",
    "reported",
    "state",
    "up",
]

ROOT: Final = "tri/v1"
GATEWAY_ROOT: Final = "tri/v1g"
COMMAND_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Full match of a command's id, chosen by whoever sends it and never used twice."""


class Lane(StrEnum):
    """The way a bundle travels: by class, and for data by its age when it is sent."""

    ALARM = "alarm"
    LIVE = "live"
    BACKLOG = "backlog"
    MEDIA = "media"


def up(box: str, lane: Lane) -> str:
    return f"{ROOT}/{box}/up/{lane.value}"


def receipt(box: str) -> str:
    return f"{ROOT}/{box}/receipt"


def birth(box: str) -> str:
    return f"{ROOT}/{box}/birth"


def state(box: str) -> str:
    return f"{ROOT}/{box}/state"


def command(box: str, identity: str) -> str:
    """Topic of one command; ``+`` for all of a box's."""
    return f"{ROOT}/{box}/cmd/{identity}"


def reply(box: str, identity: str) -> str:
    return f"{ROOT}/{box}/cmd/{identity}/reply"


def desired(box: str) -> str:
    return f"{ROOT}/{box}/config/desired"


def reported(box: str) -> str:
    return f"{ROOT}/{box}/config/reported"


def gateway_state(worker: str) -> str:
    return f"{GATEWAY_ROOT}/{worker}/state"


def parse(topic: str) -> tuple[str, str]:
    """Split ``tri/v1/{box}/{rest}`` into (box, rest); rest is for example ``up/live``.

    Raises:
        WireError: another root, or a box id that is none.
    """
    root, _, tail = topic[: len(ROOT) + 1].rpartition("/")
    box, _, rest = topic[len(ROOT) + 1 :].partition("/")
    if root != ROOT or tail or not BOX_ID.fullmatch(box) or not rest:
        raise WireError("topic", topic[:80])
    return box, rest
