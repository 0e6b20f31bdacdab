"""RS-485 by the UART itself: RTS switches the transceiver between sending and listening.

Most USB adapters do this on their own and need nothing. UARTs of a board with a bare transceiver on RTS
need the kernel's RS-485 mode (``Documentation/driver-api/serial/serial-rs485.rst`` of Linux).
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["OPTIONS", "Rs485"]

OPTIONS: Final = ("rs485", "rs485_before_ms", "rs485_after_ms")
"""Options of a ``serial://`` URL."""
DELAY_MAX_MS: Final = 100
"""The kernel takes no longer delay."""
TIOCSRS485: Final = 0x542F
ENABLED, RTS_ON_SEND, RTS_AFTER_SEND = 1, 2, 4
FORMAT: Final = "8I"
"""C's ``struct serial_rs485``: flags, delay before and after sending in ms, five reserved."""


@dataclass(frozen=True, slots=True)
class Rs485:
    """How RTS goes while sending."""

    high: bool
    """RTS is high while sending, else low."""
    before_ms: int = 0
    after_ms: int = 0

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Rs485 | None:
        """What a URL's options ask for; None: nothing.

        Raises:
            ValueError: what is wrong with them.
        """
        level = options.get("rs485")
        if level is None:
            if any(option in options for option in OPTIONS):
                raise ValueError("rs485=high or rs485=low with its delays")
            return None
        if level not in ("high", "low"):
            raise ValueError(f"rs485=high or rs485=low, the level of RTS while sending, not {level!r}")
        return cls(level == "high", *(_delay_ms(options, option) for option in OPTIONS[1:]))

    def apply(self, file: int) -> None:
        """Switch the UART to it.

        Raises:
            OSError: its driver has no RS-485 mode.
        """
        flags = ENABLED | (RTS_ON_SEND if self.high else RTS_AFTER_SEND)
        fcntl.ioctl(file, TIOCSRS485, struct.pack(FORMAT, flags, self.before_ms, self.after_ms, *[0] * 5))


def _delay_ms(options: Mapping[str, str], option: str) -> int:
    text = options.get(option, "0")
    if not text.isdecimal() or int(text) > DELAY_MAX_MS:
        raise ValueError(f"{option} in whole milliseconds up to {DELAY_MAX_MS}, not {text!r}")
    return int(text)
