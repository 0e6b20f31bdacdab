"""Frames of TI's mmWave firmwares on the data port: five headers, two conventions of a TLV's length.

Most frames carry no checksum: magic, platform, the sum of all lengths and plausible values decide together
whether one is good. Layouts: toolbox 4.7.0 and SDK 3.6 sources.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed
from trisense.drivers.timmwave import tlvs
from trisense.drivers.timmwave.rows import rows_of

__all__ = ["MAGIC", "VARIANTS", "TiMmwaveCodec", "TiMmwaveDecoder", "Variant"]

MAGIC: Final = bytes.fromhex("0201040306050807")
MAX_PACKET: Final = 65_536
MAX_TLVS: Final = 32
PADDING: Final = 32
"""Frames may be padded to a multiple of it."""
PLATFORMS: Final = frozenset({0x0A1443, 0x0A1642, 0x0A1843, 0x0A6843, 0x0A2944, 0x0A6432})
TLV: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Variant:
    """One layout of header and TLVs."""

    header: struct.Struct
    names: tuple[str, ...]
    """Of the words behind the magic."""
    readers: Mapping[int, tlvs.Reader]
    summed: bool = False
    """The header carries a checksum."""
    whole_length: bool = False
    """A TLV's length counts its own 8 bytes, too."""


_OOB: Final = (
    "version",
    "totalPacketLen",
    "platform",
    "frameNumber",
    "timeCpuCycles",
    "numDetectedObj",
    "numTLVs",
)
_TRAFFIC: Final = (
    *("version", "platform", "timeStamp", "totalPacketLen", "frameNumber", "subFrameNumber"),
    *("chirpMargin", "frameMargin", "trackingTime", "uartTime", "numTLVs", "checksum"),
)
_PEOPLE_3D: Final = (
    *("version", "totalPacketLen", "platform", "frameNumber", "subFrameNumber"),
    *("chirpMargin", "frameProcTime", "trackingTime", "uartTime", "numTLVs", "checksum"),
)

VARIANTS: Final[Mapping[str, Variant]] = {
    "out-of-box": Variant(struct.Struct("<8s8I"), (*_OOB, "subFrameNumber"), tlvs.OUT_OF_BOX),
    "sdk1": Variant(struct.Struct("<8s7I"), _OOB, tlvs.SDK1),
    "traffic": Variant(struct.Struct("<8s10I2H"), _TRAFFIC, tlvs.TRAFFIC, summed=True),
    "people-3d": Variant(
        struct.Struct("<8s9I2H"), _PEOPLE_3D, tlvs.PEOPLE_3D, summed=True, whole_length=True
    ),
    "people": Variant(struct.Struct("<8s8I"), (*_OOB, "subFrameNumber"), tlvs.OUT_OF_BOX),
}
HEADER_MAX: Final = max(variant.header.size for variant in VARIANTS.values())


def _header_sum(header: bytes) -> int:
    """0 over a good header that carries a checksum."""
    total: int = sum(struct.unpack(f"<{len(header) // 2}H", header))
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _told_apart(data: bytes, start: int) -> Variant:
    """The variant of a header by its content; ``HEADER_MAX`` bytes, or all there are, stand at ``start``."""
    (second,) = struct.unpack_from("<I", data, start + 12)
    people = VARIANTS["people-3d"]
    header = data[start : start + people.header.size]
    if second in PLATFORMS:
        return VARIANTS["traffic"]
    if len(header) == people.header.size and not _header_sum(header):
        return people
    return VARIANTS["sdk1" if data[start + 11] == 1 else "out-of-box"]


def _header(variant: Variant, data: bytes, start: int) -> dict[str, int] | str:
    """The words of a plausible header, or what is wrong with it."""
    size = variant.header.size
    words = dict(zip(variant.names, variant.header.unpack_from(data, start)[1:], strict=True))
    if words["platform"] not in PLATFORMS:
        return f"platform {words['platform']:#x}"
    if variant.summed and _header_sum(data[start : start + size]):
        return "header checksum"
    if not size <= words["totalPacketLen"] <= MAX_PACKET:
        return f"length {words['totalPacketLen']}"
    if words["numTLVs"] > MAX_TLVS:
        return f"{words['numTLVs']} TLVs"
    return words


class Walked(NamedTuple):
    """The TLVs of a frame whose lengths fit."""

    pieces: list[tuple[int, bytes]]
    end: int
    """Where the padding begins."""
    whole_length: bool


