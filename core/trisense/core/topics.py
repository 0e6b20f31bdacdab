"""MQTT topics of version 1 (design: Topics and messages)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from trisense.core.errors import WireError
from trisense.core.model import BOX_ID

__all__ = ["ROOT", "Lane", "birth", "gateway_state", "parse", "receipt", "state", "up"]

ROOT: Final = "tri/v1"
GATEWAY_ROOT: Final = "tri/v1g"


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
