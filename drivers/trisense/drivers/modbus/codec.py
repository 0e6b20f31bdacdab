"""Modbus bytes without I/O: for ``driver decode``, the vectors and the fuzzers.

A capture does not say which way a frame went, and for some functions the bytes of a request are those of
an answer too. Such a frame is given with the keys of both readings. A request that stands right before
its own answer is context (or the echo of an adapter), not a frame of its own: it tells the answer its
address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trisense.core.model import Quality, Value
from trisense.core.vocabulary import judge
from trisense.drivers.modbus.framing import crc_good, rtu_frame, tcp_frame, unhex_frame
from trisense.drivers.modbus.pdu import (
    EXCEPTION_BIT,
    PDU_MAX,
    READ_BITS,
    READ_REGISTERS,
    READ_WRITE,
    bits_of,
    registers_of,
    reply_bytes,
    request_bytes,
    request_pdu,
)
from trisense.drivers.modbus.profile import Profile, Request, builtin, names, quality_of
from trisense.drivers.sdk import Frame, Observed

__all__ = ["ModbusCodec", "ProfileCodecs"]

GENERIC: Final = "modbus.generic"


@dataclass(frozen=True, slots=True)
class _Found:
    """A frame and where it lies in the capture."""

    start: int
    end: int
    unit: int
    pdu: bytes
    transaction: int | None = None


class ModbusCodec:
    """Frames of any framing; with a profile also the values in its answers."""

    def __init__(self, profile: Profile | None = None) -> None:
        self._profile = profile

    def frames(self, data: bytes) -> Sequence[Frame]:
        """The good frames, RTU, ASCII or TCP: which of them, the bytes themselves tell."""
        found = _scan(data)
        frames: list[Frame] = []
        question: Frame | None = None
        for index, item in enumerate(found):
            following = found[index + 1] if index + 1 < len(found) else None
            if following is not None and _is_answer(item, following):
                question = _request_reading(item.pdu)
                continue
            frames.append(self._frame(item, question))
            question = None
        return frames

    def damaged(self, data: bytes) -> Sequence[str]:
        """One line for each run of bytes that belongs to no good frame."""
        lines = []
        at = 0
        for item in [*_scan(data), _Found(len(data), len(data), 0, b"")]:
            if item.start > at:
                run = data[at : item.start]
                shown = run[:24].hex(" ") + (" ..." if len(run) > 24 else "")
                lines.append(f"{len(run)} bytes at {at} are no frame: {shown}")
            at = item.end
        return lines

    def observed(self, frame: Frame) -> Sequence[Observed]:
        """One row for an answer with values; none where they are ``ambiguous``."""
        values: Mapping[str, Value] = frame.get("values", {})
        if self._profile is None or not values or frame.get("ambiguous"):
            return []
        return [Observed(self._profile.device.measurement, values, quality_of(values))]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        """An RTU request (with ``transaction`` a TCP one) from ``unit``, ``function``, ``address`` and
        what that function needs of ``count``, ``registers``, ``bits`` and ``value``.
        """
        if "address" not in expected or "function" not in expected:
            return None
        value = expected.get("value")
        try:
            pdu = request_pdu(
                int(expected["function"]),
                address=int(expected["address"]),
                count=int(expected.get("count", 0)),
                registers=expected.get("registers", [value] if value is not None else []),
                bits=[bool(bit) for bit in expected.get("bits", [value] if value is not None else [])],
                write_address=int(expected.get("write_address", 0)),
            )
        except (ValueError, IndexError):
            return None
        unit = int(expected.get("unit", 0))
        transaction = expected.get("transaction")
        return rtu_frame(unit, pdu) if transaction is None else tcp_frame(unit, pdu, int(transaction))

    def _frame(self, item: _Found, question: Frame | None) -> Frame:
        frame: Frame = {"unit": item.unit, "function": item.pdu[0] & ~EXCEPTION_BIT}
        if item.transaction is not None:
            frame["transaction"] = item.transaction
        reply = _reply_reading(item.pdu)
        frame |= _request_reading(item.pdu) | reply
        if question is not None:
            frame |= {"address": question["address"]}
        if self._profile is not None and "registers" in reply:
            address = None if question is None else question["address"]
            values, sure = _values(self._profile, frame["function"], reply["registers"], address)
            if values:
                frame["values"] = values
            if values and not sure:
                frame["ambiguous"] = True
        return frame


def _scan(data: bytes) -> list[_Found]:
    """Good frames in order. RTU proves itself by a CRC, ASCII by an LRC; MBAP must fit to the last byte."""
    return list(_scan_rtu(data)) or list(_scan_ascii(data)) or _scan_tcp(data)


def _scan_rtu(data: bytes) -> Iterator[_Found]:
    at = 0
    while at < len(data) - 3:
        for size in _sizes(data[at + 1 : at + 1 + PDU_MAX]):
            frame = data[at : at + size + 3]
            if len(frame) == size + 3 and crc_good(frame):
                yield _Found(at, at + size + 3, frame[0], frame[1:-2])
                at += size + 2
                break
        at += 1


def _sizes(rest: bytes) -> set[int]:
    """Possible lengths of the PDU that ``rest`` begins with, as an answer and as a request."""
    return {reply_bytes(rest), request_bytes(rest)} - {0} if len(rest) >= 2 else set()


def _scan_ascii(data: bytes) -> Iterator[_Found]:
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        start = data.rfind(b":", at, end)
        body = unhex_frame(data[start + 1 : end]) if start >= 0 else None
        if body is not None and len(body[1]) in _sizes(body[1]):
            yield _Found(start, end + 2, *body)
        at = end + 2


def _scan_tcp(data: bytes) -> list[_Found]:
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 6], "big")
        pdu = data[at + 7 : at + 6 + size]
        if data[at + 2 : at + 4] != b"\0\0" or len(pdu) != size - 1 or len(pdu) not in _sizes(pdu):
            return []
        found.append(_Found(at, at + 6 + size, data[at + 6], pdu, int.from_bytes(data[at : at + 2], "big")))
        at += 6 + size
    return found


def _is_answer(question: _Found, answer: _Found) -> bool:
    """Whether ``answer`` can be what was said to ``question`` right before it."""
    same = (question.unit, question.transaction) == (answer.unit, answer.transaction)
    function = question.pdu[0]
    if (
        not same
        or answer.pdu[0] & ~EXCEPTION_BIT != function
        or len(question.pdu) != request_bytes(question.pdu)
    ):
        return False
    if answer.pdu[0] & EXCEPTION_BIT:
        return True
    count = int.from_bytes(question.pdu[3:5], "big")
    if function in READ_BITS:
        return len(answer.pdu) == 2 + (count + 7) // 8
    if function in READ_REGISTERS or function == READ_WRITE:
        return len(answer.pdu) == 2 + 2 * count
    return answer.pdu == question.pdu[:5]


def _request_reading(pdu: bytes) -> Frame:
    """What ``pdu`` says as a request (or as the answer to a write, which repeats it)."""
    function = pdu[0]
    if len(pdu) not in {request_bytes(pdu), 5 if function in (15, 16) else 0}:
        return {}
    address, second = (int.from_bytes(pdu[at : at + 2], "big") for at in (1, 3))
    if function == 5:
        return {"address": address, "value": second == 0xFF00} if second in (0, 0xFF00) else {}
    if function == 6:
        return {"address": address, "value": second}
    most = 2000 if function in READ_BITS else 1968 if function == 15 else 125
    if not 1 <= second <= most:
        return {}
    reading: Frame = {"address": address, "count": second}
    if function == 15 and len(pdu) > 5:
        reading["bits"] = _bits(pdu[6:])[:second]
    elif function == 16 and len(pdu) > 5:
        reading["registers"] = _registers(pdu[6:])
    elif function == READ_WRITE:
        reading["write_address"] = int.from_bytes(pdu[5:7], "big")
        reading["registers"] = _registers(pdu[10:])
    return reading


def _reply_reading(pdu: bytes) -> Frame:
    """What ``pdu`` says as an answer."""
    if len(pdu) != reply_bytes(pdu):
        return {}
    if pdu[0] & EXCEPTION_BIT:
        return {"exception": pdu[1]}
    if pdu[0] in READ_BITS:
        return {"byte_count": pdu[1], "bits": [int(bit) for bit in bits_of(pdu)]}
    if pdu[0] in READ_REGISTERS or pdu[0] == READ_WRITE:
        return {"byte_count": pdu[1], "registers": registers_of(pdu)}
    return {}


def _bits(data: bytes) -> list[int]:
    return [byte >> bit & 1 for byte in data for bit in range(8)]


def _registers(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2)]


def _values(
    profile: Profile, function: int, registers: list[int], address: int | None
) -> tuple[dict[str, Value], bool]:
    """Values of an answer, and whether it is sure which registers they come from.

    An answer does not say its address. Without its question it may come from any place of the profile's
    blocks, and from any variant of the device; a reading counts where all its values are possible. What
    the driver itself asks for comes first; an answer of one register gets every name that it may have.
    Sure it is where one reading alone is possible, or one alone is what the driver asks for.
    """
    asked = {
        request.address
        for options in profile.variants()
        for request in profile.requests(options)
        if (request.function, request.count) == (function, len(registers))
    }
    readings = [
        (window.address, read)
        for window in _windows(profile, function, len(registers))
        if address in (None, window.address) and _possible(window, read := window.values(registers))
    ]
    readings.sort(key=lambda reading: reading[0] not in asked)
    if not readings:
        return {}, False
    values = dict(readings[0][1])
    if len(registers) == 1:
        for _, read in readings[1:]:
            values = read | values
    starts = {start for start, _ in readings}
    return values, len(starts) == 1 or len(starts & asked) == 1


def _windows(profile: Profile, function: int, count: int) -> Iterator[Request]:
    """Every run of whole fields of ``count`` registers that one request of this function can ask for."""
    for options in profile.variants():
        fields = profile.fields(options)
        for block in profile.read:
            if block.function != function:
                continue
            starts = [block.address, *sorted(field.address for field in fields)]
            for start in dict.fromkeys(starts):
                inside = [f for f in fields if start <= f.address and f.end <= start + count]
                if inside and block.address <= start and start + count <= block.end:
                    yield Request(function, start, count, tuple(inside))


def _possible(request: Request, values: Mapping[str, Value]) -> bool:
    return all(
        not isinstance(value := values[field.name], int | float)
        or judge(field.stream_field, value) is not Quality.FAIL
        for field in request.fields
    )


class ProfileCodecs(Mapping[str, ModbusCodec]):
    """Codecs by the sheet's device name; the profiles are read when they are first asked for."""

    def __init__(self) -> None:
        self._codecs: dict[str, ModbusCodec] = {}

    def _all(self) -> dict[str, ModbusCodec]:
        if not self._codecs:
            self._codecs[GENERIC] = ModbusCodec()
            for name in names():
                profile = builtin(name)
                if profile.device.sheet:
                    self._codecs.setdefault(profile.device.sheet, ModbusCodec(profile))
        return self._codecs

    def __getitem__(self, device: str) -> ModbusCodec:
        return self._all()[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
