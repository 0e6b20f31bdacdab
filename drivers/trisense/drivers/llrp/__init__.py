"""UHF RFID readers over LLRP 1.0.1 (TCP 5084): tag sightings as the reader reports them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, field_validator
from trisense.core.errors import DeviceError
from trisense.core.model import Stream
from trisense.drivers.epc import EPC
from trisense.drivers.lines import Line, Lines, LineUrl
from trisense.drivers.llrp.client import Client, Offer
from trisense.drivers.llrp.codec import LLRP
from trisense.drivers.llrp.messages import MessageType
from trisense.drivers.llrp.rows import Sightings, event_rows, streams
from trisense.drivers.sdk import Codec, DeviceConfig, Frame, Observed, StreamingDriver
from trisense.drivers.tagwindow import TagWindow, WindowConfig, passage_stream, with_passages

__all__ = ["Config", "Llrp"]

ROSPEC_ID: Final = 1
MISSED_KEEPALIVES: Final = 3
CLOSE_S: Final = 1.0
"""Longest farewell: a reader that hangs must not hold up the box."""
EVENTS: Final = {"0": 0, "1": 0, "2": 1, "3": 1, "4": 1, "5": 0, "6": 0, "7": 0, "8": 1}
"""ROSpec, buffer, exception and antenna events; never hops, of which a session has hundreds (sheet 1.8)."""
SELECTOR: Final = 0x8000 | 0x1000 | 0x0800 | 0x0400 | 0x0200 | 0x0100 | 0x0080
"""ROSpecID, AntennaID, ChannelIndex, PeakRSSI, FirstSeen, LastSeen, TagSeenCount."""
AT_N_TAGS: Final = 2
STARTED: Final = 0


class Config(DeviceConfig):
    """One LLRP reader."""

    line: LineUrl
    """The reader: ``tcp://host:5084``."""
    antennas: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = ()
    """Antennas to read; empty means all."""
    power_dbm: float | None = None
    """Transmit power: the highest step of the reader's own table not above it. Unset: left as it is."""
    session: Annotated[int, Field(ge=0, le=3)] = 1
    """Gen2 session: 0 for signal profiles, 1 for a lane, 2 or 3 for counting many tags at rest."""
    tag_population: Annotated[int, Field(ge=1, le=65_535)] = 32
    """Tags expected in the field at once."""
    mode: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """RF mode of the reader's own table. Unset: as the reader is set."""
    tag_crc: bool = True
    """Ask for each tag's PC and CRC, and drop a sighting whose CRC contradicts its number."""
    keepalive_s: Annotated[float, Field(ge=0.1, le=300)] = 5.0
    """The reader says it is alive this often; three missed in a row end the connection."""
    window: WindowConfig | None = None
    """Tell arrivals and departures of tags besides each sighting: ``depart_s``, ``min_reads``,
    ``strong_dbm``. Unset: sightings alone."""

    @field_validator("line")
    @classmethod
    def _tcp(cls, line: str) -> str:
        if not line.startswith(("tcp://", "replay://")):
            raise ValueError("tcp://HOST:PORT: LLRP runs over TCP only")
        return line