def _walk(frame: bytes, variant: Variant, words: Mapping[str, int], *, whole: bool) -> Walked | None:
    """Take the TLVs by one convention of their length; None where they do not fill the frame by it."""
    at, pieces = variant.header.size, []
    for _ in range(words["numTLVs"]):
        if len(frame) < at + TLV.size:
            return None
        kind, length = TLV.unpack_from(frame, at)
        value_at = at + TLV.size
        at += length if whole else TLV.size + length
        if not value_at <= at <= len(frame):
            return None
        pieces.append((kind, frame[value_at:at]))
    return Walked(pieces, at, whole) if words["totalPacketLen"] - at < PADDING else None


class TiMmwaveDecoder(Decoder):
    """Frames of one firmware, or with ``variant`` None of whichever it looks like."""

    max_frame = MAX_PACKET + HEADER_MAX + len(MAGIC)

    def __init__(self, variant: str | None = None, *, watch: Callable[[bytes], None] | None = None) -> None:
        super().__init__()
        self._variant = None if variant is None else VARIANTS[variant]
        self._watch = watch
        self._over = False

    def finish(self) -> list[Any]:
        self._over = True  # what is missing now will not come any more
        return super().finish()

    def cut(self, data: bytes, start: int) -> Cut | None:
        if not MAGIC.startswith(data[start : start + len(MAGIC)]):
            return Cut(1)
        header = self._read_header(data, start)
        if header is None:
            return None
        if isinstance(header, str):
            return Cut(1, damage=header)
        variant, words = header
        stop = self._stop(data, start, words["totalPacketLen"])
        if stop is None:
            return None
        return self._judge(data[start:stop], variant, words)

    def _read_header(self, data: bytes, start: int) -> tuple[Variant, dict[str, int]] | str | None:
        """Variant and words of the header at ``start``, what is wrong with it, or None for more bytes."""
        there = len(data) - start
        needed = HEADER_MAX if self._variant is None else self._variant.header.size
        if there < needed and not self._over:
            return None
        if there < VARIANTS["sdk1"].header.size:
            return None
        variant = self._variant or _told_apart(data, start)
        if there < variant.header.size:
            return None
        words = _header(variant, data, start)
        return words if isinstance(words, str) else (variant, words)

    def _stop(self, data: bytes, start: int, size: int) -> int | None:
        """Where the frame ends: as it says, or where another one begins before. None: not here yet."""
        end = start + size
        at = start
        while (at := data.find(MAGIC, at + 1, end + len(MAGIC) - 1)) >= 0:
            inner = self._read_header(data, at)
            if inner is None and not self._over:
                return None
            if isinstance(inner, tuple):
                return at
        if self._over:
            return min(end, len(data))
        begun = next((n for n in range(len(MAGIC) - 1, 0, -1) if data.endswith(MAGIC[:n])), 0)
        return end if len(data) - begun >= end else None

    def _judge(self, frame: bytes, variant: Variant, words: Mapping[str, int]) -> Cut:
        orders = (variant.whole_length, not variant.whole_length)
        found = next(
            (f for whole in orders if (f := _walk(frame, variant, words, whole=whole)) is not None), None
        )
        if found is None:
            short = len(frame) < words["totalPacketLen"]
            return Cut(len(frame) if short else 1, damage="cut short" if short else "TLV lengths")
        told: Frame = dict(words)
        try:
            for kind, value in found.pieces:
                if kind in variant.readers:
                    told |= variant.readers[kind](value)
        except tlvs.BadTlv as error:
            return Cut(1, damage=f"TLV {kind}: {error}")
        if self._watch is not None:
            self._watch(frame[: found.end])
        own_size = TLV.size if found.whole_length else 0
        told |= {
            "header_len": variant.header.size,
            "version": ".".join(str(part) for part in words["version"].to_bytes(4, "big")),
            "platform": hex(words["platform"]),
            "tlvs": [[kind, len(value) + own_size] for kind, value in found.pieces],
            "pad_bytes": words["totalPacketLen"] - found.end,
            "missing_bytes": words["totalPacketLen"] - len(frame),
        }
        if variant.summed:
            told["checksum_ok"] = True
        return Cut(len(frame), told)


class TiMmwaveCodec(FramedCodec):
    decoder = TiMmwaveDecoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return rows_of(frame)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the data port only tells
        return None
