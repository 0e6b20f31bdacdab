"""The command line on a TI radar's other UART: one line, one verdict."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import DeviceRefused, DeviceTimeout
from trisense.drivers.framing import Cut, Damage, Decoder, FramedCodec
from trisense.drivers.lines import Line
from trisense.drivers.sdk import Frame, Observed

__all__ = ["Cli", "CliCodec", "CliDecoder"]

LONGEST_REPLY: Final = 4096
PROMPT: Final = re.compile(r"^\w*:/>")
ERROR_NUMBER: Final = re.compile(r"-?\d+")
BETWEEN_S: Final = 0.02
"""TI's own tools leave as much between two lines; without it some firmwares lose characters."""
START_S: Final = 10.0
"""sensorStart calibrates first, which takes more than a second."""


class CliDecoder(Decoder):
    """One frame for each verdict, with the echo and the notes before it."""

    max_frame = LONGEST_REPLY

    def cut(self, data: bytes, start: int) -> Cut | None:
        at, notes = start, list[str]()
        echo: str | None = None
        while (end := data.find(b"\n", at)) >= 0:
            if end + 1 - start > LONGEST_REPLY:
                return Cut(1, damage="no verdict")
            line = PROMPT.sub("", data[at : end + 1].decode("ascii", "replace").strip())
            at = end + 1
            result = _verdict(line)
            if result is not None:
                if result == "error":
                    notes.append(line)
                return Cut(at - start, {"echo": echo, "result": result, "note": "\n".join(notes)})
            if line and echo is None:
                echo = line
            elif line:
                notes.append(line)
        return None


def _verdict(line: str) -> str | None:
    if line == "Done":
        return "ok"
    if "not recognized as a CLI command" in line or line.startswith("Error"):
        return "error"
    return None


class CliCodec(FramedCodec):
    decoder = CliDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:  # noqa: ARG002  # a verdict is no reading
        return ()

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return f"{expected['command']}\n".encode() if "command" in expected else None


class Cli:
    """A dialogue with the command line."""

    def __init__(self, line: Line, *, device: str, timeout_s: float) -> None:
        self._line = line
        self._device = device
        self._timeout_s = timeout_s

    async def configure(self, commands: Sequence[Sequence[str]]) -> None:
        """Send the commands of a configuration, each after the verdict on the one before.

        A sensor that runs takes no configuration, so it is stopped and its old one dropped before, unless
        the commands begin with that themselves.

        Raises:
            DeviceRefused: a verdict was no; nothing behind this line was sent.
            DeviceTimeout: no verdict.
            LineError: the line is gone.
        """
        names = [words[0] for words in commands]
        before = [[name] for name in ("sensorStop", "flushCfg") if name not in names]
        for words in [*before, *commands]:
            await self._command(" ".join(words))
            await asyncio.sleep(BETWEEN_S)

    async def _command(self, command: str) -> None:
        timeout_s = max(START_S, self._timeout_s) if command.startswith("sensorStart") else self._timeout_s
        await self._line.flush_input()
        await self._line.write(command.encode("ascii", "replace") + b"\n")
        reply = await self._verdict(command, timeout_s)
        if reply["result"] == "error":
            number = ERROR_NUMBER.search(reply["note"])
            what = f"refuses {command!r}: {reply['note']}"
            raise DeviceRefused(self._device, what, code=int(number.group()) if number else -1)

    async def _verdict(self, command: str, timeout_s: float) -> Frame:
        decoder = CliDecoder()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for piece in decoder.feed(await self._line.read()):
                        if not isinstance(piece, Damage):
                            return piece
        except TimeoutError as error:
            raise DeviceTimeout(self._device, f"no verdict on {command!r}", timeout_s=timeout_s) from error
