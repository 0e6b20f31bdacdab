"""What may happen to a frame on its way, each as a function of the frame; the same on every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from trisense.drivers.kit.player import Fault, Reply, Spoken

__all__ = ["cut_short", "doubled", "drip", "insert_noise", "noise_ahead", "turn_bit"]

DRIP_PIECES: Final = 64
DRIP_PAUSE_S: Final = 0.001
NOISE_BYTES: Final = (1, 2, 7, 64, 300)


def drip(reply: Reply) -> Spoken:
    """One byte at a time; a long frame in so many pieces."""
    size = -(-len(reply.data) // DRIP_PIECES) or 1
    pieces = [reply.data[i : i + size] for i in range(0, len(reply.data), size)]
    return Spoken(pieces, pause_s=DRIP_PAUSE_S)


def doubled(reply: Reply) -> Spoken:
    return Spoken([reply.data + reply.data])


def noise_ahead(seed: str) -> Sequence[Fault]:
    """Noise of several lengths before a frame; the longest ends with what looks like its begin."""

    def fault(size: int) -> Fault:
        def ahead(reply: Reply) -> Spoken:
            noise = random.Random(f"{seed}/{size}").randbytes(size)  # noqa: S311  # the same on every run
            decoy = reply.data[: min(3, len(reply.data) - 1)] if size > 64 else b""
            return Spoken([noise + decoy + reply.data])

        return ahead

    return [fault(size) for size in NOISE_BYTES]


def insert_noise(seed: str, count: int) -> Sequence[Fault]:
    """One to three bytes inside the frame, at ``count`` places."""

    def fault(number: int) -> Fault:
        def inside(reply: Reply) -> Spoken:
            chance = random.Random(f"{seed}/{number}")  # noqa: S311  # the same on every run
            at = 1 + (len(reply.data) - 1) * number // count
            noisy = reply.data[:at] + chance.randbytes(1 + number % 3) + reply.data[at:]
            return Spoken([noisy], good=reply.data in noisy)

        return inside

    return [fault(number) for number in range(count)]


def turn_bit(count: int) -> Sequence[Fault]:
    """One bit turned, at ``count`` places spread over what the check covers."""

    def fault(number: int) -> Fault:
        def turned(reply: Reply) -> Spoken:
            first, end = _covered(reply)
            if end <= first:
                return Spoken([reply.data])
            damaged = bytearray(reply.data)
            damaged[first + (end - first) * number // count] ^= 1 << number % 8
            return Spoken([bytes(damaged)], good=False)

        return turned

    return [fault(number) for number in range(count)]


def cut_short() -> Sequence[Fault]:
    """Frames that end after a byte, a quarter, half, three quarters, and one byte before their end."""

    def fault(quarters: int) -> Fault:
        def short(reply: Reply) -> Spoken:
            whole = len(reply.data.rstrip(b"\r\n"))  # many hosts take a line without its end
            size = {0: 1, 4: whole - 1}.get(quarters, whole * quarters // 4)
            return Spoken([reply.data[:size]], good=False)

        return short

    return [fault(quarters) for quarters in range(5)]


def _covered(reply: Reply) -> tuple[int, int]:
    """The bytes of a frame that its check covers: first, behind the last."""
    first, end, _ = slice(*(reply.checked or (0, None))).indices(len(reply.data))
    return first, end
