"""The ``[status]`` table of a box's configuration."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator
from trisense.core.config import ConfigModel

__all__ = ["StatusTable", "loopback_address", "socket_of"]

SOCKET_PATH_BYTES: Final = 107
"""``sun_path`` of unix(7) without its final zero."""


def loopback_address(address: str) -> tuple[str, int]:
    """(host, port) of ``127.0.0.1:9464``, ``[::1]:9464`` or ``localhost:9464``.

    Raises:
        ValueError: no address with a port, or one that others can reach.
    """
    expected = "a loopback address with a port, such as 127.0.0.1:9464"
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise ValueError(expected)
    if host == "localhost":
        return "127.0.0.1", int(port)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        loopback = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        raise ValueError(expected) from None
    if not loopback:
        raise ValueError(f"{expected}: nobody is asked for a name there, so nobody else may reach it")
    return bare, int(port)


def _loopback(address: str) -> str:
    loopback_address(address)
    return address


def _bindable(path: Path) -> Path:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"a path of at most {SOCKET_PATH_BYTES} bytes, the kernel's limit for a socket")
    return path


class StatusTable(ConfigModel):
    """What the box tells on its own machine."""

    socket: Annotated[Path, AfterValidator(_bindable)] | None = None
    """Unix socket that ``edge status``, ``top`` and ``tap`` ask; left out: beside the spool, with its name
    and ``.sock``."""
    metrics: Annotated[str, AfterValidator(_loopback)] | None = None
    """Loopback address where Prometheus finds metrics, such as ``127.0.0.1:9464``; left out: nowhere."""


def socket_of(table: StatusTable, spool: Path) -> Path:
    """Where the socket of a box with this spool lies."""
    return table.socket or spool.with_name(f"{spool.name}.sock")
