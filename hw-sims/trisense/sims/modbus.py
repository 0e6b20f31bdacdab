"""Modbus weather stations on one bus, RTU, ASCII or MBAP, on a pty or over TCP (environment.md A1, A3, D).

Written from the sheet with a CRC of its own. A station answers only frames for its unit whose CRC is good,
refuses what its map does not hold, and never answers a broadcast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from trisense.core.model import Value
from trisense.sims.base import End, Hangup, PtyEnd, Simulator, Told
from trisense.sims.modbus_maps import MAPS, RegisterMap

__all__ = ["Answer", "ModbusLine", "SenseCap", "Station", "Ws90", "crc"]

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
RTU_MAX: Final = 256
ASCII_MAX: Final = 513
QUIET_S: Final = 0.05
"""A piece of a request without the rest is forgotten after this silence."""
FOREIGN: Final = bytes.fromhex("FB03020000")
"""What another unit says to another master's question."""


def crc(data: bytes) -> bytes:
    """CRC-16/MODBUS as it goes onto the wire, low byte first."""
    remainder = 0xFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            low_bit = remainder & 1
            remainder >>= 1
            if low_bit:
                remainder ^= 0xA001
    return bytes((remainder & 0xFF, remainder >> 8))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a station says to one request."""

    pdu: bytes
    told: Told | None
    device: str


class Station:
    """One unit: its registers follow the world, some of its sensors may be broken."""

    def __init__(self, model: RegisterMap, *, unit: int, name: str, broken: Sequence[str] = ()) -> None:
        self.model = model
        self.unit = unit
        self.name = name
        self.broken = frozenset(broken)

    def answer(self, request: bytes, sim: Simulator) -> Answer | None:
        """The answer to a request PDU; None where this device stays silent."""
        function = request[0]
        if function != self.model.function:
            return self._refuse(function, ILLEGAL_FUNCTION)
        if len(request) != 5:
            return self._refuse(function, ILLEGAL_VALUE)
        start, count = int.from_bytes(request[1:3], "big"), int.from_bytes(request[3:5], "big")
        if not 1 <= count <= self.model.max_registers:
            return self._refuse(function, ILLEGAL_VALUE)
        registers, told = self.model.snapshot(sim.world, sim.now_ns(), self.broken)
        asked = range(start, start + count)
        if not all(address in registers for address in asked):
            return self._refuse(function, ILLEGAL_ADDRESS)
        data = b"".join(registers[address].to_bytes(2, "big") for address in asked)
        values: dict[str, Value] = {
            quantity.name: value
            for address, (quantity, value) in told.items()
            if address in asked and address + quantity.words <= asked.stop
        }
        return Answer(bytes((function, len(data))) + data, Told(self.model.measurement, values), self.name)

    def _refuse(self, function: int, code: int) -> Answer:
        return Answer(bytes((function | 0x80, code)), None, self.name)


class ModbusLine(Simulator):
    """Weather stations on one RS-485 line, or behind one TCP endpoint."""

    kind = "modbus"
    usual_units: ClassVar[str] = "144=ecowitt-ws90,1=sensecap-one"

    def __init__(
        self,
        *,
        units: str = "",
        framing: str = "",
        baud: int = 9600,
        latency_ms: float = 20.0,
        jitter_ms: float = 30.0,
        echo: bool = False,
        glitch_prefix: int = 0,
        glitch_suffix: int = 0,
        foreign: float = 0.0,
        boot_text: str = "",
        fail_first: bool = False,
        silent_on_bad_address: bool = False,
        broken: str = "",
        **base: Any,
    ) -> None:
        """``units`` lists unit addresses and models as ``usual_units`` does; with several stations each one
        is called ``NAME-UNIT`` in the log of the truth.

        ``framing``: ``rtu``, ``ascii`` or ``tcp`` (MBAP); empty: what a pty and a socket usually speak.

        ``glitch_prefix`` and ``glitch_suffix`` are 0x00 bytes around each answer, ``foreign`` the chance
        that another unit speaks before one, ``broken`` names sensors (``a+b``) that tell the sentinel.
        """
        super().__init__(**base)
        if framing not in ("", "rtu", "ascii", "tcp"):
            raise ValueError(f"framing rtu, ascii or tcp, not {framing!r}")
        self.framing = framing
        self.baud = baud
        self.latency_ms = latency_ms
        self.jitter_ms = jitter_ms
        self.echo = echo
        self.glitch_prefix = glitch_prefix
        self.glitch_suffix = glitch_suffix
        self.foreign = foreign
        self.boot_text = boot_text
        self.fail_first = fail_first
        self.silent_on_bad_address = silent_on_bad_address
        self.stations = self._stations(units or self.usual_units, tuple(filter(None, broken.split("+"))))

    def _stations(self, units: str, broken: Sequence[str]) -> dict[int, Station]:
        listed = [item.partition("=") for item in filter(None, units.split(","))]
        stations = {}
        for number, _, model in listed:
            if model not in MAPS:
                raise ValueError(f"station {model!r}: one of {', '.join(MAPS)}")
            name = self.name if len(listed) == 1 else f"{self.name}-{number}"
            stations[int(number)] = Station(MAPS[model], unit=int(number), name=name, broken=broken)
        return stations

    async def talk(self, end: End) -> None:
        if self.boot_text:
            await end.write(self.boot_text.encode())
        if self.framing == "tcp" or (not self.framing and not isinstance(end, PtyEnd)):
            await self._talk_tcp(end)
        elif self.framing == "ascii":
            await self._talk_ascii(end)
        else:
            await self._talk_rtu(end)

    def answer(self, unit: int, request: bytes) -> Answer | None:
        """What the line answers to a request for ``unit``; None: nobody does."""
        station = self.stations.get(unit)
        if station is None or not request:
            return None
        answer = station.answer(request, self)
        if self.silent_on_bad_address and answer is not None and answer.pdu[1:] == bytes([ILLEGAL_ADDRESS]):
            return None
        return answer

    async def _latency(self) -> None:
        await asyncio.sleep((self.latency_ms + self.random.uniform(0, self.jitter_ms)) / 1000)

    # --- RTU ------------------------------------------------------------------------------------

    async def _talk_rtu(self, end: End) -> None:
        buffer = b""
        fails = self.fail_first
        while True:
            try:
                async with asyncio.timeout(QUIET_S if buffer else None):
                    buffer = (buffer + await end.read())[-RTU_MAX:]
            except TimeoutError:
                buffer = b""
                continue
            while (found := _find_request(buffer)) is not None:
                start, stop = found
                request, buffer = buffer[start:stop], buffer[stop:]
                if fails:
                    fails = False
                    continue
                await self._answer_rtu(end, request)

    async def _answer_rtu(self, end: End, request: bytes) -> None:
        on_pty = isinstance(end, PtyEnd)
        if on_pty:
            # A pty hands over at once what would still be on the wire.
            await asyncio.sleep(len(request) * self.bits_per_char / self.baud)
        if self.echo:
            await end.write(request)
        answer = self.answer(request[0], request[1:-2])
        if answer is None:
            return
        await self._latency()
        if self.random.random() < self.foreign:
            await end.write(FOREIGN + crc(FOREIGN))
        body = request[:1] + answer.pdu
        frame = bytes(self.glitch_prefix) + body + crc(body) + bytes(self.glitch_suffix)
        told = () if answer.told is None else (answer.told,)
        await end.send(frame, *told, check=-1 - self.glitch_suffix, device=answer.device)

    # --- ASCII ----------------------------------------------------------------------------------

    async def _talk_ascii(self, end: End) -> None:
        buffer = b""
        while True:
            buffer = (buffer + await end.read())[-ASCII_MAX:]
            while b"\r\n" in buffer:
                line, _, buffer = buffer.partition(b"\r\n")
                body = _unhex(line.rpartition(b":")[2])
                if len(body) >= 3 and sum(body) & 0xFF == 0:
                    await self._answer_ascii(end, body[:-1])

    async def _answer_ascii(self, end: End, request: bytes) -> None:
        if isinstance(end, PtyEnd):
            await asyncio.sleep((2 * len(request) + 5) * self.bits_per_char / self.baud)
        if self.echo:
            await end.write(_ascii(request))
        answer = self.answer(request[0], request[1:])
        if answer is None:
            return
        await self._latency()
        if self.random.random() < self.foreign:
            await end.write(_ascii(FOREIGN))
        told = () if answer.told is None else (answer.told,)
        # Behind the check stand CR and LF.
        await end.send(_ascii(request[:1] + answer.pdu), *told, check=-3, device=answer.device)

    # --- TCP ------------------------------------------------------------------------------------

    async def _talk_tcp(self, end: End) -> None:
        buffer = b""
        while True:
            buffer += await end.read()
            while len(buffer) >= 8:
                size = int.from_bytes(buffer[4:6], "big")
                if buffer[2:4] != b"\0\0" or not 2 <= size <= 254:
                    raise Hangup("no MBAP header")
                if len(buffer) < 6 + size:
                    break
                frame, buffer = buffer[: 6 + size], buffer[6 + size :]
                await self._answer_tcp(end, frame)

    async def _answer_tcp(self, end: End, frame: bytes) -> None:
        answer = self.answer(frame[6], frame[7:])
        if answer is None:
            return
        await self._latency()
        body = frame[6:7] + answer.pdu
        reply = frame[:4] + len(body).to_bytes(2, "big") + body
        told = () if answer.told is None else (answer.told,)
        # MBAP carries no check; what a host can notice is a damaged protocol number.
        await end.send(reply, *told, check=3, device=answer.device)


class Ws90(ModbusLine):
    """One Ecowitt WS90 alone on its line."""

    kind = "ws90"
    usual_units = "144=ecowitt-ws90"


class SenseCap(ModbusLine):
    """One SenseCAP ONE alone on its line."""

    kind = "sensecap"
    usual_units = "1=sensecap-one"


def _ascii(body: bytes) -> bytes:
    """A frame as text, with its LRC: two's complement of the sum of the bytes."""
    return b":" + (body + bytes([-sum(body) & 0xFF])).hex().upper().encode() + b"\r\n"


def _unhex(text: bytes) -> bytes:
    """The bytes that hexadecimal text means; none where it is none."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


def _find_request(data: bytes) -> tuple[int, int] | None:
    """Where the first whole request with a good CRC lies in ``data``."""
    for start in range(len(data) - 3):
        function = data[start + 1]
        if function in (15, 16, 23):
            at = start + (10 if function == 23 else 6)
            sizes = [at - start + 3 + data[at]] if at < len(data) else []
        else:
            # An unknown function has a length of its own: a whole frame then fills the buffer.
            sizes = [8, len(data) - start]
        for size in sizes:
            frame = data[start : start + size]
            if 4 <= len(frame) == size and crc(frame[:-2]) == frame[-2:]:
                return start, start + size
    return None