class Llrp(StreamingDriver[Config]):
    """Takes the reader over, starts one inventory and gives each report as it comes."""

    name = "llrp"
    family = "rfid"
    summary = "UHF RFID reader over LLRP 1.0.1 (TCP), EPC decoding"
    config_model = Config
    codecs: ClassVar[Mapping[str, Codec]] = {"llrp": LLRP, "epc": EPC}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._line: Line | None = None
        self._client: Client | None = None
        self._sightings = Sightings()
        self._window = TagWindow(config.window) if config.window else None

    def streams(self) -> tuple[Stream, ...]:
        site = self.config.site or ""
        passages = (passage_stream(self.config.name, site),) if self._window else ()
        return (*streams(self.config.name, site), *passages)

    @property
    def stale_count(self) -> int:
        """Tags the reader had kept from before this connection; dropped, for their time is not known."""
        return self._client.stale_count if self._client else 0

    async def connect(self, lines: Lines) -> None:
        self._sightings = Sightings()
        self.damaged_count = 0
        timeout_s = self.config.timeout_s
        self._line = await lines.open(self.config.line, timeout_s=timeout_s)
        client = Client(self.config.name, self._line, timeout_s=timeout_s)
        await client.greeting()
        self._client = client
        offer = Offer.of(await client.request(MessageType.GET_READER_CAPABILITIES, RequestedData=0))
        await client.request(
            MessageType.SET_READER_CONFIG,
            events=EVENTS,
            KeepalivePeriod_ms=round(self.config.keepalive_s * 1000),
            HoldEventsAndReportsUponReconnect=0,
        )
        # A ROSpec of an earlier client would block ours.
        await client.request(MessageType.DELETE_ROSPEC, ROSpecID=0)
        await client.request(MessageType.ADD_ROSPEC, **self._rospec(offer))
        await client.request(MessageType.ENABLE_ROSPEC, ROSpecID=ROSPEC_ID)
        await client.request(MessageType.START_ROSPEC, ROSpecID=ROSPEC_ID)

    def _rospec(self, offer: Offer) -> Frame:
        """Null triggers and a report for each tag: reads flow until the ROSpec is deleted (sheet 1.5)."""
        beyond = [a for a in self.config.antennas if offer.antennas and a > offer.antennas]
        if beyond:
            raise DeviceError(self.config.name, f"antenna {beyond[0]}: the reader has {offer.antennas}")
        antenna: Frame = {
            "AntennaID": 0,
            "Session": self.config.session,
            "TagPopulation": self.config.tag_population,
        }
        if self.config.mode is not None:
            antenna["ModeIndex"] = self.config.mode
        if self.config.power_dbm is not None:
            antenna |= self._transmitter(offer, self.config.power_dbm)
        memory = {"EnableCRC": 1, "EnablePCBits": 1} if self.config.tag_crc else {}
        return {
            "ROSpecID": ROSPEC_ID,
            "AntennaIDs": list(self.config.antennas) or [0],
            "AntennaConfiguration": antenna,
            "ROReportTrigger": AT_N_TAGS,
            "N": 1,
            "selector_bits": SELECTOR,
            **memory,
        }

    def _transmitter(self, offer: Offer, power_dbm: float) -> Frame:
        allowed = {dbm: index for index, dbm in offer.powers_dbm.items() if dbm <= power_dbm}
        if not allowed:
            steps = sorted(offer.powers_dbm.values())
            has = f"{steps[0]:g} to {steps[-1]:g} dBm" if steps else "no power table"
            raise DeviceError(self.config.name, f"power {power_dbm:g} dBm: the reader has {has}")
        # Regions with fixed frequencies have no hop table, and then want a channel (sheet 1.8).
        hopping = offer.hop_table is not None
        return {
            "HopTableID": offer.hop_table if hopping else 0,
            "ChannelIndex": 0 if hopping else 1,
            "TransmitPower": allowed[max(allowed)],
        }

    async def observe(self) -> AsyncIterator[Observed]:
        async with (
            contextlib.aclosing(self._reported()) as sightings,
            contextlib.aclosing(with_passages(sightings, self._window)) as rows,
        ):
            async for row in rows:
                yield row

    async def _reported(self) -> AsyncGenerator[Observed]:
        client = self._client
        assert client is not None, "connect comes first"  # noqa: S101  # the runtime's own contract
        lost = client.damaged_count
        while True:
            frame = await client.receive(MISSED_KEEPALIVES * self.config.keepalive_s)
            if client.damaged_count != lost:
                lost = client.damaged_count
                self._sightings.forget()
            rows = self._rows(frame)
            self.damaged_count = lost + self._sightings.damaged_count
            for row in rows:
                yield row

    def _rows(self, frame: Frame) -> Sequence[Observed]:
        if frame["type"] == MessageType.RO_ACCESS_REPORT:
            return self._sightings.rows(frame, rospec_id=ROSPEC_ID)
        if frame["type"] == MessageType.READER_EVENT_NOTIFICATION:
            self._watch_rospec(frame["ReaderEventNotificationData"].get("ROSpecEvent"))
            return event_rows(frame)
        return []

    def _watch_rospec(self, event: Mapping[str, Any] | None) -> None:
        if event and event["ROSpecID"] == ROSPEC_ID and event["EventType"] != STARTED:
            raise DeviceError(self.config.name, "the reader ended the inventory")

    async def close(self) -> None:
        line, client = self._line, self._client
        self._line = self._client = None
        try:
            if client is not None:
                with contextlib.suppress(DeviceError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await client.request(MessageType.DELETE_ROSPEC, ROSpecID=ROSPEC_ID)
                        await client.request(MessageType.CLOSE_CONNECTION)
        finally:
            if line is not None:
                await line.close()
