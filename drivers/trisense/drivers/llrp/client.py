"""The client's side of one LLRP connection (sheet 1.4): requests, keep-alives, what the reader offers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trisense.core.errors import DeviceError, DeviceRefused, DeviceTimeout, LineError
from trisense.drivers.framing import Damage
from trisense.drivers.lines import Line
from trisense.drivers.llrp.messages import MessageDecoder, MessageType, encode
from trisense.drivers.sdk import Frame

__all__ = ["Client", "Offer"]

RESPONSE_TYPES: Final = {
    MessageType.GET_READER_CAPABILITIES: 11,
    MessageType.SET_READER_CONFIG: 13,
    MessageType.CLOSE_CONNECTION: 4,
    MessageType.ADD_ROSPEC: 30,
    MessageType.DELETE_ROSPEC: 31,
    MessageType.START_ROSPEC: 32,
    MessageType.ENABLE_ROSPEC: 34,
}
REFUSALS: Final[Mapping[int, str]] = {
    1: "a reader-initiated connection exists",
    2: "another client holds the reader",
    3: "it cannot take a connection",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a reader says it can do."""

    antennas: int
    powers_dbm: Mapping[int, float]
    """Transmit power by its index in this reader and region."""
    hop_table: int | None
    """First hop table, or None where the region has fixed frequencies."""

    @classmethod
    def of(cls, capabilities: Frame) -> Offer:
        """Read a GET_READER_CAPABILITIES_RESPONSE; what it does not say is empty."""
        flat = {param["name"]: param for param in _walk(capabilities["params"])}
        powers = [p for p in _walk(capabilities["params"]) if p["name"] == "TransmitPowerLevelTableEntry"]
        return cls(
            antennas=flat.get("GeneralDeviceCapabilities", {}).get("MaxNumberOfAntennaSupported", 0),
            powers_dbm={p["Index"]: p["TransmitPowerValue"] / 100 for p in powers},
            hop_table=flat.get("FrequencyHopTable", {}).get("HopTableID"),
        )


def _walk(params: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [found for param in params for found in (param, *_walk(param.get("params", ())))]


class Client:
    """Sends requests and gives what the reader says, on a line that is open."""

    def __init__(self, device: str, line: Line, *, timeout_s: float) -> None:
        self._device = device
        self._line = line
        self._timeout_s = timeout_s
        self._decoder = MessageDecoder()
        self._pending: deque[Frame | Damage] = deque()
        self._next_id = 1
        self.damaged_count = 0
        """Damaged stretches before the message that was given last."""
        self.stale_count = 0
        """Tags of reports that came before the ROSpec of this connection ran."""

    async def greeting(self) -> None:
        """Wait for the reader's word on the connection, which comes before anything else.

        Raises:
            DeviceRefused: the connection is not ours.
            DeviceTimeout: it says nothing; it is no LLRP reader, or it hangs.
            LineError: the line is gone.
        """
        while True:
            frame = await self.receive(self._timeout_s)
            status = frame.get("ReaderEventNotificationData", {}).get("ConnectionAttemptEvent")
            if status == 0:
                return
            if status is not None:
                what = REFUSALS.get(status, "it refuses the connection")
                raise DeviceRefused(self._device, what, code=status)

    async def request(self, type_: int, **fields: Any) -> Frame:
        """Send one request and give its response; events and reports in between are passed over.

        Raises:
            DeviceRefused: the reader's status is not 0.
            DeviceTimeout: no response within the time-out.
            LineError: the line is gone.
        """
        id_, self._next_id = self._next_id, self._next_id + 1
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        await self._send({"type": type_, "id": id_, **fields})
        while True:
            frame = await self.receive(max(0.0, deadline - loop.time()))
            if frame["type"] in (RESPONSE_TYPES[type_], MessageType.ERROR_MESSAGE) and frame["id"] == id_:
                self._check(type_, frame["LLRPStatus"])
                return frame
            self.stale_count += len(frame.get("tags", ()))

    def _check(self, type_: int, status: Mapping[str, Any]) -> None:
        if status["StatusCode"]:
            more = [f"{name} {status[name]}" for name in ("FieldError", "ParameterError") if name in status]
            text = " ".join([f"message {type_}:", status["ErrorDescription"] or "refused", *more])
            raise DeviceRefused(self._device, text, code=status["StatusCode"])

    async def receive(self, timeout_s: float) -> Frame:
        """The next good message; a KEEPALIVE has been acknowledged before it is given.

        Raises:
            DeviceTimeout: none within ``timeout_s``; noise alone does not keep a reader alive.
            LineError: the line is gone, or the reader closes the connection.
        """
        try:
            async with asyncio.timeout(timeout_s):
                frame = await self._next()
        except TimeoutError as error:
            raise DeviceTimeout(self._device, "the reader is silent", timeout_s=timeout_s) from error
        if frame["type"] == MessageType.KEEPALIVE:
            await self._send({"type": MessageType.KEEPALIVE_ACK, "id": frame["id"]})
        elif "ConnectionCloseEvent" in frame.get("ReaderEventNotificationData", {}):
            raise LineError(self._device, "the reader closes the connection")
        return frame

    async def _next(self) -> Frame:
        while True:
            while not self._pending:
                self._pending.extend(self._decoder.feed(await self._line.read()))
            piece = self._pending.popleft()
            if not isinstance(piece, Damage):
                return piece
            self.damaged_count += 1

    async def _send(self, frame: Frame) -> None:
        data = encode(frame)
        if data is None:
            raise DeviceError(self._device, f"no such request: {frame['type']}")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._line.write(data)
        except TimeoutError as error:
            raise DeviceTimeout(
                self._device, "the reader takes nothing", timeout_s=self._timeout_s
            ) from error
