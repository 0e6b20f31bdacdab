"""Servers that tests start: a port for each, and an end."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from typing import Final

BLOCK: Final = 1000
WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FIRST: Final = 10_000 + WORKER % 20 * BLOCK
"""A block of ports for each process of tests, below those that the kernel gives to connections: nobody else
takes a port before its server listens, or while that is away to be started again."""
PORTS: Final = itertools.cycle(range(FIRST, FIRST + BLOCK))
TURN_S: Final = 2.0
TURNS: Final = 10


def free_port() -> int:
    """A loopback port that nobody listens on; another one at each call."""
    for port in itertools.islice(PORTS, BLOCK):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {FIRST} to {FIRST + BLOCK}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM until it is gone: Mosquitto forgets one that comes in the first moment that it listens."""
    for _ in range(TURNS):
        process.terminate()
        try:
            process.wait(TURN_S)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    process.wait()
