"""Names in a bit stream: what is new of them, in a prefix code made for identifiers.

A name is written as the number of characters it shares with the last one of its kind (device,
measurement, field), then the rest. About four bits a character, against eight.
"""

from __future__ import annotations

from typing import Final

from trisense.core import limits
from trisense.core.errors import WireError
from trisense.core.model import NAME
from trisense.core.wire.bits import BitReader, fixed, natural
from trisense.core.wire.tables import Code

__all__ = ["read_name", "read_unit", "write_name", "write_unit"]

# Rough frequencies of characters in identifiers; the last is the end of a name.
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789_-"
FREQUENCIES: Final = (
    *(75, 18, 40, 40, 90, 20, 25, 30, 65, 4, 12, 40, 45, 60, 60, 40, 6, 60, 60, 75, 40, 20, 20, 8, 15, 4),
    *(12, 18, 18, 12, 8, 10, 6, 5, 5, 5),
    *(80, 20),
    120,
)
END: Final = len(ALPHABET)
CODE: Final = Code([float(frequency) for frequency in FREQUENCIES])
WORDS: Final = {character: CODE.words[at] for at, character in enumerate(ALPHABET)}
WIDTH: Final = max(CODE.lengths)
LENGTHS, SYMBOLS = CODE.lookup(WIDTH)
UNIT_BYTES: Final = 64
FIRST_CHARACTER, LAST_CHARACTER = 0x21, 0x7E
"""A UCUM code is printable ASCII without space."""


def write_name(name: str, last: str) -> str:
    """Bits of a name that matches ``model.NAME`` or is empty."""
    shared = 0
    while shared < min(len(name), len(last)) and name[shared] == last[shared]:
        shared += 1
    return natural(shared) + "".join([WORDS[c] for c in name[shared:]]) + CODE.words[END]


def read_name(reader: BitReader, last: str, *, may_be_empty: bool = False) -> str:
    """What ``write_name`` wrote."""
    name = last[: reader.bounded(len(last), "shared characters")]
    while (symbol := reader.word(LENGTHS, SYMBOLS, WIDTH)) != END:
        name += ALPHABET[symbol]
        if len(name) > limits.NAME_BYTES:
            raise WireError("name", f"{name} and more")
    if not (NAME.fullmatch(name) or (may_be_empty and not name)):
        raise WireError("name", repr(name))
    return name


def write_unit(unit: str) -> str:
    """Bits of a UCUM code of at most UNIT_BYTES characters."""
    return natural(len(unit)) + "".join([fixed(ord(c), 7) for c in unit])


def read_unit(reader: BitReader) -> str:
    """What ``write_unit`` wrote."""
    codes = [reader.fixed(7) for _ in range(reader.bounded(UNIT_BYTES, "unit of length"))]
    if any(not FIRST_CHARACTER <= code <= LAST_CHARACTER for code in codes):
        raise WireError("unit", repr(bytes(codes)))
    return bytes(codes).decode("ascii")
