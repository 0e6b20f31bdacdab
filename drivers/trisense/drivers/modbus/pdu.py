"""Questions and answers of Modbus without their framing (environment.md A1).

pymodbus builds and takes apart the PDUs; importing it costs 0.5 MB and 10 ms on top of the SDK, measured.
What it does not do is refuse: its decoders take a reply of any length with any byte count. Each answer is
therefore held against its question here before pymodbus sees it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    ReadWriteMultipleRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

__all__ = [
    "EXCEPTIONS",
    "READ_BITS",
    "READ_REGISTERS",
    "Question",
    "Trouble",
    "ask",
    "bits_of",
    "registers_of",
    "reply_bytes",
    "request_bytes",
    "request_pdu",
]

READ_BITS: Final = (1, 2)
READ_REGISTERS: Final = (3, 4)
READ_WRITE: Final = 23
FIXED_REPLY: Final = (5, 6, 15, 16)
"""Functions whose good reply is function, address and value or count: five bytes."""
EXCEPTION_BIT: Final = 0x80
PDU_MAX: Final = 253
QUESTIONS_KEPT: Final = 1024
"""A box asks the same questions each second."""

EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value or quantity",
    4: "device failure",
    5: "accepted, still working",
    6: "busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target silent",
}


class Trouble(StrEnum):
    """What went wrong in an exchange, or came in beside its answer; one counter each."""

    NO_REPLY = "no_reply"
    SHORT = "short"
    CRC = "crc"
    FOREIGN = "foreign_address"
    FUNCTION = "wrong_function"
    COUNT = "wrong_count"
    """Right unit and function, but the answer to another question, as a late reply is."""
    STALE = "stale_transaction"
    """TCP only: the answer to a transaction that is no longer waited for."""
    ECHO = "echo"
    EXCEPTION = "exception"


@dataclass(frozen=True, slots=True)
class Question:
    """One request to one unit, and the shape that its answer must have."""

    unit: int
    pdu: bytes
    answer_bytes: int
    """Length of a good answer's PDU; an exception is always two bytes."""

    @property
    def function(self) -> int:
        return self.pdu[0]

    @property
    def reads(self) -> bool:
        """Whether it only reads, so that no good answer repeats it."""
        return self.function in READ_BITS or self.function in READ_REGISTERS

    @property
    def shape(self) -> tuple[int, int]:
        """Answers of one unit to two questions of one shape cannot be told apart on a serial line."""
        return (self.function, self.answer_bytes)

    def trouble_with(self, unit: int, pdu: bytes) -> Trouble | None:
        """Why ``pdu`` from ``unit`` is not the answer, or None where it is (exceptions included)."""
        if unit != self.unit:
            return Trouble.FOREIGN
        if pdu[0] == self.function | EXCEPTION_BIT and len(pdu) == 2:
            return None
        if pdu[0] != self.function:
            return Trouble.FUNCTION
        if self.function in FIXED_REPLY:
            good = pdu == self.pdu[:5]
        else:
            good = len(pdu) == self.answer_bytes and pdu[1] == self.answer_bytes - 2
        return None if good else Trouble.COUNT

    def probe(self) -> Question:
        """A read at the same place whose answer has another shape than this one's."""
        address = int.from_bytes(self.pdu[1:3], "big")
        count = int.from_bytes(self.pdu[3:5], "big")
        smallest = 8 if self.function in READ_BITS else 1
        count = 1 if count > smallest else smallest + 1
        return ask(self.unit, self.function, address, count)


@lru_cache(maxsize=QUESTIONS_KEPT)
def ask(unit: int, function: int, address: int, count: int) -> Question:
    """The question for ``count`` bits or registers from ``address``.

    Raises:
        ValueError: no such read function, or outside what one request may ask for.
    """
    pdu = request_pdu(function, address=address, count=count)
    size = (count + 7) // 8 if function in READ_BITS else 2 * count
    return Question(unit, pdu, 2 + size)


def request_pdu(
    function: int,
    *,
    address: int,
    count: int = 0,
    registers: Sequence[int] = (),
    bits: Sequence[bool] = (),
    write_address: int = 0,
) -> bytes:
    """Bytes of a request, function code first.

    Raises:
        ValueError: a function without a request here, or numbers outside the protocol's limits.
    """
    message: ModbusPDU
    if function == 1:
        message = ReadCoilsRequest(address=address, count=count)
    elif function == 2:
        message = ReadDiscreteInputsRequest(address=address, count=count)
    elif function == 3:
        message = ReadHoldingRegistersRequest(address=address, count=count)
    elif function == 4:
        message = ReadInputRegistersRequest(address=address, count=count)
    elif function == 5:
        message = WriteSingleCoilRequest(address=address, bits=list(bits))
    elif function == 6:
        message = WriteSingleRegisterRequest(address=address, registers=list(registers))
    elif function == 15:
        message = WriteMultipleCoilsRequest(address=address, bits=list(bits))
    elif function == 16:
        message = WriteMultipleRegistersRequest(address=address, registers=list(registers))
    elif function == READ_WRITE:
        message = ReadWriteMultipleRegistersRequest(address, count, write_address, list(registers))
    else:
        raise ValueError(f"no request for function {function}")
    return bytes([function]) + message.encode()


def registers_of(pdu: bytes) -> list[int]:
    """Registers of an answer that ``Question.trouble_with`` found good."""
    return list(struct.unpack(f">{pdu[1] // 2}H", pdu[2:]))


def bits_of(pdu: bytes) -> list[bool]:
    """Bits of a good answer, the padding of its last byte included."""
    reply = ReadCoilsResponse()
    reply.decode(pdu[1:])
    return list(reply.bits)


def reply_bytes(head: bytes) -> int:
    """Length of the reply PDU that begins with ``head`` (two bytes), 0 where there is no such reply."""
    function, size = head[0], head[1]
    if function & EXCEPTION_BIT:
        return 2
    if function in FIXED_REPLY:
        return 5
    if function in READ_BITS or ((function in READ_REGISTERS or function == READ_WRITE) and size % 2 == 0):
        return 2 + size if 0 < size <= PDU_MAX - 2 else 0
    return 0


def request_bytes(head: bytes) -> int:
    """Length of the request PDU that begins with ``head``, 0 where there is no such request.

    ``head`` is the whole rest of the buffer; a length that it is too short to tell is 0 too.
    """
    function = head[0]
    if 1 <= function <= 6:
        return 5
    at = {15: 5, 16: 5, READ_WRITE: 9}.get(function, PDU_MAX)
    return at + 1 + head[at] if len(head) > at else 0
