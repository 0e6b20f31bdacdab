"""The prefix codes of version 1: four shapes of distribution, each at a row of scales.

A column of 300 residuals is too short to carry a code of its own, so codes are chosen from a fixed
family by six bits. They are computed with additions, multiplications and divisions of doubles only,
hence equal on every machine; a test pins their digest. Changing anything here is another version.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import fsum
from operator import mul
from typing import Final

__all__ = ["CODE_BITS", "ESCAPE", "TABLES", "Code", "cheapest", "code", "lookup", "prefix_lengths"]

ESCAPE: Final = 48
"""Symbol that stands for all larger ones; the symbols are 0 to ESCAPE."""
CODE_BITS: Final = 15
"""No code word is longer."""
FLOOR: Final = 2.0**-13
ESCAPE_FLOOR: Final = 2.0**-11
SCALES: Final = 13
SHAPES: Final = 4
TABLES: Final = SCALES * SHAPES
TAIL: Final = 800
"""Symbols that the tail beyond ESCAPE is summed over."""
LANE_BITS: Final = 32
"""Room for the bits of one column in one code: fewer than 2**26 values of at most CODE_BITS each."""
LANES: Final = struct.Struct(f"<{TABLES}I")


class Code:
    """One prefix code; mean symbol and mean length under the distribution that it is best for."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.lengths = tuple(prefix_lengths(weights))
        self.words = _canonical(self.lengths)
        whole = fsum(weights)
        self.mean = fsum(symbol * weight for symbol, weight in enumerate(weights)) / whole
        self.bits = fsum(map(mul, self.lengths, weights)) / whole

    def lookup(self, width: int) -> tuple[bytes, bytes]:
        """For each window of ``width`` bits: length of the code word it begins with, and its symbol."""
        lengths, symbols = bytearray(1 << width), bytearray(1 << width)
        for symbol, word in enumerate(self.words):
            free = width - len(word)
            start = int(word, 2) << free
            lengths[start : start + (1 << free)] = bytes([len(word)]) * (1 << free)
            symbols[start : start + (1 << free)] = bytes([symbol]) * (1 << free)
        return bytes(lengths), bytes(symbols)


def prefix_lengths(weights: Sequence[float]) -> list[int]:
    """Lengths of a Huffman code; equal weights are joined in the order of their making."""
    heap: list[tuple[float, int, tuple[int, ...]]] = [(w, i, (i,)) for i, w in enumerate(weights)]
    heapq.heapify(heap)
    lengths = [0] * len(weights)
    made = len(weights)
    while len(heap) > 1:
        low, high = heapq.heappop(heap), heapq.heappop(heap)
        members = low[2] + high[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (low[0] + high[0], made, members))
        made += 1
    return lengths


@lru_cache(maxsize=TABLES)
def code(index: int) -> Code:
    """The code of a table index, 0 to TABLES - 1: shape by shape, scales rising."""
    return Code(_weights(index))


@lru_cache(maxsize=1)
def _all_lengths() -> tuple[int, ...]:
    """For each symbol its length in every code, each in LANE_BITS bits of one integer."""
    codes = [code(index).lengths for index in range(TABLES)]
    return tuple(
        sum(lengths[symbol] << LANE_BITS * at for at, lengths in enumerate(codes))
        for symbol in range(ESCAPE + 1)
    )


def cheapest(histogram: Sequence[int]) -> tuple[int, int]:
    """(table, bits) of the code that takes the fewest bits for so many of each symbol."""
    # One multiplication a symbol counts for all codes at once.
    lanes = LANES.unpack(sum(map(mul, histogram, _all_lengths())).to_bytes(LANES.size, "little"))
    least = min(lanes)
    return lanes.index(least), least


@lru_cache(maxsize=TABLES)
def lookup(index: int) -> tuple[bytes, bytes]:
    """``Code.lookup`` of a table, by CODE_BITS bits."""
    return code(index).lookup(CODE_BITS)


def _weights(index: int) -> list[float]:
    shape, step = divmod(index, SCALES)
    scale = 0.12 * 2.0 ** (step // 2) * (1.4142135623730951 if step % 2 else 1.0)
    if shape == 0:
        return _normal(_laplace(scale))
    if shape == 1:
        return _normal(_geometric(scale))
    if shape == 2:
        near, far = _normal(_laplace(scale)), _normal(_laplace(scale * 8))
        return [0.9 * a + 0.1 * b for a, b in zip(near, far, strict=True)]
    return _normal(_gauss(scale * 4))


def _laplace(scale: float) -> Callable[[int], float]:
    """Two-sided: a symbol is a zig-zag number, equally likely on both sides."""
    ratio = scale / (1 + scale)
    return lambda symbol: _power(ratio, (symbol + 1) // 2)


def _geometric(scale: float) -> Callable[[int], float]:
    ratio = scale / (1 + scale)
    return lambda symbol: _power(ratio, symbol)


def _gauss(scale: float) -> Callable[[int], float]:
    # (1 - 1/(2 s^2)) ** (a * a) stands for exp(-a^2 / (2 s^2)), without the platform's exp.
    ratio = 1 / (1 + 1 / (2 * scale * scale))
    return lambda symbol: _power(ratio, ((symbol + 1) // 2) ** 2)


def _power(base: float, exponent: int) -> float:
    """By squaring: the same double everywhere, which the platform's pow does not promise."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def _normal(weight: Callable[[int], float]) -> list[float]:
    weights = [weight(symbol) for symbol in range(ESCAPE)]
    # fsum rounds once; sum() of doubles is not the same in every Python.
    tail = fsum(weight(symbol) for symbol in range(ESCAPE, TAIL))
    whole = fsum(weights) + tail
    return [max(w / whole, FLOOR) for w in weights] + [max(tail / whole, ESCAPE_FLOOR)]


def _canonical(lengths: Sequence[int]) -> tuple[str, ...]:
    """Code words in the order of (length, symbol)."""
    words = [""] * len(lengths)
    word, last = 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths)):
        word <<= length - last
        words[symbol] = format(word, f"0{length}b")
        word += 1
        last = length
    return tuple(words)
