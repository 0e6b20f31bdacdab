"""Child processes of the demo: servers and parts of trisense, each with a log file, none left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trisense.core.errors import TrisenseError

__all__ = ["Child", "Children", "free_port", "program", "trisense", "wait_for_port"]

PR_SET_PDEATHSIG: Final = 1
STOP_S: Final = 8.0
"""A part of trisense leaves within 5 s of SIGTERM; a server may take a little longer."""
LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Let the kernel end this child when its parent is gone, even by kill -9."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:].strip()


class Children:
    """Processes that end with this one, in the reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(tuple(self._children)):
            self.stop(name)

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process whose output goes to ``NAME.log``; its input is empty."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Of its own session, so that Ctrl-C reaches us alone and we stop things in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # prctl only, no thread is running yet
            )
        child = self._children[name] = Child(name, process, log)
        return child

    def stop(self, name: str, *, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End a child and return its exit code; one that does not listen is killed."""
        child = self._children.pop(name)
        if child.process.poll() is None:
            child.process.send_signal(with_signal)
            try:
                child.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
        return child.process.wait()

    def dead(self) -> list[Child]:
        """Children that ended by themselves."""
        return [child for child in self._children.values() if child.process.poll() is not None]


def trisense(*args: str) -> list[str]:
    """The command for a part of trisense in this very environment."""
    return [sys.executable, "-m", "trisense.core", *args]


def program(name: str) -> str | None:
    """Path of a server; Debian keeps them in /usr/sbin, which not every PATH has."""
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(child: Child, port: int, *, timeout_s: float = 30.0) -> None:
    """Wait until a child listens on a loopback port.

    Raises:
        TrisenseError: it ended, or does not listen in time; with the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            raise TrisenseError(f"{child.name} ended with {child.process.returncode}: {child.last_words()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)  # a refused connection returns at once; give the server its time
    raise TrisenseError(f"{child.name} does not listen on port {port}: {child.last_words()}")
