"""RS-485 options of a serial line."""

from __future__ import annotations

import os
import struct
import tty
from collections.abc import Iterator

import pytest
from trisense.core.errors import LineError
from trisense.drivers import Lines, rs485


@pytest.fixture
def terminal() -> Iterator[str]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


async def test_a_uart_without_the_mode_says_so_and_can_be_opened_without_it(terminal: str) -> None:
    with pytest.raises(LineError, match="has no RS-485 mode"):
        await Lines().open(f"serial://{terminal}?baud=9600&rs485=high")
    line = await Lines().open(f"serial://{terminal}?baud=9600")
    await line.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("rs485=high", (1 | 2, 0, 0)),
        ("rs485=low", (1 | 4, 0, 0)),
        ("rs485=high&rs485_before_ms=1&rs485_after_ms=2", (1 | 2, 1, 2)),
    ],
)
async def test_the_kernel_is_told_how_rts_goes(
    terminal: str, options: str, expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No UART here has the mode, so the call itself is watched: linux/serial.h, struct serial_rs485.
    told: list[tuple[int, tuple[int, ...]]] = []

    class Kernel:
        @staticmethod
        def ioctl(_: int, request: int, data: bytes) -> None:
            told.append((request, struct.unpack("8I", data)))

    monkeypatch.setattr(rs485, "fcntl", Kernel)
    line = await Lines().open(f"serial://{terminal}?{options}")
    await line.close()
    assert told == [(0x542F, (*expected, 0, 0, 0, 0, 0))]
