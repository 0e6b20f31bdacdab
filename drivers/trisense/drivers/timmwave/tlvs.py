"""What stands inside the TLVs of TI's mmWave firmwares (toolbox 4.7 sources and SDK 3.6 user guide).

A number means different things in different firmwares: 6 is statistics in the out-of-box demo and points in
the trackers. So there is one table for each family. Types that are not in a table are skipped.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import TrisenseError

__all__ = ["OUT_OF_BOX", "PEOPLE_3D", "SDK1", "TRAFFIC", "BadTlv", "Reader"]

FAR_M: Final = 1000.0
"""Beyond it nothing is a point: a byte was lost, or turned into another."""
FAST_MPS: Final = 200.0

Reader = Callable[[bytes], Mapping[str, Any]]


class BadTlv(TrisenseError):
    """The value of a TLV cannot be: its frame is damaged."""


def _records(layout: str, value: bytes) -> list[tuple[Any, ...]]:
    record = struct.Struct(layout)
    if len(value) % record.size:
        raise BadTlv(f"{len(value)} bytes are no records of {record.size}")
    return list(record.iter_unpack(value))


def _within(limit: float, numbers: Sequence[float]) -> None:
    if not all(abs(number) <= limit for number in numbers):  # NaN is not, either
        raise BadTlv(f"a number beyond {limit:g}")


def _points(value: bytes) -> Mapping[str, Any]:
    rows = _records("<4f", value)
    for row in rows:
        _within(FAR_M, row[:3])
        _within(FAST_MPS, row[3:])
    return {"points": [dict(zip("xyzv", row, strict=True)) for row in rows]}


def _points_sdk1(value: bytes) -> Mapping[str, Any]:
    if len(value) < 4:
        raise BadTlv("no point descriptor")
    count, q = struct.unpack_from("<HH", value)
    rows = _records("<HhHhhh", value[4:])
    if len(rows) != count or q > 15:
        raise BadTlv(f"{len(rows)} points of {count}, Q{q}")
    points = [
        {"rangeIdx": near, "dopplerIdx": doppler, "peakVal": peak}
        | {axis: number / 2**q for axis, number in zip("xyz", at, strict=True)}
        for near, doppler, peak, *at in rows
    ]
    return {"points": points, "qFormat": q}


def _points_spherical(value: bytes) -> Mapping[str, Any]:
    rows = _records("<4f", value)
    for row in rows:
        _sphere(*row)
    return {
        "points": [dict(zip(("range", "azimuth", "elevation", "doppler"), row, strict=True)) for row in rows]
    }


def _points_compressed(value: bytes) -> Mapping[str, Any]:
    if len(value) < 20:
        raise BadTlv("no point units")
    units = struct.unpack_from("<5f", value)
    _within(FAR_M, units)
    points = []
    for row in _records("<bbhHH", value[20:]):
        elevation, azimuth, doppler, distance, snr = (
            number * unit for number, unit in zip(row, units, strict=True)
        )
        _sphere(distance, azimuth, elevation, doppler)
        points.append(
            {"elevation": elevation, "azimuth": azimuth, "doppler": doppler, "range": distance, "snr": snr}
        )
    return {"points": points}


def _sphere(distance: float, azimuth: float, elevation: float, doppler: float) -> None:
    _within(FAR_M, (distance,))
    _within(math.pi, (azimuth, elevation))
    _within(FAST_MPS, (doppler,))
    if distance < 0:
        raise BadTlv("a range below zero")


def _targets(value: bytes) -> Mapping[str, Any]:
    """Targets of 112 bytes, or of 68 in the older 2D trackers, which know no height and no confidence."""
    if len(value) % 112:
        return {"targets": [_target(row[0], row[1:7], row[16], None) for row in _records("<I16f", value)]}
    return {"targets": [_target(row[0], row[1:10], row[26], row[27]) for row in _records("<I27f", value)]}


def _target(identity: int, motion: Sequence[float], gain: float, confidence: float | None) -> dict[str, Any]:
    _within(FAR_M, motion)
    _within(math.inf, (gain, confidence or 0.0))
    axes = len(motion) // 3
    position, velocity, acceleration = (list(motion[at : at + axes]) for at in range(0, 3 * axes, axes))
    return {
        "tid": identity,
        "pos": position,
        "vel": velocity,
        "acc": acceleration,
        "g": gain,
        "confidence": confidence,
    }


def _index(value: bytes) -> Mapping[str, Any]:
    return {"target_index": list(value)}


def _heights(value: bytes) -> Mapping[str, Any]:
    rows = _records("<Iff", value)
    for row in rows:
        _within(FAR_M, row[1:])
    return {"heights": [{"tid": row[0], "maxZ": row[1], "minZ": row[2]} for row in rows]}


def _presence(value: bytes) -> Mapping[str, Any]:
    ((presence,),) = _exactly("<I", value)
    return {"presence": presence}


def _exactly(layout: str, value: bytes) -> list[tuple[Any, ...]]:
    rows = _records(layout, value)
    if len(rows) != 1:
        raise BadTlv(f"{len(rows)} records instead of one")
    return rows


def _side_info(snr: str, noise: str) -> Reader:
    return lambda value: {"side_info": [{snr: a, noise: b} for a, b in _records("<hh", value)]}


def _range_profile(value: bytes) -> Mapping[str, Any]:
    bins = [row[0] for row in _records("<H", value)]
    if not bins:
        raise BadTlv("a range profile without bins")
    return {"range_profile": {"bins": len(bins), "first4_raw": bins[:4], "first_log2": bins[0] / 512}}


STATISTICS: Final = (
    "interFrameProcessingTime_us",
    "transmitOutputTime_us",
    "interFrameProcessingMargin_us",
    "interChirpProcessingMargin_us",
    "activeFrameCPULoad_pct",
    "interFrameCPULoad_pct",
)


def _statistics(value: bytes) -> Mapping[str, Any]:
    (words,) = _exactly("<6I", value)
    if max(words[4:]) > 100:
        raise BadTlv("a load above 100 %")
    return {"stats": dict(zip(STATISTICS, words, strict=True))}


def _temperature(value: bytes) -> Mapping[str, Any]:
    ((valid, time_ms, *degrees),) = _exactly("<iI10h", value)
    return {"temperature": {"valid": valid, "time_ms": time_ms, "degC": degrees}}


OUT_OF_BOX: Final[Mapping[int, Reader]] = {
    1: _points,
    2: _range_profile,
    6: _statistics,
    7: _side_info("snr_0p1dB", "noise_0p1dB"),
    9: _temperature,
    1010: _targets,
    1011: _index,
    1012: _heights,
    1020: _points_compressed,
    1021: _presence,
}
"""The demo of SDK 2 and 3, and people tracking, whose own types begin at 1000."""
SDK1: Final[Mapping[int, Reader]] = {1: _points_sdk1, 2: _range_profile, 6: _statistics}
TRAFFIC: Final[Mapping[int, Reader]] = {
    6: _points_spherical,
    7: _targets,
    8: _index,
    9: _side_info("snr", "noise"),
}
PEOPLE_3D: Final[Mapping[int, Reader]] = {6: _points_compressed, 7: _targets, 8: _index, 11: _presence}
