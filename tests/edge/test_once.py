"""A fault that lasts is a line at first, a few lines in a week, and a line when it is over."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.testing import capture_logs
from trisense.edge.once import Fault


class Hand:
    """A clock moved by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def loud(entries: list[Any]) -> list[Any]:
    return [entry for entry in entries if entry["log_level"] != "debug"]


def test_a_failure_each_second_for_a_week_is_a_dozen_lines_and_one_at_its_end() -> None:
    hand = Hand()
    with capture_logs() as entries:
        fault = Fault(structlog.get_logger(), "disk_failed", "disk_recovered", level="error", now_s=hand)
        for _ in range(7 * 86_400 // 10):
            fault.failed(why="disk full")
            hand.now_s += 10
        fault.recovered()
        fault.recovered()
    told = loud(entries)
    assert 5 <= len(told) <= 13
    assert told[0] == {"event": "disk_failed", "log_level": "error", "why": "disk full"}
    assert told[1]["times"] == 7
    assert told[1]["for_s"] == 60.0
    assert told[-1] == {
        "event": "disk_recovered",
        "log_level": "info",
        "after_s": 604_800.0,
        "failures": 60_480,
    }


def test_after_a_calm_minute_the_next_failure_is_a_first_one() -> None:
    hand = Hand()
    with capture_logs() as entries:
        fault = Fault(structlog.get_logger(), "down", "up", now_s=hand)
        assert fault.failed()
        assert not fault.failed()
        fault.recovered()
        assert fault.times == 2
        hand.now_s += 61
        assert fault.times == 0
        assert fault.failed()
    assert [entry["event"] for entry in loud(entries)] == ["down", "up", "down"]
    assert "times" not in loud(entries)[2]


def test_what_fails_every_other_time_for_a_day_is_a_few_lines() -> None:
    hand = Hand()
    with capture_logs() as entries:
        fault = Fault(structlog.get_logger(), "down", "up", now_s=hand)
        for _ in range(86_400 // 20):
            fault.failed()
            hand.now_s += 10
            fault.recovered()
            hand.now_s += 10
    told = loud(entries)
    assert 4 <= len(told) <= 14
    assert [entry["event"] for entry in told] == ["down", "up"] * (len(told) // 2), "each is told to be over"
    assert told[2]["times"] == 4


def test_what_is_new_about_it_is_told_at_once() -> None:
    with capture_logs() as entries:
        fault = Fault(structlog.get_logger(), "down", now_s=Hand())
        assert fault.failed(why="timeout")
        assert fault.failed(why="refused", anew=True)
        assert not fault.failed(why="refused")
    assert [entry["why"] for entry in loud(entries)] == ["timeout", "refused"]


def test_what_has_no_end_is_news_again_after_enough_quiet() -> None:
    hand = Hand()
    with capture_logs() as entries:
        fault = Fault(structlog.get_logger(), "dropped", forget_s=3600, now_s=hand)
        assert fault.failed()
        hand.now_s += 30
        assert not fault.failed()
        hand.now_s += 3601
        assert fault.failed()
        assert fault.times == 1
        fault.recovered()
    assert [entry["event"] for entry in loud(entries)] == ["dropped", "dropped"]
