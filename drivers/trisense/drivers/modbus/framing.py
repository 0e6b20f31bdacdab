"""Modbus framing without I/O: RTU, ASCII and TCP, and the search for one answer in a stream.

A frame ends where its length says, never at a pause: user space cannot measure T1.5 on a USB adapter.
So trailing 0x00 bytes of a bus turn-around need no trimming, and a CRC that ends in 0x00 is safe
(environment.md A1, A3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Final, Literal

from trisense.core.errors import FrameError
from trisense.drivers.modbus.pdu import PDU_MAX, Question, Trouble, reply_bytes

__all__ = [
    "AsciiSearch",
    "Framing",
    "ReplySearch",
    "RtuSearch",
    "TcpSearch",
    "ascii_frame",
    "crc16",
    "crc_good",
    "lrc",
    "rtu_frame",
    "search",
    "tcp_frame",
    "unhex_frame",
]

Framing = Literal["rtu", "ascii", "tcp"]

ASCII_MAX: Final = 513
MBAP_BYTES: Final = 7
NOISE_MAX: Final = 4096
"""Bytes without an answer after which an exchange is given up: somebody babbles on the line."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)  # noqa: PLW2901  # shifted out bit by bit
        table.append(value)
    return tuple(table)


CRC_TABLE: Final = _crc_table()


def crc16(data: bytes | bytearray) -> int:
    """CRC-16/MODBUS; its low byte goes first on the wire. Over a good frame with its CRC it is 0."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def crc_good(frame: bytes | bytearray) -> bool:
    """Whether an RTU frame with its CRC is undamaged."""
    return crc16(frame) == 0


def lrc(data: bytes) -> int:
    """LRC-8: two's complement of the sum of the bytes."""
    return -sum(data) & 0xFF


def rtu_frame(unit: int, pdu: bytes) -> bytes:
    body = bytes([unit]) + pdu
    return body + crc16(body).to_bytes(2, "little")


def ascii_frame(unit: int, pdu: bytes) -> bytes:
    body = bytes([unit]) + pdu
    return b":" + (body + bytes([lrc(body)])).hex().upper().encode() + b"\r\n"


def tcp_frame(unit: int, pdu: bytes, transaction: int) -> bytes:
    return transaction.to_bytes(2, "big") + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu


def unhex_frame(text: bytes) -> tuple[int, bytes] | None:
    """Unit and PDU of what stands between ``:`` and CR LF, or None where it is damaged."""
    try:
        body = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    # fromhex passes over blanks, which no frame has.
    if len(body) * 2 != len(text) or len(body) < 4 or lrc(body) != 0:
        return None
    return body[0], body[1:-1]


