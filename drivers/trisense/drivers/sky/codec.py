"""The sky sheet's ``geotiff-ndvi`` as a codec: a scene in, rows at points out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from trisense.drivers import Frame, FrameError, Observed, Part, Quality, Value
from trisense.drivers.sky.scene import Point, ndvi

__all__ = ["GeotiffNdvi", "rows"]

CLEAR_ENOUGH_PX: Final = 5
"""Of the nine pixels around a site, for its value to be trusted (sky sheet, section 1)."""


class GeotiffNdvi:
    """One file is one frame; the points to sample come from outside the file."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return self.frames_given([Part(data, "")], {})

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:
        points = [Point(each["station"], each["lat"], each["lon"]) for each in given.get("points", ())]
        found = []
        for part in parts:
            try:
                found.append(ndvi(part.data, points, name=part.name))
            except FrameError:
                continue
        return found

    def damaged(self, data: bytes) -> Sequence[str]:
        try:
            ndvi(data)
        except FrameError as error:
            return [str(error)]
        return []

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return rows(frame)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the protocol's signature
        return None


def rows(frame: Frame, *, scene: str = "", sha256: str = "") -> list[Observed]:
    """One ``scene`` row and one ``ndvi`` row per point, all at the time of sensing.

    A point without a value has a row with the reason: cloud, nodata or outside. Nothing is filled in.
    """
    sensed_at_ns = int(datetime.fromisoformat(frame["sensing_time"]).timestamp()) * 1_000_000_000
    whole: dict[str, Value] = {
        "id": scene,
        "sha256": sha256,
        "crs": frame["crs"],
        "width": frame["width"],
        "height": frame["height"],
        "clear_fraction": frame["clear_fraction"],
        "ndvi_mean_clear": frame["scene_mean_clear"],
        "ndvi_mean_all": frame["scene_mean_all"],
    }
    quality = {name: Quality.MISSING for name, value in whole.items() if value is None}
    found = [Observed("scene", whole, quality, sensed_at_ns)]
    return found + [_point_row(point, scene, sensed_at_ns) for point in frame["points"]]


def _point_row(point: Mapping[str, Any], scene: str, sensed_at_ns: int) -> Observed:
    values: dict[str, Value] = {
        "station": point["station"],
        "latitude": point["lat"],
        "longitude": point["lon"],
        "scene": scene,
        "reason": _reason(point),
        "clear": 0,
        "clear_px": 0,
        "px": 0,
    }
    quality: dict[str, Quality] = {}
    if point["inside"]:
        values["clear_px"], values["px"] = point["clear_px"], point["px"]
        enough = point["clear_px"] >= CLEAR_ENOUGH_PX
        if not values["reason"]:
            values["clear"], values["ndvi"] = 1, point["ndvi"]
            if not enough:
                quality["ndvi"] = Quality.SUSPECT
        if enough:
            values["ndvi_mean"] = point["ndvi_3x3_clear_mean"]
    quality |= {name: Quality.MISSING for name in ("ndvi", "ndvi_mean") if name not in values}
    return Observed("ndvi", values, quality, sensed_at_ns)


def _reason(point: Mapping[str, Any]) -> str:
    """Why there is no value; empty where there is one."""
    if not point["inside"]:
        return "outside"
    if point["ndvi"] is None:
        return "nodata"
    return "cloud" if point["cloud"] else ""
