"""Calibration certificates: what turns the raw value of a field into the one that counts, and until when.

A certificate is a TOML file of its own, so that what a laboratory wrote stays one document. Several of one
field follow each other in time; the reading's own time chooses. Three rules for what no certificate covers:
a reading after the last one that began (expired) is made by that one and suspect; a reading before the
first (early) is made by the first and suspect; a raw value outside the range that was calibrated is never
extrapolated: it gives the value of the nearest end, and fails.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, model_validator
from pydantic import Field as Constrained
from trisense.core.config import ConfigModel
from trisense.core.messages import CalibrationBirth

__all__ = ["Calibration", "Certificate", "State", "decimals_for"]

NS: Final = 1_000_000_000
TERMS_MAX: Final = 10
POINTS_MAX: Final = 1024
GRAIN: Final = 10
"""A value is rounded to a power of ten no coarser than this part of its uncertainty U (k = 2): that widens U
by less than 0.2 % (U/10 spread evenly against U/2 normally), and the digits that go are noise."""

Finite = Annotated[float, Constrained(allow_inf_nan=False)]
Text = Annotated[str, Constrained(min_length=1, max_length=64)]
State = Literal["valid", "expired", "early"]


class Certificate(ConfigModel):
    """One calibration of one field of one device."""

    device: Text
    """Name of the device on the box, or its serial number as its table gives it."""
    field: Text
    """The field, or ``MEASUREMENT.FIELD`` where the device has it in several streams and one is meant."""
    unit: str
    """UCUM unit of the calibrated value and of everything else here but raw values."""
    raw_unit: str | None = None
    """UCUM unit of the raw value, that of the driver. None: ``unit``."""
    polynomial: Annotated[list[Finite], Constrained(min_length=1, max_length=TERMS_MAX)] | None = None
    """Coefficients by rising power: ``[c0, c1, c2]`` is c0 + c1 x + c2 x^2 of the raw value x."""
    range: tuple[float, float] | None = None
    """Lowest and highest raw value for which the polynomial was found."""
    table: Annotated[list[tuple[Finite, Finite]], Constrained(min_length=2, max_length=POINTS_MAX)] | None = (
        None
    )
    """Pairs ``[raw, value]`` by rising raw value; straight lines between them, nothing beyond."""
    valid_from: AwareDatetime
    valid_to: AwareDatetime
    """The first moment at which it is no longer valid."""
    by: Annotated[str, Constrained(min_length=1, max_length=200)]
    """Who calibrated."""
    uncertainty: Annotated[float, Constrained(gt=0, allow_inf_nan=False)]
    """Expanded uncertainty, k = 2."""
    version: Text
    """Number or name of the certificate, as people call it."""

    @model_validator(mode="after")
    def _whole(self) -> Certificate:
        if (self.polynomial is None) == (self.table is None):
            raise ValueError("either polynomial, with its range, or table")
        if (self.polynomial is None) != (self.range is None):
            raise ValueError("range with a polynomial, and only there: a table ends with its points")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("range with the lower limit first")
        for (x, _), (after, _) in pairwise(self.table or ()):
            if not x < after:
                raise ValueError(f"raw values of the table that rise: {after:g} follows {x:g}")
        if not self.valid_from < self.valid_to:
            raise ValueError("valid_from before valid_to")
        return self

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits over what it says, whatever the file's comments and order."""
        text = json.dumps(self.model_dump(), sort_keys=True, default=_iso)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def span_ns(self) -> tuple[int, int]:
        """(first nanosecond, first one after), UTC since 1970."""
        return (_ns(self.valid_from), _ns(self.valid_to))

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest raw value it speaks of."""
        return self.range or (self._raw[0], self._raw[-1])

    @cached_property
    def decimals(self) -> int:
        """Decimal places of the values it gives."""
        return decimals_for(self.uncertainty)

    @cached_property
    def _raw(self) -> list[float]:
        return [x for x, _ in self.table or ()]

    def value(self, raw: float) -> tuple[float, bool]:
        """The calibrated value, rounded, and whether ``raw`` lay within what was calibrated."""
        low, high = self.limits
        inside = low <= raw <= high
        x = raw if inside else min(max(raw, low), high)
        return round(self._exact(x), self.decimals), inside

    def _exact(self, x: float) -> float:
        if self.table is not None:
            after = min(bisect_right(self._raw, x), len(self._raw) - 1)
            (x0, y0), (x1, y1) = self.table[after - 1], self.table[after]
            return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
        total = 0.0
        for coefficient in reversed(self.polynomial or ()):
            total = total * x + coefficient
        return total

    def birth(self) -> CalibrationBirth:
        """What a birth message says of it."""
        return CalibrationBirth(
            version=self.version,
            hash=self.hash,
            valid_from=_iso(self.valid_from),
            valid_to=_iso(self.valid_to),
            uncertainty=self.uncertainty,
            by=self.by,
        )


@dataclass(frozen=True)
class Calibration:
    """The certificates of one field, at least one, in the order of their time; they do not overlap."""

    certificates: tuple[Certificate, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return [c.span_ns[0] for c in self.certificates]

    @property
    def unit(self) -> str:
        return self.certificates[0].unit

    @property
    def resolution(self) -> float:
        """The finest step that any of the certificates gives values in."""
        return float(f"1e{-max(c.decimals for c in self.certificates)}")

    def at(self, time_ns: int) -> tuple[Certificate, State, tuple[int, int]]:
        """The certificate for a reading at ``time_ns``, how it stands, and the times (first, first
        after) for which this answer holds.
        """
        index = bisect_right(self._starts, time_ns) - 1
        if index < 0:
            return self.certificates[0], "early", (-(2**63), self._starts[0])
        certificate = self.certificates[index]
        until = self._starts[index + 1] if index + 1 < len(self._starts) else 2**63
        end = certificate.span_ns[1]
        if time_ns < end:
            return certificate, "valid", (self._starts[index], min(end, until))
        return certificate, "expired", (end, until)

    def overlaps(self) -> Iterator[tuple[Certificate, Certificate]]:
        for one, after in pairwise(self.certificates):
            if after.span_ns[0] < one.span_ns[1]:
                yield one, after

    def holes(self) -> Iterator[tuple[Certificate, Certificate]]:
        for one, after in pairwise(self.certificates):
            if after.span_ns[0] > one.span_ns[1]:
                yield one, after


def decimals_for(uncertainty: float) -> int:
    """Decimal places (negative: tens, hundreds) of a value known to within ``uncertainty`` (k = 2)."""
    return -math.floor(math.log10(uncertainty / GRAIN) + 1e-9)


def _ns(moment: datetime) -> int:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (moment - epoch) // timedelta(microseconds=1) * 1000


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
