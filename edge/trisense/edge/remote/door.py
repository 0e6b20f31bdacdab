"""Whether anything is taken from afar: whoever can write at the broker is otherwise master of the box."""

from __future__ import annotations

from typing import Literal

from trisense.edge.config import BoxConfig

__all__ = ["Door", "closed", "door"]

Door = Literal["unused", "guarded", "open", "closed"]
"""Nothing is allowed anyway; nobody on the way can speak in the gateway's name; anybody can, and the
deployer wants it so; anybody could, so nothing is taken."""


def door(config: BoxConfig) -> Door:
    """How the way is by which commands and configurations come."""
    if not (config.remote.commands or config.remote.config):
        return "unused"
    if config.mqtt.encrypted or config.mqtt.local:
        return "guarded"
    return "open" if config.remote.over_plain else "closed"


def closed(config: BoxConfig) -> str | None:
    """Why nothing is taken from afar though ``[remote]`` allows some of it; None where it is taken."""
    if door(config) != "closed":
        return None
    return (
        "expected TLS to the broker, a broker on the box itself, or [remote] over_plain = true in the box's"
        f" own file, got a plain connection to {config.mqtt.host}:{config.mqtt.port}"
    )
