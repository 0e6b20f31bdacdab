"""When the gateway does not answer, the likely cause is said, once."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from trisense.core.messages import GatewayState
from trisense.core.topics import Lane
from trisense.edge.sending.answers import TRIES, Answers

ONLINE, OFFLINE = GatewayState(online=True), GatewayState(online=False)


def publish(answers: Answers, *workers: GatewayState, count: int = 6, every_s: float = 4.0) -> None:
    for index in range(count):
        answers.published(100 + index * every_s, workers)


@pytest.mark.parametrize(
    ("reasons", "workers", "cause"),
    [
        ((), (), "no gateway worker has spoken"),
        ((), (OFFLINE,), "no gateway worker is online"),
        ((), (ONLINE, OFFLINE), "a gateway worker is online"),
        (("No matching subscribers",), (ONLINE,), "is subscribed"),
        (("No matching subscribers", "Not authorized"), (), "may not publish"),
        (("Quota exceeded",), (ONLINE,), "queue of the broker is full"),
    ],
)
def test_the_most_telling_thing_known_is_the_cause(
    reasons: tuple[str, ...], workers: tuple[GatewayState, ...], cause: str
) -> None:
    answers = Answers()
    for reason in reasons:
        answers.reason(reason)
    with capture_logs() as logs:
        publish(answers, *workers)
    assert cause in (answers.trouble(120) or "")
    assert answers.trouble_s(120) == 20
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("no_receipts", "error"),
        ("no_receipts", "debug"),
        ("no_receipts", "debug"),
    ][: len(logs)]

    with capture_logs() as logs:
        answers.receipted()
    assert [entry["event"] for entry in logs] == ["receipts_again"]
    assert answers.trouble(120) is None
    assert answers.trouble_s(120) is None


def test_a_slow_answer_is_no_missing_one() -> None:
    answers = Answers()
    publish(answers, ONLINE, count=50, every_s=0.1)
    assert answers.trouble(105) is None
    publish(answers, ONLINE, count=4, every_s=20.0)
    answers.receipted()
    publish(answers, ONLINE, count=4, every_s=20.0)
    assert answers.trouble(200) is None


def test_one_lane_that_stays_unanswered_while_others_are_answered_is_told() -> None:
    answers = Answers()
    answers.answered(40_000)
    with capture_logs() as logs:
        for tries in range(1, TRIES + 3):
            answers.sent_again(Lane.MEDIA, 30_000, tries, 100.0 * tries)
            answers.receipted()
    assert [entry["log_level"] for entry in logs] == ["error", "debug", "debug"]
    assert "rights to that topic" in (answers.trouble(700) or "")
    assert answers.trouble(2000) is None

    answers.sent_again(Lane.MEDIA, 90_000, TRIES, 3000.0)
    assert "larger than any answered so far (40000 bytes)" in (answers.trouble(3000) or "")
