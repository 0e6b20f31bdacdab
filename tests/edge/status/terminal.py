"""A program on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time

TRISENSE = (sys.executable, "-m", "trisense.core")
LIMIT_S = 30.0


class Terminal:
    """A program, and what its screen has been told."""

    def __init__(self, rows: int, columns: int, *arguments: str) -> None:
        self.raw = ""
        self._seen = 0
        self._fd, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            # A terminal of its own, so that Ctrl-C means it, and is not ignored, as behind a shell's &.
            ["env", "--default-signal=INT", "setsid", "--ctty", *TRISENSE, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(slave)

    def until(self, text: str) -> str:
        """What came since ``clear``, without its control sequences, once ``text`` is in it."""
        until_s = time.monotonic() + LIMIT_S
        while text not in (plain := re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw[self._seen :])):
            assert time.monotonic() < until_s, self.raw
            assert self._read(), self.raw
        return plain

    def clear(self) -> None:
        self._seen = len(self.raw)

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> int:
        """Wait for the program's end; gives its exit code."""
        until_s = time.monotonic() + LIMIT_S
        while self._read():
            if time.monotonic() > until_s:
                self._process.kill()
        os.close(self._fd)
        return self._process.wait()

    def _read(self) -> bool:
        """Take what comes; False at the end."""
        if not select.select([self._fd], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._fd, 65_536)
        except OSError:
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)
