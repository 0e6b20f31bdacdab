"""Asking a box on this machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from trisense.core.config import check, mistakes_of, read_toml
from trisense.core.errors import LinkError
from trisense.edge.status.model import Status
from trisense.edge.status.table import StatusTable, socket_of

__all__ = ["Client", "find_config", "find_socket"]

ANSWER_S: Final = 10.0
ANSWER_BYTES: Final = 16 << 20
"""Longest line taken from a box: 1,024 streams of 100 fields."""
INSTALLED: Final = Path("/etc/trisense/edge.toml")
HERE: Final = Path("edge.toml")


class _Spool(BaseModel):
    path: Path = Path("spool.db")


class _Tables(BaseModel):
    """What says where a box listens."""

    spool: _Spool = _Spool()
    status: StatusTable = StatusTable()


def find_config(given: Path | None) -> Path:
    """The configuration that is meant: ``given``, else that of the service, else the one in this folder."""
    return given or (INSTALLED if INSTALLED.exists() or not HERE.exists() else HERE)


def find_socket(config: Path) -> Path:
    """Where the box with this configuration listens.

    Only the tables that say so are looked at: a mistake made elsewhere since the box began must not hide it.

    Raises:
        ConfigError: the file cannot be read, or one of these tables has mistakes.
    """
    tables = read_toml(config)
    of = check(config, {name: tables[name] for name in ("spool", "status") if name in tables}, _Tables)
    return config.resolve().parent / socket_of(of.status, of.spool.path)


class Client:
    """One connection to a box."""

    def __init__(self, path: Path, config: Path) -> None:
        """Connect.

        Raises:
            LinkError: no box listens there, or we may not ask it.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.connect(str(path))
        except PermissionError as error:
            self._socket.close()
            raise LinkError(f"{path}: not allowed; ask as root, or as a member of its group") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise LinkError(
                f"no box is running: nobody listens at {path}"
                f" (start it with: trisense edge run {config}, or: systemctl start trisense-edge)"
            ) from error
        except OSError as error:
            self._socket.close()
            raise LinkError(f"{path}: {error}") from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def status(self) -> Status:
        """The box now.

        Raises:
            LinkError: the box went away, or another version of it answers.
        """
        try:
            return Status.model_validate(self._ask({"ask": "status"}))
        except ValidationError as error:
            first = mistakes_of(error)[0]
            text = f"the box that runs is of another version than this program, restart it: {first}"
            raise LinkError(text) from error

    def tap(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Samples as they come, and ``{"lost": N}`` where the box had to leave some out.

        Raises:
            LinkError: the box refused the request or went away.
        """
        self._ask({"ask": "tap", **request})
        self._socket.settimeout(None)
        while True:
            yield self._line()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise LinkError(f"the box went away: {error}") from error
        answer = self._line()
        if "error" in answer:
            raise LinkError(f"the box refused: {answer['error']}")
        return answer

    def _line(self) -> dict[str, Any]:
        try:
            line = self._lines.readline(ANSWER_BYTES)
            answer = json.loads(line) if line else None
        except OSError as error:
            raise LinkError(
                f"the box listens but does not answer: {error}; its log says what holds it"
            ) from error
        except ValueError as error:
            raise LinkError("the box gives something that is no JSON") from error
        if not isinstance(answer, dict):
            raise LinkError("the box went away")
        return answer
