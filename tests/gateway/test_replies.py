"""What a box answered, as an operator reads it."""

from __future__ import annotations

from typing import Any

import pytest
from trisense.gateway.replies import lines

STATUS: dict[str, Any] = {
    "v": 1,
    "box": {"id": "kx-001", "site": "x", "version": "1.0", "config_hash": "ab12", "up_s": 3_725.4},
    "problems": [
        {"part": "device", "name": "dust", "text": "no answer\x1b[2J", "for_s": 90.0},
        {"part": "clock", "name": "", "text": "not synchronised", "for_s": None},
    ],
    "devices": [{"name": "mast", "state": "good"}, {"name": "dust", "state": "failing"}],
    "link": {"used_bytes": 2_500_000, "limited_by": None},
    "spool": {"waiting": {"data": {"batches": 1, "samples": 3, "oldest_s": 12.0}}},
    "alarms": [{"rule": "dead", "device": "dust", "for_s": 61.0}, {"rule": "hot", "device": "mast"}],
}


def test_a_status_says_first_what_is_wrong_and_fits_a_screen() -> None:
    assert lines("status", STATUS) == [
        "kx-001 at x, up 1:02:05, trisense 1.0, configuration ab12",
        "2 things are wrong",
        "  device dust for 0:01:30: no answer\N{REPLACEMENT CHARACTER}[2J",
        "  clock: not synchronised",
        "alarms: dead (dust for 0:01:01), hot (mast)",
        "devices: 1 of 2 good",
        "link: 2.5 MB today",
        "waiting: data, 3 samples, the oldest for 0:00:12",
    ]
    assert lines("status", STATUS | {"problems": []})[1] == "All is well."


def test_a_reading_is_a_line_for_each_value_with_its_quality() -> None:
    sample = {
        "measurement": "weather",
        "time_ns": 1_780_000_000_123_000_000,
        "n": 0,
        "values": {"air_temperature": 12.0, "sky": "blue", "wind_speed": None, "gusts": 3},
        "quality": {"wind_speed": 9, "gusts": 2},
    }
    assert lines("read", {"samples": [sample]}) == [
        "weather at 2026-05-28 20:26:40.123 UTC",
        "  air_temperature        12",
        "  sky                    blue",
        "  wind_speed             - (missing)",
        "  gusts                  3",
    ]


@pytest.mark.parametrize(
    "result", [{"v": 2}, STATUS | {"box": STATUS["box"] | {"up_s": 1e300}}, STATUS | {"problems": "none\x1b"}]
)
def test_what_another_version_says_is_shown_as_it_is(result: dict[str, Any]) -> None:
    shown = lines("status", result)
    assert shown[0] == "{"
    assert not any("\x1b" in line for line in shown)


def test_nothing_to_say_is_said() -> None:
    assert lines("restart", None) == ["done"]
