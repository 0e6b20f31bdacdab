"""What a mmWave frame means: how many, which points, which tracks. Signs and axes are those of trisense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from trisense.core.model import Field, FieldType, Value
from trisense.drivers.sdk import Frame, Observed

__all__ = ["POINT", "PRESENCE", "TRACK", "Tracks", "rows_of"]

PRESENCE: Final = (
    Field("target_count", "{target}", FieldType.INT, valid=(0, 250)),
    Field("point_count", "{point}", FieldType.INT, valid=(0, 4095)),
    Field("frame_number", "1", FieldType.INT),
    Field("frames_missed", "{frame}", FieldType.INT),
    Field("presence", "1", FieldType.INT),
    Field("speed_limit", "m/s"),
)
POINT: Final = (
    Field("x", "m"),
    Field("y", "m"),
    Field("z", "m"),
    Field("radial_speed", "m/s"),
    Field("signal_to_noise", "dB", resolution=0.1),
    Field("noise_level", "dB", resolution=0.1),
)
TRACK: Final = (
    Field("track", "1", FieldType.INT),
    Field("birth_frame", "1", FieldType.INT),
    Field("age_frames", "{frame}", FieldType.INT),
    Field("x", "m"),
    Field("y", "m"),
    Field("z", "m"),
    Field("velocity_x", "m/s"),
    Field("velocity_y", "m/s"),
    Field("velocity_z", "m/s"),
    Field("height", "m"),
    Field("confidence", "1"),
)


def rows_of(frame: Frame) -> list[Observed]:
    """Rows of one frame by itself; ``Tracks`` adds what only its neighbours tell."""
    points, targets = frame.get("points", ()), frame.get("targets")
    counts: dict[str, Value] = {"point_count": len(points), "frame_number": frame["frameNumber"]}
    if targets is not None:
        counts["target_count"] = len(targets)
    if "presence" in frame:
        counts["presence"] = frame["presence"]
    sides = frame.get("side_info", ())
    heights = {row["tid"]: row["maxZ"] for row in frame.get("heights", ())}
    return [
        Observed("radar_presence", counts),
        # Where the counts differ nobody knows which side info belongs to which point.
        *(
            Observed("radar_point", _point(point, sides[index] if len(sides) == len(points) else {}))
            for index, point in enumerate(points)
        ),
        *(Observed("radar_track", _track(target, heights.get(target["tid"]))) for target in targets or ()),
    ]


def _point(point: Mapping[str, Any], side: Mapping[str, int]) -> dict[str, Value]:
    row: dict[str, Value] = {}
    if "range" in point:
        flat = point["range"] * math.cos(point["elevation"])
        row["x"] = flat * math.sin(point["azimuth"])
        row["y"] = flat * math.cos(point["azimuth"])
        row["z"] = point["range"] * math.sin(point["elevation"])
    else:
        row |= {axis: point[axis] for axis in "xyz"}
    receding = point.get("v", point.get("doppler"))
    if receding is not None:  # SDK 1 tells a Doppler bin, whose width its configuration alone knows
        row["radial_speed"] = 0.0 - receding
    snr = side.get("snr_0p1dB", side.get("snr"))
    noise = side.get("noise_0p1dB", side.get("noise"))
    if snr is not None and noise is not None:
        row |= {"signal_to_noise": snr / 10, "noise_level": noise / 10}
    return row


def _track(target: Mapping[str, Any], height: float | None) -> dict[str, Value]:
    row: dict[str, Value] = {"track": target["tid"], "height": height, "confidence": target["confidence"]}
    row |= dict(zip("xyz", target["pos"], strict=False))  # the older trackers know no z
    row |= dict(zip(("velocity_x", "velocity_y", "velocity_z"), target["vel"], strict=False))
    return row


class Tracks:
    """What neighbouring frames tell together: missed frames, and tracks whose number was used before.

    A tracker gives the number of a track that ended to the next one, so a track is known by its number and
    the frame in which it was first seen.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._born: dict[int, int] = {}

    def told(self, frame: Frame) -> list[Observed]:
        """Rows of a frame, in the order of frames as they came."""
        number: int = frame["frameNumber"]
        if self._last is None or number <= self._last:  # it was switched on anew: nothing was missed
            self._last, self._born = number - 1, {}
        missed, self._last = number - self._last - 1, number
        tracks: list[int] = [target["tid"] for target in frame.get("targets", ())]
        self._born = {track: self._born.get(track, number) for track in tracks}
        return [self._with(row, number, missed) for row in rows_of(frame)]

    def _with(self, row: Observed, number: int, missed: int) -> Observed:
        if row.measurement == "radar_presence":
            return Observed(row.measurement, {**row.values, "frames_missed": missed})
        track = row.values.get("track")
        if not isinstance(track, int):
            return row
        born = self._born[track]
        return Observed(row.measurement, {**row.values, "birth_frame": born, "age_frames": number - born + 1})