class ReplySearch(ABC):
    """Finds the answer to one question in whatever the line brings, fed in any pieces."""

    def __init__(self, question: Question, request: bytes) -> None:
        self.question = question
        self.request = request
        """The request as it goes onto the line."""
        self.seen: Counter[Trouble] = Counter()
        """Frames that came instead of the answer, and damaged ones that claimed to be it."""
        self.bytes_seen = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take what came in; give the PDU of the answer (an exception is one) once it is whole.

        Raises:
            FrameError: the stream makes no sense any more; ``NOISE_MAX`` bytes brought no answer.
        """
        self.bytes_seen += len(data)
        answer = self._feed(data[:NOISE_MAX])
        if answer is None and self.bytes_seen >= NOISE_MAX:
            raise FrameError(f"unit {self.question.unit}", f"{self.bytes_seen} bytes without an answer")
        return answer

    @abstractmethod
    def _feed(self, data: bytes) -> bytes | None: ...

    @property
    @abstractmethod
    def answer_size(self) -> int:
        """Bytes on the line of a good answer (and of the echo before it)."""

    @property
    def in_frame(self) -> bool:
        """Whether the stream stands inside a frame and could not be picked up behind it."""
        return False

    def blame(self) -> Trouble:
        """What to call it when the time is up."""
        for kind in (Trouble.CRC, Trouble.FUNCTION, Trouble.COUNT, Trouble.ECHO):
            if self.seen[kind]:
                return kind
        if not self.bytes_seen or self.seen[Trouble.FOREIGN] or self.seen[Trouble.STALE]:
            return Trouble.NO_REPLY
        return Trouble.CRC if self.bytes_seen >= self.answer_size else Trouble.SHORT

    def _judge(self, unit: int, pdu: bytes) -> bool:
        trouble = self.question.trouble_with(unit, pdu)
        if trouble is not None:
            self.seen[trouble] += 1
        return trouble is None


class RtuSearch(ReplySearch):
    """RTU: a frame may begin at any byte; what it claims to be and its CRC decide.

    Every offset is decided once and a frame has at most 256 bytes, so no older offset stays open: time
    and memory are bounded whatever comes in.
    """

    def __init__(self, question: Question, *, echo: bool) -> None:
        super().__init__(question, rtu_frame(question.unit, question.pdu))
        self._echo_due = echo
        self._buffer = bytearray()
        self._open: list[int] = []
        self._noted: list[tuple[int, Trouble]] = []
        """What is in ``seen``, with the offset where it began."""

    @property
    def answer_size(self) -> int:
        return self.question.answer_bytes + 3

    def blame(self) -> Trouble:
        return Trouble.ECHO if self._echo_due and self.bytes_seen else super().blame()

    def _feed(self, data: bytes) -> bytes | None:
        known = len(self._buffer)
        self._buffer += data
        if self._echo_due:
            at = self._buffer.find(self.request)
            if at < 0:
                del self._buffer[: -len(self.request)]
                return None
            del self._buffer[: at + len(self.request)]
            self._echo_due = False
            self.bytes_seen = len(self._buffer)
            known = 0
        self._open += range(known, len(self._buffer))
        answer = self._decide()
        keep_from = self._open[0] if self._open else len(self._buffer)
        del self._buffer[:keep_from]
        self._open = [at - keep_from for at in self._open]
        self._noted = [(at - keep_from, trouble) for at, trouble in self._noted]
        return answer

    def _decide(self) -> bytes | None:
        undecided: list[int] = []
        skip_to = 0
        for at in self._open:
            if at < skip_to:
                continue
            frame = self._frame_at(at)
            if frame is None:
                undecided.append(at)
            elif frame:
                pdu = bytes(frame[1:-2])
                echo = self._is_echo(frame)
                trouble = Trouble.ECHO if echo else self.question.trouble_with(frame[0], pdu)
                if trouble is None:
                    # What came in before the answer was whole and looked like a frame was a part of it:
                    # in pieces of a byte that happens in three of a thousand long answers.
                    self.seen -= Counter(trouble for begin, trouble in self._noted if begin > at)
                    return pdu
                self._note(at, trouble)
                # A whole frame explains its bytes: no answer begins inside it.
                skip_to = at + len(frame)
        self._open = undecided
        return None

    def _is_echo(self, frame: bytes | bytearray) -> bool:
        # An answer to a write repeats the request, so there only the echo setting can tell.
        return self.question.reads and frame == self.request

    def _frame_at(self, at: int) -> bytearray | None:
        """The good frame that begins at ``at``; None: too early to tell; empty: there is none."""
        start = self._buffer[at : at + len(self.request)]
        if self._is_echo(start):
            return start
        frame = self._reply_at(at)
        if frame is not None and not frame and self.question.reads and self._begins_request(start):
            return None
        return frame

    def _begins_request(self, start: bytearray) -> bool:
        return len(start) < len(self.request) and self.request.startswith(start)

    def _reply_at(self, at: int) -> bytearray | None:
        head = self._buffer[at : at + 3]
        if len(head) < 3:
            return None
        size = reply_bytes(bytes(head[1:]))
        if not size:
            return bytearray()
        frame = self._buffer[at : at + size + 3]
        if len(frame) < size + 3:
            return None
        if crc_good(frame):
            return frame
        if self.question.trouble_with(frame[0], bytes(frame[1:-2])) is None:
            self._note(at, Trouble.CRC)
        return bytearray()

    def _note(self, at: int, trouble: Trouble) -> None:
        self.seen[trouble] += 1
        self._noted.append((at, trouble))


class AsciiSearch(ReplySearch):
    """ASCII: from ``:`` to CR LF; a second ``:`` begins anew."""

    def __init__(self, question: Question, *, echo: bool) -> None:
        super().__init__(question, ascii_frame(question.unit, question.pdu))
        self._echo_due = echo
        self._buffer = bytearray()

    @property
    def answer_size(self) -> int:
        return 2 * (self.question.answer_bytes + 2) + 3

    def blame(self) -> Trouble:
        return Trouble.ECHO if self._echo_due and self.bytes_seen else super().blame()

    def _feed(self, data: bytes) -> bytes | None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            text = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            pdu = self._take(text[text.rfind(b":") + 1 :] if b":" in text else b"")
            if pdu is not None:
                return pdu
        del self._buffer[:-ASCII_MAX]
        return None

    def _take(self, text: bytes) -> bytes | None:
        body = unhex_frame(text)
        if body is None:
            if text[:2].upper() == b"%02X" % self.question.unit:
                self.seen[Trouble.CRC] += 1
            return None
        is_request = text.upper() == self.request[1:-2]
        if self._echo_due:
            if is_request:
                self._echo_due = False
                self.bytes_seen = len(self._buffer)
            return None
        if is_request and self.question.reads:
            self.seen[Trouble.ECHO] += 1
            return None
        return body[1] if self._judge(*body) else None


class TcpSearch(ReplySearch):
    """TCP: MBAP headers one behind the other; the transaction says which question is answered."""

    def __init__(self, question: Question, *, transaction: int, ignore_unit_id: bool) -> None:
        super().__init__(question, tcp_frame(question.unit, question.pdu, transaction))
        self._transaction = transaction
        self._ignore_unit_id = ignore_unit_id
        self._buffer = bytearray()

    @property
    def answer_size(self) -> int:
        return MBAP_BYTES + self.question.answer_bytes

    @property
    def in_frame(self) -> bool:
        return bool(self._buffer)

    def _feed(self, data: bytes) -> bytes | None:
        self._buffer += data
        while len(self._buffer) >= MBAP_BYTES:
            size = int.from_bytes(self._buffer[4:6], "big")
            # TCP carries no check: once a header is wrong, nothing behind it can be trusted.
            if self._buffer[2:4] != b"\0\0" or not 3 <= size <= PDU_MAX + 1:
                raise FrameError(f"unit {self.question.unit}", "no MBAP header", bytes(self._buffer))
            if len(self._buffer) < 6 + size:
                return None
            frame = bytes(self._buffer[: 6 + size])
            del self._buffer[: 6 + size]
            if self._is_answer(frame):
                return frame[MBAP_BYTES:]
        return None

    def _is_answer(self, frame: bytes) -> bool:
        if int.from_bytes(frame[:2], "big") != self._transaction:
            self.seen[Trouble.STALE] += 1
            return False
        unit = self.question.unit if self._ignore_unit_id else frame[6]
        return self._judge(unit, frame[MBAP_BYTES:])


def search(
    framing: Framing, question: Question, *, transaction: int, echo: bool, ignore_unit_id: bool
) -> ReplySearch:
    """The search for the answer to ``question``, with its request in that framing."""
    if framing == "rtu":
        return RtuSearch(question, echo=echo)
    if framing == "ascii":
        return AsciiSearch(question, echo=echo)
    return TcpSearch(question, transaction=transaction, ignore_unit_id=ignore_unit_id)
