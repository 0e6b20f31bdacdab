"""What systemd is told: sd_notify(3), datagrams to the socket that it names; nothing where it names none."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog
from trisense.edge.once import Fault

__all__ = ["Notifier"]

log = structlog.get_logger(__name__)

SEND_S: Final = 0.5
"""Longest wait for a service manager whose queue is full; a word less does not hurt, a hang would."""


class Notifier:
    """Tells the service manager how the program is. No method raises."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """``environment`` None: that of this process."""
        given = os.environ if environment is None else environment
        address = given.get("NOTIFY_SOCKET", "")
        # An @ stands for the zero byte that begins the name of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        self._fault = Fault(log, "notify_failed", "notify_recovered")
        self.watchdog_s = _watchdog_s(given)
        """The manager restarts a program that does not ``feed`` it for so long; None: it does not watch."""

    def ready(self) -> None:
        """Started; also the end of ``reloading``."""
        self._tell("READY=1")

    def reloading(self) -> None:
        self._tell("RELOADING=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def feed(self) -> None:
        """Alive and getting on: nothing for so long as ``watchdog_s`` but this."""
        if self.watchdog_s is not None:
            self._tell("WATCHDOG=1")

    def status(self, line: str) -> None:
        """One line for ``systemctl status``; told when it changed."""
        if line != self._status:
            self._status = line
            self._tell("STATUS=" + line.replace("\n", " "))

    def _tell(self, word: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_S)
                sock.sendto(word.encode(), self._address)
        except OSError as error:
            self._fault.failed(why=str(error), word=word)
        else:
            self._fault.recovered()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Seconds of WATCHDOG_USEC, unless it is meant for another process, as it is inherited."""
    interval_us = environment.get("WATCHDOG_USEC", "")
    meant_for = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not interval_us.isdecimal() or int(interval_us) == 0 or meant_for != str(os.getpid()):
        return None
    return int(interval_us) / 1e6
