"""Commands and configuration from afar: any bytes are what they should be, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trisense.core import limits, topics
from trisense.core.errors import RemoteError
from trisense.core.remote import (
    COMMAND_BYTES,
    CONTENT_BYTES,
    VERBS,
    Command,
    Desired,
    Failure,
    LogLevel,
    NewLevel,
    OneDevice,
    Read,
    Reload,
    Replay,
    Reply,
    Reported,
    Span,
    check_content,
    command_of,
    content_hash,
    desired_of,
    reply_of,
    reported_of,
)

SOON = datetime(2030, 1, 1, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LIKE_A_COMMAND = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | JSON,
        "verb": st.sampled_from(VERBS) | JSON,
        "deadline": st.just("2030-01-01T00:00:00Z") | JSON,
        "arguments": st.fixed_dictionaries(
            {}, optional={"device": st.just("dust") | JSON, "minutes": JSON, "level": JSON, "since": JSON}
        )
        | JSON,
    },
)
DECODERS = [command_of, reply_of, desired_of, reported_of]


@pytest.mark.parametrize(
    "command",
    [
        Read(deadline=SOON, arguments=OneDevice(device="dust")),
        LogLevel(deadline=SOON, arguments=NewLevel(level="debug", minutes=1.5)),
        Replay(deadline=SOON, arguments=Span(since=SOON - timedelta(days=1))),
        Replay(deadline=SOON),
        Reload(deadline=SOON),
    ],
)
def test_a_command_survives_the_way(command: Command) -> None:
    assert command_of(command.model_dump_json().encode()) == command


def test_replies_and_reports_survive_the_way() -> None:
    reply = Reply(ok=False, error=Failure(reason="busy", detail="x"), result=None)
    assert reply_of(reply.model_dump_json().encode()) == reply
    report = Reported(running="0" * 64, source="local", state="running", since="2030-01-01T00:00:00Z")
    assert reported_of(report.model_dump_json().encode()) == report


@pytest.mark.parametrize("decode", DECODERS)
@given(payload=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_in_words(decode: Callable[[bytes], object], payload: bytes) -> None:
    with pytest.raises(RemoteError):
        decode(payload)


@given(LIKE_A_COMMAND)
def test_what_looks_like_a_command_is_one_or_is_refused_with_what_is_known(body: dict[str, object]) -> None:
    try:
        told: str = command_of(json.dumps(body).encode()).verb
    except RemoteError as error:
        told = error.reason
    assert told in (body.get("verb"), "invalid", "unknown_verb")


@pytest.mark.parametrize("decode", DECODERS)
def test_depth_and_size_are_bounded(decode: Callable[[bytes], object]) -> None:
    for payload in (b"[" * 8000, b'{"a":' * 1600, b'"' + b"x" * limits.PAYLOAD_BYTES + b'"'):
        with pytest.raises(RemoteError):
            decode(payload)


def test_an_unknown_verb_is_told_the_known_ones() -> None:
    with pytest.raises(RemoteError, match=r"unknown_verb: .*read, snapshot, restart") as caught:
        command_of(b'{"verb":"exec","deadline":"2030-01-01T00:00:00Z","arguments":{}}')
    assert caught.value.reason == "unknown_verb"


def test_what_is_no_json_is_said_to_be_none() -> None:
    with pytest.raises(RemoteError) as caught:
        command_of(b"read dust")
    assert str(caught.value) == "invalid: expected JSON, got expected value at line 1 column 1"


def test_an_unknown_argument_is_told_the_known_ones() -> None:
    body = b'{"verb":"read","deadline":"2030-01-01T00:00:00Z","arguments":{"device":"a","code":"b"}}'
    with pytest.raises(RemoteError, match=r"arguments\.code: .* an unknown one; arguments of read: device"):
        command_of(body)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"deadline": "2030-01-01T00:00:00"},
        {"deadline": 1_900_000_000},
        {"arguments": {"level": "loud"}},
        {"arguments": {"level": "debug", "minutes": 0}},
        {"arguments": {"level": "debug", "minutes": "5"}},
        {"arguments": {"level": "debug", "minutes": float("nan")}},
        {"more": 1},
    ],
)
def test_a_command_of_another_form_is_refused(change: dict[str, object]) -> None:
    body = {"verb": "log-level", "deadline": "2030-01-01T00:00:00Z", "arguments": {"level": "debug"}}
    assert command_of(json.dumps(body).encode())
    with pytest.raises(RemoteError, match="invalid"):
        command_of(json.dumps(body | change).encode())


def test_a_command_beyond_its_size_is_refused_unread() -> None:
    with pytest.raises(RemoteError, match=f"at most {COMMAND_BYTES} bytes"):
        command_of(bytes(COMMAND_BYTES + 1))


def test_content_must_be_what_its_hash_says_and_fit() -> None:
    good = Desired(hash=content_hash("a = 1"), content="a = 1")
    check_content(desired_of(good.model_dump_json().encode()))
    with pytest.raises(RemoteError, match="hash"):
        check_content(Desired(hash=content_hash("a = 1"), content="a = 2"))
    large = "#" * (CONTENT_BYTES + 1)
    with pytest.raises(RemoteError, match="too_large"):
        check_content(Desired(hash=content_hash(large), content=large))


def test_the_largest_configuration_fits_into_one_payload() -> None:
    worst = '"\n' * (CONTENT_BYTES // 2)  # each byte is written as two
    payload = Desired(hash=content_hash(worst), content=worst).model_dump_json().encode()
    assert len(payload) <= limits.PAYLOAD_BYTES


def test_topics_of_commands_and_configuration_are_those_of_the_design() -> None:
    assert topics.command("kx", "+") == "tri/v1/kx/cmd/+"
    assert topics.reply("kx", "a1") == "tri/v1/kx/cmd/a1/reply"
    assert topics.desired("kx") == "tri/v1/kx/config/desired"
    assert topics.reported("kx") == "tri/v1/kx/config/reported"
