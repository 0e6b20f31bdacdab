"""ADS-B as codecs: the three feeds, and positions out of messages that are given together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import FrameError
from trisense.core.model import Value
from trisense.drivers.adsb import cpr, modes
from trisense.drivers.adsb.feeds import TICKS_PER_S, BeastDecoder, avr_frames, sbs_frames
from trisense.drivers.adsb.tracker import Positions, cpr_of, plausible_velocity, velocity_of
from trisense.drivers.adsb.units import si_values
from trisense.drivers.framing import FramedCodec
from trisense.drivers.sdk import Codec, Frame, Observed, Part

__all__ = ["CODECS", "MEASUREMENT"]

MEASUREMENT: Final = "aircraft"
PARITIES: Final = ("even", "odd")


def _observed(frame: Frame) -> Sequence[Observed]:
    """The row of one message on its own; the tracker of the driver makes better ones."""
    if frame.get("icao") is None:
        return []
    values: dict[str, Value] = {"icao": frame["icao"], **si_values(frame)}
    if frame.get("lat") is not None and frame.get("lon") is not None:
        values |= {"latitude": frame["lat"], "longitude": frame["lon"]}
    return [Observed(MEASUREMENT, values)]


class _ReceiveOnly:
    """What all these codecs share: nothing is ever sent."""

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return _observed(frame)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # the codecs' signature
        return None


class BeastCodec(_ReceiveOnly, FramedCodec):
    """Beast binary. Within one recording, pairs of position messages give ``lat`` and ``lon``."""

    decoder = BeastDecoder

    def frames(self, data: bytes) -> Sequence[Frame]:
        frames = [frame for frame in super().frames(data) if "payload" in frame]
        positions: dict[str, Positions] = {}
        for frame in frames:
            half = cpr_of(frame)
            if half and frame["ticks"] and not frame["mlat"]:
                known = positions.setdefault(frame["icao"], Positions())
                place = known.paired(half, frame["ticks"] / TICKS_PER_S, None)
                if place:
                    frame |= {"lat": round(place[0], 6), "lon": round(place[1], 6)}
        return frames


class AvrCodec(_ReceiveOnly):
    """AVR text. Given ``prev`` (an earlier velocity), a velocity is judged ``plausible`` or not."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return _good(avr_frames(data))

    def damaged(self, data: bytes) -> Sequence[str]:
        return _bad(avr_frames(data))

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:
        frames = self.frames(b"\n".join(part.data for part in parts))
        earlier = given.get("prev")
        before = velocity_of(earlier) if isinstance(earlier, Mapping) else None
        for frame in frames:
            now = velocity_of(frame)
            if before and now and isinstance(earlier, Mapping):
                frame["prev"] = dict(earlier)
                frame["plausible"] = plausible_velocity(before, now, float(earlier.get("dt_s", 0)))
        return frames


class SbsCodec(_ReceiveOnly):
    """BaseStation CSV lines."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return _good(sbs_frames(data))

    def damaged(self, data: bytes) -> Sequence[str]:
        return _bad(sbs_frames(data))


def _good(found: Iterator[Frame | FrameError]) -> list[Frame]:
    return [item for item in found if not isinstance(item, FrameError)]


def _bad(found: Iterator[Frame | FrameError]) -> list[str]:
    return [str(item) for item in found if isinstance(item, FrameError)]


def _messages(data: bytes) -> Iterator[Frame | FrameError]:
    """Bare DF17 or DF18 messages back to back."""
    for start in range(0, len(data), modes.LONG_BYTES):
        message = data[start : start + modes.LONG_BYTES]
        try:
            yield modes.decode(message)
        except FrameError as error:
            yield error


class _Cpr(_ReceiveOnly, ABC):
    """Bare position messages without a feed around them."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        size = modes.LONG_BYTES
        return self.frames_given([Part(data[i : i + size]) for i in range(0, len(data), size)], {})

    def damaged(self, data: bytes) -> Sequence[str]:
        return _bad(_messages(data))

    def frames_given(self, parts: Sequence[Part], given: Mapping[str, Any]) -> Sequence[Frame]:
        frames = _good(item for part in parts for item in _messages(part.data))
        halves = [(frame, half) for frame in frames if (half := cpr_of(frame))]
        if len(halves) != len(parts) or len({frame["icao"] for frame, _ in halves}) != 1:
            return []
        found = self.locate(halves, _reference(given), given)
        return [found] if found else []

    @abstractmethod
    def locate(
        self,
        halves: Sequence[tuple[Frame, cpr.Cpr]],
        reference: cpr.Place | None,
        given: Mapping[str, Any],
    ) -> Frame | None:
        """The position that the messages of one aircraft make together."""


def _reference(given: Mapping[str, Any]) -> cpr.Place | None:
    place = given.get("reference")
    if not isinstance(place, Sequence) or len(place) != 2:
        return None
    return float(place[0]), float(place[1])


class CprGlobalCodec(_Cpr):
    """One even and one odd message; ``latest`` says which came later, else the last one did."""

    def locate(
        self,
        halves: Sequence[tuple[Frame, cpr.Cpr]],
        reference: cpr.Place | None,
        given: Mapping[str, Any],
    ) -> Frame | None:
        if len(halves) != 2:
            return None
        if given.get("latest") == PARITIES[halves[0][1].odd]:
            halves = halves[::-1]
        first, (later, latest) = halves[0][1], halves[1]
        place, other = cpr.globally(first, latest, reference), cpr.globally(latest, first, reference)
        if place is None or other is None:
            return None
        frame: Frame = {
            "icao": later["icao"],
            "latest": PARITIES[latest.odd],
            **_degrees(place),
            f"if_latest_{PARITIES[first.odd]}": _degrees(other),
        }
        frame |= {name: later[name] for name in ("altitude_ft", "gnss_altitude_ft") if name in later}
        if isinstance(given.get("sbs_line"), str):
            frame["sbs_line"] = _sbs_line(given["sbs_line"], frame)
        return frame


def _degrees(place: cpr.Place) -> Frame:
    return {"lat": round(place[0], 6), "lon": round(place[1], 6)}


def _sbs_line(given: str, frame: Frame) -> str:
    """The line a receiver writes for this position; its ids and its clock are taken from the one given."""
    head = given.split(",")[:10]
    head[4] = frame["icao"]
    altitude = frame.get("altitude_ft")
    place = f"{frame['lat']:.5f},{frame['lon']:.5f}"
    return f"{','.join(head)},,{'' if altitude is None else altitude},,,{place},,,,,,"


class CprLocalCodec(_Cpr):
    """One message and ``reference``, a known place within half a zone."""

    def locate(
        self,
        halves: Sequence[tuple[Frame, cpr.Cpr]],
        reference: cpr.Place | None,
        given: Mapping[str, Any],
    ) -> Frame | None:
        if len(halves) != 1 or reference is None:
            return None
        frame, half = halves[0]
        place = cpr.locally(half, reference)
        if place is None:
            return None
        return {**frame, "reference": list(given["reference"]), **_degrees(place)}


CODECS: Final[Mapping[str, Codec]] = {
    "adsb-beast": BeastCodec(),
    "adsb-avr": AvrCodec(),
    "adsb-sbs": SbsCodec(),
    "adsb-cpr-global": CprGlobalCodec(),
    "adsb-cpr-local": CprLocalCodec(),
}
