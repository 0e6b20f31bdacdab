"""Time from a GNSS receiver on a line, for a box that no network tells the time.

Of the NMEA sentences only RMC is used: it alone carries date, time and whether they are valid (ZDA has no
such flag, and a receiver without a fix fills it from its own clock). It comes some tenths of a second after
the second it names: of the offsets seen the largest is nearest to the truth, and a second is the error.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from datetime import UTC, datetime
from typing import Final

import structlog
from trisense.core.errors import DeviceError
from trisense.drivers.framing import Damage, read_frames
from trisense.drivers.lines import open_line
from trisense.drivers.nmea.codec import NmeaDecoder
from trisense.drivers.sdk import Frame
from trisense.edge.backoff import Backoff
from trisense.edge.clocks.clock import PLAUSIBLE_NS, Clock
from trisense.edge.clocks.timeline import Fix
from trisense.edge.once import Fault

__all__ = ["Gnss", "RmcDecoder", "utc_ns"]

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
ERROR_MS: Final = 1000
"""A receiver may send up to a second late; at 4800 baud the sentences before RMC alone take half of it."""
FRESH_NS: Final = 10 * SECOND
ENOUGH: Final = 5
"""Sentences that must agree before they are believed."""
WINDOW: Final = 60
SILENCE_S: Final = 30.0
"""A line without a good sentence for so long is opened anew."""
RETRY_S: Final = 5.0
RETRY_MAX_S: Final = 300.0

TIME: Final = re.compile(r"(\d{4})(\d\d)(?:\.(\d{1,9}))?")
MODES: Final = frozenset("ADFPR")
"""Of NMEA 2.3 and later: measured, not estimated, simulated, typed in or missing."""


class RmcDecoder(NmeaDecoder):
    """Gives a frame per sentence; that of a valid RMC has ``utc_ns``."""

    def frame(self, text: str) -> Frame:
        found_ns = utc_ns(text)
        return {} if found_ns is None else {"utc_ns": found_ns}


def utc_ns(text: str) -> int | None:
    """The time an RMC sentence names, ``text`` being what stands between ``$`` and ``*``.

    None for another sentence, one without a fix, and a date before this software: a receiver that
    counts its weeks from the wrong beginning is 19.6 years late and says it is valid.
    """
    fields = text.split(",")
    if len(fields) < 10 or fields[0][0] != "G" or fields[0][2:] != "RMC" or fields[2] != "A":
        return None
    found = TIME.fullmatch(fields[1])
    if found is None or (len(fields) > 12 and fields[12] not in MODES):
        return None
    try:
        minute = datetime.strptime(fields[9] + found[1], "%d%m%y%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    # A leap second is 60: the first of the next minute, which is as near as is needed here.
    second_ns = min(int(found[2]), 60) * SECOND + int(f"{found[3] or '':0<9}")
    time_ns = int(minute.timestamp()) * SECOND + second_ns
    return time_ns if time_ns >= PLAUSIBLE_NS else None


class Gnss:
    """A ``TimeSource`` that reads a receiver."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._seen: deque[tuple[int, int]] = deque(maxlen=WINDOW)

    def fix(self) -> Fix | None:
        """Its time; None while fewer than five sentences agree or the last one is older than 10 s."""
        if len(self._seen) < ENOUGH or self._clock.boot_ns() - self._seen[-1][0] > FRESH_NS:
            return None
        return Fix(max(offset_ns for _, offset_ns in self._seen), ERROR_MS)

    def take(self, utc_ns: int) -> None:
        """A valid sentence came now."""
        boot_ns = self._clock.boot_ns()
        offset_ns = utc_ns - boot_ns
        if self._seen and abs(offset_ns - self._seen[-1][1]) > ERROR_MS * 1_000_000:
            self._seen.clear()
        self._seen.append((boot_ns, offset_ns))

    async def run(self) -> None:
        """Read until cancelled; a line that fails is opened again, and costs nobody anything."""
        backoff = Backoff(first_s=RETRY_S, longest_s=RETRY_MAX_S)
        fault = Fault(log.bind(line=self.url), "gnss_failed", "gnss_recovered")
        while True:
            try:
                await self._listen(backoff, fault)
            except DeviceError as error:
                fault.failed(why=str(error))
            except Exception as error:  # noqa: BLE001  # a box does not end because its receiver's port is odd
                fault.failed(why=repr(error))
            await asyncio.sleep(backoff.next_s())

    async def _listen(self, backoff: Backoff, fault: Fault) -> None:
        line = await open_line(self.url)
        try:
            async for piece in read_frames(line, RmcDecoder(), device="gnss", timeout_s=SILENCE_S):
                if isinstance(piece, Damage):
                    continue
                backoff.reset()
                fault.recovered()
                if "utc_ns" in piece:
                    self.take(piece["utc_ns"])
        finally:
            await line.close()
