"""Frames of R200, YRM100 and M100 modules: head, type, command, u16 length, parameter, 8-bit sum, end.

Two dialects differ in head and end alone: ``AA ... DD`` and ``BB ... 7E``. Nothing is escaped, so head and
end stand inside parameters too: a frame ends where its length says.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers.epc import SIGHTING, tag_values
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["DIALECTS", "ERROR", "NO_TAG", "R200Codec", "R200Decoder", "command"]

DIALECTS: Final[Mapping[str, tuple[int, int]]] = {"aa": (0xAA, 0xDD), "bb": (0xBB, 0x7E)}
"""Head and end."""
ENDS: Final = dict(DIALECTS.values())
COMMAND, RESPONSE, NOTICE = 0, 1, 2
OUTER_BYTES: Final = 7
"""What a frame has besides its parameter."""
MAX_PARAM: Final = 256
"""An EPC has up to 62 bytes, a read up to 64 besides."""
TAG: Final = 0x22
READ: Final = 0x39
SELECT: Final = 0x0C
ERROR: Final = 0xFF
NO_TAG: Final = 0x15
"""The usual answer to a round without a tag; no fault."""


def command(dialect: str, code: int, parameter: bytes = b"") -> bytes:
    """The bytes of a command to the module."""
    head, end = DIALECTS[dialect]
    body = bytes((COMMAND, code)) + len(parameter).to_bytes(2, "big") + parameter
    return bytes((head,)) + body + bytes((sum(body) & 0xFF, end))


class R200Decoder(Decoder):
    """Takes both dialects, and both directions."""

    max_frame = OUTER_BYTES + MAX_PARAM

    def cut(self, data: bytes, start: int) -> Cut | None:
        if data[start] not in ENDS:
            return Cut(1)
        head = data[start : start + 5]
        if len(head) > 1 and head[1] > NOTICE:
            return Cut(1)
        if len(head) < 5:
            return None
        size = OUTER_BYTES + int.from_bytes(head[3:5], "big")
        if size > self.max_frame:
            return Cut(1)
        frame = data[start : start + size]
        return None if len(frame) < size else _judge(frame)


def _judge(frame: bytes) -> Cut:
    """A whole frame by its length. After damage only its head is done with."""
    if frame[-1] != ENDS[frame[0]]:
        return Cut(1, damage="no end")
    if sum(frame[1:-2]) & 0xFF != frame[-2]:
        return Cut(1, damage="checksum")
    kind, code, parameter = frame[1], frame[2], frame[5:-2]
    found: Frame = {
        "header": frame[:1].hex(),
        "frame_type": kind,
        "command": code,
        "param_len": len(parameter),
        "param": parameter.hex(),
        "checksum_ok": True,
        "end": frame[-1:].hex(),
    }
    more: Frame | None = {}
    if (kind, code) == (NOTICE, TAG):
        more = _tag(parameter)
    elif (kind, code) == (RESPONSE, ERROR):
        more = _error(parameter)
    elif (kind, code) == (RESPONSE, READ):
        more = _read(parameter)
    elif (kind, code) == (COMMAND, SELECT):
        more = _select(parameter)
    return Cut(len(frame), found | more) if more is not None else Cut(1, damage="contradicts itself")


def _tag(parameter: bytes) -> Frame | None:
    """A tag's notice; None where the tag's own length or CRC contradicts its number."""
    pc, epc, crc = parameter[1:3], parameter[3:-2], parameter[-2:]
    if len(parameter) < 5 or len(epc) != 2 * (pc[0] >> 3):
        return None
    if crc_hqx(pc + epc, 0xFFFF) ^ 0xFFFF != int.from_bytes(crc, "big"):
        return None
    tag = {
        "rssi_dbm": int.from_bytes(parameter[:1], signed=True),
        "pc": pc.hex(),
        "epc": epc.hex(),
        "epc_words": pc[0] >> 3,
        "crc": crc.hex(),
        "gen2_crc_ok": True,
    }
    return {"tag": tag}


def _error(parameter: bytes) -> Frame | None:
    """A failed command: a code, and the tag where one had been singled out."""
    if len(parameter) == 1:
        return {"error": parameter[0]}
    singled = _singled(parameter[1:])
    return None if singled is None or singled.pop("data") else {"error": parameter[0], **singled}


def _read(parameter: bytes) -> Frame | None:
    singled = _singled(parameter)
    return None if singled is None else {"read": singled}


def _singled(parameter: bytes) -> Frame | None:
    """Length of PC and EPC, PC, EPC, and what follows."""
    if not parameter or not 2 <= parameter[0] < len(parameter):
        return None
    until = 1 + parameter[0]
    return {
        "ul": parameter[0],
        "pc": parameter[1:3].hex(),
        "epc": parameter[3:until].hex(),
        "data": parameter[until:].hex(),
    }


def _select(parameter: bytes) -> Frame | None:
    if len(parameter) < 7 or len(parameter) - 7 != -(-parameter[5] // 8):
        return None
    select = {
        "sel_param": parameter[0],
        "pointer_bits": int.from_bytes(parameter[1:5], "big"),
        "mask_len_bits": parameter[5],
        "truncate": parameter[6],
        "mask": parameter[7:].hex(),
    }
    return {"select": select}


class R200Codec(FramedCodec):
    decoder = R200Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        tag = frame.get("tag")
        if tag is None:
            return ()
        return (Observed(SIGHTING, tag_values(bytes.fromhex(tag["epc"])) | {"rssi": tag["rssi_dbm"]}),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        if expected.get("frame_type") != COMMAND:
            return None
        parameter = bytes.fromhex(expected.get("param", ""))
        return command(expected["header"], expected["command"], parameter)
