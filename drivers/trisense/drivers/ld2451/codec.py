"""Frames of the LD2451: reports of vehicles, replies to commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers import hilink
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["Ld2451Codec", "Ld2451Decoder"]

TARGET_BYTES: Final = 5
MOST: Final = 12
"""More targets than any unit was seen to tell; the count has a byte for them."""
WIDE_DEG: Final = 90
DIRECTIONS: Final = ("away", "toward")


class Ld2451Decoder(Decoder):
    max_frame = hilink.ENVELOPE_BYTES + hilink.REPLY_MAX

    def cut(self, data: bytes, start: int) -> Cut | None:
        head = data[start : start + 4]
        if hilink.REPORT_HEAD.startswith(head):
            return hilink.report(data, start, 2 + MOST * TARGET_BYTES, _report)
        if hilink.REPLY_HEAD.startswith(head):
            return hilink.reply(data, start)
        return Cut(1)


def _report(payload: bytes) -> Frame | str:
    if not payload:
        return {"target_count": 0, "alarm": None, "targets": []}
    count, body = payload[0], payload[2:]
    if len(body) != TARGET_BYTES * count:
        return "count"
    targets = []
    for at in range(0, len(body), TARGET_BYTES):
        angle, distance, direction, speed, snr = body[at : at + TARGET_BYTES]
        if abs(angle - 0x80) > WIDE_DEG or direction not in (0, 1):
            return "implausible"
        targets.append(
            {
                "angle_deg": angle - 0x80,
                "distance_m": distance,
                "direction": DIRECTIONS[direction],
                "speed_kmh": speed,
                "snr": snr,
            }
        )
    return {"target_count": count, "alarm": payload[1], "targets": targets}


class Ld2451Codec(FramedCodec):
    decoder = Ld2451Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "targets" not in frame:
            return ()
        return [
            Observed("radar_presence", {"target_count": frame["target_count"], "alarm": frame["alarm"] or 0}),
            *(
                Observed(
                    "radar_vehicle",
                    {
                        "angle": target["angle_deg"],
                        "distance": target["distance_m"],
                        "approaching": DIRECTIONS.index(target["direction"]),
                        "vehicle_speed": target["speed_kmh"],
                        "signal_to_noise": target["snr"],
                    },
                )
                for target in frame["targets"]
            ),
        ]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return hilink.encoded(expected)
