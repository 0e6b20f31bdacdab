"""LLRP as a codec: recordings of both directions, and bodies kept without their header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers.framing import FramedCodec
from trisense.drivers.llrp.messages import MessageDecoder, MessageType, body_frame, encode
from trisense.drivers.llrp.rows import crc_matches, number, rows_of
from trisense.drivers.sdk import Frame, Observed

__all__ = ["LLRP", "LlrpCodec"]


class LlrpCodec(FramedCodec):
    """Messages of reader and client under the sheet's names."""

    decoder = MessageDecoder

    def frames(self, data: bytes) -> Sequence[Frame]:
        frames = super().frames(data)
        body = None if frames else body_frame(data)
        return frames if body is None else [body]

    def damaged(self, data: bytes) -> Sequence[str]:
        frames = self.frames(data)
        told = [] if len(frames) == 1 and "body_of" in frames[0] else list(super().damaged(data))
        reports = [f for f in frames if f.get("type", f.get("body_of")) == MessageType.RO_ACCESS_REPORT]
        tags = (tag for frame in reports for tag in frame["tags"])
        return told + [f"tag {number(tag)}: CRC mismatch" for tag in tags if not crc_matches(tag)]

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return rows_of(frame)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return encode(expected)


LLRP: Final = LlrpCodec()
