"""The outer shell of a bundle: codec byte, body, checksum."""

from __future__ import annotations

import io
import zlib
from typing import Final

import zstandard
from trisense.core import limits
from trisense.core.errors import WireError

__all__ = ["NONE", "ZSTD", "open_frame", "seal"]

NONE: Final = 0
ZSTD: Final = 1
CHECKSUM_BYTES: Final = 4


def seal(body: bytes) -> bytes:
    """Codec byte, the smallest form of the body, CRC-32 over both."""
    best = bytes([NONE]) + body
    packed = bytes([ZSTD]) + zstandard.ZstdCompressor(level=9, write_content_size=True).compress(body)
    best = min(best, packed, key=len)
    return best + zlib.crc32(best).to_bytes(CHECKSUM_BYTES, "little")


def open_frame(payload: bytes) -> bytes:
    """Give the body back.

    Raises:
        WireError: too long, damaged, or larger than a bundle may be once decompressed.
    """
    if len(payload) > limits.PAYLOAD_BYTES:
        raise WireError("size", f"payload of {len(payload)} bytes")
    if len(payload) <= CHECKSUM_BYTES:
        raise WireError("truncated", f"payload of {len(payload)} bytes")
    frame, checksum = payload[:-CHECKSUM_BYTES], payload[-CHECKSUM_BYTES:]
    if zlib.crc32(frame) != int.from_bytes(checksum, "little"):
        raise WireError("checksum", "payload was damaged")
    codec, body = frame[0], frame[1:]
    if codec == NONE:
        return body
    if codec == ZSTD:
        return _zstd(body)
    raise WireError("codec", f"unknown codec {codec}")


def _zstd(body: bytes) -> bytes:
    # ZstdDecompressor.decompress ignores its cap when the frame states a size: read a stream.
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=limits.DECODED_BYTES).stream_reader(
            io.BytesIO(body)
        )
        data = reader.read(limits.DECODED_BYTES + 1)
    except zstandard.ZstdError as error:
        raise WireError("codec", str(error)) from error
    if len(data) > limits.DECODED_BYTES:
        raise WireError("size", "decompresses to more than a bundle may hold")
    return data
