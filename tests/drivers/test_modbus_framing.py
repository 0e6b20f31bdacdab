"""Modbus framing and the search for an answer, without any line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core.errors import FrameError, TrisenseError
from trisense.drivers.modbus.framing import (
    NOISE_MAX,
    AsciiSearch,
    ReplySearch,
    RtuSearch,
    TcpSearch,
    ascii_frame,
    crc16,
    lrc,
    rtu_frame,
    tcp_frame,
)
from trisense.drivers.modbus.pdu import Question, Trouble, ask, bits_of, registers_of

QUESTION = ask(17, 3, 0x7C, 2)
ANSWER = bytes.fromhex("0304008d008e")
OTHER_UNIT = rtu_frame(18, ANSWER)
GOOD = rtu_frame(17, ANSWER)
Make = Callable[..., ReplySearch]


def rtu(question: Question = QUESTION, *, echo: bool = False) -> RtuSearch:
    return RtuSearch(question, echo=echo)


def ascii_(question: Question = QUESTION, *, echo: bool = False) -> AsciiSearch:
    return AsciiSearch(question, echo=echo)


def tcp(question: Question = QUESTION, *, ignore_unit_id: bool = False) -> TcpSearch:
    return TcpSearch(question, transaction=7, ignore_unit_id=ignore_unit_id)


def fed(search: ReplySearch, data: bytes, *, piece: int = 1) -> bytes | None:
    for at in range(0, len(data), piece):
        answer = search.feed(data[at : at + piece])
        if answer is not None:
            return answer
    return None


def test_the_checks_give_the_values_of_the_specification() -> None:
    assert crc16(b"123456789") == 0x4B37
    assert rtu_frame(0x12, bytes.fromhex("34234534564567"))[-2:] == bytes.fromhex("e2db")
    assert lrc(bytes.fromhex("118302")) == 0x6A


def test_each_framing_writes_the_published_request() -> None:
    assert rtu().request == bytes.fromhex("1103007c00020743")
    assert ascii_frame(17, bytes.fromhex("8302")) == b":1183026A\r\n"
    assert tcp_frame(17, QUESTION.pdu, 0x0C05) == bytes.fromhex("0c05000000061103007c0002")


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 64])
@pytest.mark.parametrize(
    ("search", "frame"),
    [
        (rtu, GOOD),
        (ascii_, ascii_frame(17, ANSWER)),
        (tcp, tcp_frame(17, ANSWER, 7)),
    ],
)
def test_an_answer_is_found_however_it_is_split(search: Make, frame: bytes, piece: int) -> None:
    made = search()
    answer = fed(made, frame, piece=piece)
    assert answer == ANSWER
    assert registers_of(answer) == [141, 142]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"\0", b""), (b"\0\0\0", b""), (b"", b"\0\0"), (b"\0", b"\0"), (b"\xff\x11\x03", b"")],
)
@pytest.mark.parametrize("piece", [1, 64])
def test_stray_bytes_around_an_answer_do_no_harm(before: bytes, after: bytes, piece: int) -> None:
    assert fed(rtu(), before + GOOD + after, piece=piece) == ANSWER


def test_a_crc_that_ends_in_zero_is_not_trimmed() -> None:
    registers = next(n for n in range(65_536) if rtu_frame(17, b"\x03\x02" + n.to_bytes(2, "big"))[-1] == 0)
    pdu = b"\x03\x02" + registers.to_bytes(2, "big")
    assert fed(rtu(ask(17, 3, 0, 1)), rtu_frame(17, pdu) + b"\0\0") == pdu


def test_every_damaged_byte_of_an_rtu_answer_is_refused() -> None:
    for at in range(len(GOOD)):
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[at] ^= 1 << bit
            search = rtu()
            assert fed(search, bytes(damaged), piece=64) is None
            assert search.blame() in (Trouble.CRC, Trouble.SHORT)


def test_every_damaged_byte_of_an_ascii_answer_is_refused() -> None:
    frame = ascii_frame(17, ANSWER)
    for at in range(len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 1
        search = ascii_()
        assert fed(search, bytes(damaged), piece=64) is None


def test_a_foreign_unit_is_ignored_and_counted() -> None:
    search = rtu()
    assert fed(search, OTHER_UNIT + GOOD) == ANSWER
    assert search.seen == {Trouble.FOREIGN: 1}


@pytest.mark.parametrize("piece", [1, 5, 64])
def test_what_looks_like_a_frame_inside_the_answer_is_no_trouble(piece: int) -> None:
    registers = OTHER_UNIT + GOOD[:-1] + b"\0"
    search = rtu(ask(17, 3, 0x7C, len(registers) // 2))
    answer = bytes([3, len(registers)]) + registers
    assert fed(search, OTHER_UNIT + rtu_frame(17, answer), piece=piece) == answer
    assert search.seen == {Trouble.FOREIGN: 1}  # the one before it


def test_an_answer_inside_a_foreign_frame_is_none() -> None:
    search = rtu()
    assert fed(search, rtu_frame(9, bytes([3, len(GOOD) + 1]) + GOOD + b"\0"), piece=64) is None


def test_another_function_and_another_count_are_no_answer() -> None:
    search = rtu()
    assert fed(search, rtu_frame(17, b"\x04" + ANSWER[1:]) + rtu_frame(17, b"\x03\x02\0\x01")) is None
    assert search.seen == {Trouble.FUNCTION: 1, Trouble.COUNT: 1}
    assert search.blame() is Trouble.FUNCTION


def test_an_exception_is_an_answer() -> None:
    assert fed(rtu(), bytes.fromhex("118302c134")) == b"\x83\x02"
    assert fed(tcp(), tcp_frame(17, b"\x83\x06", 7)) == b"\x83\x06"


def test_half_an_answer_is_short_and_nothing_is_no_reply() -> None:
    search = rtu()
    assert search.blame() is Trouble.NO_REPLY
    fed(search, GOOD[:5])
    assert search.blame() is Trouble.SHORT


@pytest.mark.parametrize("make", [rtu, ascii_])
def test_with_the_echo_setting_only_what_follows_the_echo_counts(make: Make) -> None:
    frame = rtu_frame if make is rtu else ascii_frame
    search = make(echo=True)
    assert fed(search, b"\0" + search.request + frame(17, ANSWER)) == ANSWER
    silent = make(echo=True)
    assert fed(silent, frame(17, ANSWER)) is None
    assert silent.blame() is Trouble.ECHO


@pytest.mark.parametrize("make", [rtu, ascii_])
def test_the_echo_of_a_write_is_told_from_its_answer_by_the_setting(make: Make) -> None:
    frame = rtu_frame if make is rtu else ascii_frame
    write = Question(7, bytes.fromhex("0508 10ff00"), 5)
    search = make(write, echo=True)
    assert fed(search, search.request) is None
    assert fed(search, frame(7, write.pdu)) == write.pdu


def test_without_the_echo_setting_the_echo_of_a_read_is_never_taken_for_its_answer() -> None:
    # 24 coils from 0x0300: the request has the very shape of its answer.
    question = ask(1, 1, 0x0300, 24)
    search = rtu(question)
    assert fed(search, search.request) is None
    assert search.blame() is Trouble.ECHO
    assert fed(search, rtu_frame(1, b"\x01\x03\xcd\x6b\x05")) == b"\x01\x03\xcd\x6b\x05"


def test_bits_come_lowest_first() -> None:
    assert [int(bit) for bit in bits_of(b"\x01\x01\xcd")] == [1, 0, 1, 1, 0, 0, 1, 1]


def test_a_stale_transaction_is_dropped_and_the_right_one_found() -> None:
    search = tcp()
    assert fed(search, tcp_frame(17, b"\x03\x04\0\1\0\1", 6) + tcp_frame(17, ANSWER, 7)) == ANSWER
    assert search.seen == {Trouble.STALE: 1}


def test_an_answer_in_the_name_of_another_unit_needs_the_setting() -> None:
    frame = tcp_frame(255, ANSWER, 7)
    strict = tcp()
    assert fed(strict, frame) is None
    assert strict.seen == {Trouble.FOREIGN: 1}
    assert fed(tcp(ignore_unit_id=True), frame) == ANSWER


@pytest.mark.parametrize("header", ["0007000100061103", "0007000000021103", "00070000ffff1103"])
def test_a_wrong_mbap_header_ends_the_stream(header: str) -> None:
    with pytest.raises(FrameError, match="MBAP"):
        tcp().feed(bytes.fromhex(header))


@pytest.mark.parametrize("make", [rtu, ascii_])
def test_a_babbling_line_is_given_up(make: Make) -> None:
    search = make()
    with pytest.raises(FrameError, match="without an answer"):
        fed(search, bytes([17, 3, 4]) * NOISE_MAX, piece=100)


def test_a_probe_never_has_the_shape_of_its_question() -> None:
    for function in (1, 2, 3, 4):
        for count in range(1, 126):
            question = ask(1, function, 0, count)
            assert question.probe().shape != question.shape


@pytest.mark.parametrize(("function", "count"), [(3, 0), (3, 126), (1, 2001), (7, 1)])
def test_a_question_outside_the_protocol_is_refused(function: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"count|function"):
        ask(1, function, 0, count)


FRAMES = st.sampled_from(
    [
        GOOD,
        GOOD[:4],
        OTHER_UNIT,
        rtu().request,
        ascii_frame(17, ANSWER),
        tcp_frame(17, ANSWER, 6),
        b"\0",
        b":",
    ]
)
NOISE = st.lists(st.one_of(st.binary(max_size=40), FRAMES), max_size=8).map(b"".join)


@given(data=NOISE, cuts=st.lists(st.integers(0, 300), max_size=6), echo=st.booleans())
def test_any_bytes_in_any_pieces_give_the_same_answer_or_our_own_error(
    data: bytes, cuts: list[int], echo: bool
) -> None:
    for make in (lambda: rtu(echo=echo), lambda: ascii_(echo=echo), tcp):
        assert _outcome(make(), data, []) == _outcome(make(), data, sorted(cuts))


def _outcome(search: ReplySearch, data: bytes, cuts: list[int]) -> bytes | str | None:
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            answer = search.feed(data[start:end])
            if answer is not None:
                return answer
    except TrisenseError as error:
        return type(error).__name__
    return None


@given(data=st.binary(max_size=200))
def test_noise_never_makes_an_answer_without_its_check(data: bytes) -> None:
    for make, frame in ((rtu, rtu_frame), (ascii_, ascii_frame)):
        answer = _outcome(make(), data, [])
        if isinstance(answer, bytes):
            assert frame(17, answer) in data


def test_what_a_search_keeps_is_bounded() -> None:
    for search in (rtu(), ascii_()):
        for _ in range(NOISE_MAX // 16 - 1):
            search.feed(bytes(range(16)))
            assert len(search._buffer) <= 513
